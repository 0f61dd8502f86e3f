package attention

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

// normCase is one normalization and its gradients.
type normCase struct {
	dtype, weight        vk.DType
	tokens, heads, width int
	layout               headLayout
	shift                int
	inPlace, accumulate  bool
}

func (c normCase) String() string {
	return fmt.Sprintf("%v %v T=%d %dx%d layout=%v shift=%d place=%v acc=%v", c.dtype, c.weight, c.tokens, c.heads, c.width,
		c.layout, c.shift, c.inPlace, c.accumulate)
}

func TestRMSNormMatchesTheOracle(t *testing.T) {
	shapes := []normCase{
		{tokens: 1, heads: 1, width: 1},
		{tokens: 3, heads: 1, width: 4},
		{tokens: 17, heads: 3, width: 10, layout: headLayout{first: 3, pad: 1, gap: 1}},
		{tokens: 5, heads: 2, width: 64, layout: headLayout{first: 8, pad: 4, gap: 4}},
		{tokens: 2, heads: 1, width: 1031, shift: 1},
		{tokens: 3, heads: 1, width: 1024},
		{tokens: 0, heads: 2, width: 12},
		{tokens: 700, heads: 3, width: 12}, // more rows than one block of the weight's gradient
	}
	for i, c := range shapes {
		for _, dtype := range gputest.Storages {
			for _, weight := range []vk.DType{dtype, vk.F32} {
				c.dtype, c.weight = dtype, weight
				c.inPlace, c.accumulate = i%2 == 1, (i+int(dtype))%2 == 1
				t.Run(c.String(), func(t *testing.T) { c.forward(t); c.backward(t) })
			}
		}
	}
}

const normEps = 1e-5

// scaleError is the relative error of 1/√(Σ x²/n + eps): sums and products under a root, a division, and what Vulkan allows of
// an inverse root, 2 ulp.
func scaleError(n int) float64 { return ref.Gamma(n+2)/2 + 6*ref.UnitF32 }

func (c normCase) data(r *rand.Rand) []float32 {
	return vk.Round(c.dtype, gputest.Normal(r, c.tokens*c.heads*c.width))
}

func (c normCase) forward(t *testing.T) {
	r := rand.New(rand.NewSource(int64(c.width)))
	x, w := c.data(r), vk.Round(c.weight, gputest.Normal(r, c.width))
	k := newKit(t)
	k.Shift = c.shift
	const fill = 2
	laid := c.layout.spread(x, c.tokens, c.heads, c.width, fill)
	in := k.Floats("x", c.dtype, laid, len(laid))
	out := in
	if c.inPlace {
		k.Overwritten(in)
	} else {
		out = k.PartialOutput("y", c.dtype, len(laid))
	}
	weight := k.Floats("w", c.weight, w, c.width)
	require.NoError(t, RMSNormHeads(k.Rec, c.tokens, c.heads, c.layout.heads(in, c.heads, c.width), weight, normEps,
		c.layout.heads(out, c.heads, c.width)))
	k.Run()
	got := gputest.Download[float32](t, out)
	if !c.inPlace {
		got = c.layout.unpoisoned(got, c.tokens, c.heads, c.width, fill)
	}
	want := ref.RMSNorm(x, w, c.width, normEps)
	bound := want.BoundBy(scaleError(c.width)+ref.Tolerance(gputest.Oracle(c.dtype), 2), ref.Underflow(gputest.Oracle(c.dtype), 2))
	gputest.RequireClose(t, c.layout.dense(t, got, c.tokens, c.heads, c.width, fill), want.Y, bound, "y")
}

