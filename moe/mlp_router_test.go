package moe

import (
	"context"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestMLPOfASigmoidRouter runs layers with DeepSeek-V3's router, forward and backward.
func TestMLPOfASigmoidRouter(t *testing.T) {
	for _, cfg := range []MLPConfig{
		{Experts: 8, TopK: 3, Width: 20, Hidden: 12, Mode: SigmoidTopKNorm, GateScale: 2.5, Groups: 4, TopGroups: 2,
			CorrectionBias: true, SharedHidden: 10},
		{Experts: 12, TopK: 2, Width: 24, Hidden: 10, Mode: SigmoidTopK, CorrectionBias: true},
		{Experts: 12, TopK: 2, Width: 24, Hidden: 10, Mode: SigmoidTopKNorm, Groups: 3, TopGroups: 1, Activation: GELU},
	} {
		l := newLayer(t, cfg)
		rng := rand.New(rand.NewSource(31))
		l.oracle.Gating = ref.Router{Scale: float64(cfg.GateScale), Groups: cfg.Groups, TopGroups: cfg.TopGroups}
		if cfg.CorrectionBias {
			l.oracle.Gating.Bias = gputest.Normal(rng, cfg.Experts)
			require.NoError(t, vk.Upload(context.Background(), l.CorrectionBias, l.oracle.Gating.Bias))
		}
		const tokens = 70
		k := newKit(t)
		x, dy := gputest.Normal(rng, tokens*cfg.Width), gputest.Normal(rng, tokens*cfg.Width)
		run := l.recordBackward(k, x, dy, tokens, SaveAll, false, false)
		k.Run()
		router := oracleRouter(*run.saved.Routing.Router, cfg.Experts, l.oracle.Gating.Bias)
		open := requireChoice(t, router, gputest.Download[float32](t, run.saved.Logits), gputest.Download[int32](t, run.saved.Routing.IDs), tokens)
		require.LessOrEqual(t, open, 2)
		res, want := l.wantBackward(t, run, x, dy, tokens)
		run.requireBackward(t, res.Out.Y, want)
		k.Close()
	}
}

// TestMLPWithJitter: the router reads and differentiates noisy tokens, the experts plain ones.
func TestMLPWithJitter(t *testing.T) {
	cfg := MLPConfig{Experts: 8, TopK: 3, Width: 22, Hidden: 12, Mode: SoftmaxTopKNorm, RouterBias: true}
	l := newLayer(t, cfg)
	l.jitter = JitterConfig{Eps: 0.3, Seed: 5, Stream: 2}
	const tokens = 60
	rng := rand.New(rand.NewSource(32))
	x, dy, ones := gputest.Normal(rng, tokens*cfg.Width), gputest.Normal(rng, tokens*cfg.Width), make([]float32, tokens*cfg.Width)
	for i := range ones {
		ones[i] = 1
	}
	noise, noisy := ref.Jitter(ones, 0.3, 5, 0, 2), ref.Jitter(x, 0.3, 5, 0, 2)
	for _, save := range []Save{SaveAll, RecomputeActivation} {
		k := newKit(t)
		run := l.recordBackward(k, x, dy, tokens, save, false, false)
		k.Run()
		logits := ref.DenseLinear(l.oracle.Router, noisy, tokens)
		ids := gputest.Download[int32](t, run.saved.Routing.IDs)
		require.Equal(t, ref.Select(oracleRouter(*run.saved.Routing.Router, cfg.Experts, nil), logits.Y, tokens), ids)
		require.NotEqual(t, ref.SelectTopK(ref.DenseLinear(l.oracle.Router, x, tokens).Y, tokens, cfg.Experts, cfg.TopK), ids,
			"the noise is strong enough to show")
		res := ref.ForwardChosen(l.oracle, x, tokens, logits, ids)
		g := ref.MLPBackward(l.oracle, x, res, dy)
		router := ref.Scatter2scatterBackward(l.oracle.Router, noisy, ref.Dense(tokens), ref.Layout{}, []float32(nil), g.Logits.Y)
		for i, v := range router.X.Y {
			g.X[i] += v*float64(noise[i]) - g.Router.X.Y[i]
		}
		run.requireBackward(t, res.Out.Y, map[string][]float64{
			"X": g.X, "Logits": g.Logits.Y, "Gates": g.Gates.Y, "Router": router.Weight.Y, "Router bias": router.Bias.Y,
			"Up": g.Up.Weight.Y, "Down": g.Down.Weight.Y,
		})
		k.Close()
	}
	bad := ForwardOptions{Jitter: JitterConfig{Eps: -1}}
	k := newKit(t)
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	_, err = l.ForwardWith(rec, k.F32("x", x, tokens, cfg.Width), k.InOut("y", vk.F32, x, tokens, cfg.Width), bad)
	var fault *ConfigError
	require.ErrorAs(t, err, &fault)
}

// TestTrainingStepWithRouterLosses sends the gradient of the losses through the router's weights: AccumulateLogits adds the
// experts' part to it.
func TestTrainingStepWithRouterLosses(t *testing.T) {
	cfg := MLPConfig{Experts: 6, TopK: 2, Width: 18, Hidden: 10, Mode: TopKSoftmax}
	l := newLayer(t, cfg)
	const tokens = 50
	rng := rand.New(rand.NewSource(33))
	x, dy := gputest.Normal(rng, tokens*cfg.Width), gputest.Normal(rng, tokens*cfg.Width)
	k := newKit(t)
	xs, y := k.F32("x", x, tokens, cfg.Width), k.Output("y", vk.F32, tokens, cfg.Width)
	dLogits, dx := k.Output("dLogits", vk.F32, tokens, cfg.Experts), k.Output("dx", vk.F32, tokens, cfg.Width)
	dRouter := k.Output("dRouter", vk.F32, l.Router.Weight.Shape()...)
	saved, err := l.Forward(k.Rec, xs, y)
	require.NoError(t, err)
	coefficients := LossConfig{Balance: 5, Z: 0.5}
	losses, err := Losses(k.Rec, []RoutedLayer{{saved.Routing, saved.Logits, dLogits}}, coefficients, false)
	require.NoError(t, err)
	grads := MLPGrads{X: dx, Logits: dLogits, AccumulateLogits: true, Router: WeightGrads{Weight: bankOf(t, dRouter)}}
	require.NoError(t, l.Backward(k.Rec, saved, xs, k.F32("dy", dy, tokens, cfg.Width), grads))
	k.Run()

	res := ref.ForwardChosen(l.oracle, x, tokens, ref.DenseLinear(l.oracle.Router, x, tokens), gputest.Download[int32](t, saved.Routing.IDs))
	g := ref.MLPBackward(l.oracle, x, res, dy)
	oracle := ref.RouterLoss{Mode: l.oracle.Mode, Experts: cfg.Experts, Balance: 5, Z: 0.5}
	layers := []ref.RoutedLayer[float64]{{Logits: res.Logits.Y, IDs: res.IDs}}
	total, _, _ := ref.RouterLosses(oracle, layers, tokens)
	require.InEpsilon(t, total, gputest.Download[float32](t, losses.Loss)[0], 1e-5)
	all := ref.RouterLossesBackward(oracle, layers, tokens)[0].Y
	for i, v := range g.Logits.Y {
		all[i] += v
	}
	router := ref.Scatter2scatterBackward(l.oracle.Router, x, ref.Dense(tokens), ref.Layout{}, []float32(nil), all)
	for i, v := range router.X.Y {
		g.X[i] += v - g.Router.X.Y[i]
	}
	for name, c := range map[string]struct {
		got  *vk.Tensor
		want []float64
	}{"dLogits": {dLogits, all}, "dRouter": {dRouter, router.Weight.Y}, "dx": {dx, g.X}} {
		diff := ref.RelativeFrobenius(gputest.Download[float32](t, c.got), c.want)
		require.True(t, diff <= backwardTolerance, "%s: %v", name, diff)
	}
}
