package spirv

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

func TestReflectSample(t *testing.T) {
	m, err := Parse(sample())
	require.NoError(t, err)
	require.Equal(t, [2]int{1, 5}, m.Version)
	require.Equal(t, "main", m.EntryPoint)
	require.Equal(t, []string{"SPV_KHR_storage_buffer_storage_class"}, m.Extensions)

	push, size, err := m.Push()
	require.NoError(t, err)
	require.EqualValues(t, 16, size)
	require.Equal(t, []Field{
		{Field: kernel.Field{Name: "x", Offset: 0, Size: 8}, Type: "u32x2"},
		{Field: kernel.Field{Name: "alpha", Offset: 8, Size: 4}, Type: "f32"},
		{Field: kernel.Field{Name: "count", Offset: 12, Size: 4}, Type: "u32"},
	}, push)

	require.Equal(t, []Constant{
		{Constant: kernel.Constant{ID: 0, Name: "THREADS", Default: 64}, Type: "u32"},
		{Constant: kernel.Constant{ID: 2, Name: "SCALE", Default: 0x3f800000}, Type: "f32"},
		{Constant: kernel.Constant{ID: 3, Name: "TILE", Default: 16}, Type: "u32"},
		{Constant: kernel.Constant{ID: 4, Name: "FLAG", Default: 1}, Type: "bool"},
	}, m.Constants())

	local, err := m.LocalSize()
	require.NoError(t, err)
	require.Equal(t, [3]int{0, -4, -1}, local, "the WorkgroupSize built-in wins over LocalSize")

	needs, err := m.Needs()
	require.NoError(t, err)
	require.Equal(t, []kernel.Feature{kernel.F16}, needs)
}

func TestSharedBytesFollowsSpecialization(t *testing.T) {
	for _, c := range []struct {
		values []uint32
		want   uint64
	}{
		{nil, 16*2*16 + 8*4},
		{[]uint32{64, 0, 16, 1}, 16*2*16 + 8*4},
		{[]uint32{1, 0, 100, 1}, 100*2*16 + 50*4},
		{[]uint32{1, 0, 100, 0}, 100*2*16 + 4*4},
		{[]uint32{1, 0, 1, 7}, 2 * 16}, // any word but 0 is true; 1 >> 1 floats
	} {
		got, err := SharedBytes(sample(), c.values)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v", c.values)
	}
	_, err := SharedBytes(sample(), []uint32{1})
	require.ErrorIs(t, err, ErrInvalid)
	_, err = SharedBytes(sample(), []uint32{1, 0, 0x80000000, 1})
	require.NoError(t, err, "TILE + TILE wraps to 0, as the specification says")
}

func TestSharedBytesOfExplicitLayoutOverlaps(t *testing.T) {
	a := newAssembler(20)
	a.op(opEntryPoint, join([]uint32{5, 1}, str("main"))...)
	a.op(opDecorate, 6, 2).op(opDecorate, 7, 2)
	a.op(opMemberDecorate, 6, 0, 35, 0).op(opMemberDecorate, 7, 0, 35, 64).op(opDecorate, 5, 6, 32)
	a.op(opTypeInt, 2, 32, 0).op(opTypeFloat, 3, 32).op(opConstant, 2, 4, 8)
	a.op(opTypeArray, 5, 3, 4) // eight floats, 32 bytes apart
	a.op(opTypeStruct, 6, 5).op(opTypeStruct, 7, 3)
	a.op(opTypePointer, 8, classWorkgroup, 6).op(opTypePointer, 9, classWorkgroup, 7)
	a.op(opVariable, 8, 10, classWorkgroup).op(opVariable, 9, 11, classWorkgroup)
	got, err := SharedBytes(a.words, nil)
	require.NoError(t, err)
	require.EqualValues(t, 256, got)
}

func TestSpecConstantOperations(t *testing.T) {
	const seven, minus = 7, 0xfffffffb // −5
	for _, c := range []struct {
		name     string
		op, a, b uint32
		want     uint64
		ok       bool
	}{
		{"IAdd", 128, seven, minus, 2, true},
		{"ISub", 130, seven, 9, 0xfffffffe, true},
		{"IMul", 132, seven, minus, 0xffffffdd, true},
		{"UDiv", 134, minus, seven, 0xfffffffb / 7, true},
		{"SDiv", 135, minus, 2, 0xfffffffe, true},
		{"UMod", 137, seven, 4, 3, true},
		{"SRem", 138, minus, 3, 0xfffffffe, true},
		{"SMod", 139, minus, 3, 1, true},
		{"shift right", 194, minus, 28, 0xf, true},
		{"arithmetic shift", 195, minus, 1, 0xfffffffd, true},
		{"shift left", 196, seven, 40, 0, true},
		{"or", 197, 5, 2, 7, true},
		{"xor", 198, 5, 1, 4, true},
		{"and", 199, 5, 6, 4, true},
		{"division by zero", 134, seven, 0, 0, false},
		{"signed modulo zero", 139, seven, 0, 0, false},
		{"unknown opcode", 9999, seven, 1, 0, false},
	} {
		v, ok := binary2(c.op, value{uint64(c.a), 32}, value{uint64(c.b), 32}, 32)
		require.Equal(t, c.ok, ok, c.name)
		if ok {
			require.Equal(t, c.want, v.bits, c.name)
		}
	}
	for op, want := range map[uint32]uint64{
		164: 0, 165: 1, 170: 0, 171: 1, 172: 0, 173: 1, 174: 0, 175: 1, 176: 1, 177: 0, 178: 1, 179: 0,
	} {
		v, ok := binary2(op, value{seven, 32}, value{minus, 32}, 1)
		require.True(t, ok)
		require.Equal(t, want, v.bits, "comparison %d of 7 and −5", op)
	}
	for op, want := range map[uint32]uint64{114: 0xfffb, 113: 0xfffb, 126: 5, 200: 4} {
		v, ok := unary(op, value{minus, 32}, 16)
		require.True(t, ok)
		require.Equal(t, want, v.bits, "unary %d", op)
	}
}

