package moe

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// gradsCase says which gradients a linearCase asks for and what they are added to.
type gradsCase struct {
	linearCase
	noX, noWeight, noGates bool
	accumulate             bool
	dtype                  vk.DType // of everything but gates
	part                   int      // experts per tensor of a bank, 0 for all
	wide                   bool     // the gradients of weights and biases are F32
	matrices               tensorTile
}

// result is a gradient on the device and what it held before.
type result struct {
	t     *vk.Tensor
	start []float32
}

// gradient makes a tensor for a gradient, full of values when it is accumulated.
func (c gradsCase) gradient(k *kit, r *rand.Rand, name string, partial bool, dtype vk.DType, shape ...int) result {
	if !c.accumulate {
		if partial {
			return result{t: k.PartialOutput(name, dtype, shape...)}
		}
		return result{t: k.Output(name, dtype, shape...)}
	}
	n := 1
	for _, s := range shape {
		n *= s
	}
	start := vk.Round(dtype, c.values(r, n))
	return result{k.InOut(name, dtype, start, shape...), start}
}

// bank is the gradient as a bank, nil for none.
func (g result) bank(t testing.TB) *ExpertBank {
	if g.t == nil {
		return nil
	}
	return bankOf(t, g.t)
}

// requireGradient compares a gradient with the oracle's. Sums of terms are in f32; what is stored in between is rounded to
// the storage dtype, and what is accumulated is rounded once more.
func (g result) requireGradient(t testing.TB, want ref.Result, terms int, between vk.DType, exact bool, what string) {
	t.Helper()
	dtype := gputest.Oracle(g.t.DType())
	got := gputest.Download[float32](t, g.t)
	relative := ref.Tolerance(dtype, terms) + 1.1*gputest.Oracle(between).Storage()
	// What is stored in between may be subnormal there and lose up to its least value, each time as large a factor as any
	// that the tests draw.
	const largest = 8
	absolute := ref.Underflow(dtype, terms) + largest*float64(terms)*ref.Underflow(gputest.Oracle(between), 0)
	y, bound := slices.Clone(want.Y), want.BoundBy(relative, absolute)
	for i, s := range g.start {
		y[i] += float64(s)
		bound[i] += (2*ref.UnitF32 + dtype.Storage()) * (math.Abs(y[i]) + math.Abs(float64(s)))
	}
	if exact {
		bound = nil
	}
	for i, bits := range gputest.Words(t, g.t) { // a row that no slot owns is not written
		if bits == gputest.Poison(g.t.DType()) {
			require.Zero(t, want.Abs[i], "%s[%d] was not written", what, i)
			got[i] = 0
		}
	}
	gputest.RequireClose(t, got, y, bound, what)
}

// check runs forward and backward and compares every gradient with the oracle's.
func (c gradsCase) check(t *testing.T, exact bool) {
	t.Helper()
	if c.values == nil {
		c.values = gputest.Normal
	}
	k := newKit(t)
	k.matrices = c.matrices
	st := uniform(c.dtype)
	st.part = c.part
	run := c.recordIn(k, st)
	r := rand.New(rand.NewSource(int64(c.tokens + c.out)))
	slots := c.tokens * c.k
	dys := vk.Round(c.dtype, c.values(r, slots*c.out))
	dy := k.Floats("dy", c.dtype, dys, slots, c.out)
	weights := c.dtype
	if c.wide {
		weights = vk.F32
	}
	var x, w, b, gates result
	g := LinearGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate, AccumulateGates: c.accumulate}
	if !c.noX {
		x = c.gradient(k, r, "dx", true, c.dtype, run.xs.Shape()...)
	}
	if !c.noWeight {
		w = c.gradient(k, r, "dw", false, weights, run.layer.Weight.Shape()...)
		if c.bias {
			b = c.gradient(k, r, "db", false, weights, c.experts, c.out)
		}
	}
	if !c.noGates {
		gates = c.gradient(k, r, "dgates", false, vk.F32, c.tokens, c.k)
	}
	g.X, g.Weight, g.Bias, g.Gates = x.t, w.bank(t), b.bank(t), gates.t
	require.NoError(t, run.layer.Backward(k.Rec, run.device, run.xs, dy, g, run.opts))
	k.Run()
	want := ref.Scatter2scatterBackward(run.weights, run.x, run.routing, c.layout, run.gates, dys)
	if g.X != nil {
		x.requireGradient(t, want.X, c.out*c.k+1, c.dtype, exact, c.String()+" dX")
	}
	if g.Weight != nil {
		between := vk.F32
		if c.gates && c.matrices != (tensorTile{}) {
			between = c.dtype // gate·dy or gate·x
		}
		w.requireGradient(t, want.Weight, slots+1, between, exact, c.String()+" dW")
	}
	if g.Bias != nil {
		b.requireGradient(t, want.Bias, slots, vk.F32, exact, c.String()+" db")
	}
	if g.Gates != nil {
		gates.requireGradient(t, want.Gates, c.in+c.out+2, c.dtype, exact, c.String()+" dGates")
	}
	k.Close()
}

