package moe

import (
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// checkCombined compares CombinedBackward with the oracle of Backward that is given dOut once per slot.
func (c gradsCase) checkCombined(t *testing.T, exact bool) {
	t.Helper()
	if c.values == nil {
		c.values = gputest.Normal
	}
	k := newKit(t)
	st := uniform(c.dtype)
	st.part = c.part
	run := c.recordIn(k, st)
	r := rand.New(rand.NewSource(int64(c.tokens + c.out)))
	slots := c.tokens * c.k
	dOuts := vk.Round(c.dtype, c.values(r, c.tokens*c.out))
	dOut := k.Floats("dout", c.dtype, dOuts, c.tokens, c.out)
	perSlot := make([]float32, 0, slots*c.out)
	for s := range slots {
		perSlot = append(perSlot, dOuts[s/c.k*c.out:][:c.out]...)
	}
	var x, w, b, gates result
	g := LinearGrads{AccumulateWeights: c.accumulate, AccumulateGates: c.accumulate}
	overwrite := c
	overwrite.accumulate = false
	if !c.noX {
		x = overwrite.gradient(k, r, "dx", false, c.dtype, slots, c.in)
	}
	if !c.noWeight {
		w = c.gradient(k, r, "dw", false, c.dtype, run.layer.Weight.Shape()...)
		if c.bias {
			b = c.gradient(k, r, "db", false, vk.F32, c.experts, c.out)
		}
	}
	if !c.noGates {
		gates = c.gradient(k, r, "dgates", false, vk.F32, c.tokens, c.k)
	}
	g.X, g.Weight, g.Bias, g.Gates = x.t, w.bank(t), b.bank(t), gates.t
	require.NoError(t, run.layer.CombinedBackward(k.Rec, run.device, run.xs, dOut, g, run.opts))
	k.Run()
	layout := c.layout
	layout.GroupedOut = false
	want := ref.Scatter2scatterBackward(run.weights, run.x, run.routing, layout, run.gates, perSlot)
	if g.X != nil {
		x.requireGradient(t, want.X, c.out+1, c.dtype, exact, c.String()+" dX")
	}
	if g.Weight != nil {
		w.requireGradient(t, want.Weight, slots+1, vk.F32, exact, c.String()+" dW")
	}
	if g.Bias != nil {
		b.requireGradient(t, want.Bias, slots, vk.F32, exact, c.String()+" db")
	}
	if g.Gates != nil {
		gates.requireGradient(t, want.Gates, c.in+c.out+2, c.dtype, exact, c.String()+" dGates")
	}
	k.Close()
}

func TestCombinedBackwardEqualsTheOracle(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {1, 1, 1, 1, 1}, {7, 3, 2, 3, 1}, {33, 4, 3, 1, 3}, {20, 5, 1, 36, 40}, {70, 8, 4, 100, 25},
	}
	for i, s := range shapes {
		for j, layout := range []ref.Layout{{PerSlot: true}, {GroupedIn: true}} {
			for flags := range 8 {
				c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[(i+flags)%len(spreads)], layout,
					flags&1 != 0, flags&2 != 0, flags&4 != 0, (i + flags) % 2, Tile{}, tenths}
				for d, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
					gradsCase{linearCase: c, dtype: dtype, accumulate: (flags+i+d)%2 == 1, part: (flags + j) % 3,
						noX: flags == 3, noGates: flags == 5, noWeight: flags == 6}.checkCombined(t, false)
				}
			}
		}
	}
	exact := linearCase{65, 4, 2, 40, 36, spreads[0], ref.Layout{PerSlot: true}, true, true, false, 0, Tile{}, gputest.Halves}
	gradsCase{linearCase: exact}.checkCombined(t, true)
}

// TestCombinedBackwardOfSlotsWithoutExperts asks for zeros, whatever their rows hold.
func TestCombinedBackwardOfSlotsWithoutExperts(t *testing.T) {
	k := newKit(t)
	c := linearCase{tokens: 3, experts: 2, k: 2, in: 5, out: 4, spread: spread{"one slot", func(_ *rand.Rand, slot, _ int) int32 {
		return int32(slot) - 1
	}}, layout: ref.Layout{PerSlot: true}, gates: true}
	run := c.record(k)
	k.Partial("y") // rows of such slots are not written
	dOut := k.F32("dout", gputest.Normal(rand.New(rand.NewSource(1)), 12), 3, 4)
	dx, dGates := k.Output("dx", vk.F32, 6, 5), k.Output("dgates", vk.F32, 3, 2)
	require.NoError(t, run.layer.CombinedBackward(k.Rec, run.device, run.xs, dOut, LinearGrads{X: dx, Gates: dGates}, run.opts))
	k.Run()
	xs, gates := gputest.Download[float32](t, dx), gputest.Download[float32](t, dGates)
	for s := range 6 {
		if s == 1 || s == 2 {
			require.NotZero(t, gates[s])
			continue
		}
		require.Zero(t, gates[s])
		require.Equal(t, make([]float32, 5), xs[5*s:][:5])
	}
}

