package moe

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

func TestRoutingOfSomeRows(t *testing.T) {
	const tokens, choices, experts = 700, 3, 9
	for _, c := range [][2]int{{0, 700}, {0, 1}, {300, 300}, {123, 699}, {512, 700}} {
		k := newKit(t)
		ids := spreads[0].ids(2, tokens*choices, experts)
		ids[5], ids[1600] = -1, experts // no experts
		whole := k.guardedRouting(ids, tokens, choices, experts)
		whole.Gates = k.F32("gates", make([]float32, tokens*choices), tokens, choices)
		part, err := whole.Rows(k.Rec, c[0], c[1])
		require.NoError(t, err)
		require.Equal(t, c[1]-c[0], part.Tokens)
		require.Equal(t, []int{part.Tokens, choices}, part.Gates.Shape())
		k.Run()
		requireRouting(t, part, ref.Route(ids[c[0]*choices:c[1]*choices], part.Tokens, experts, choices))
		k.Close()
	}
	k := newKit(t)
	whole := k.guardedRouting(make([]int32, 6), 3, 2, 1)
	var shape *vk.ShapeError
	for _, c := range [][2]int{{-1, 2}, {2, 1}, {0, 4}} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = whole.Rows(rec, c[0], c[1])
		require.ErrorAs(t, err, &shape)
		require.NoError(t, rec.Close())
	}
}

// TestReleasedRoutingsAreReused: many parts after each other take the memory of one.
func TestReleasedRoutingsAreReused(t *testing.T) {
	k := newKit(t)
	whole := k.guardedRouting(spreads[0].ids(2, 4000, 8), 2000, 2, 8)
	before := dev.Memory().LiveBytes
	for i := range 5 {
		part, err := whole.Rows(k.Rec, 400*i, 400*(i+1))
		require.NoError(t, err)
		require.LessOrEqual(t, dev.Memory().LiveBytes-before, RouteBytes(400, 2, 8, part.BlockM, true))
		part.Release(k.Rec)
	}
	k.Run()
}
