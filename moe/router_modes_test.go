package moe

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// oracleRouter is the oracle's router for a configuration.
func oracleRouter(cfg RouterConfig, experts int, bias []float32) ref.Router {
	return ref.Router{Mode: ref.RouterMode(cfg.Mode), Experts: experts, K: cfg.TopK, Scale: float64(cfg.Scale), Bias: bias,
		Groups: cfg.Groups, TopGroups: cfg.TopGroups}
}

// keyTolerance is how far a corrected score in f32 may be off.
func keyTolerance(bias []float32) float64 {
	largest := 1.0
	for _, b := range bias {
		if !math.IsInf(float64(b), 0) {
			largest = max(largest, 1+math.Abs(float64(b)))
		}
	}
	return ref.SigmoidTolerance + 2*largest*ref.UnitF32
}

// requireChoice holds the ids of a sigmoid router to the oracle's, order included, except in tokens whose choice rounding
// may change. It returns how many those were.
func requireChoice(t testing.TB, r ref.Router, logits []float32, ids []int32, tokens int) (open int) {
	t.Helper()
	tolerance := 4 * keyTolerance(r.Bias)
	want := ref.Select(r, logits, tokens)
	margins := ref.RouterMargins(r, logits, tokens)
	for tok := range tokens {
		got, row := slices.Clone(ids[tok*r.K:(tok+1)*r.K]), logits[tok*r.Experts:(tok+1)*r.Experts]
		require.Equal(t, 0, len(got)-len(distinct(got, r.Experts)), "token %d: %v", tok, got)
		if margins[tok] != 0 && margins[tok] <= tolerance {
			open++
			continue
		}
		key := func(e int32) float64 {
			k := 1 / (1 + math.Exp(-float64(row[e])))
			if r.Bias != nil {
				k += float64(r.Bias[e])
			}
			return k
		}
		for j := 1; j < len(got); j++ {
			a, b := key(got[j-1]), key(got[j])
			require.False(t, a < b-tolerance || a == b && got[j-1] > got[j], "token %d: %v before %v", tok, a, b)
		}
		expect := slices.Clone(want[tok*r.K : (tok+1)*r.K])
		slices.Sort(got)
		slices.Sort(expect)
		require.Equal(t, expect, got, "token %d: %v + %v in %d groups, margin %v", tok, row, r.Bias, r.Groups, margins[tok])
	}
	return open
}

func distinct(ids []int32, experts int) map[int32]bool {
	seen := map[int32]bool{}
	for _, id := range ids {
		if id >= 0 && int(id) < experts {
			seen[id] = true
		}
	}
	return seen
}

// gateBound is the error of a sigmoid router's gates: scores below e^−87 are 0, which a sum of nothing but such scores
// magnifies.
func gateBound(r ref.Router, gates []float64) []float64 {
	bound := make([]float64, len(gates))
	for i, g := range gates {
		bound[i] = ref.GateTolerance(r.Mode, r.Experts, r.K, 0)*math.Abs(g) + math.Exp(-87)/1e-20*max(1, math.Abs(r.Scale))
	}
	return bound
}

