package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// raw builds a file from the text of its header and its data, unchecked.
func raw(header string, data ...byte) []byte {
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(file, header...), data...)
}

func parse(file []byte) (*File, error) {
	return New("test.safetensors", bytes.NewReader(file), int64(len(file)))
}

func zeros(n int) []byte { return make([]byte, n) }

func TestDefectiveFilesAreNamed(t *testing.T) {
	huge := binary.LittleEndian.AppendUint64(nil, MaxHeaderBytes+1)
	beyond := binary.LittleEndian.AppendUint64(nil, 1000)
	absurd := binary.LittleEndian.AppendUint64(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		file   []byte
		fault  Fault
		tensor string
	}{
		"empty file":             {nil, Truncated, ""},
		"seven bytes":            {zeros(7), Truncated, ""},
		"header over the limit":  {append(huge, zeros(100)...), HeaderTooLarge, ""},
		"header beyond the file": {append(beyond, "{}"...), HeaderTooLarge, ""},
		"header of 2^64-1 bytes": {append(absurd, "{}"...), HeaderTooLarge, ""},
		"no header":              {zeros(8), HeaderSyntax, ""},
		"not JSON":               {raw(`hello`), HeaderSyntax, ""},
		"an array":               {raw(`[]`), HeaderSyntax, ""},
		"an object cut short":    {raw(`{"a":{"dtype":"F32"`), HeaderSyntax, "a"},
		"text after the object":  {raw(`{} {}`), HeaderSyntax, ""},
		"not UTF-8":              {raw("{\"\xff\":1}"), HeaderSyntax, ""},
		"tensor is a number":     {raw(`{"a":1}`), HeaderSyntax, "a"},
		"no shape":               {raw(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"one offset":             {raw(`{"a":{"dtype":"F32","shape":[],"data_offsets":[4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"null dimension":         {raw(`{"a":{"dtype":"F32","shape":[null],"data_offsets":[0,4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"quoted dimension":       {raw(`{"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"fractional dimension":   {raw(`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"dtype in wrong case":    {raw(`{"a":{"DType":"F32","shape":[1],"data_offsets":[0,4]}}`, zeros(4)...), HeaderSyntax, "a"},
		"metadata not strings":   {raw(`{"__metadata__":{"a":1}}`), HeaderSyntax, "__metadata__"},
		"metadata null":          {raw(`{"__metadata__":{"a":null}}`), HeaderSyntax, "__metadata__"},
		"duplicate tensor": {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 1, 2),
			DuplicateName, "a"},
		"duplicate member":   {raw(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1), DuplicateName, "a"},
		"duplicate metadata": {raw(`{"__metadata__":{"x":"1","x":"2"}}`), DuplicateName, "__metadata__"},
		"end before begin":   {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[2,1]}}`, 1, 2), BadOffsets, "a"},
		"negative offset":    {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}`, 1), BadOffsets, "a"},
		"data cut short":     {raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, zeros(7)...), Truncated, "a"},
		"overlap": {raw(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}`, zeros(7)...),
			Overlap, "b"},
		"same range twice": {raw(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, zeros(4)...),
			Overlap, "b"},
		"hole in the middle": {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, zeros(3)...),
			Hole, "b"},
		"hole at the start":  {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, zeros(2)...), Hole, "a"},
		"hole at the end":    {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, zeros(2)...), Hole, ""},
		"shape too small":    {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, zeros(8)...), SizeMismatch, "a"},
		"shape too large":    {raw(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, zeros(8)...), SizeMismatch, "a"},
		"unknown dtype":      {raw(`{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}`, zeros(4)...), UnknownDType, "a"},
		"negative dimension": {raw(`{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}`, zeros(4)...), NegativeDim, "a"},
		"dimension over 2^63": {raw(`{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}}`, zeros(4)...),
			SizeOverflow, "a"},
		"shape over 2^63": {raw(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`), SizeOverflow, "a"},
		"shape over 2^63 times 0": {raw(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`),
			SizeOverflow, "a"},
		"offset over 2^63": {raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,99999999999999999999]}}`, 1), SizeOverflow, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := parse(c.file)
			require.Nil(t, f)
			var format *FormatError
			require.ErrorAs(t, err, &format)
			require.Equal(t, c.fault, format.Fault, err.Error())
			require.Equal(t, c.tensor, format.Tensor, err.Error())
			require.ErrorContains(t, err, "test.safetensors")
		})
	}
	_, err := parse(raw(`{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}`, zeros(4)...))
	require.ErrorContains(t, err, `"F31"`)
}

func TestReadHandMadeFile(t *testing.T) {
	f, err := parse(raw(`{"__metadata__":{"format":"pt"},`+
		`"empty":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},`+
		`"half":{"data_offsets":[4,8],"shape":[2],"dtype":"F16","extra":[{}]},`+
		`"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   `,
		0, 0, 0x80, 0x3f /* 1.0f */, 0x00, 0x3c, 0x01, 0x80 /* 1, −2⁻²⁴ */))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
	require.Len(t, f.Tensors(), 3)

	one, err := f.Float32s("scalar")
	require.NoError(t, err)
	require.Equal(t, []float32{1}, one)
	half, err := f.Float32s("half")
	require.NoError(t, err)
	require.Equal(t, []float32{1, -0x1p-24}, half)
	none, err := f.Float32s("empty")
	require.NoError(t, err)
	require.Empty(t, none)

	_, err = f.Float32s("absent")
	var missing *MissingTensorError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, "absent", missing.Tensor)
	require.NoError(t, f.Close())
}

