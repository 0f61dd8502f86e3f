package moe

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// backwardRun is an MLP's forward and backward pass in one recorder, with every gradient asked for.
type backwardRun struct {
	saved *MLPSaved
	y     *vk.Tensor
	grads MLPGrads
	named map[string]*vk.Tensor
	start map[string][]float32 // what accumulated gradients held before
}

// recordBackward records both passes on x and dy; accumulated gradients begin with random values.
func (l layer) recordBackward(k *kit, x, dy []float32, tokens int, save Save, accumulate, workspace bool) backwardRun {
	k.T.Helper()
	c := l.Config
	run := backwardRun{named: map[string]*vk.Tensor{}, start: map[string][]float32{}}
	r := rand.New(rand.NewSource(77))
	gradient := func(name string, dtype vk.DType, shape ...int) *vk.Tensor {
		if accumulate {
			run.named[name], run.start[name] = k.Sum(name, dtype, r, shape...)
		} else {
			run.named[name] = k.Output(name, dtype, shape...)
		}
		return run.named[name]
	}
	xs, dys := k.Floats("x", c.DType, x, tokens, c.Width), k.Floats("dy", c.DType, dy, tokens, c.Width)
	run.y = k.Output("y", c.DType, tokens, c.Width)
	g := &run.grads
	g.AccumulateX, g.AccumulateWeights, g.AccumulateLogits = accumulate, accumulate, accumulate
	g.X, g.Logits = gradient("X", c.DType, tokens, c.Width), gradient("Logits", vk.F32, tokens, c.Experts)
	run.named["Gates"] = k.Output("Gates", vk.F32, tokens, c.TopK)
	g.Gates = run.named["Gates"]
	for _, part := range l.gradParts(g) {
		part.grads.Weight = bankOf(k.T, gradient(part.name, c.DType, part.layer.Weight.Shape()...))
		if part.layer.Bias != nil {
			part.grads.Bias = bankOf(k.T, gradient(part.name+" bias", c.DType, part.layer.Bias.Shape()...))
		}
	}
	if l.OutputBias != nil {
		g.OutputBias = bankOf(k.T, gradient("OutputBias", vk.F32, 1, c.Width))
	}
	o := ForwardOptions{Save: save, Jitter: l.jitter}
	if workspace {
		o.Workspace = g.Up.Weight.parts[0]
	}
	if l.saveIn {
		o.SaveIn = g.Down.Weight.parts[0]
	}
	var err error
	run.saved, err = l.ForwardWith(k.Rec, xs, run.y, o)
	require.NoError(k.T, err)
	require.NoError(k.T, l.Backward(k.Rec, run.saved, xs, dys, *g))
	return run
}

// want computes the oracle's gradients for the experts that the device chose.
func (l layer) wantBackward(t testing.TB, run backwardRun, x, dy []float32, tokens int) (ref.MLPResult, map[string][]float64) {
	t.Helper()
	res := ref.ForwardChosen(l.oracle, x, tokens, ref.DenseLinear(l.oracle.Router, x, tokens),
		gputest.Download[int32](t, run.saved.Routing.IDs))
	g := ref.MLPBackward(l.oracle, x, res, dy)
	if start := run.start["Logits"]; start != nil { // as if from a router loss
		dLogits := ref.Widen(start)
		for i, v := range g.Logits.Y {
			dLogits[i] += v
		}
		router := ref.Scatter2scatterBackward(l.oracle.Router, x, ref.Dense(tokens), ref.Layout{}, []float32(nil), dLogits)
		for i, v := range router.X.Y {
			g.X[i] += v - g.Router.X.Y[i]
		}
		g.Router = router
	}
	want := map[string][]float64{
		"X": g.X, "Logits": g.Logits.Y, "Gates": g.Gates.Y, "Router": g.Router.Weight.Y, "Router bias": g.Router.Bias.Y,
		"Up": g.Up.Weight.Y, "Up bias": g.Up.Bias.Y, "Down": g.Down.Weight.Y, "Down bias": g.Down.Bias.Y,
		"OutputBias": g.OutputBias,
	}
	if l.oracle.Shared != nil {
		want["SharedUp"], want["SharedDown"] = g.Shared.Up.Weight.Y, g.Shared.Down.Weight.Y
		want["SharedGate"] = g.Shared.Gate.Weight.Y // nil without
	}
	return res, want
}