func TestBackwardInEveryLayout(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{7, 3, 2, 3, 1}, {33, 4, 3, 1, 3}, {20, 5, 1, 36, 40}, {70, 8, 4, 100, 25},
	}
	for _, s := range shapes {
		for i, layout := range ref.Layouts {
			t.Run(fmt.Sprintf("%v %v", s, layout), func(t *testing.T) {
				for flags := range 8 {
					c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[(i+flags)%len(spreads)], layout,
						flags&1 != 0, flags&2 != 0, flags&4 != 0, s.tokens % 2, Tile{}, nil}
					gradsCase{linearCase: c, accumulate: (flags+i)%2 == 1, noX: flags == 3, noGates: flags&2 == 0 && i%2 == 0,
						noWeight: flags == 6}.check(t, false)
				}
			})
		}
	}
}

func TestBackwardShapes(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {1, 1, 1, 1, 1}, {1, 8, 2, 120, 100}, {1, 1024, 64, 3, 5}, {40, 1024, 1, 12, 1}, {100, 8, 2, 100, 130},
		{100, 4, 2, 515, 3}, {64, 2, 1, 3, 515}, {129, 1, 1, 128, 64}, {300, 16, 4, 64, 100}, {5000, 8, 2, 4, 3},
	}
	for i, s := range shapes {
		for j, sp := range spreads {
			c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, sp, ref.Layouts[(i+j)%len(ref.Layouts)],
				j%2 == 0, i%2 == 0, j == 2, 0, Tile{}, nil}
			t.Run(c.String(), func(t *testing.T) { gradsCase{linearCase: c, accumulate: i%2 == 1}.check(t, false) })
		}
	}
}

// TestBackwardOfLongExperts would show a driver that ends loops early (see maxLoop): one expert has all rows, and each adds 1.
func TestBackwardOfLongExperts(t *testing.T) {
	require.Less(t, maxRows/16*17+64, maxLoop)
	require.Less(t, maxWidth/16, maxLoop)
	const rows, width = 70000, 4
	ones := make([]float32, rows*width)
	for i := range ones {
		ones[i] = 1
	}
	for _, accumulate := range []bool{false, true} {
		k := newKit(t)
		l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 3, In: width, Out: width, Bias: true}}
		l.Weight = bankOf(t, k.F32("weight", make([]float32, 3*width*width), 3, width, width))
		l.Bias = bankOf(t, k.F32("bias", make([]float32, 3*width), 3, width))
		ids := make([]int32, rows)
		for i := range ids {
			ids[i] = 1
		}
		routing := k.guardedRouting(ids, rows, 1, 3)
		dw := k.InOut("dw", vk.F32, ones[:3*width*width], 3, width, width)
		db := k.InOut("db", vk.F32, ones[:3*width], 3, width)
		x, dy := k.F32("x", ones, rows, width), k.F32("dy", ones, rows, width)
		g := LinearGrads{Weight: bankOf(t, dw), Bias: bankOf(t, db), AccumulateWeights: accumulate}
		require.NoError(t, l.Backward(k.Rec, routing, x, dy, g, LinearOptions{}))
		k.Run()
		var before float32
		if accumulate {
			before = 1
		}
		for i, v := range gputest.Download[float32](t, dw) {
			want := before
			if i/(width*width) == 1 {
				want += rows
			}
			require.Equal(t, want, v, "dW[%d]", i)
		}
		for i, v := range gputest.Download[float32](t, db) {
			want := before
			if i/width == 1 {
				want += rows
			}
			require.Equal(t, want, v, "db[%d]", i)
		}
		k.Close()
	}
}

