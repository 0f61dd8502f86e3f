package moe

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// linearCase is one use of ParallelLinear with its data.
type linearCase struct {
	tokens, experts, k, in, out int
	spread                      spread
	layout                      ref.Layout
	bias, gates, inOut          bool
	shift                       int // misaligns every tensor
	tile                        Tile
	values                      func(r *rand.Rand, n int) []float32
}

func (c linearCase) String() string {
	return fmt.Sprintf("T=%d E=%d k=%d %d→%d %s, %v, bias=%v gates=%v inout=%v shift=%d tile=%v",
		c.tokens, c.experts, c.k, c.in, c.out, c.spread.name, c.layout, c.bias, c.gates, c.inOut, c.shift, c.tile)
}

// linearRun is a linearCase on the device.
type linearRun struct {
	y       *vk.Tensor
	routing *ref.Routing
	weights ref.Linear[float32]
	x       []float32
	gates   []float32

	layer  *ParallelLinear // what Forward was given
	device *Routing
	xs     *vk.Tensor
	opts   LinearOptions
}

// record uploads the case's data in f32 and records the layer.
func (c linearCase) record(k *kit) linearRun { return c.recordIn(k, storage{}) }

// recordIn does so in other storage types.
func (c linearCase) recordIn(k *kit, st storage) linearRun {
	k.T.Helper()
	run := c.setUp(k, st)
	run.y = k.Output("y", st.y, c.tokens*c.k, c.out)
	require.NoError(k.T, run.layer.Forward(k.Rec, run.device, run.xs, run.y, run.opts))
	return run
}

// setUp makes everything but y.
func (c linearCase) setUp(k *kit, st storage) linearRun {
	k.T.Helper()
	r := rand.New(rand.NewSource(int64(c.tokens*7 + c.in)))
	if c.values == nil {
		c.values = gputest.Normal
	}
	slots := c.tokens * c.k
	ids := c.spread.ids(3, slots, c.experts)
	run := linearRun{routing: ref.Route(ids, c.tokens, c.experts, c.k)}
	run.x = vk.Round(st.x, c.values(r, c.layout.InRows(run.routing)*c.in))
	run.weights = ref.Linear[float32]{Experts: c.experts, In: c.in, Out: c.out, InOut: c.inOut,
		Weight: vk.Round(st.w, c.values(r, c.experts*c.in*c.out))}
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: c.experts, In: c.in, Out: c.out, Bias: c.bias, InOut: c.inOut,
		DType: st.w, Weights: st.format}, tile: c.tile, matrices: k.matrices, vectors: k.vectors}
	k.Shift = c.shift
	if st.format == WeightsFull {
		l.Weight = st.bank(k, "weight", run.weights.Weight, l.Config.weightShape()...)
	} else {
		l.Weight = st.quantizedBank(k, "weight", l.Config, run.weights.Weight)
		run.weights.Weight = dequantizedBank(k.T, l.Weight)
	}
	if c.bias {
		run.weights.Bias = vk.Round(st.w, c.values(r, c.experts*c.out))
		l.Bias = st.bank(k, "bias", run.weights.Bias, c.experts, c.out)
	}
	opts := LinearOptions{}
	if c.gates {
		run.gates = c.values(r, slots)
		opts.Gates = k.F32("gates", run.gates, c.tokens, c.k)
	}
	if c.layout.GroupedIn {
		opts.In = Grouped
	}
	if c.layout.GroupedOut {
		opts.Out = Grouped
	}
	x := k.Floats("x", st.x, run.x, c.layout.InRows(run.routing), c.in)
	routing := k.guardedRouting(ids, c.tokens, c.k, c.experts)
	if blockM := max(c.tile.BM, k.matrices.BM); blockM > 0 {
		k.retile(routing, blockM)
	}
	run.layer, run.device, run.xs, run.opts = l, routing, x, opts
	return run
}

// retile sorts a routing again for tiles of other than the usual height.
func (k *kit) retile(r *Routing, blockM int) {
	r.BlockM = blockM
	r.TileBound = check.CeilDiv(r.Slots(), blockM) + min(r.Experts, r.Slots())
	r.Tiles = k.PartialOutput("tiles", vk.I32, r.TileBound, 3)
	_, blocks := sortBlocks(r.Slots(), r.Experts)
	r.sort(k.Rec, sortScratch{
		counts: k.Output("counts", vk.U32, blocks, r.Experts+2),
		status: k.Output("status", vk.U32, 4),
	})
}

