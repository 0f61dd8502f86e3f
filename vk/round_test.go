package vk_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestRound(t *testing.T) {
	inf := float32(math.Inf(1))
	values := []float32{1, 1 + 0x1p-9, 1 + 0x3p-9, -1 - 0x1p-12, 65519, 65520, -1e38, 0x1p-24, 0}
	require.Equal(t, values, vk.Round(vk.F32, values))
	require.Equal(t, []float32{1, 1, 1 + 0x1p-7, -1, 65536, 65536, vk.FromBF16(vk.ToBF16(-1e38)), 0x1p-24, 0}, vk.Round(vk.BF16, values))
	require.Equal(t, []float32{1, 1 + 0x1p-9, 1 + 0x3p-9, -1, 65504, inf, -inf, 0x1p-24, 0}, vk.Round(vk.F16, values))
	require.Equal(t, float32(1+0x1p-9), values[1], "the argument stays as it is")
	require.Nil(t, vk.Round(vk.BF16, nil))
	require.True(t, math.IsNaN(float64(vk.Round(vk.F16, []float32{float32(math.NaN())})[0])))
}

func TestBits(t *testing.T) {
	for _, c := range []struct {
		dtype vk.DType
		value float32
		bits  uint32
	}{
		{vk.F32, -1.5, 0xbfc00000}, {vk.F16, -1.5, 0xbe00}, {vk.BF16, -1.5, 0xbfc0}, {vk.F16, 0x1p-24, 1}, {vk.BF16, 0, 0},
	} {
		require.Equal(t, c.bits, vk.Bits(c.dtype, c.value), c)
		require.Equal(t, c.value, vk.FromBits(c.dtype, c.bits), c)
	}
	require.Equal(t, uint32(0x3f80), vk.Bits(vk.BF16, 1+0x1p-9))
	require.Equal(t, float32(-1.5), vk.FromBits(vk.F16, 0x7777be00))
}
