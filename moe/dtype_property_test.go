package moe

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestStorageProperties draws shapes, layouts, storage types, splits and alignments: results are within the bound of the
// oracle, nothing beside the output changes, and the bits do not depend on how the bank is split.
func TestStorageProperties(t *testing.T) {
	gputest.Need(t, dev)
	types := []storage{}
	for dtype := vk.F32; dtype <= vk.BF16; dtype++ {
		types = append(types, uniform(dtype))
		for _, format := range []WeightFormat{WeightsInt8, WeightsQ4} {
			types = append(types, storage{x: dtype, w: dtype, y: dtype, format: format})
		}
	}
	for _, dtype := range halfTypes {
		types = append(types, storage{x: vk.F32, w: dtype, y: dtype}, storage{x: dtype, w: dtype, y: vk.F32}, storage{x: vk.F32, w: dtype, y: vk.F32})
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := linearCase{
			tokens: rapid.IntRange(0, 70).Draw(rt, "T"), experts: rapid.IntRange(1, 12).Draw(rt, "E"),
			k: rapid.IntRange(1, 4).Draw(rt, "k"), in: rapid.IntRange(1, 90).Draw(rt, "in"), out: rapid.IntRange(1, 90).Draw(rt, "out"),
			spread: rapid.SampledFrom(spreads).Draw(rt, "spread"), layout: rapid.SampledFrom(ref.Layouts).Draw(rt, "layout"),
			bias: rapid.Bool().Draw(rt, "bias"), gates: rapid.Bool().Draw(rt, "gates"), inOut: rapid.Bool().Draw(rt, "in-out"),
			shift: rapid.IntRange(0, 1).Draw(rt, "shift"), tile: Tile{8, 8, 8, 2, 2}, // a small kernel: some drivers compile for seconds
		}
		st := rapid.SampledFrom(types).Draw(rt, "types")
		whole := c.bits(t, st)
		st.part = rapid.IntRange(1, c.experts).Draw(rt, "experts per tensor")
		require.Equal(rt, whole, c.bits(t, st), fmt.Sprint(c, st))
	})
}

// bits runs the case, checks it and returns the bits of y.
func (c linearCase) bits(t *testing.T, st storage) []uint32 {
	k := newKit(t)
	run := c.recordIn(k, st)
	k.Run()
	want := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, run.gates)
	gputest.RequireClose(t, gputest.Download[float32](t, run.y), want.Y, want.Bound(gputest.Oracle(st.y), c.in), fmt.Sprintf("%v %+v", c, st))
	bits := gputest.Words(t, run.y)
	k.Close()
	return bits
}
