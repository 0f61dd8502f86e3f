package moe

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// storageTypes maps the storage types to the oracle's.
var storageTypes = map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}

// bitsOf rounds a value to a storage type and returns its bits.
func bitsOf(dtype vk.DType, v float32) uint32 {
	switch dtype {
	case vk.F16:
		return uint32(vk.ToF16(v))
	case vk.BF16:
		return uint32(vk.ToBF16(v))
	}
	return math.Float32bits(v)
}

// floatOf is the value of bits of a storage type.
func floatOf(dtype vk.DType, bits uint32) float32 {
	switch dtype {
	case vk.F16:
		return vk.FromF16(uint16(bits))
	case vk.BF16:
		return vk.FromBF16(uint16(bits))
	}
	return math.Float32frombits(bits)
}

// bankOf makes a bank of one tensor.
func bankOf(t testing.TB, x *vk.Tensor) *ExpertBank {
	t.Helper()
	b, err := BankOfTensor(x)
	require.NoError(t, err)
	return b
}
