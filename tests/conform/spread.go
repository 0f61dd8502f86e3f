package conform

import (
	"errors"
	"fmt"
	"math"
	"math/rand"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A spread is a way in which slots go to experts.
type spread struct {
	name    string
	id      func(r *rand.Rand, slot, experts int) int32
	invalid bool // some ids name no expert
}

// spreads lists them all; the first four of plainSpreads are enough where routing is not what is tested.
var spreads = []spread{
	{"random", func(r *rand.Rand, _, experts int) int32 { return int32(r.Intn(experts)) }, false},
	{"balanced", func(_ *rand.Rand, slot, experts int) int32 { return int32(slot % experts) }, false},
	{"skewed", func(r *rand.Rand, _, experts int) int32 {
		return int32(math.Pow(float64(experts), r.Float64()*r.Float64())) - 1
	}, false},
	{"one", func(_ *rand.Rand, _, experts int) int32 { return int32(experts - 1) }, false},
	{"holes", func(r *rand.Rand, _, experts int) int32 { return int32(r.Intn(experts)) &^ 1 }, false},
	{"descending", func(_ *rand.Rand, slot, experts int) int32 { return int32(experts - 1 - slot%experts) }, false},
	{"invalid", func(r *rand.Rand, slot, experts int) int32 {
		return [...]int32{int32(r.Intn(experts)), int32(r.Intn(experts)), -1, int32(experts), math.MaxInt32, math.MinInt32}[r.Intn(6)]
	}, true},
}

func spreadOf(name string) spread {
	for _, s := range spreads {
		if s.name == name {
			return s
		}
	}
	panic("conform: no spread " + name)
}

func (s spread) ids(r *rand.Rand, slots, experts int) []int32 {
	ids := make([]int32, slots)
	for i := range ids {
		ids[i] = s.id(r, i, experts)
	}
	return ids
}

// shape is the sizes of a routed operation.
type shape struct{ experts, k, tokens, in, out int }

func (s shape) slots() int { return s.tokens * s.k }

func (s shape) String() string {
	return fmt.Sprintf("e%d_k%d_t%d_i%d_o%d", s.experts, s.k, s.tokens, s.in, s.out)
}

// route records the grouping of ids; ids that name no expert have to be reported.
func (k *Kit) route(ids []int32, s shape) (*moe.Routing, *ref.Routing) {
	routing, err := moe.RouteIDs(k.Rec, k.I32("ids", ids, s.tokens, s.k), nil, s.experts)
	k.must(err)
	want := ref.Route(ids, s.tokens, s.experts, s.k)
	if want.BadCount > 0 {
		k.ExpectRunError(func(err error) error {
			var bad *moe.ExpertIDError
			if !errors.As(err, &bad) || bad.Slot != want.BadSlot || bad.ID != want.BadID || bad.Count != want.BadCount {
				return fmt.Errorf("the run returned %v and should have named id %d of slot %d, the first of %d that name no expert",
					err, want.BadID, want.BadSlot, want.BadCount)
			}
			return nil
		})
	}
	return routing, want
}

// storages are the float dtypes.
var storages = []vk.DType{vk.F32, vk.F16, vk.BF16}

// refTypes maps them to the oracle's.
var refTypes = map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}

// layouts are the oracle's layouts with their names in case names: s a row per token, p a row per slot, g grouped.
var layouts = []struct {
	name   string
	layout ref.Layout
}{
	{"s2s", ref.Layout{}}, {"s2g", ref.Layout{GroupedOut: true}},
	{"g2s", ref.Layout{GroupedIn: true}}, {"g2g", ref.Layout{GroupedIn: true, GroupedOut: true}},
	{"p2s", ref.Layout{PerSlot: true}}, {"p2g", ref.Layout{PerSlot: true, GroupedOut: true}},
}

func groupedIf(yes bool) moe.Layout {
	if yes {
		return moe.Grouped
	}
	return moe.Scattered
}
