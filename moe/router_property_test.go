package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestRandomRoutersEqualTheOracle holds whole routers of random shapes to the oracle: choice, gates, their gradient and the
// losses.
func TestRandomRoutersEqualTheOracle(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewSource(int64(seed)))
			groups := []int{1, 2, 3, 8}[rng.Intn(4)]
			experts := groups * (1 + rng.Intn(20))
			cfg := RouterConfig{TopK: 1 + rng.Intn(min(experts, MaxTopK)), Mode: RouterMode(seed % 5), Scale: []float32{0, 2.5}[rng.Intn(2)]}
			loss := LossConfig{Form: BalanceForm(rng.Intn(2)), Balance: 2, Z: 0.1}
			if cfg.Mode.Sigmoid() {
				least := check.CeilDiv(cfg.TopK, experts/groups)
				cfg.Groups, cfg.TopGroups = groups, least+rng.Intn(groups-least+1)
			}
			requireRouter(t, rng, rng.Intn(50), experts, cfg, loss)
		})
	}
}

func requireRouter(t *testing.T, rng *rand.Rand, tokens, experts int, cfg RouterConfig, loss LossConfig) {
	t.Logf("T=%d E=%d %+v %+v", tokens, experts, cfg, loss)
	k := newKit(t)
	var bias []float32
	if cfg.Mode.Sigmoid() {
		bias = gputest.Normal(rng, experts)
		cfg.CorrectionBias = k.F32("bias", bias, experts)
	}
	data, dg := logitsOf(rng, tokens, experts), gputest.Normal(rng, tokens*cfg.TopK)
	logits, dGates := k.F32("logits", data, tokens, experts), k.F32("dGates", dg, tokens, cfg.TopK)
	dLogits, lossGrad := k.Output("dLogits", vk.F32, tokens, experts), k.Output("loss gradient", vk.F32, tokens, experts)
	r, err := Route(k.Rec, logits, cfg)
	require.NoError(t, err)
	require.NoError(t, TopKBackward(k.Rec, r, logits, dGates, dLogits, false))
	losses, err := Losses(k.Rec, []RoutedLayer{{r, logits, lossGrad}}, loss, false)
	require.NoError(t, err)
	k.Run()

	oracle, ids, gates := oracleRouter(cfg, experts, bias), gputest.Download[int32](t, r.IDs), gputest.Download[float32](t, r.Gates)
	if cfg.Mode.Sigmoid() {
		requireChoice(t, oracle, data, ids, tokens)
		want := ref.RouterGates(oracle, data, ids, tokens)
		gputest.RequireClose(t, gates, want, gateBound(oracle, want), "gates")
	} else {
		for i := range gates {
			gates[i] /= cfg.scale()
		}
		requireTopK(t, cfg.Mode, data, ids, gates, tokens, experts, cfg.TopK)
	}
	want := ref.RouterGatesBackward(oracle, data, ids, dg, tokens)
	gputest.RequireClose(t, gputest.Download[float32](t, dLogits), want.Y, gradientBound(oracle, want, nil), "dLogits")
	c := lossCase{layers: []RoutedLayer{{r, logits, lossGrad}}, oracle: []ref.RoutedLayer[float32]{{Logits: data}}}
	requireLosses(t, c, loss, cfg.Mode, losses, tokens, experts, false)
}
