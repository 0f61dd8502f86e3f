package moe

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// probabilityTolerance is the relative error of one probability and of what is made of it.
func probabilityTolerance(experts int) float64 {
	return 2*ref.GateTolerance(ref.SoftmaxTopK, experts, 1, 10) + 2*ref.SigmoidTolerance
}

// sumDepth is how many additions a term of a sum over tokens may pass.
func sumDepth(tokens, experts, layers int) int {
	perBlock, blocks := statsBlocks(tokens, experts)
	return perBlock + blocks + statsThreads + experts + layers
}

// A lossCase is a set of routed layers on the device and for the oracle.
type lossCase struct {
	layers []RoutedLayer
	oracle []ref.RoutedLayer[float32]
	before []float32 // what the gradients hold at first
}

// newLossCase routes random logits of several layers; the first expert is liked more than the others.
func newLossCase(k *kit, tokens, experts, choices, layers int, mode RouterMode) lossCase {
	rng := rand.New(rand.NewSource(int64(tokens + experts)))
	c := lossCase{before: gputest.Normal(rng, tokens*experts)}
	for l := range layers {
		data := logitsOf(rng, tokens, experts)
		for t := range tokens {
			data[t*experts] += 2
		}
		logits := k.F32(fmt.Sprintf("logits %d", l), data, tokens, experts)
		r, err := Route(k.Rec, logits, RouterConfig{TopK: choices, Mode: mode})
		require.NoError(k.T, err)
		dLogits := k.InOut(fmt.Sprintf("dLogits %d", l), vk.F32, c.before, tokens, experts)
		c.layers = append(c.layers, RoutedLayer{r, logits, dLogits})
		c.oracle = append(c.oracle, ref.RoutedLayer[float32]{Logits: data})
	}
	return c
}

func TestLossesEqualTheOracle(t *testing.T) {
	shapes := []struct{ tokens, experts, choices, layers int }{
		{0, 8, 2, 2}, {1, 1, 1, 1}, {65, 60, 4, 3}, {130, 1024, 8, 1}, {300, 2, 1, 2}, {70000, 8, 2, 1},
	}
	worst := 0.0
	for _, s := range shapes {
		for _, form := range []BalanceForm{MixtralBalance, JetMoEBalance} {
			for _, mode := range []RouterMode{SoftmaxTopK, SigmoidTopKNorm} {
				if s.tokens > 1000 && (mode != SoftmaxTopK || form != MixtralBalance) {
					continue
				}
				accumulate := form == JetMoEBalance
				t.Run(fmt.Sprintf("T=%d E=%d k=%d layers=%d %v %v", s.tokens, s.experts, s.choices, s.layers, form, mode), func(t *testing.T) {
					k := newKit(t)
					c := newLossCase(k, s.tokens, s.experts, s.choices, s.layers, mode)
					cfg := LossConfig{Form: form, Balance: 3, Z: 0.5}
					got, err := Losses(k.Rec, c.layers, cfg, accumulate)
					require.NoError(t, err)
					k.Run()
					worst = max(worst, requireLosses(t, c, cfg, mode, got, s.tokens, s.experts, accumulate))
				})
			}
		}
	}
	t.Logf("largest relative error of a gradient: %.2g", worst)
}

// TestGradientsOfNearlyBalancedChoices: the gradient is made of differences from balance, which are small here, and is as
// accurate as where they are large.
func TestGradientsOfNearlyBalancedChoices(t *testing.T) {
	for _, form := range []BalanceForm{MixtralBalance, JetMoEBalance} {
		k := newKit(t)
		const tokens, experts = 1500, 64
		data := gputest.Normal(rand.New(rand.NewSource(8)), tokens*experts)
		logits, dLogits := k.F32("logits", data, tokens, experts), k.Output("dLogits", vk.F32, tokens, experts)
		r, err := Route(k.Rec, logits, RouterConfig{TopK: 8})
		require.NoError(t, err)
		_, err = Losses(k.Rec, []RoutedLayer{{r, logits, dLogits}}, LossConfig{Form: form, Balance: 1}, false)
		require.NoError(t, err)
		k.Run()
		oracle := ref.RouterLoss{Experts: experts, Form: ref.BalanceForm(form), Balance: 1}
		layers := []ref.RoutedLayer[float32]{{Logits: data, IDs: gputest.Download[int32](t, r.IDs)}}
		diff := ref.RelativeFrobenius(gputest.Download[float32](t, dLogits), ref.RouterLossesBackward(oracle, layers, tokens)[0].Y)
		require.True(t, diff <= 1e-6, "%v: %v", form, diff)
		t.Logf("%v: %.2g", form, diff)
	}
}