func TestBackwardIsExact(t *testing.T) {
	for _, layout := range ref.Layouts {
		c := linearCase{65, 4, 2, 40, 36, spreads[0], layout, true, true, false, 0, Tile{}, gputest.Halves}
		gradsCase{linearCase: c}.check(t, true)
	}
}

// randomGrads draws a shape, a layout, a dtype and what is asked for, and checks it.
func randomGrads(t *testing.T) func(*rapid.T) {
	return func(rt *rapid.T) {
		draw := func(name string, low, high int) int { return rapid.IntRange(low, high).Draw(rt, name) }
		flag := func(name string) bool { return rapid.Bool().Draw(rt, name) }
		gradsCase{linearCase: linearCase{tokens: draw("tokens", 0, 70), experts: draw("experts", 1, 20), k: draw("k", 1, 5),
			in: draw("in", 1, 70), out: draw("out", 1, 70), spread: rapid.SampledFrom(spreads).Draw(rt, "spread"),
			layout: rapid.SampledFrom(ref.Layouts).Draw(rt, "layout"), bias: flag("bias"), gates: flag("gates"),
			inOut: flag("inOut"), shift: draw("shift", 0, 1), values: tenths},
			noX: flag("noX"), noWeight: flag("noWeight"), noGates: flag("noGates"), accumulate: flag("accumulate"),
			dtype: rapid.SampledFrom([]vk.DType{vk.F32, vk.F16, vk.BF16}).Draw(rt, "dtype"), part: draw("part", 0, 3),
			wide: flag("wide")}.check(t, false)
	}
}

// TestGateGradientOfF16Subnormals: the product Wᵀ·dy of this case is a subnormal f16 before it meets x.
func TestGateGradientOfF16Subnormals(t *testing.T) {
	gradsCase{linearCase: linearCase{tokens: 9, experts: 7, k: 2, in: 1, out: 1, spread: spreads[0],
		layout: ref.Layout{GroupedOut: true}, gates: true, values: tenths}, dtype: vk.F16}.check(t, false)
}

func TestBackwardOfRandomShapes(t *testing.T) { rapid.Check(t, randomGrads(t)) }

func FuzzBackward(f *testing.F) {
	for seed := range int64(4) { // eight bytes a draw, and some are drawn again
		data := make([]byte, 512)
		rand.New(rand.NewSource(seed)).Read(data)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { rapid.MakeFuzz(randomGrads(t))(t, data) })
}

// TestBackwardIn16Bits covers layouts, biases, gates, weight orders, alignments, split banks and f32 gradients of weights.
func TestBackwardIn16Bits(t *testing.T) {
	widths := [][2]int{{1, 3}, {36, 40}, {100, 25}, {7, 66}}
	for i, w := range widths {
		for j, layout := range ref.Layouts {
			for flags := range 8 {
				c := linearCase{23, 5, 2, w[0], w[1], spreads[(i+flags)%len(spreads)], layout,
					flags&1 != 0, flags&2 != 0, flags&4 != 0, (flags + j/2) % 2, Tile{}, tenths}
				gradsCase{linearCase: c, dtype: halfTypes[(flags+i+j)%2], wide: (flags+i)%2 == 0, part: (flags + j) % 3,
					accumulate: flags%3 == 1}.check(t, false)
			}
		}
	}
}

// TestBackwardRepeatsItsBits runs one recording twenty times.
func TestBackwardRepeatsItsBits(t *testing.T) {
	for _, layout := range ref.Layouts[:4] {
		k := newKit(t)
		c := linearCase{200, 8, 4, 60, 68, spreads[0], layout, true, true, false, 0, Tile{}, nil}
		run := c.record(k)
		dy := k.F32("dy", gputest.Normal(rand.New(rand.NewSource(5)), 800*68), 800, 68)
		outputs := []*vk.Tensor{k.Output("dx", vk.F32, run.xs.Shape()...), k.Output("dw", vk.F32, run.layer.Weight.Shape()...),
			k.Output("db", vk.F32, 8, 68), k.Output("dgates", vk.F32, 200, 4)}
		g := LinearGrads{X: outputs[0], Weight: bankOf(t, outputs[1]), Bias: bankOf(t, outputs[2]), Gates: outputs[3]}
		require.NoError(t, run.layer.Backward(k.Rec, run.device, run.xs, dy, g, run.opts))
		k.RunAlike(outputs...)
		k.Close()
	}
}