func (c normCase) backward(t *testing.T) {
	r := rand.New(rand.NewSource(int64(c.tokens)))
	x, dy, w := c.data(r), c.data(r), vk.Round(c.weight, gputest.Normal(r, c.width))
	k := newKit(t)
	k.Shift = c.shift
	const fill = 2
	spread := func(data []float32) []float32 { return c.layout.spread(data, c.tokens, c.heads, c.width, fill) }
	in, back := k.Floats("x", c.dtype, spread(x), len(spread(x))), k.Floats("dy", c.dtype, spread(dy), len(spread(dy)))
	dx := back
	oldX, oldW := make([]float32, len(x)), make([]float32, len(w))
	if c.inPlace {
		k.Overwritten(back)
		if c.accumulate {
			oldX = dy
		}
	} else if c.accumulate {
		oldX = c.data(r)
		dx = k.InOut("dx", c.dtype, spread(oldX), len(spread(x)))
	} else {
		dx = k.PartialOutput("dx", c.dtype, len(spread(x)))
	}
	weight := k.Floats("w", c.weight, w, c.width)
	var dw *vk.Tensor
	if !c.accumulate {
		dw = k.Output("dw", c.weight, c.width)
	} else {
		oldW = vk.Round(c.weight, gputest.Normal(r, c.width))
		dw = k.InOut("dw", c.weight, oldW, c.width)
	}
	at := func(x *vk.Tensor) Heads { return c.layout.heads(x, c.heads, c.width) }
	require.NoError(t, RMSNormHeadsBackward(k.Rec, c.tokens, c.heads, at(in), weight, normEps, at(back),
		RMSNormHeadsGrads{X: at(dx), Weight: dw, AccumulateX: c.accumulate, AccumulateWeight: c.accumulate}))
	k.Run()
	want := ref.RMSNormBackward(x, w, c.width, normEps, dy)
	got := gputest.Download[float32](t, dx)
	if !c.inPlace && !c.accumulate {
		got = c.layout.unpoisoned(got, c.tokens, c.heads, c.width, fill)
	}
	c.requireSum(t, c.layout.dense(t, got, c.tokens, c.heads, c.width, fill), want.X, oldX, c.dtype,
		3*scaleError(c.width)+ref.Gamma(c.width+6), "dx")
	rows := c.tokens * c.heads
	c.requireSum(t, gputest.Download[float32](t, dw), want.Weight, oldW, c.weight, scaleError(c.width)+ref.Gamma(rows+3), "dw")
}

// requireSum compares a gradient that was added to what was there.
func (c normCase) requireSum(t *testing.T, got []float32, want ref.Result, old []float32, dtype vk.DType, relative float64, what string) {
	t.Helper()
	st := gputest.Oracle(dtype)
	bound := want.BoundBy(relative, ref.Underflow(st, 4))
	for i, o := range old {
		want.Y[i] += float64(o)
		bound[i] += ref.UnitF32*math.Abs(want.Y[i]) + st.Storage()*(math.Abs(want.Y[i])+bound[i])
	}
	gputest.RequireClose(t, got, want.Y, bound, what)
}

// TestRMSNormOfRows normalizes whole rows, and heads within rows, that lie one behind the other.
func TestRMSNormOfRows(t *testing.T) {
	r := rand.New(rand.NewSource(5))
	x, dy := gputest.Normal(r, 7*24), gputest.Normal(r, 7*24)
	for _, width := range []int{24, 8} {
		w := gputest.Normal(r, width)
		k := newKit(t)
		in, weight := k.F32("x", x, 7, 24), k.F32("w", w, width)
		y, dx := k.Output("y", vk.F32, 7, 24), k.Output("dx", vk.F32, 7, 24)
		require.NoError(t, RMSNorm(k.Rec, in, weight, normEps, y))
		require.NoError(t, RMSNormBackward(k.Rec, in, weight, normEps, k.F32("dy", dy, 7, 24), RMSNormGrads{X: dx}))
		k.Run()
		want := ref.RMSNorm(x, w, width, normEps)
		gputest.RequireClose(t, gputest.Download[float32](t, y), want.Y, want.BoundBy(scaleError(width)+ref.Gamma(4), 0), "y")
		back := ref.RMSNormBackward(x, w, width, normEps, dy)
		gputest.RequireClose(t, gputest.Download[float32](t, dx), back.X.Y, back.X.BoundBy(3*scaleError(width)+ref.Gamma(width+6), 0), "dx")
	}
}

// TestRMSNormOverwritesX puts the gradient where x was, after the weight's gradient has read it.
func TestRMSNormOverwritesX(t *testing.T) {
	r := rand.New(rand.NewSource(6))
	x, dy, w := gputest.Normal(r, 600*8), gputest.Normal(r, 600*8), gputest.Normal(r, 8)
	k := newKit(t)
	in := k.InOut("x", vk.F32, x, 600, 8)
	dw := k.Output("dw", vk.F32, 8)
	require.NoError(t, RMSNormBackward(k.Rec, in, k.F32("w", w, 8), normEps, k.F32("dy", dy, 600, 8), RMSNormGrads{X: in, Weight: dw}))
	k.Run()
	want := ref.RMSNormBackward(x, w, 8, normEps, dy)
	gputest.RequireClose(t, gputest.Download[float32](t, in), want.X.Y, want.X.BoundBy(3*scaleError(8)+ref.Gamma(14), 0), "dx")
	gputest.RequireClose(t, gputest.Download[float32](t, dw), want.Weight.Y, want.Weight.BoundBy(scaleError(8)+ref.Gamma(603), 0), "dw")
}