// backwardTolerance is the largest relative error (Frobenius norm) of an output or gradient in f32.
const backwardTolerance = 1e-5

// tolerance is backwardTolerance, and for 16-bit storage eight roundings: those of z, h, the slots and y on the way there, and
// as many on the way back.
func (run backwardRun) tolerance() float64 {
	return backwardTolerance + 8*gputest.Oracle(run.y.DType()).Storage()
}

// requireBackward compares y and all gradients with the oracle's, to which what they held before is added.
func (run backwardRun) requireBackward(t testing.TB, y []float64, want map[string][]float64) {
	t.Helper()
	relative := ref.RelativeFrobenius(gputest.Download[float32](t, run.y), y)
	require.True(t, relative <= run.tolerance(), "y: relative error %v", relative)
	for name, tensor := range run.named {
		w := slices.Clone(want[name])
		require.Len(t, w, tensor.Elements(), name)
		for i, s := range run.start[name] {
			if name != "Gates" {
				w[i] += float64(s)
			}
		}
		relative := ref.RelativeFrobenius(gputest.Download[float32](t, tensor), w)
		require.True(t, relative <= run.tolerance(), "%s: relative error %v", name, relative)
	}
}

func TestMLPBackwardEqualsTheOracle(t *testing.T) {
	configs := []MLPConfig{
		{Experts: 8, TopK: 2, Width: 32, Hidden: 48, Mode: SoftmaxTopKNorm},
		{Experts: 8, TopK: 8, Width: 33, Hidden: 7, Activation: GEGLU, Bias: true, RouterBias: true},
		{Experts: 16, TopK: 4, Width: 20, Hidden: 12, Activation: GELU, Mode: TopKSoftmax, Bias: true, InOut: true},
		{Experts: 60, TopK: 1, Width: 64, Hidden: 30, Activation: ReLU2, InOut: true},
		{Experts: 4, TopK: 3, Width: 16, Hidden: 100, Activation: GEGLUTanh, Bias: true},
		{Experts: 4, TopK: 2, Width: 20, Hidden: 20, Activation: GELUTanh},
		{Experts: 4, TopK: 2, Width: 20, Hidden: 24, Activation: ReLU, RouterBias: true},
		{Experts: 4, TopK: 2, Width: 20, Hidden: 24, Activation: SiLU},
		{Experts: 6, TopK: 2, Width: 24, Hidden: 36, Activation: ClampedSwiGLU, Bias: true, Limit: 0.5, Mode: TopKSoftmax},
		{Experts: 8, TopK: 2, Width: 32, Hidden: 16, SharedHidden: 40, SharedGate: true, OutputBias: true},
		{Experts: 8, TopK: 2, Width: 33, Hidden: 16, Bias: true, OutputBias: true},
		{Experts: 8, TopK: 3, Width: 30, Hidden: 18, SharedHidden: 21, Mode: SoftmaxTopKNorm},
		{Experts: 16, TopK: 3, Width: 24, Hidden: 12, SharedHidden: 12, Mode: SigmoidTopKNorm, GateScale: 2.5, Groups: 4,
			TopGroups: 2, CorrectionBias: true},
		{Experts: 6, TopK: 2, Width: 24, Hidden: 12, Activation: GEGLU, Mode: SigmoidTopK},
	}
	for i, cfg := range configs {
		l := newLayer(t, cfg)
		for _, tokens := range []int{0, 1, 61} {
			t.Run(fmt.Sprintf("%+v T=%d", cfg, tokens), func(t *testing.T) {
				for flags := range 6 {
					save := Save(flags % 2)
					k := newKit(t)
					r := rand.New(rand.NewSource(int64(tokens + i)))
					x, dy := gputest.Normal(r, tokens*cfg.Width), gputest.Normal(r, tokens*cfg.Width)
					run := l.recordBackward(k, x, dy, tokens, save, flags/2 == 1, flags/2 == 2)
					k.Run()
					res, want := l.wantBackward(t, run, x, dy, tokens)
					run.requireBackward(t, res.Out.Y, want)
					k.Close()
				}
			})
		}
	}
}

