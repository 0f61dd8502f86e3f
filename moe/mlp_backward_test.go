package moe

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

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
	k.t.Helper()
	c := l.Config
	run := backwardRun{named: map[string]*vk.Tensor{}, start: map[string][]float32{}}
	r := rand.New(rand.NewSource(77))
	gradient := func(name string, dtype vk.DType, shape ...int) *vk.Tensor {
		if !accumulate {
			run.named[name] = k.output(name, dtype, shape...)
			return run.named[name]
		}
		n := 1
		for _, s := range shape {
			n *= s
		}
		run.start[name] = normal(r, n)
		run.named[name] = k.f32(name, run.start[name], shape...)
		k.bands[len(k.bands)-1].output = true
		return run.named[name]
	}
	xs, dys := k.f32("x", x, tokens, c.Width), k.f32("dy", dy, tokens, c.Width)
	run.y = k.output("y", vk.F32, tokens, c.Width)
	g := &run.grads
	g.AccumulateX, g.AccumulateWeights, g.AccumulateLogits = accumulate, accumulate, accumulate
	g.X, g.Logits = gradient("X", vk.F32, tokens, c.Width), gradient("Logits", vk.F32, tokens, c.Experts)
	run.named["Gates"] = k.output("Gates", vk.F32, tokens, c.TopK)
	g.Gates = run.named["Gates"]
	for _, part := range l.gradParts(g) {
		part.grads.Weight = bankOf(k.t, gradient(part.name, vk.F32, part.layer.Weight.Shape()...))
		if part.layer.Bias != nil {
			part.grads.Bias = bankOf(k.t, gradient(part.name+" bias", vk.F32, part.layer.Bias.Shape()...))
		}
	}
	o := ForwardOptions{Save: save}
	if workspace {
		o.Workspace = g.Up.Weight.parts[0]
	}
	var err error
	run.saved, err = l.ForwardWith(k.rec, xs, run.y, o)
	require.NoError(k.t, err)
	require.NoError(k.t, l.Backward(k.rec, run.saved, xs, dys, *g))
	return run
}

// want computes the oracle's gradients for the experts that the device chose.
func (l layer) wantBackward(t testing.TB, run backwardRun, x, dy []float32, tokens int) (ref.MLPResult, map[string][]float64) {
	t.Helper()
	res := ref.ForwardChosen(l.oracle, x, tokens, ref.DenseLinear(l.oracle.Router, x, tokens),
		download[int32](t, run.saved.Routing.IDs))
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
	}
	if l.oracle.Shared != nil {
		want["SharedUp"], want["SharedDown"] = g.Shared.Up.Weight.Y, g.Shared.Down.Weight.Y
		want["SharedGate"] = g.Shared.Gate.Weight.Y // nil without
	}
	return res, want
}

// backwardTolerance is the largest relative error (Frobenius norm) of an output or gradient in f32.
const backwardTolerance = 1e-5

// requireBackward compares y and all gradients with the oracle's, to which what they held before is added.
func (run backwardRun) requireBackward(t testing.TB, y []float64, want map[string][]float64) {
	t.Helper()
	relative := ref.RelativeFrobenius(download[float32](t, run.y), y)
	require.True(t, relative <= backwardTolerance, "y: relative error %v", relative)
	for name, tensor := range run.named {
		w := slices.Clone(want[name])
		require.Len(t, w, tensor.Elements(), name)
		for i, s := range run.start[name] {
			if name != "Gates" {
				w[i] += float64(s)
			}
		}
		relative := ref.RelativeFrobenius(download[float32](t, tensor), w)
		require.True(t, relative <= backwardTolerance, "%s: relative error %v", name, relative)
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
		{Experts: 8, TopK: 2, Width: 32, Hidden: 16, SharedHidden: 40, SharedGate: true},
		{Experts: 8, TopK: 3, Width: 30, Hidden: 18, SharedHidden: 21, Mode: SoftmaxTopKNorm},
	}
	for i, cfg := range configs {
		l := newLayer(t, cfg)
		for _, tokens := range []int{0, 1, 61} {
			t.Run(fmt.Sprintf("%+v T=%d", cfg, tokens), func(t *testing.T) {
				for flags := range 6 {
					save := Save(flags % 2)
					k := newKit(t)
					r := rand.New(rand.NewSource(int64(tokens + i)))
					x, dy := normal(r, tokens*cfg.Width), normal(r, tokens*cfg.Width)
					run := l.recordBackward(k, x, dy, tokens, save, flags/2 == 1, flags/2 == 2)
					k.run()
					res, want := l.wantBackward(t, run, x, dy, tokens)
					run.requireBackward(t, res.Out.Y, want)
					k.close()
				}
			})
		}
	}
}
