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
