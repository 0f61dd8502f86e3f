package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
)

// pieceBytes is how much of a tensor is read at a time; a multiple of every element size.
const pieceBytes = 1 << 20

// ReadFloat32 reads a tensor of dtype F32, F16, BF16 or F64 into dst, whose length must be the tensor's number of
// elements. The 16-bit types convert exactly, F64 rounds to nearest even. Other dtypes are a *ConversionError.
func (f *File) ReadFloat32(name string, dst []float32) error {
	info, err := f.Info(name)
	if err != nil {
		return err
	}
	decode := float32Decoder(info.DType)
	if decode == nil {
		return &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "float32"}
	}
	if len(dst) != info.Elements() {
		return &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "float32",
			Detail: fmt.Sprintf("%d elements into %d", info.Elements(), len(dst))}
	}
	size := info.DType.Bytes()
	return f.pieces(info, func(first int, p []byte) error {
		for i := 0; i*size < len(p); i++ {
			dst[first+i] = decode(p[i*size:])
		}
		return nil
	})
}

// ReadFloat32At is ReadFloat32 of len(dst) elements from the first-th on.
func (f *File) ReadFloat32At(name string, dst []float32, first int) error {
	info, err := f.Info(name)
	if err != nil {
		return err
	}
	decode := float32Decoder(info.DType)
	if decode == nil {
		return &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "float32"}
	}
	size := info.DType.Bytes()
	raw := make([]byte, len(dst)*size)
	if err := f.ReadBytesAt(name, raw, first); err != nil {
		return err
	}
	for i := range dst {
		dst[i] = decode(raw[i*size:])
	}
	return nil
}

// ReadBytesAt reads the little-endian bytes of as many elements as fill p, from the first-th on. Elements beyond the tensor's
// are a *ConversionError.
func (f *File) ReadBytesAt(name string, p []byte, first int) error {
	info, err := f.Info(name)
	if err != nil {
		return err
	}
	at := int64(first) * int64(info.DType.Bytes())
	if first < 0 || at+int64(len(p)) > info.Bytes() {
		return &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "bytes",
			Detail: fmt.Sprintf("%d bytes from element %d on of %d elements", len(p), first, info.Elements())}
	}
	if err := readFull(f.data, p, f.start+info.begin+at); err != nil {
		return fmt.Errorf("safetensors: %s: tensor %q: %w", f.path, name, err)
	}
	return nil
}

// Float32s reads a tensor into a new slice; see ReadFloat32.
func (f *File) Float32s(name string) ([]float32, error) {
	info, err := f.Info(name)
	if err != nil {
		return nil, err
	}
	dst := make([]float32, info.Elements())
	return dst, f.ReadFloat32(name, dst)
}

// Int32s reads a tensor of a signed or unsigned integer dtype into a new slice. A value outside int32, and a dtype that
// is no integer, is a *ConversionError.
func (f *File) Int32s(name string) ([]int32, error) {
	info, err := f.Info(name)
	if err != nil {
		return nil, err
	}
	decode := int64Decoder(info.DType)
	if decode == nil {
		return nil, &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "int32"}
	}
	dst := make([]int32, info.Elements())
	size := info.DType.Bytes()
	return dst, f.pieces(info, func(first int, p []byte) error {
		for i := 0; i*size < len(p); i++ {
			v := decode(p[i*size:])
			if v < math.MinInt32 || v > math.MaxInt32 {
				return &ConversionError{Path: f.path, Tensor: name, DType: info.DType, Want: "int32",
					Detail: fmt.Sprintf("element %d is %d", first+i, v)}
			}
			dst[first+i] = int32(v)
		}
		return nil
	})
}

// pieces reads a tensor piece by piece and hands over each with the index of its first element.
func (f *File) pieces(info *Info, use func(first int, p []byte) error) error {
	buffer := make([]byte, min(info.Bytes(), pieceBytes))
	for at := int64(0); at < info.Bytes(); at += int64(len(buffer)) {
		p := buffer[:min(info.Bytes()-at, pieceBytes)]
		if err := readFull(f.data, p, f.start+info.begin+at); err != nil {
			return fmt.Errorf("safetensors: %s: tensor %q: %w", f.path, info.Name, err)
		}
		if err := use(int(at)/info.DType.Bytes(), p); err != nil {
			return err
		}
	}
	return nil
}

func float32Decoder(d DType) func([]byte) float32 {
	switch d {
	case F32:
		return func(p []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(p)) }
	case F16:
		return func(p []byte) float32 { return F16ToFloat32(binary.LittleEndian.Uint16(p)) }
	case BF16:
		return func(p []byte) float32 { return BF16ToFloat32(binary.LittleEndian.Uint16(p)) }
	case F64:
		return func(p []byte) float32 { return float32(math.Float64frombits(binary.LittleEndian.Uint64(p))) }
	}
	return nil
}

func int64Decoder(d DType) func([]byte) int64 {
	switch d {
	case I8:
		return func(p []byte) int64 { return int64(int8(p[0])) }
	case U8:
		return func(p []byte) int64 { return int64(p[0]) }
	case I16:
		return func(p []byte) int64 { return int64(int16(binary.LittleEndian.Uint16(p))) }
	case U16:
		return func(p []byte) int64 { return int64(binary.LittleEndian.Uint16(p)) }
	case I32:
		return func(p []byte) int64 { return int64(int32(binary.LittleEndian.Uint32(p))) }
	case U32:
		return func(p []byte) int64 { return int64(binary.LittleEndian.Uint32(p)) }
	case I64:
		return func(p []byte) int64 { return int64(binary.LittleEndian.Uint64(p)) }
	case U64:
		return func(p []byte) int64 {
			// A value over the largest int64 saturates; it is out of int32's range either way.
			return int64(min(binary.LittleEndian.Uint64(p), math.MaxInt64))
		}
	}
	return nil
}

// BF16ToFloat32 converts bfloat16 bits exactly.
func BF16ToFloat32(bits uint16) float32 { return math.Float32frombits(uint32(bits) << 16) }

// F16ToFloat32 converts IEEE half-precision bits exactly, subnormals, infinities and NaN payloads included.
func F16ToFloat32(bits uint16) float32 {
	sign := uint32(bits&0x8000) << 16
	exponent, fraction := uint32(bits>>10&0x1f), uint32(bits&0x3ff)
	switch exponent {
	case 0:
		// Subnormal: fraction·2⁻²⁴, which float32 holds as a normal number.
		v := float32(fraction) * 0x1p-24
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	const rebias = 127 - 15
	return math.Float32frombits(sign | (exponent+rebias)<<23 | fraction<<13)
}
