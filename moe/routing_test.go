package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// spread is a way in which ids are distributed over experts.
type spread struct {
	name string
	id   func(r *rand.Rand, slot, experts int) int32
}

var spreads = []spread{
	{"random", func(r *rand.Rand, _, experts int) int32 { return int32(r.Intn(experts)) }},
	{"one expert", func(_ *rand.Rand, _, experts int) int32 { return int32(experts - 1) }},
	{"odd experts empty", func(r *rand.Rand, _, experts int) int32 { return int32(r.Intn(experts)) &^ 1 }},
	{"descending", func(_ *rand.Rand, slot, experts int) int32 { return int32(experts - 1 - slot%experts) }},
}

func (s spread) ids(seed int64, slots, experts int) []int32 {
	r := rand.New(rand.NewSource(seed))
	ids := make([]int32, slots)
	for i := range ids {
		ids[i] = s.id(r, i, experts)
	}
	return ids
}

// guardedRouting sorts ids into banded tensors.
func (k *kit) guardedRouting(ids []int32, tokens, choices, experts int) *Routing {
	slots := tokens * choices
	r := &Routing{Tokens: tokens, K: choices, Experts: experts, IDs: k.I32("ids", ids, tokens, choices)}
	r.BlockM = chooseBlockM(dev, slots, experts)
	r.TileBound = check.CeilDiv(slots, r.BlockM) + min(experts, slots)
	_, blocks := sortBlocks(slots, experts)
	r.Order = k.Output("order", vk.I32, slots)
	r.Inverse = k.Output("inverse", vk.I32, slots)
	r.Offsets = k.Output("offsets", vk.I32, experts+1)
	r.Tiles = k.PartialOutput("tiles", vk.I32, r.TileBound, 3)
	r.TileArgs = k.Output("tile_args", vk.U32, 4)
	r.sort(k.Rec, sortScratch{
		counts: k.Output("counts", vk.U32, blocks, experts+2),
		status: k.Output("status", vk.U32, 4),

		compare: (tokens+experts)%2 == 1, // both ways, since a device has room for one of them
	})
	return r
}

// requireRouting compares a routing with the oracle's, exactly.
func requireRouting(t testing.TB, r *Routing, want *ref.Routing) {
	t.Helper()
	order := gputest.Download[int32](t, r.Order)
	valid := len(want.Order)
	require.Equal(t, want.Order, order[:valid], "order")
	for _, s := range order[valid:] {
		require.EqualValues(t, -1, s, "order of slots without an expert")
	}
	require.Equal(t, want.Inverse, gputest.Download[int32](t, r.Inverse), "inverse")
	require.Equal(t, want.Offsets, gputest.Download[int32](t, r.Offsets), "offsets")
	tiles := want.Tiles(r.BlockM)
	require.LessOrEqual(t, len(tiles), r.TileBound)
	args := gputest.Download[uint32](t, r.TileArgs)
	require.EqualValues(t, len(tiles), args[3], "number of tiles")
	require.GreaterOrEqual(t, uint64(args[0])*uint64(args[1])*uint64(args[2]), uint64(len(tiles)))
	require.LessOrEqual(t, args[0], uint32(65535))
	flat := gputest.Download[int32](t, r.Tiles)
	for i, tile := range tiles {
		require.Equal(t, tile[:], flat[3*i:3*i+3], "tile %d", i)
	}
}

func TestRoutingEqualsTheOracle(t *testing.T) {
	type shape struct{ tokens, experts, k int }
	shapes := []shape{
		{0, 1, 1}, {0, 8, 2}, {1, 1, 1}, {1, 1024, 64}, {2, 3, 3}, {5, 8, 2}, {31, 7, 4}, {64, 64, 1}, {65, 2, 1}, {127, 128, 8},
		{256, 8, 3}, {300, 1024, 64}, {513, 33, 5}, {1000, 60, 4}, {4097, 8, 2}, {20000, 1, 1}, {70000, 64, 1},
	}
	if !testing.Short() {
		shapes = append(shapes, shape{70000, 1024, 8}, shape{70000, 256, 64})
	}
	for _, s := range shapes {
		for i, sp := range spreads {
			if s.tokens*s.k > 100000 && i > 1 {
				continue
			}
			t.Run(fmt.Sprintf("T=%d E=%d k=%d %s", s.tokens, s.experts, s.k, sp.name), func(t *testing.T) {
				k := newKit(t)
				ids := sp.ids(int64(i), s.tokens*s.k, s.experts)
				r := k.guardedRouting(ids, s.tokens, s.k, s.experts)
				k.Run()
				requireRouting(t, r, ref.Route(ids, s.tokens, s.experts, s.k))
			})
		}
	}
}