func TestMLPBackwardIn16Bits(t *testing.T) {
	for i, cfg := range []MLPConfig{
		{Experts: 8, TopK: 2, Width: 33, Hidden: 48, Mode: SoftmaxTopKNorm, Bias: true, RouterBias: true},
		{Experts: 8, TopK: 3, Width: 64, Hidden: 20, Activation: GELU, SharedHidden: 40, SharedGate: true},
		{Experts: 6, TopK: 1, Width: 24, Hidden: 36, Activation: ClampedSwiGLU, Bias: true, InOut: true},
	} {
		for _, cfg.DType = range halfTypes {
			l := newLayer(t, cfg)
			for flags := range 4 {
				k := newKit(t)
				r := rand.New(rand.NewSource(int64(i)))
				x, dy := vk.Round(cfg.DType, gputest.Normal(r, 61*cfg.Width)), vk.Round(cfg.DType, gputest.Normal(r, 61*cfg.Width))
				run := l.recordBackward(k, x, dy, 61, Save(flags%2), flags == 3, flags == 2)
				k.Run()
				res, want := l.wantBackward(t, run, x, dy, 61)
				run.requireBackward(t, res.Out.Y, want)
				k.Close()
			}
		}
	}
}

// TestMLPBackwardRepeatsItsBits runs one training step twenty times, in both ways of saving.
func TestMLPBackwardRepeatsItsBits(t *testing.T) {
	cfg := MLPConfig{Experts: 16, TopK: 4, Width: 40, Hidden: 24, Mode: SoftmaxTopKNorm, Bias: true, RouterBias: true,
		SharedHidden: 20, SharedGate: true, OutputBias: true}
	l := newLayer(t, cfg)
	const tokens = 150
	r := rand.New(rand.NewSource(9))
	x, dy := gputest.Normal(r, tokens*cfg.Width), gputest.Normal(r, tokens*cfg.Width)
	first := map[string][]uint32{}
	for _, save := range []Save{SaveAll, RecomputeActivation} {
		k := newKit(t)
		run := l.recordBackward(k, x, dy, tokens, save, false, save == RecomputeActivation)
		run.named["y"] = run.y
		for i := range 20 {
			k.Run()
			for name, tensor := range run.named {
				got := gputest.Words(t, tensor)
				if first[name] == nil {
					first[name] = got
				}
				require.True(t, slices.Equal(first[name], got), "%v, run %d: %s", save, i, name)
			}
		}
		k.Close()
	}
}