// requireLosses compares losses, statistics and gradients and returns the largest Frobenius error of a gradient.
func requireLosses(t testing.TB, c lossCase, cfg LossConfig, mode RouterMode, got *RouterLosses, tokens, experts int, accumulate bool) float64 {
	layers := len(c.layers)
	for l := range c.oracle {
		c.oracle[l].IDs = gputest.Download[int32](t, c.layers[l].Routing.IDs)
	}
	oracle := ref.RouterLoss{Mode: ref.RouterMode(mode), Experts: experts, Form: ref.BalanceForm(cfg.Form), Balance: float64(cfg.Balance),
		Z: float64(cfg.Z)}
	total, balance, z := ref.RouterLosses(oracle, c.oracle, tokens)
	tolerance := probabilityTolerance(experts) + ref.Gamma(sumDepth(tokens, experts, layers)+16)
	zScale := 0.0
	for l, layer := range c.oracle {
		s := ref.CollectRouterStats(oracle.Mode, layer.Logits, layer.IDs, tokens, experts)
		zScale += s.LogSumExp2.Abs[0] / float64(max(1, tokens))
		requireSums(t, got.Layers[l], s)
	}
	gputest.RequireClose(t, gputest.Download[float32](t, got.Loss), []float64{total, balance, z},
		[]float64{tolerance * (float64(cfg.Balance)*balance + float64(cfg.Z)*zScale), tolerance * balance, tolerance * zScale}, "losses")
	worst := 0.0
	for l, want := range ref.RouterLossesBackward(oracle, c.oracle, tokens) {
		bound := want.BoundBy(2*probabilityTolerance(experts)+ref.Gamma(experts+layers+16), 1e-30)
		data := gputest.Download[float32](t, c.layers[l].DLogits)
		if !accumulate {
			worst = max(worst, ref.RelativeFrobenius(data, want.Y))
		}
		for i, b := range c.before {
			if accumulate {
				bound[i] += ref.Gamma(3) * (math.Abs(float64(b)) + want.Abs[i])
				want.Y[i] += float64(b)
			}
		}
		gputest.RequireClose(t, data, want.Y, bound, "dLogits")
	}
	return worst
}

// requireSums compares the statistics of a router.
func requireSums(t testing.TB, got *RouterSums, want ref.RouterStats) {
	t.Helper()
	counts := make([]uint32, want.Experts+1)
	for e, n := range want.Counts {
		counts[e] = uint32(n)
		counts[want.Experts] += uint32(n)
	}
	require.Equal(t, counts, gputest.Download[uint32](t, got.Counts))
	tolerance := probabilityTolerance(want.Experts) + ref.Gamma(sumDepth(want.Tokens, want.Experts, 1)+16)
	sums := gputest.Download[float32](t, got.Sums)
	p := want.Probability
	gputest.RequireClose(t, sums[:want.Experts], p.Y, p.BoundBy(tolerance, 1e-30), "probabilities")
	gputest.RequireClose(t, sums[want.Experts:want.Experts+1], want.Entropy.Y, want.Entropy.BoundBy(tolerance, 0), "entropy")
	gputest.RequireClose(t, sums[want.Experts+1:], want.LogSumExp2.Y, want.LogSumExp2.BoundBy(tolerance, 0), "squared logsumexp")
}

func TestStatsEqualTheOracle(t *testing.T) {
	inf := float32(math.Inf(1))
	for name, c := range map[string]struct {
		experts int
		logits  []float32
	}{
		"spread":         {4, []float32{1000, -1000, 0, 999, -inf, -inf, 3, -inf, 5, 5, 5, 5, 88, -88, 0, 80}},
		"vanishing":      {3, []float32{-100, -101, -102, -500, -500, -500, -90, -inf, -95}},
		"small weights":  {2, []float32{0, -86, 0, -88, 20, -67, 1e-20, 0}},
		"one expert":     {1, []float32{-3, 0, 7, 1e15}},
		"NaN":            {2, []float32{1, 2, float32(math.NaN()), 1}},
		"+Inf":           {2, []float32{1, 2, inf, 1}},
		"nothing but -∞": {2, []float32{1, 2, -inf, -inf}},
	} {
		for _, mode := range []RouterMode{SoftmaxTopK, SigmoidTopK} {
			k := newKit(t)
			tokens := len(c.logits) / c.experts
			logits := k.F32("logits", c.logits, tokens, c.experts)
			r, err := Route(k.Rec, logits, RouterConfig{TopK: 1, Mode: mode})
			require.NoError(t, err)
			sums, err := CollectStats(k.Rec, r, logits)
			require.NoError(t, err)
			k.Run()
			want := ref.CollectRouterStats(ref.RouterMode(mode), c.logits, gputest.Download[int32](t, r.IDs), tokens, c.experts)
			t.Run(fmt.Sprint(name, " ", mode), func(t *testing.T) { requireSums(t, sums, want) })
		}
	}
}