func TestCombinedBackwardArguments(t *testing.T) {
	k := newKit(t)
	c := linearCase{10, 3, 2, 8, 12, spreads[0], ref.Layout{PerSlot: true}, false, true, false, 0, Tile{}, nil}
	run := c.record(k)
	dOut := k.F32("dout", make([]float32, 120), 10, 12)
	dx := k.Output("dx", vk.F32, 20, 8)
	other := *run.device
	other.Experts = 4
	for _, bad := range []struct {
		arg  string
		r    *Routing
		x    *vk.Tensor
		dOut *vk.Tensor
		g    LinearGrads
	}{
		{"routing", nil, run.xs, dOut, LinearGrads{X: dx}},
		{"routing", &other, run.xs, dOut, LinearGrads{X: dx}},
		{"x", run.device, dOut, dOut, LinearGrads{X: dx}},
		{"dOut", run.device, run.xs, run.y, LinearGrads{X: dx}},
		{"grads.X", run.device, run.xs, dOut, LinearGrads{X: run.xs}},
		{"grads.AccumulateX", run.device, run.xs, dOut, LinearGrads{X: dx, AccumulateX: true}},
		{"grads.Gates", run.device, run.xs, dOut, LinearGrads{Gates: dx}},
		{"grads.Bias", run.device, run.xs, dOut, LinearGrads{Bias: run.layer.Weight}},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		err = run.layer.CombinedBackward(rec, bad.r, bad.x, bad.dOut, bad.g, run.opts)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
		require.Equal(t, bad.arg, shape.Arg)
		require.NoError(t, rec.Close())
	}
}

func TestSumRowsEqualsTheOracle(t *testing.T) {
	for _, rows := range []int{0, 1, 37, 1000} {
		for i, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16, vk.BF16} {
			k := newKit(t)
			r := rand.New(rand.NewSource(int64(rows)))
			const width = 67
			data := vk.Round(dtype, gputest.Normal(r, rows*width))
			c := gradsCase{linearCase: linearCase{values: gputest.Normal}, accumulate: i == 1}
			sumType := dtype
			if i == 3 {
				sumType = vk.F32
			}
			sum := c.gradient(k, r, "sum", false, sumType, 1, width)
			require.NoError(t, SumRows(k.Rec, k.Floats("y", dtype, data, rows, width), sum.bank(t), c.accumulate))
			k.Run()
			want := ref.Combine(data, []float32(nil), ref.Route(make([]int32, rows), min(rows, 1), 1, rows), width, false)
			if rows == 0 {
				want = ref.Result{Y: make([]float64, width), Abs: make([]float64, width)}
			}
			sum.requireGradient(t, want, rows+1, vk.F32, false, "sum")
			k.Close()
		}
	}
	k := newKit(t)
	y := k.F32("y", make([]float32, 8), 2, 4)
	var shape *vk.ShapeError
	require.ErrorAs(t, SumRows(k.Rec, y, nil, false), &shape)
	require.Equal(t, "sum", shape.Arg)
}

// TestCombineWithBiasAndAccumulate covers the options for every dtype.
func TestCombineWithBiasAndAccumulate(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for flags := range 4 {
			k := newKit(t)
			r := rand.New(rand.NewSource(3))
			const tokens, choices, experts, width = 9, 3, 4, 21
			ids := spreads[0].ids(9, tokens*choices, experts)
			y, gates := vk.Round(dtype, gputest.Normal(r, len(ids)*width)), gputest.Normal(r, len(ids))
			start, bias := vk.Round(dtype, gputest.Normal(r, tokens*width)), vk.Round(dtype, gputest.Normal(r, width))
			want := ref.Combine(y, gates, ref.Route(ids, tokens, experts, choices), width, false)
			o := CombineOptions{Accumulate: flags&1 != 0}
			if flags&2 != 0 {
				o.Bias = k.Floats("bias", dtype, bias, width)
			}
			for i := range want.Y {
				for _, v := range []struct {
					on    bool
					value float32
				}{{o.Accumulate, start[i]}, {o.Bias != nil, bias[i%width]}} {
					if v.on {
						want.Y[i] += float64(v.value)
						want.Abs[i] += float64(max(v.value, -v.value))
					}
				}
			}
			out := k.InOut("out", dtype, start, tokens, width)
			err := CombineWith(k.Rec, k.guardedRouting(ids, tokens, choices, experts), k.Floats("y", dtype, y, len(ids), width),
				k.F32("gates", gates, tokens, choices), out, Scattered, o)
			require.NoError(t, err)
			k.Run()
			gputest.RequireClose(t, gputest.Download[float32](t, out), want.Y, want.Bound(gputest.Oracle(dtype), choices+2), "out")
			k.Close()
		}
	}
	k := newKit(t)
	out := k.Output("out", vk.F32, 2, 3)
	err := CombineWith(k.Rec, k.guardedRouting([]int32{0, 1, 1, 0}, 2, 2, 2), k.F32("y", make([]float32, 12), 4, 3), nil, out,
		Scattered, CombineOptions{Bias: out})
	var shape *vk.ShapeError
	require.ErrorAs(t, err, &shape)
	require.Equal(t, "Bias", shape.Arg)
}