func TestReadConvertsEveryDType(t *testing.T) {
	var file bytes.Buffer
	require.NoError(t, Write(&file, []Entry{
		Float32("f32", []int{2}, []float32{1.5, float32(math.Inf(-1))}),
		Raw("bf16", BF16, []int{2}, []byte{0xc0, 0x3f, 0x80, 0xff}),
		Raw("f64", F64, []int{1}, binary.LittleEndian.AppendUint64(nil, math.Float64bits(0.1))),
		Raw("i64", I64, []int{1}, binary.LittleEndian.AppendUint64(nil, math.MaxUint64)),
		Raw("big", U64, []int{1}, binary.LittleEndian.AppendUint64(nil, math.MaxUint64)),
		Raw("u8", U8, []int{1}, []byte{200}), Raw("i8", I8, []int{1}, []byte{200}),
		Raw("u16", U16, []int{1}, []byte{0, 0x80}), Raw("i16", I16, []int{1}, []byte{0, 0x80}),
		Raw("u32", U32, []int{1}, []byte{5, 0, 0, 0}), Int32("i32", []int{1}, []int32{-7}),
		Raw("bool", Bool, []int{1}, []byte{1}), Raw("f8", F8E4M3, []int{1}, []byte{1}),
	}, nil))
	f, err := parse(file.Bytes())
	require.NoError(t, err)
	for name, want := range map[string][]float32{
		"f32": {1.5, float32(math.Inf(-1))}, "bf16": {1.5, float32(math.Inf(-1))}, "f64": {0.1},
	} {
		got, err := f.Float32s(name)
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	for name, want := range map[string]int32{"i64": -1, "u8": 200, "i8": -56, "u16": 32768, "i16": -32768, "u32": 5, "i32": -7} {
		got, err := f.Int32s(name)
		require.NoError(t, err)
		require.Equal(t, []int32{want}, got, name)
	}
	var conversion *ConversionError
	for _, name := range []string{"bool", "f8", "i32"} {
		_, err := f.Float32s(name)
		require.ErrorAs(t, err, &conversion, name)
	}
	for _, name := range []string{"f32", "bool", "big"} {
		_, err := f.Int32s(name)
		require.ErrorAs(t, err, &conversion, name)
	}
	require.ErrorAs(t, f.ReadFloat32("f32", make([]float32, 3)), &conversion)
	require.ErrorContains(t, conversion, "2 elements into 3")
}

func TestF16ToFloat32OfEveryValue(t *testing.T) {
	for bits := 0; bits < 1<<16; bits++ {
		sign, exponent, fraction := 1.0, bits>>10&31, float64(bits&1023)
		if bits >= 1<<15 {
			sign = -1
		}
		got := float64(F16ToFloat32(uint16(bits)))
		switch {
		case exponent == 31 && fraction == 0:
			require.Equal(t, math.Inf(int(sign)), got)
		case exponent == 31:
			require.True(t, math.IsNaN(got))
		case exponent == 0:
			require.Equal(t, sign*fraction*0x1p-24, got)
			require.Equal(t, sign < 0, math.Signbit(got))
		default:
			require.Equal(t, sign*math.Ldexp(1+fraction/1024, exponent-15), got)
		}
	}
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "absent.safetensors"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Open(dir)
	require.ErrorContains(t, err, "is a directory")

	path := filepath.Join(dir, "a.safetensors")
	require.NoError(t, WriteFile(path, []Entry{Float32("a", []int{2}, []float32{1, 2})}, nil))
	f, err := Open(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 20)) // shrinks after its header was checked
	_, err = f.Float32s("a")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close(), "Close is idempotent")
	_, err = f.Float32s("a")
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestWriteRefusesWhatCouldNotBeReadBack(t *testing.T) {
	for name, c := range map[string]struct {
		entries []Entry
		fault   Fault
	}{
		"repeated name":     {[]Entry{Float32("a", []int{0}, nil), Float32("a", []int{0}, nil)}, DuplicateName},
		"reserved name":     {[]Entry{Float32("__metadata__", []int{0}, nil)}, DuplicateName},
		"unknown dtype":     {[]Entry{Raw("a", "F31", []int{1}, nil)}, UnknownDType},
		"negative":          {[]Entry{Raw("a", U8, []int{-1}, nil)}, NegativeDim},
		"overflow":          {[]Entry{Raw("a", U8, []int{1 << 40, 1 << 40}, nil)}, SizeOverflow},
		"too few bytes":     {[]Entry{Float32("a", []int{3}, []float32{1})}, SizeMismatch},
		"bytes past shape":  {[]Entry{Float32("a", []int{1}, []float32{1, 2})}, SizeMismatch},
		"name is not UTF-8": {[]Entry{Float32("\xff", []int{0}, nil)}, HeaderSyntax},
	} {
		t.Run(name, func(t *testing.T) {
			var format *FormatError
			require.ErrorAs(t, Write(io.Discard, c.entries, nil), &format)
			require.Equal(t, c.fault, format.Fault)
		})
	}
	dir := t.TempDir()
	require.Error(t, WriteFile(filepath.Join(dir, "a.safetensors"), []Entry{Raw("a", U8, []int{2}, []byte{1})}, nil))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "a failed write leaves nothing behind")
	boom := errors.New("boom")
	require.ErrorIs(t, Write(io.Discard, []Entry{{"a", U8, nil, func(io.Writer) error { return boom }}}, nil), boom)
}

