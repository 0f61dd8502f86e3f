package vk

import "math"

// Round returns the values that a tensor of dtype F32, F16 or BF16 holds after an Upload of these: a copy, rounded to
// nearest even. nil stays nil.
func Round(dtype DType, values []float32) []float32 {
	if values == nil {
		return nil
	}
	out := make([]float32, len(values))
	for i, v := range values {
		out[i] = FromBits(dtype, Bits(dtype, v))
	}
	return out
}

// Bits returns the bits of an element of dtype F32, F16 or BF16 that holds v, rounded to nearest even: 16 of them are zero
// above those of a 16-bit type. A NaN stays a NaN.
func Bits(dtype DType, v float32) uint32 {
	switch dtype {
	case F16:
		return uint32(ToF16(v))
	case BF16:
		return uint32(ToBF16(v))
	}
	return math.Float32bits(v)
}

// FromBits is the value of an element's bits, the inverse of Bits; it is exact, and ignores the upper half of a 16-bit
// type's.
func FromBits(dtype DType, bits uint32) float32 {
	switch dtype {
	case F16:
		return FromF16(uint16(bits))
	case BF16:
		return FromBF16(uint16(bits))
	}
	return math.Float32frombits(bits)
}