func TestStatsForDisplay(t *testing.T) {
	k := newKit(t)
	l3 := float32(math.Log(3))
	logits := k.F32("logits", []float32{l3, 0, 0, l3, l3, 0, l3, 0}, 4, 2)
	r, err := Route(k.Rec, logits, RouterConfig{TopK: 1})
	require.NoError(t, err)
	sums, err := CollectStats(k.Rec, r, logits)
	require.NoError(t, err)
	k.Run()
	s, err := sums.Read(context.Background())
	require.NoError(t, err)
	require.Equal(t, []int{3, 1}, s.Choices)
	require.InDeltaSlice(t, []float64{5. / 8, 3. / 8}, s.MeanProbability, 1e-6)
	require.InDelta(t, 2*math.Log(2)-0.75*math.Log(3), s.TokenEntropy, 1e-6)
	require.InDelta(t, -5./8*math.Log(5./8)-3./8*math.Log(3./8), s.ExpertEntropy, 1e-6)
	require.Equal(t, 1.5, s.Balance)
	require.InDelta(t, math.Pow(math.Log(4), 2), s.LogSumExp2, 1e-6)

	empty := (&RouterSums{Experts: 2, K: 1}).stats(make([]float32, 4), make([]uint32, 3))
	require.Zero(t, empty.Balance+empty.TokenEntropy+empty.ExpertEntropy+empty.LogSumExp2)
}

func TestLossesAreNaNWhereARowHasNoSoftmax(t *testing.T) {
	k := newKit(t)
	logits := k.F32("logits", []float32{1, 2, float32(math.NaN()), 1}, 2, 2)
	dLogits := k.Output("dLogits", vk.F32, 2, 2)
	r, err := Route(k.Rec, logits, RouterConfig{TopK: 1})
	require.NoError(t, err)
	got, err := Losses(k.Rec, []RoutedLayer{{r, logits, dLogits}}, LossConfig{Balance: 1, Z: 1}, false)
	require.NoError(t, err)
	k.Run()
	for _, v := range gputest.Download[float32](t, got.Loss) {
		require.True(t, math.IsNaN(float64(v)))
	}
	d := gputest.Download[float32](t, dLogits)
	require.False(t, math.IsNaN(float64(d[0])) || math.IsNaN(float64(d[1])), "the weights count choices only")
	require.True(t, math.IsNaN(float64(d[2])) && math.IsNaN(float64(d[3])))
}

func TestLossesArguments(t *testing.T) {
	k := newKit(t)
	logits, small := k.F32("logits", make([]float32, 12), 2, 6), k.F32("small", make([]float32, 6), 1, 6)
	r, err := Route(k.Rec, logits, RouterConfig{TopK: 2})
	require.NoError(t, err)
	other, err := Route(k.Rec, small, RouterConfig{TopK: 2})
	require.NoError(t, err)
	var shape *vk.ShapeError
	var config *ConfigError
	for name, c := range map[string]struct {
		layers []RoutedLayer
		cfg    LossConfig
		target any
	}{
		"no layers":      {nil, LossConfig{}, &config},
		"no routing":     {[]RoutedLayer{{Logits: logits}}, LossConfig{}, &shape},
		"no logits":      {[]RoutedLayer{{Routing: r}}, LossConfig{}, &shape},
		"unequal layers": {[]RoutedLayer{{r, logits, nil}, {other, small, nil}}, LossConfig{}, &shape},
		"in place":       {[]RoutedLayer{{r, logits, logits}}, LossConfig{}, &shape},
		"form":           {[]RoutedLayer{{r, logits, nil}}, LossConfig{Form: 2}, &config},
		"coefficient":    {[]RoutedLayer{{r, logits, nil}}, LossConfig{Z: float32(math.NaN())}, &config},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = Losses(rec, c.layers, c.cfg, false)
		require.ErrorAs(t, err, c.target, name)
		require.NoError(t, rec.Close())
	}
	require.Equal(t, "jetmoe", JetMoEBalance.String())
	require.Equal(t, "balance form 7", BalanceForm(7).String())
}