// check runs the case and compares y with the oracle within the rounding error of its sums, or exactly.
func (c linearCase) check(t *testing.T, exact bool) { c.checkIn(t, storage{}, exact) }

// checkIn does so in other storage types and returns the largest share of the bound that was used.
func (c linearCase) checkIn(t *testing.T, st storage, exact bool) float64 {
	t.Helper()
	k := newKit(t)
	run := c.recordIn(k, st)
	k.Run()
	want := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, run.gates)
	bound := want.Bound(gputest.Oracle(st.y), c.in+st.roundings())
	if exact {
		bound = nil
	}
	got := gputest.Download[float32](t, run.y)
	gputest.RequireClose(t, got, want.Y, bound, fmt.Sprintf("%v %+v", c, st))
	k.Close()
	return ref.Compare(got, want.Y, bound).Worst.Ratio
}

func TestScatter2scatterInEveryLayout(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{7, 3, 2, 3, 1}, {33, 4, 3, 1, 3}, {20, 5, 2, 36, 40}, {70, 8, 4, 100, 25},
	}
	for _, s := range shapes {
		for _, layout := range ref.Layouts {
			t.Run(fmt.Sprintf("%v %v", s, layout), func(t *testing.T) {
				for flags := range 8 {
					linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], layout,
						flags&1 != 0, flags&2 != 0, flags&4 != 0, s.tokens % 2, Tile{}, nil}.check(t, false)
				}
			})
		}
	}
}

func TestScatter2scatterShapes(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {1, 1, 1, 1, 1}, {1, 8, 2, 600, 100}, {1, 1024, 64, 3, 5}, {40, 1024, 1, 12, 1}, {256, 8, 2, 100, 600},
		{100, 4, 2, 1025, 3}, {64, 2, 1, 3, 1025}, {129, 1, 1, 128, 64}, {300, 16, 4, 64, 100}, {5000, 8, 2, 4, 3},
	}
	if !testing.Short() {
		shapes = append(shapes, struct{ tokens, experts, k, in, out int }{70000, 64, 2, 3, 1},
			struct{ tokens, experts, k, in, out int }{70000, 8, 8, 4, 4},
			struct{ tokens, experts, k, in, out int }{60, 3, 2, 1025, 600})
	}
	for i, s := range shapes {
		for j, sp := range spreads {
			if s.tokens*s.k > 100000 && j > 0 {
				continue
			}
			c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, sp, ref.Layouts[(i+j)%len(ref.Layouts)],
				j%2 == 0, i%2 == 0, j == 2, 0, Tile{}, nil}
			t.Run(c.String(), func(t *testing.T) { c.check(t, false) })
		}
	}
}

// TestScatter2scatterOfWideInputs would show a driver that ends loops early (see maxLoop).
func TestScatter2scatterOfWideInputs(t *testing.T) {
	for _, band := range builtInBands() {
		for i, tile := range []Tile{band.Wide, band.Narrow} {
			linearCase{3, 2, 2, 66000 + i, 8 + i, spreads[0], ref.Layout{}, true, true, false, 0, tile, gputest.Halves}.check(t, true)
			linearCase{3, 2, 2, 66001, 8 + i, spreads[0], ref.Layout{}, true, true, true, 0, tile, gputest.Halves}.check(t, true)
		}
	}
	require.Less(t, maxWidth/16+256, maxLoop)
}

// TestScatter2scatterIsExact uses values whose sums are exact in f32: any wrong, missing or doubled term shows.
func TestScatter2scatterIsExact(t *testing.T) {
	for i, layout := range ref.Layouts {
		linearCase{50, 6, 3, 61, 34, spreads[i%len(spreads)], layout, true, true, i%2 == 1, 1, Tile{}, gputest.Halves}.check(t, true)
	}
}

