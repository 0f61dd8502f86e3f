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

// gradientBound is the error of TopKBackward: two gates, a sum over the choices and a handful of products, relative to the
// terms; the gates' own underflow; and one rounding of what is accumulated.
func gradientBound(r ref.Router, want ref.Result, before []float32) []float64 {
	relative := 2*ref.GateTolerance(r.Mode, r.Experts, r.K, 20) + 2*ref.SigmoidTolerance + ref.Gamma(r.K+8)
	bound := want.BoundBy(relative, 1e-30)
	for i := range before {
		bound[i] += ref.Gamma(3) * (math.Abs(float64(before[i])) + want.Abs[i])
	}
	return bound
}

func TestTopKBackwardEqualsTheOracle(t *testing.T) {
	shapes := []struct{ tokens, experts, k int }{
		{0, 8, 2}, {1, 1, 1}, {1, 1024, 64}, {65, 4, 4}, {100, 60, 4}, {33, 256, 8}, {70000, 8, 2},
	}
	for _, s := range shapes {
		for mode := SoftmaxTopK; mode <= SigmoidTopKNorm; mode++ {
			for _, lanes := range []int{1, 4, 32} {
				if s.tokens > 1000 && (lanes > 1 || mode != SoftmaxTopK) {
					continue
				}
				t.Run(fmt.Sprintf("T=%d E=%d k=%d %v lanes=%d", s.tokens, s.experts, s.k, mode, lanes), func(t *testing.T) {
					k := newKit(t)
					k.Shift = lanes % 2
					rng := rand.New(rand.NewSource(int64(s.experts + lanes)))
					data, dg := logitsOf(rng, s.tokens, s.experts), gputest.Normal(rng, s.tokens*s.k)
					cfg := RouterConfig{TopK: s.k, Mode: mode, Scale: 1.5}
					oracle := oracleRouter(cfg, s.experts, nil)
					chosen := ref.Select(oracle, data, s.tokens)
					r := &Routing{Tokens: s.tokens, K: s.k, Experts: s.experts, Router: &cfg, IDs: k.I32("ids", chosen, s.tokens, s.k)}
					logits, dGates := k.F32("logits", data, s.tokens, s.experts), k.F32("dGates", dg, s.tokens, s.k)
					dLogits := k.Output("dLogits", vk.F32, s.tokens, s.experts)
					topKBackward(k.Rec, r, logits, dGates, dLogits, false, lanes)
					before := gputest.Normal(rng, s.tokens*s.experts)
					sum := k.InOut("sum", vk.F32, before, s.tokens, s.experts)
					topKBackward(k.Rec, r, logits, dGates, sum, true, lanes)
					k.Run()
					want := ref.RouterGatesBackward(oracle, data, chosen, dg, s.tokens)
					gputest.RequireClose(t, gputest.Download[float32](t, dLogits), want.Y, gradientBound(oracle, want, nil), "dLogits")
					bound := gradientBound(oracle, want, before)
					for i := range before {
						want.Y[i] += float64(before[i])
					}
					gputest.RequireClose(t, gputest.Download[float32](t, sum), want.Y, bound, "accumulated dLogits")
				})
			}
		}
	}
}

func TestTopKBackwardOfUnusualLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	data := []float32{
		nan, 1, 2, 3, 4, inf, 1, 2, -inf, -inf, -inf, -inf, -inf, -inf, 1, 2, 1000, -1000, 0, 999, -100, -100, -100, -99,
	}
	rows, dg := len(data)/4, []float32{1, 2, -1, 2, 1, 1, 3, -1, 2, 2, 1, -2}
	for mode := SoftmaxTopK; mode <= SigmoidTopKNorm; mode++ {
		for _, lanes := range []int{1, 4} {
			k := newKit(t)
			cfg := RouterConfig{TopK: 2, Mode: mode}
			oracle := oracleRouter(cfg, 4, nil)
			ids := ref.Select(oracle, data, rows)
			r := &Routing{Tokens: rows, K: 2, Experts: 4, Router: &cfg, IDs: k.I32("ids", ids, rows, 2)}
			dLogits := k.Output("dLogits", vk.F32, rows, 4)
			topKBackward(k.Rec, r, k.F32("logits", data, rows, 4), k.F32("dGates", dg, rows, 2), dLogits, false, lanes)
			k.Run()
			want := ref.RouterGatesBackward(oracle, data, ids, dg, rows)
			bound := want.BoundBy(1e-4, 1e-15) // logits that are 1,999 apart; scores below e^−87 over 1e-20
			gputest.RequireClose(t, gputest.Download[float32](t, dLogits), want.Y, bound, mode.String())
		}
	}
}

// TestTopKBackwardPassesOverBadIDs: ids that name no expert are not followed.
func TestTopKBackwardPassesOverBadIDs(t *testing.T) {
	for mode := SoftmaxTopK; mode <= SigmoidTopKNorm; mode++ {
		k := newKit(t)
		cfg := RouterConfig{TopK: 2, Mode: mode}
		r := &Routing{Tokens: 1, K: 2, Experts: 3, Router: &cfg, IDs: k.I32("ids", []int32{math.MinInt32, 3}, 1, 2)}
		dLogits := k.Output("dLogits", vk.F32, 1, 3)
		topKBackward(k.Rec, r, k.F32("logits", []float32{1, 2, 3}, 1, 3), k.F32("dGates", []float32{5, 6}, 1, 2), dLogits, false, 1)
		k.Run()
		for _, v := range gputest.Download[float32](t, dLogits) {
			require.Zero(t, v, mode.String())
		}
	}
}

func TestTopKBackwardArguments(t *testing.T) {
	k := newKit(t)
	logits, dGates := k.F32("logits", make([]float32, 12), 2, 6), k.F32("dGates", make([]float32, 4), 2, 2)
	dLogits := k.InOut("dLogits", vk.F32, make([]float32, 12), 2, 6)
	routed, err := Route(k.Rec, logits, RouterConfig{TopK: 2})
	require.NoError(t, err)
	given, err := RouteIDs(k.Rec, k.I32("ids", make([]int32, 4), 2, 2), nil, 6)
	require.NoError(t, err)
	for name, call := range map[string]func(rec *vk.Recorder) error{
		"nil":          func(rec *vk.Recorder) error { return TopKBackward(rec, nil, logits, dGates, dLogits, false) },
		"caller's ids": func(rec *vk.Recorder) error { return TopKBackward(rec, given, logits, dGates, dLogits, false) },
		"no logits":    func(rec *vk.Recorder) error { return TopKBackward(rec, routed, nil, dGates, dLogits, false) },
		"wrong shape":  func(rec *vk.Recorder) error { return TopKBackward(rec, routed, logits, logits, dLogits, false) },
		"in place":     func(rec *vk.Recorder) error { return TopKBackward(rec, routed, logits, dGates, logits, true) },
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var shape *vk.ShapeError
		require.ErrorAs(t, call(rec), &shape, name)
		require.NoError(t, rec.Close())
	}
	require.NoError(t, TopKBackward(k.Rec, routed, logits, dGates, dLogits, true))
}