// TestRMSNormWidensTheWeightsGradient sums 16-bit rows into an f32 gradient of a 16-bit weight.
func TestRMSNormWidensTheWeightsGradient(t *testing.T) {
	for _, dtype := range gputest.Storages[1:] {
		r := rand.New(rand.NewSource(8))
		x, dy, w := vk.Round(dtype, gputest.Normal(r, 600*24)), vk.Round(dtype, gputest.Normal(r, 600*24)), vk.Round(dtype, gputest.Normal(r, 8))
		k := newKit(t)
		dw := k.Output("dw", vk.F32, 8)
		require.NoError(t, RMSNormBackward(k.Rec, k.Floats("x", dtype, x, 600, 24), k.Floats("w", dtype, w, 8), normEps,
			k.Floats("dy", dtype, dy, 600, 24), RMSNormGrads{Weight: dw}))
		k.Run()
		want := ref.RMSNormBackward(x, w, 8, normEps, dy)
		gputest.RequireClose(t, gputest.Download[float32](t, dw), want.Weight.Y, want.Weight.BoundBy(scaleError(8)+ref.Gamma(1803), 0), "dw")
	}
}

func TestRMSNormGivesTheSameBits(t *testing.T) {
	r := rand.New(rand.NewSource(7))
	k := newKit(t)
	x := k.Floats("x", vk.F16, vk.Round(vk.F16, gputest.Normal(r, 900*21)), 900, 21)
	w := k.F32("w", gputest.Normal(r, 7), 7)
	dy := k.Floats("dy", vk.F16, vk.Round(vk.F16, gputest.Normal(r, 900*21)), 900, 21)
	outs := []*vk.Tensor{k.Output("y", vk.F16, 900, 21), k.Output("dx", vk.F16, 900, 21), k.Output("dw", vk.F32, 7)}
	require.NoError(t, RMSNorm(k.Rec, x, w, 1e-6, outs[0]))
	require.NoError(t, RMSNormBackward(k.Rec, x, w, 1e-6, dy, RMSNormGrads{X: outs[1], Weight: outs[2]}))
	k.RunAlike(outs...)
}

func TestRMSNormRefuses(t *testing.T) {
	k := newKit(t)
	x, w, y := k.F32("x", make([]float32, 24), 3, 8), k.F32("w", make([]float32, 8), 8), k.Output("y", vk.F32, 3, 8)
	three, half := k.F32("three", make([]float32, 3), 3), k.Floats("half", vk.F16, make([]float32, 8), 8)
	var shape *vk.ShapeError
	var config *ConfigError
	for name, call := range map[string]func(rec *vk.Recorder) error{
		"x nil":           func(rec *vk.Recorder) error { return RMSNorm(rec, nil, w, 1, y) },
		"weight nil":      func(rec *vk.Recorder) error { return RMSNorm(rec, x, nil, 1, y) },
		"weight's length": func(rec *vk.Recorder) error { return RMSNorm(rec, x, three, 1, y) },
		"weight's dtype":  func(rec *vk.Recorder) error { return RMSNorm(rec, x, half, 1, y) },
		"y's shape":       func(rec *vk.Recorder) error { return RMSNorm(rec, x, w, 1, w) },
		"dy nil":          func(rec *vk.Recorder) error { return RMSNormBackward(rec, x, w, 1, nil, RMSNormGrads{X: y}) },
		"dw's shape":      func(rec *vk.Recorder) error { return RMSNormBackward(rec, x, w, 1, y, RMSNormGrads{Weight: three}) },
		"dw is w":         func(rec *vk.Recorder) error { return RMSNormBackward(rec, x, w, 1, y, RMSNormGrads{Weight: w}) },
		"adds to x": func(rec *vk.Recorder) error {
			return RMSNormBackward(rec, x, w, 1, y, RMSNormGrads{X: x, AccumulateX: true})
		},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, call(rec), &shape, name)
		require.NoError(t, rec.Close())
	}
	require.ErrorAs(t, RMSNorm(k.Rec, x, w, float32(math.NaN()), y), &config)
}
