package moe

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// checkColumns holds the case's whole result against the oracle and asks some of its columns alone to have the same bits: in a matrix of
// their own, and in the whole one, where nothing else is written. act may be nil.
func (c linearCase) checkColumns(t *testing.T, st storage, act *ActivationConfig, prepare func(k *kit), windows ...Columns) {
	t.Helper()
	k := newKit(t)
	defer k.Close()
	prepare(k)
	run := c.setUp(k, st)
	slots, width := c.tokens*c.k, c.out
	run.opts.Activation = act
	if act != nil && act.Function.Gated() {
		width /= 2
	}
	forward := func(name string, o LinearOptions, width int) (y, z *vk.Tensor) {
		if act != nil {
			z = k.PartialOutput("z of "+name, st.y, slots, c.out)
			o.Z = z
		}
		y = k.PartialOutput(name, st.y, slots, width)
		require.NoError(t, run.layer.Forward(k.Rec, run.device, run.xs, y, o))
		return y, z
	}
	whole, wholeZ := forward("whole", run.opts, width)
	type result struct{ narrow, wide, z *vk.Tensor }
	results := make([]result, len(windows))
	for i, window := range windows {
		o := run.opts
		o.Columns = window
		results[i].narrow, _ = forward(fmt.Sprint("narrow ", window), o, window.Count)
		results[i].wide, results[i].z = forward(fmt.Sprint("wide ", window), o, width)
	}
	k.Run()
	name := fmt.Sprintf("%v %+v %+v", c, st, act)
	linear := whole
	gates := run.gates
	if act != nil {
		linear, gates = wholeZ, nil
	}
	want := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, gates)
	gputest.RequireClose(t, gputest.Download[float32](t, linear), want.Y, want.Bound(gputest.Oracle(st.y), c.in+st.roundings()), name)
	all := gputest.Words(t, whole)
	for i, w := range windows {
		narrow, wide := gputest.Words(t, results[i].narrow), gputest.Words(t, results[i].wide)
		for at, v := range all {
			row, column := at/width, at%width
			inside := column >= w.First && column < w.First+w.Count
			if inside {
				require.Equal(t, v, narrow[row*w.Count+column-w.First], "%s: row %d, column %d of %+v", name, row, column, w)
			} else {
				v = gputest.Poison(st.y)
			}
			require.Equal(t, v, wide[at], "%s: row %d, column %d beside %+v", name, row, column, w)
		}
		if act != nil {
			requireColumnsOfZ(t, *act, gputest.Words(t, wholeZ), gputest.Words(t, results[i].z), width, w, gputest.Poison(st.y))
		}
	}
}

// requireColumnsOfZ asks that z holds what some columns of h are made of, and poison beside it.
func requireColumnsOfZ(t *testing.T, act ActivationConfig, whole, z []uint32, hidden int, w Columns, poison uint32) {
	t.Helper()
	per := 1
	if act.Function.Gated() {
		per = 2
	}
	for at, v := range whole {
		column := at % (per * hidden)
		if act.Interleaved {
			column /= 2
		} else {
			column %= hidden
		}
		if column < w.First || column >= w.First+w.Count {
			v = poison
		}
		require.Equal(t, v, z[at], "z: element %d, %+v", at, w)
	}
}

// columnActivations are none and those that treat columns differently.
var columnActivations = []*ActivationConfig{nil, {Function: SwiGLU}, {Function: SwiGLU, Interleaved: true}, {Function: GELU}}

func TestColumnsOfTheResult(t *testing.T) {
	stores := []storage{uniform(vk.F32), uniform(vk.F16), uniform(vk.BF16), {x: vk.F32, w: vk.BF16, y: vk.F32, part: 2},
		{x: vk.F16, w: vk.F16, y: vk.F16, format: WeightsInt8}, {x: vk.F32, w: vk.F32, y: vk.F32, format: WeightsQ4}}
	n := 0
	for i, st := range stores {
		for j, act := range columnActivations {
			if n++; testing.Short() && (i+j)%4 != 0 {
				continue
			}
			c := linearCase{21, 3, 2, 64, 53, spreads[n%len(spreads)], ref.Layouts[n%len(ref.Layouts)], j%2 == 0, n%3 == 0, n%2 == 0 && st.format == WeightsFull,
				n % 2, Tile{}, tenths}
			windows := []Columns{{0, 8}, {8, 43}, {40, 13}, {48, 1}}
			if act != nil && act.Function.Gated() {
				c.out, windows = 70, []Columns{{0, 16}, {16, 19}, {32, 3}}
			}
			c.checkColumns(t, st, act, func(*kit) {}, windows...)
			if c.tile = (Tile{8, 8, 8, 2, 2}); i == j {
				c.checkColumns(t, st, act, func(*kit) {}, windows...)
			}
			c.tile, c.inOut, c.shift = Tile{}, false, 0
			tile := vectorTiles()[n%3]
			c.checkColumns(t, st, act, func(k *kit) { k.vectors = tile }, windows...)
		}
	}
}