func TestBadExpertIDsAreReportedAndNotFollowed(t *testing.T) {
	for _, tokens := range []int{3, 1000} {
		k := newKit(t)
		const choices, experts = 4, 6
		ids := spreads[0].ids(1, tokens*choices, experts)
		bad := map[int]int32{2: experts, 5: -1, 7: 1 << 30, tokens*choices - 1: -1 << 31}
		for s, id := range bad {
			ids[s] = id
		}
		r, err := RouteIDs(k.Rec, k.I32("ids", ids, tokens, choices), nil, experts)
		require.NoError(t, err)
		err = k.Rec.Run(k.Ctx)
		var idErr *ExpertIDError
		require.ErrorAs(t, err, &idErr)
		require.Equal(t, ExpertIDError{Slot: 2, ID: experts, Experts: experts, Count: 4}, *idErr)
		require.Equal(t, "moe: slot 2 names expert 6 of 6 (4 such slots)", err.Error())
		requireRouting(t, r, ref.Route(ids, tokens, experts, choices))

		require.Equal(t, err, CheckIDs(ids, experts))
		_, err = NewIDs(k.Ctx, dev, ids, choices, experts)
		require.ErrorAs(t, err, &idErr)
	}
}

// A recording is judged anew by every run.
func TestBadExpertIDsOfALaterRun(t *testing.T) {
	k := newKit(t)
	ids, err := NewIDs(k.Ctx, dev, []int32{0, 1, 2, 1}, 2, 3)
	require.NoError(t, err)
	k.OnClose(ids.Close)
	_, err = RouteIDs(k.Rec, ids, nil, 3)
	require.NoError(t, err)
	require.NoError(t, k.Rec.Run(k.Ctx))
	require.NoError(t, vk.Upload(k.Ctx, ids, []int32{0, 3, 2, 1}))
	var idErr *ExpertIDError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &idErr)
	require.Equal(t, 1, idErr.Slot)
	require.NoError(t, vk.Upload(k.Ctx, ids, []int32{0, 2, 2, 1}))
	require.NoError(t, k.Rec.Run(k.Ctx))
}

func TestRouteArguments(t *testing.T) {
	k := newKit(t)
	ids := k.I32("ids", make([]int32, 8), 4, 2)
	gates := k.F32("gates", make([]float32, 8), 4, 2)
	flat := k.I32("flat", make([]int32, 8), 8)
	closed, err := dev.NewTensor(vk.I32, 4, 2)
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	var shape *vk.ShapeError
	var config *ConfigError
	for name, c := range map[string]struct {
		ids, gates *vk.Tensor
		experts    int
		target     any
	}{
		"no ids":          {nil, nil, 4, &shape},
		"ids no matrix":   {flat, nil, 4, &shape},
		"ids are floats":  {gates, nil, 4, &shape},
		"gates are ids":   {ids, ids, 4, &shape},
		"no experts":      {ids, nil, 0, &config},
		"too many":        {ids, nil, MaxExperts + 1, &config},
		"gates too short": {ids, k.F32("g", make([]float32, 4), 4, 1), 4, &shape},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = RouteIDs(rec, c.ids, c.gates, c.experts)
		require.ErrorAs(t, err, c.target, name)
		require.Equal(t, err, rec.Err(), "%s: the recorder keeps the error", name)
		require.Error(t, rec.Run(k.Ctx), name)
		require.NoError(t, rec.Close())
	}
	_, err = RouteIDs(k.Rec, closed, nil, 4)
	require.ErrorIs(t, err, vk.ErrClosed)
	_, err = NewIDs(k.Ctx, dev, []int32{1, 2, 3}, 2, 4)
	require.ErrorAs(t, err, &shape)
}