func TestLocalSizeByExecutionMode(t *testing.T) {
	a := newAssembler(8)
	a.op(opEntryPoint, join([]uint32{5, 1}, str("main"))...)
	a.op(opExecutionModeID, 1, 38, 3, 4, 4)
	a.op(opDecorate, 3, 1, 5)
	a.op(opTypeInt, 2, 32, 0).op(opSpecConstant, 2, 3, 128).op(opConstant, 2, 4, 2)
	m, err := Parse(a.words)
	require.NoError(t, err)
	local, err := m.LocalSize()
	require.NoError(t, err)
	require.Equal(t, [3]int{0, -2, -2}, local)

	m, err = Parse(newAssembler(8).op(opEntryPoint, join([]uint32{5, 1}, str("main"))...).words)
	require.NoError(t, err)
	_, err = m.LocalSize()
	require.ErrorIs(t, err, ErrInvalid, "no work-group size")
}

func TestNeedsRefusesUnknownCapabilities(t *testing.T) {
	m, err := Parse(newAssembler(8).op(opCapability, 4999).op(opEntryPoint, join([]uint32{5, 1}, str("m"))...).words)
	require.NoError(t, err)
	_, err = m.Needs()
	require.ErrorContains(t, err, "4999")
}

func TestParseRefusesDamage(t *testing.T) {
	good := sample()
	entry := join([]uint32{5, 1}, str("main"))
	for name, words := range map[string][]uint32{
		"empty":               nil,
		"short header":        good[:4],
		"no entry point":      newAssembler(4).words,
		"other magic":         join([]uint32{1}, good[1:]),
		"swapped bytes":       join([]uint32{0x03022307}, good[1:]),
		"no bound":            newAssembler(0).op(opEntryPoint, entry...).words,
		"huge bound":          newAssembler(1<<31).op(opEntryPoint, entry...).words,
		"zero length":         append(newAssembler(4).op(opEntryPoint, entry...).words, 0),
		"past the end":        append(newAssembler(4).op(opEntryPoint, entry...).words, 9<<16|opName),
		"fragment shader":     newAssembler(4).op(opEntryPoint, join([]uint32{4, 1}, str("main"))...).words,
		"two entry points":    newAssembler(4).op(opEntryPoint, entry...).op(opEntryPoint, entry...).words,
		"too few operands":    newAssembler(4).op(opTypeInt, 2).words,
		"endless name":        newAssembler(4).op(opName, 1, 0x41414141).words,
		"name not UTF-8":      newAssembler(4).op(opName, 1, 0xff).words,
		"id over bound":       newAssembler(4).op(opTypeBool, 4).words,
		"id zero":             newAssembler(4).op(opTypeBool, 0).words,
		"defined twice":       newAssembler(4).op(opTypeBool, 2).op(opTypeBool, 2).words,
		"unknown element":     newAssembler(4).op(opTypeVector, 2, 3, 4).words,
		"struct of itself":    newAssembler(4).op(opTypeStruct, 2, 2).words,
		"array length later":  newAssembler(9).op(opTypeBool, 2).op(opTypeArray, 3, 2, 4).words,
		"LocalSize too short": newAssembler(4).op(opExecutionMode, 1, 17, 1).words,
		"SpecId without id":   newAssembler(4).op(opDecorate, 2, 1).words,
	} {
		_, err := Parse(words)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err := Words([]byte{3, 2, 35, 7, 0})
	require.ErrorIs(t, err, ErrInvalid)
}

func TestSizesAreChecked(t *testing.T) {
	entry := join([]uint32{5, 1}, str("main"))
	base := func() *assembler {
		return newAssembler(20).op(opEntryPoint, entry...).op(opTypeInt, 2, 32, 0).op(opConstant, 2, 3, 0xffffffff)
	}
	for name, words := range map[string][]uint32{
		"array too large":   base().op(opTypeArray, 4, 2, 3).op(opTypeArray, 5, 4, 3).words,
		"7-bit integer":     base().op(opTypeInt, 4, 7, 0).words,
		"1-vector":          base().op(opTypeVector, 4, 2, 1).words,
		"length is a float": base().op(opTypeFloat, 4, 32).op(opConstant, 4, 5, 0).op(opTypeArray, 6, 2, 5).words,
	} {
		_, err := SharedBytes(words, nil)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
}

// probe calls everything a host calls; none of it may panic.
func probe(words []uint32) {
	m, err := Parse(words)
	if err != nil {
		return
	}
	_, _, _ = m.Push()
	_, _ = m.LocalSize()
	_, _ = m.Needs()
	values := make([]uint32, len(m.Constants()))
	_, _ = m.SharedBytes(values)
	_, _ = m.SharedBytes(nil)
}

func TestTruncatedAndCorruptModulesDoNotPanic(t *testing.T) {
	good := sample()
	for n := range good {
		probe(good[:n])
	}
	for i := range good {
		for _, v := range []uint32{0, 1, 0xffffffff, good[i] ^ 1, good[i] ^ 1<<16, good[i] + 5<<16} {
			bad := append([]uint32(nil), good...)
			bad[i] = v
			probe(bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	seed := make([]byte, 4*len(sample()))
	for i, w := range sample() {
		binary.LittleEndian.PutUint32(seed[4*i:], w)
	}
	f.Add(seed)
	f.Add(seed[:40])
	f.Fuzz(func(t *testing.T, blob []byte) {
		words, err := Words(blob)
		if err != nil {
			return
		}
		probe(words)
	})
}