func TestColumnsOfTheTensorPathsResult(t *testing.T) {
	for d, dtype := range matrixTypes(t) {
		for i, tile := range tensorTiles(dtype)[1:3] {
			for j, act := range columnActivations {
				if software(dev) && (d+i+3*j)%4 != 0 { // each takes lavapipe seconds to compile
					continue
				}
				c := linearCase{70, 3, 2, 40, 208, spreads[j%len(spreads)], ref.Layouts[(i+j)%len(ref.Layouts)], j%2 == 0, i == 0, (i+j)%2 == 0, 0, Tile{},
					tenths}
				windows := []Columns{{0, 96}, {96, 112}, {64, 128}}
				if act != nil && act.Function.Gated() {
					windows = []Columns{{0, 48}, {48, 56}, {64, 32}}
				}
				st := uniform(dtype)
				if (i+j)%2 == 1 {
					st.format = quantFormats[j/2]
				}
				c.checkColumns(t, st, act, func(k *kit) { k.matrices = tile }, windows...)
			}
		}
	}
}

func TestColumnsThatMakeNoSense(t *testing.T) {
	k := newKit(t)
	c := linearCase{4, 2, 2, 8, 24, spreads[0], ref.Layouts[0], false, false, false, 0, Tile{}, nil}
	run := c.setUp(k, uniform(vk.F32))
	y := k.PartialOutput("y", vk.F32, 8, 24)
	for _, w := range []Columns{{First: 8}, {0, -1}, {-8, 8}, {4, 8}, {16, 9}, {1 << 62, 1 << 62}} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var config *ConfigError
		require.ErrorAs(t, run.layer.Forward(rec, run.device, run.xs, y, LinearOptions{Columns: w}), &config, "%+v", w)
		require.NoError(t, rec.Close())
	}
	var shape *vk.ShapeError
	narrow := k.PartialOutput("narrow", vk.F32, 8, 8)
	require.ErrorAs(t, run.layer.Forward(k.Rec, run.device, run.xs, narrow, LinearOptions{Columns: Columns{0, 16}}), &shape)
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	var config *ConfigError
	require.ErrorAs(t, run.layer.Backward(rec, run.device, run.xs, y, LinearGrads{}, LinearOptions{Columns: Columns{0, 8}}), &config)
	require.NoError(t, rec.Close())
}

// TestColumnsOfTheCombinedResult holds sums of narrow rows against the oracle, and what is beside them in the output against poison.
func TestColumnsOfTheCombinedResult(t *testing.T) {
	const tokens, experts, topK = 9, 3, 4
	for i, c := range []struct {
		dtype vk.DType
		width int
		Columns
	}{{vk.F32, 40, Columns{8, 24}}, {vk.F32, 21, Columns{16, 5}}, {vk.F16, 1040, Columns{8, 1032}}, {vk.BF16, 37, Columns{8, 7}},
		{vk.BF16, 64, Columns{0, 8}}} {
		k := newKit(t)
		k.Shift = i % 2
		r := rand.New(rand.NewSource(int64(c.width)))
		ids := spreads[0].ids(9, tokens*topK, experts)
		ids[1] = experts // no expert
		y, gates := vk.Round(c.dtype, gputest.Normal(r, len(ids)*c.Count)), gputest.Normal(r, len(ids))
		o := CombineOptions{Columns: c.Columns, Accumulate: i%2 == 0}
		bias := vk.Round(c.dtype, gputest.Normal(r, c.width))
		o.Bias = k.Floats("bias", c.dtype, bias, c.width)
		start := vk.Round(c.dtype, gputest.Normal(r, tokens*c.width))
		out := k.InOut("out", c.dtype, start, tokens, c.width)
		require.NoError(t, CombineWith(k.Rec, k.guardedRouting(ids, tokens, topK, experts), k.Floats("y", c.dtype, y, len(ids), c.Count),
			k.F32("gates", gates, tokens, topK), out, Scattered, o))
		k.Run()
		want := ref.Combine(y, gates, ref.Route(ids, tokens, experts, topK), c.Count, false)
		for at := range want.Y {
			column := at%c.Count + c.First
			add := float64(bias[column])
			if o.Accumulate {
				add += float64(start[at/c.Count*c.width+column])
			}
			want.Y[at] += add
			want.Abs[at] += math.Abs(add)
		}
		bound := want.Bound(gputest.Oracle(c.dtype), topK+2)
		got := gputest.Download[float32](t, out)
		for at, v := range got {
			row, column := at/c.width, at%c.width-c.First
			if column < 0 || column >= c.Count {
				require.Equal(t, start[at], v, "%+v: row %d, column %d", c, row, at%c.width)
				continue
			}
			at = row*c.Count + column
			require.False(t, !(math.Abs(float64(v)-want.Y[at]) <= bound[at]), "%+v: row %d, column %d: %v for %v", c, row, column, v, want.Y[at])
		}
		var config *ConfigError
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		o.Columns.First = 4
		require.ErrorAs(t, CombineWith(rec, k.guardedRouting(ids, tokens, topK, experts), out, nil, out, Scattered, o), &config)
		require.NoError(t, rec.Close())
		k.Close()
	}
}