func TestSigmoidRoutersEqualTheOracle(t *testing.T) {
	shapes := []struct{ tokens, experts, k, groups, top int }{
		{0, 8, 2, 4, 2}, {1, 1, 1, 1, 1}, {2, 2, 2, 2, 2}, {3, 3, 2, 0, 0}, {33, 60, 8, 0, 0}, {65, 4, 4, 2, 2}, {100, 16, 4, 4, 2}, {33, 256, 8, 8, 4},
		{17, 1024, 64, 32, 8}, {40, 1000, 6, 10, 3}, {9, 1024, 64, 128, 64}, {9, 128, 20, 128, 30}, {20, 96, 5, 48, 7}, {70000, 8, 2, 4, 2},
	}
	for _, s := range shapes {
		for _, mode := range []RouterMode{SigmoidTopK, SigmoidTopKNorm} {
			for _, lanes := range []int{byRanks, 1, 4, 32} {
				if s.tokens > 1000 && (lanes > 1 || mode == SigmoidTopK) || s.experts*(s.k+4)/max(1, lanes) >= maxLoop ||
					lanes == byRanks && s.groups > 0 {
					continue
				}
				t.Run(fmt.Sprintf("T=%d E=%d k=%d groups=%d/%d %v lanes=%d", s.tokens, s.experts, s.k, s.top, s.groups, mode, lanes),
					func(t *testing.T) {
						k := newKit(t)
						k.Shift = s.tokens % 2
						rng := rand.New(rand.NewSource(int64(s.experts)))
						data, bias := logitsOf(rng, s.tokens, s.experts), gputest.Normal(rng, s.experts)
						cfg := RouterConfig{TopK: s.k, Mode: mode, Scale: 2.5, Groups: s.groups, TopGroups: s.top}
						if lanes != 4 {
							cfg.CorrectionBias = k.F32("bias", bias, s.experts)
						} else {
							bias = nil
						}
						logits := k.F32("logits", data, s.tokens, s.experts)
						ids, gates := k.Output("ids", vk.I32, s.tokens, s.k), k.Output("gates", vk.F32, s.tokens, s.k)
						require.NoError(t, cfg.Validate(s.experts))
						topK(k.Rec, logits, ids, gates, cfg, lanes)
						k.Run()
						r, got := oracleRouter(cfg, s.experts, bias), gputest.Download[int32](t, ids)
						open := requireChoice(t, r, data, got, s.tokens)
						require.LessOrEqual(t, open, s.tokens/20, "tokens that rounding leaves open")
						want := ref.RouterGates(r, data, got, s.tokens)
						gputest.RequireClose(t, gputest.Download[float32](t, gates), want, gateBound(r, want), "gates")
					})
			}
		}
	}
}

func TestSigmoidRoutersOfUnusualLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	rows := [][]float32{
		{nan, nan, nan, nan, nan, nan}, {1, nan, 3, 2, nan, 0}, {-inf, nan, -inf, nan, -inf, -inf}, {inf, 1, 2, inf, -inf, 0},
		{-inf, -inf, -inf, -inf, -inf, -inf}, {0, 0, 0, 0, 0, 0}, {2, 1, 2, 1, 2, 1}, {9, 9, 9, 8, 9, 9},
		{-100, -100, -100, -100, -100, -100}, {1000, -1000, 0, 0, 1000, -1000}, {-80, -81, -82, -83, -84, -85},
	}
	var data []float32
	for _, row := range rows {
		data = append(data, row...)
	}
	for name, bias := range map[string][]float32{
		"no bias": nil, "bias": {0.5, 0, -0.25, 0.5, 0, 0}, "infinite bias": {-inf, 0, inf, 0, 0, 0}, "NaN bias": {nan, 0, 0, 0, 0, 0},
	} {
		for _, groups := range []int{0, 2, 3} {
			for _, mode := range []RouterMode{SigmoidTopK, SigmoidTopKNorm} {
				for _, lanes := range []int{byRanks, 1, 4} {
					if lanes == byRanks && groups > 0 {
						continue
					}
					k := newKit(t)
					cfg := RouterConfig{TopK: 2, Mode: mode, Groups: groups, TopGroups: min(1, groups)}
					if bias != nil {
						cfg.CorrectionBias = k.F32("bias", bias, 6)
					}
					ids, gates := k.Output("ids", vk.I32, len(rows), 2), k.Output("gates", vk.F32, len(rows), 2)
					topK(k.Rec, k.F32("logits", data, len(rows), 6), ids, gates, cfg, lanes)
					k.Run()
					r, got := oracleRouter(cfg, 6, bias), gputest.Download[int32](t, ids)
					what := fmt.Sprintf("%s, %d groups, %v", name, groups, mode)
					for row := range rows {
						if row == 8 || row == 10 { // scores below the rounding of f32 or of the bias: all tie, or are 0
							continue
						}
						requireChoice(t, r, rows[row], got[2*row:2*row+2], 1)
					}
					want := ref.RouterGates(r, data, got, len(rows))
					gputest.RequireClose(t, gputest.Download[float32](t, gates), want, gateBound(r, want), what)
					require.True(t, math.IsNaN(float64(gputest.Download[float32](t, gates)[2])), "a NaN that is not chosen is not hidden")
				}
			}
		}
	}
}