// TestMLPBackwardOfChosenExperts differentiates a layer with ids and gates of the caller, some of the ids naming no expert.
func TestMLPBackwardOfChosenExperts(t *testing.T) {
	cfg := MLPConfig{Experts: 5, TopK: 3, Width: 20, Hidden: 12, Bias: true, Activation: GELU}
	l := newLayer(t, cfg)
	const tokens = 30
	r := rand.New(rand.NewSource(3))
	ids := make([]int32, tokens*cfg.TopK)
	for i := range ids {
		ids[i] = int32(r.Intn(4)) // expert 4 has no rows
	}
	ids[7], ids[50] = -1, 5
	gates, x, dy := gputest.Normal(r, len(ids)), gputest.Normal(r, tokens*cfg.Width), gputest.Normal(r, tokens*cfg.Width)
	k := newKit(t)
	idsTensor, gatesTensor := k.I32("ids", ids, tokens, cfg.TopK), k.F32("gates", gates, tokens, cfg.TopK)
	xs, dys := k.F32("x", x, tokens, cfg.Width), k.F32("dy", dy, tokens, cfg.Width)
	y, dx := k.Output("y", vk.F32, tokens, cfg.Width), k.Output("dx", vk.F32, tokens, cfg.Width)
	dGates := k.Output("dgates", vk.F32, tokens, cfg.TopK)
	g := MLPGrads{X: dx, Gates: dGates}
	up, down := k.Output("up", vk.F32, l.Up.Weight.Shape()...), k.Output("down", vk.F32, l.Down.Weight.Shape()...)
	g.Up.Weight, g.Down.Weight = bankOf(t, up), bankOf(t, down)
	routing, err := RouteIDs(k.Rec, idsTensor, gatesTensor, cfg.Experts)
	require.NoError(t, err)
	saved, err := l.ForwardRouted(k.Rec, routing, xs, y)
	require.NoError(t, err)
	require.NoError(t, l.Backward(k.Rec, saved, xs, dys, g))
	var bad *ExpertIDError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &bad)
	k.Verify()

	layout, none := ref.Layout{GroupedOut: true}, []float32(nil)
	rr := ref.Route(ids, tokens, cfg.Experts, cfg.TopK)
	z := ref.Scatter2scatter(l.oracle.Up, x, rr, layout, none)
	h := ref.Activate(ref.GELU, z.Y)
	slots := ref.Scatter2scatter(l.oracle.Down, h.Y, rr, ref.Layout{GroupedIn: true}, none)
	dSlots, wantGates := ref.CombineBackward(slots.Y, gates, dy, rr, cfg.Width, false)
	wantDown := ref.Scatter2scatterBackward(l.oracle.Down, h.Y, rr, ref.Layout{GroupedIn: true}, none, dSlots.Y)
	dz := ref.ActivateBackward(ref.GELU, z.Y, wantDown.X.Y)
	wantUp := ref.Scatter2scatterBackward(l.oracle.Up, x, rr, layout, none, dz.Y)
	for name, pair := range map[string]struct {
		got  *vk.Tensor
		want []float64
	}{
		"X": {dx, wantUp.X.Y}, "Gates": {dGates, wantGates.Y}, "Up": {up, wantUp.Weight.Y}, "Down": {down, wantDown.Weight.Y},
	} {
		relative := ref.RelativeFrobenius(gputest.Download[float32](t, pair.got), pair.want)
		require.True(t, relative <= backwardTolerance, "%s: relative error %v", name, relative)
	}
	require.Zero(t, gputest.Download[float32](t, dGates)[7])
	k.Close()
}

func TestMLPBackwardArguments(t *testing.T) {
	cfg := MLPConfig{Experts: 4, TopK: 2, Width: 8, Hidden: 8}
	l := newLayer(t, cfg)
	k := newKit(t)
	x, dy, y := k.F32("x", make([]float32, 24), 3, 8), k.F32("dy", make([]float32, 24), 3, 8), k.Output("y", vk.F32, 3, 8)
	bank := bankOf(t, k.F32("bank", make([]float32, 4*8*8), 4, 8, 8))
	for arg, c := range map[string]struct {
		save Save
		dy   *vk.Tensor
		g    MLPGrads
	}{
		"saved":               {SaveNothing, dy, MLPGrads{}},
		"dy":                  {SaveAll, nil, MLPGrads{}},
		"grads.X":             {SaveAll, dy, MLPGrads{X: dy}},
		"grads.Logits":        {SaveAll, dy, MLPGrads{Logits: y}},
		"grads.Gates":         {SaveAll, dy, MLPGrads{Gates: y}},
		"grads.Up.Weight":     {SaveAll, dy, MLPGrads{Up: WeightGrads{Weight: bank}}}, // [E,2H,D]
		"grads.Down.Weight":   {SaveAll, dy, MLPGrads{Down: WeightGrads{Weight: l.Down.Weight}}},
		"grads.Down.Bias":     {SaveAll, dy, MLPGrads{Down: WeightGrads{Bias: bank}}},
		"grads.SharedGate":    {SaveAll, dy, MLPGrads{SharedGate: WeightGrads{Weight: bank}}},
		"grads.Router.Weight": {SaveAll, dy, MLPGrads{Router: WeightGrads{Weight: bank}}},
		"grads.OutputBias":    {SaveAll, dy, MLPGrads{OutputBias: bank}},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		saved, err := l.ForwardWith(rec, x, y, ForwardOptions{Save: c.save})
		require.NoError(t, err)
		err = l.Backward(rec, saved, x, c.dy, c.g)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, arg)
		require.Equal(t, arg, shape.Arg)
		require.NoError(t, rec.Close())
	}
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	_, err = l.ForwardWith(rec, x, y, ForwardOptions{Workspace: x})
	var shape *vk.ShapeError
	require.ErrorAs(t, err, &shape)
	require.Equal(t, "Workspace", shape.Arg)
	require.NoError(t, rec.Close())
}