func TestEveryTileOfTheSelector(t *testing.T) {
	seen := map[Tile]bool{}
	for _, band := range builtInBands() {
		for _, tile := range []Tile{band.Wide, band.Narrow} {
			if seen[tile] {
				continue
			}
			seen[tile] = true
			t.Run(tile.String(), func(t *testing.T) {
				require.Zero(t, tile.BM%tile.TM)
				require.Zero(t, tile.BN%tile.TN)
				require.Zero(t, tile.BK%4)
				require.LessOrEqual(t, tile.Threads(), 256)
				require.Equal(t, band.Wide.BM, tile.BM)
				for _, inOut := range []bool{false, true} {
					linearCase{90, 4, 2, 76, 68, spreads[0], ref.Layout{}, true, true, inOut, 0, tile, gputest.Halves}.check(t, true)
					linearCase{37, 3, 2, 33, 71, spreads[2], ref.Layout{GroupedOut: true}, true, true, inOut, 1, tile, gputest.Halves}.check(t, true)
				}
			})
		}
	}
	require.Equal(t, "8×32×16 tiles, 4×4 per invocation, 16 invocations", Tile{8, 32, 16, 4, 4}.String())
}

// TestResultsDoNotDependOnTheTile compares bits across tile shapes: an element's terms are added in one order always.
func TestResultsDoNotDependOnTheTile(t *testing.T) {
	var first []uint32
	for _, tile := range []Tile{{32, 32, 16, 4, 4}, {8, 8, 8, 1, 2}, {64, 16, 32, 8, 2}} {
		k := newKit(t)
		run := linearCase{60, 4, 2, 101, 67, spreads[0], ref.Layout{}, true, true, false, 0, tile, nil}.record(k)
		k.Run()
		got := gputest.Words(t, run.y)
		if first == nil {
			first = got
		}
		require.Equal(t, first, got, "%v", tile)
	}
}

func TestScatter2scatterRepeatsItsBits(t *testing.T) {
	k := newKit(t)
	run := linearCase{200, 8, 2, 100, 65, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, nil}.record(k)
	k.RunAlike(run.y)
}

func TestSlotsWithoutExpertWriteNothing(t *testing.T) {
	k := newKit(t)
	ids := []int32{0, 9, -1, 1, 1, 1, 2, 0}
	routing := k.guardedRouting(ids, 4, 2, 3)
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 3, In: 5, Out: 6}}
	r := rand.New(rand.NewSource(1))
	weights := ref.Linear[float32]{Experts: 3, In: 5, Out: 6, Weight: gputest.Halves(r, 90)}
	x := gputest.Halves(r, 20)
	l.Weight = bankOf(t, k.F32("weight", weights.Weight, 3, 6, 5))
	y := k.PartialOutput("y", vk.F32, 8, 6)
	require.NoError(t, l.Forward(k.Rec, routing, k.F32("x", x, 4, 5), y, LinearOptions{}))
	k.Run()
	got := gputest.Download[float32](t, y)
	for s := 1; s <= 2; s++ {
		for _, v := range got[s*6 : s*6+6] {
			require.Equal(t, gputest.Poison(vk.F32), math.Float32bits(v), "slot %d", s)
		}
	}
	want := ref.Scatter2scatter(weights, x, ref.Route(ids, 4, 3, 2), ref.Layout{}, []float32(nil)).Y
	clear(got[6:18])
	gputest.RequireClose(t, got, want, nil, "y")
}

func TestDenseLinear(t *testing.T) {
	for _, s := range []struct{ rows, in, out int }{{0, 4, 4}, {1, 1, 1}, {1, 600, 8}, {33, 100, 64}, {200, 7, 60}, {3000, 16, 3}} {
		k := newKit(t)
		r := rand.New(rand.NewSource(5))
		w := ref.Linear[float32]{Experts: 1, In: s.in, Out: s.out, Weight: gputest.Normal(r, s.in*s.out), Bias: gputest.Normal(r, s.out)}
		x := gputest.Normal(r, s.rows*s.in)
		l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: s.in, Out: s.out, Bias: true},
			Weight: bankOf(t, k.F32("weight", w.Weight, 1, s.out, s.in)), Bias: bankOf(t, k.F32("bias", w.Bias, 1, s.out))}
		y := k.Output("y", vk.F32, s.rows, s.out)
		require.NoError(t, l.Dense(k.Rec, k.F32("x", x, s.rows, s.in), y))
		k.Run()
		want := ref.DenseLinear(w, x, s.rows)
		gputest.RequireClose(t, gputest.Download[float32](t, y), want.Y, want.Bound(ref.F32, s.in), fmt.Sprint(s))
	}
}