func TestRoutersStayBelowTheLoopLimitOfLavapipe(t *testing.T) {
	for experts := 1; experts <= MaxExperts; experts++ {
		lanes := topKLanes(true, experts)
		own, groups := check.CeilDiv(experts, lanes), min(experts, MaxGroups)
		require.Less(t, own*4+groups*check.CeilDiv(groups, lanes)+(own+8)*(MaxTopK+2), maxLoop, "choice, E=%d", experts)
		require.Less(t, own*4+MaxTopK*4+64, maxLoop, "backward, E=%d", experts)
		for _, tokens := range []int{1, 1 << 16, 1 << 20, 1 << 28} {
			perBlock, blocks := statsBlocks(tokens, experts)
			require.Less(t, perBlock/statsThreads*statsChunkLoops(experts)+experts, maxLoop, "statistics, E=%d T=%d", experts, tokens)
			require.Less(t, blocks/(statsThreads/statsColumns), maxLoop, "sum of statistics, E=%d T=%d", experts, tokens)
		}
		require.Less(t, maxLossLayers*(check.CeilDiv(experts, statsThreads)+1), maxLoop, "losses, E=%d", experts)
	}
}

func TestScaleMultipliesTheGatesOfEveryMode(t *testing.T) {
	for mode := range modes {
		k := newKit(t)
		data := logitsOf(rand.New(rand.NewSource(5)), 30, 10)
		logits := k.F32("logits", data, 30, 10)
		plainIDs, plain, err := TopK(k.Rec, logits, RouterConfig{TopK: 3, Mode: mode})
		require.NoError(t, err)
		ids, gates, err := TopK(k.Rec, logits, RouterConfig{TopK: 3, Mode: mode, Scale: -4})
		require.NoError(t, err)
		k.Run()
		require.Equal(t, gputest.Download[int32](t, plainIDs), gputest.Download[int32](t, ids))
		want := gputest.Download[float32](t, plain)
		for i := range want {
			want[i] *= -4
		}
		require.Equal(t, want, gputest.Download[float32](t, gates), mode.String())
	}
}

func TestRouterConfigValidation(t *testing.T) {
	var bias vk.Tensor
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		cfg   RouterConfig
		field string
	}{
		"scale":                 {RouterConfig{TopK: 1, Scale: nan}, "Scale"},
		"bias of a softmax":     {RouterConfig{TopK: 1, Mode: SoftmaxTopKNorm, CorrectionBias: &bias}, "CorrectionBias"},
		"groups of a softmax":   {RouterConfig{TopK: 1, Groups: 2, TopGroups: 1}, "Groups"},
		"ragged groups":         {RouterConfig{TopK: 1, Mode: SigmoidTopK, Groups: 5, TopGroups: 1}, "Groups"},
		"negative groups":       {RouterConfig{TopK: 1, Mode: SigmoidTopK, Groups: -1, TopGroups: 1}, "Groups"},
		"top groups alone":      {RouterConfig{TopK: 1, Mode: SigmoidTopK, TopGroups: 1}, "Groups"},
		"no top groups":         {RouterConfig{TopK: 1, Mode: SigmoidTopK, Groups: 4}, "TopGroups"},
		"too few in top groups": {RouterConfig{TopK: 3, Mode: SigmoidTopK, Groups: 4, TopGroups: 1}, "TopGroups"},
		"too many top groups":   {RouterConfig{TopK: 3, Mode: SigmoidTopK, Groups: 4, TopGroups: 5}, "TopGroups"},
	} {
		var fault *ConfigError
		require.ErrorAs(t, c.cfg.Validate(8), &fault, name)
		require.Equal(t, c.field, fault.Field, name)
	}
	require.Error(t, RouterConfig{TopK: 1, Mode: SigmoidTopK, Groups: 256, TopGroups: 1}.Validate(1024))
	require.NoError(t, RouterConfig{TopK: 4, Mode: SigmoidTopK, Groups: 4, TopGroups: 2}.Validate(8))
	require.NoError(t, RouterConfig{TopK: 64, Mode: SigmoidTopKNorm, Scale: 2.5, Groups: 1, TopGroups: 1}.Validate(1024))

	k := newKit(t)
	var shape *vk.ShapeError
	cfg := RouterConfig{TopK: 1, Mode: SigmoidTopK, CorrectionBias: k.F32("bias", make([]float32, 5), 5)}
	_, _, err := TopK(k.Rec, k.F32("logits", make([]float32, 24), 4, 6), cfg)
	require.ErrorAs(t, err, &shape)
	require.Equal(t, "CorrectionBias", shape.Arg)
}
