package gputest

import (
	"context"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// Words downloads the bits of a tensor's elements.
func Words(t testing.TB, x *vk.Tensor) []uint32 {
	t.Helper()
	ctx := context.Background()
	switch x.DType() {
	case vk.F32:
		data, err := vk.Download[float32](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = math.Float32bits(v)
		}
		return out
	case vk.I32:
		data, err := vk.Download[int32](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = uint32(v)
		}
		return out
	case vk.F16, vk.BF16:
		data, err := vk.Download[uint16](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = uint32(v)
		}
		return out
	}
	data, err := vk.Download[uint32](ctx, x)
	require.NoError(t, err)
	return data
}

// Download returns the contents of a tensor.
func Download[E float32 | int32 | uint32](t testing.TB, x *vk.Tensor) []E {
	t.Helper()
	data, err := vk.Download[E](context.Background(), x)
	require.NoError(t, err)
	return data
}

// Normal returns n normally distributed values.
func Normal(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

// Halves returns n small half-integers, whose products and sums are exact in f32.
func Halves(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.Intn(9)-4) / 2
	}
	return out
}

// Oracle is the oracle's name of a storage type.
func Oracle(dtype vk.DType) ref.DType {
	return map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}[dtype]
}

// Storages are the storage types.
var Storages = []vk.DType{vk.F32, vk.F16, vk.BF16}

// RequireClose fails unless got is within bound of the oracle's values.
func RequireClose(t testing.TB, got []float32, want, bound []float64, what string) {
	t.Helper()
	c := ref.Compare(got, want, bound)
	require.True(t, c.OK(), "%s: %v", what, c)
}