func TestWriteThenReadGivesTheSameTensors(t *testing.T) {
	dtypes := []DType{F32, F16, BF16, F64, I64, I32, I16, I8, U8, U16, U32, U64, Bool, F8E4M3, F8E5M2, F8E8M0, C64}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z."\\é]{1,8}`), 0, 8, rapid.ID).Draw(t, "names")
		var entries []Entry
		data := map[string][]byte{}
		for _, name := range names {
			dtype := rapid.SampledFrom(dtypes).Draw(t, "dtype")
			shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 3).Draw(t, "shape")
			n := dtype.Bytes()
			for _, d := range shape {
				n *= d
			}
			data[name] = rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "data")
			entries = append(entries, Raw(name, dtype, shape, data[name]))
		}
		metadata := rapid.MapOf(rapid.StringMatching(`[a-z]{0,3}`), rapid.StringMatching(`.{0,3}`)).Draw(t, "metadata")
		var file bytes.Buffer
		require.NoError(t, Write(&file, entries, metadata))
		f, err := parse(file.Bytes())
		require.NoError(t, err)
		require.Equal(t, metadata, f.Metadata())
		require.Len(t, f.Tensors(), len(entries))
		for _, e := range entries {
			info, err := f.Info(e.Name)
			require.NoError(t, err)
			require.Equal(t, e.DType, info.DType)
			require.Equal(t, append([]int{}, e.Shape...), append([]int{}, info.Shape...))
			r, err := f.Reader(e.Name)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data[e.Name], got))
			require.Zero(t, (f.start+info.begin)%int64(e.DType.Bytes()), "%s is aligned", e.Name)
		}
	})
}