func TestDenseBackward(t *testing.T) {
	for _, s := range []struct{ rows, in, out int }{{0, 4, 4}, {1, 1, 1}, {37, 100, 8}, {70, 33, 65}, {1000, 12, 3}} {
		for flags := range 4 {
			bias, inOut := flags&1 != 0, flags&2 != 0
			k := newKit(t)
			r := rand.New(rand.NewSource(int64(s.rows)))
			weights := ref.Linear[float32]{Experts: 1, In: s.in, Out: s.out, InOut: inOut, Weight: gputest.Normal(r, s.in*s.out)}
			shape := []int{1, s.out, s.in}
			if inOut {
				shape = []int{1, s.in, s.out}
			}
			l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: s.in, Out: s.out, Bias: bias, InOut: inOut}}
			l.Weight = bankOf(t, k.F32("weight", weights.Weight, shape...))
			c := gradsCase{linearCase: linearCase{values: gputest.Normal}, accumulate: flags == 3}
			var db result
			if bias {
				weights.Bias = gputest.Normal(r, s.out)
				l.Bias = bankOf(t, k.F32("bias", weights.Bias, 1, s.out))
				db = c.gradient(k, r, "db", false, vk.F32, 1, s.out)
			}
			xs, dys := gputest.Normal(r, s.rows*s.in), gputest.Normal(r, s.rows*s.out)
			x, dy := k.F32("x", xs, s.rows, s.in), k.F32("dy", dys, s.rows, s.out)
			dx, dw := c.gradient(k, r, "dx", false, vk.F32, s.rows, s.in), c.gradient(k, r, "dw", false, vk.F32, shape...)
			g := LinearGrads{X: dx.t, Weight: dw.bank(t), Bias: db.bank(t), AccumulateX: c.accumulate, AccumulateWeights: c.accumulate}
			require.NoError(t, l.DenseBackward(k.Rec, x, dy, g))
			k.Run()
			none := []float32(nil)
			want := ref.Scatter2scatterBackward(weights, xs, ref.Dense(s.rows), ref.Layout{}, none, dys)
			dx.requireGradient(t, want.X, s.out+1, vk.F32, false, "dX")
			dw.requireGradient(t, want.Weight, s.rows+1, vk.F32, false, "dW")
			if bias {
				db.requireGradient(t, want.Bias, s.rows+1, vk.F32, false, "db")
			}
			k.Close()
		}
	}
}

func TestBackwardArguments(t *testing.T) {
	k := newKit(t)
	c := linearCase{10, 3, 2, 8, 12, spreads[0], ref.Layout{}, false, true, false, 0, Tile{}, nil}
	run := c.record(k)
	dy := k.F32("dy", make([]float32, 240), 20, 12)
	dx := k.Output("dx", vk.F32, 10, 8)
	l := run.layer
	for _, bad := range []struct {
		arg string
		dy  *vk.Tensor
		g   LinearGrads
	}{
		{"y", nil, LinearGrads{X: dx}},
		{"grads.X", dy, LinearGrads{X: dy}},
		{"grads.X", dy, LinearGrads{X: run.xs}},
		{"grads.Weight", dy, LinearGrads{Weight: bankOf(t, dx)}},
		{"grads.Weight", dy, LinearGrads{Weight: l.Weight}},
		{"grads.Bias", dy, LinearGrads{Bias: bankOf(t, dx)}},
		{"grads.Gates", dy, LinearGrads{Gates: dx}},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		err = l.Backward(rec, run.device, run.xs, bad.dy, bad.g, run.opts)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
		require.Equal(t, bad.arg, shape.Arg)
		require.Equal(t, "ParallelLinear.Backward", shape.Op)
		require.NoError(t, rec.Close())
	}
}
