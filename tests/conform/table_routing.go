package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// routingCases are groupings of given ids, compared exactly.
func routingCases(add func(Case)) {
	shapes := []shape{
		{experts: 1, k: 1, tokens: 0}, {experts: 8, k: 2, tokens: 0}, {experts: 1, k: 1, tokens: 1}, {experts: 1024, k: 64, tokens: 1},
		{experts: 3, k: 3, tokens: 2}, {experts: 8, k: 2, tokens: 5}, {experts: 7, k: 4, tokens: 31}, {experts: 64, k: 1, tokens: 64},
		{experts: 2, k: 1, tokens: 65}, {experts: 128, k: 8, tokens: 127}, {experts: 8, k: 3, tokens: 256}, {experts: 1024, k: 16, tokens: 80},
		{experts: 33, k: 5, tokens: 513}, {experts: 60, k: 4, tokens: 1030}, {experts: 8, k: 2, tokens: 4097}, {experts: 1, k: 1, tokens: 20000},
	}
	for i, s := range shapes {
		for j, sp := range spreads {
			c := linearCase{shape: s, spread: sp}
			add(Case{Name: fmt.Sprintf("routing.group.e%d_k%d_t%d.%s", s.experts, s.k, s.tokens, sp.name),
				Required: (i+j)%3 == 0 && s.tokens < 4000 || s.tokens == 4097 && j == 0, Record: c.grouping})
		}
	}
}

// grouping records RouteIDs and judges every tensor of the routing.
func (c linearCase) grouping(k *Kit) func() {
	r, want := k.route(c.spread.ids(k.Rand, c.slots(), c.experts), c.shape)
	k.Scratch("order", r.Order)
	k.Scratch("inverse", r.Inverse)
	k.Scratch("offsets", r.Offsets)
	tiles, err := r.Tiles.View(0, len(want.Tiles(r.BlockM)), 3) // the rest is left alone
	k.must(err)
	k.Scratch("tiles", tiles)
	k.Scratch("tile_args", r.TileArgs)
	return func() { k.judgeRouting(r, want) }
}

// judgeRouting compares a routing with the oracle's, exactly.
func (k *Kit) judgeRouting(r *moe.Routing, want *ref.Routing) {
	order := append([]int32(nil), want.Order...)
	for len(order) < want.Slots() {
		order = append(order, -1)
	}
	k.EqualInts("order", k.Ints(r.Order), order)
	k.EqualInts("inverse", k.Ints(r.Inverse), want.Inverse)
	k.EqualInts("offsets", k.Ints(r.Offsets), want.Offsets)
	tiles := want.Tiles(r.BlockM)
	var flat []int32
	for _, t := range tiles {
		flat = append(flat, t[:]...)
	}
	if len(tiles) > r.TileBound {
		k.Fail(CheckError, "tiles", "%d tiles, the bound is %d", len(tiles), r.TileBound)
		return
	}
	k.EqualInts("tiles", k.Ints(r.Tiles)[:len(flat)], flat)
	args, err := vk.Download[uint32](k.Ctx, r.TileArgs)
	k.must(err)
	if int(args[3]) != len(tiles) || uint64(args[0])*uint64(args[1])*uint64(args[2]) < uint64(len(tiles)) || args[0] > 65535 {
		k.Fail(CheckOracle, "tile_args", "work-groups and tiles %v for %d tiles", args, len(tiles))
	}
}
