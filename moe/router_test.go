package moe

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

var modes = map[RouterMode]ref.RouterMode{
	SoftmaxTopK: ref.SoftmaxTopK, SoftmaxTopKNorm: ref.SoftmaxTopKNorm, TopKSoftmax: ref.TopKSoftmax,
}

// requireTopK compares ids exactly and gates within the bound of the mode.
func requireTopK(t testing.TB, mode RouterMode, logits []float32, ids []int32, gates []float32, tokens, experts, k int) {
	t.Helper()
	want, wantGates := ref.TopKGates(modes[mode], logits, tokens, experts, k)
	require.Equal(t, want, ids)
	bound := make([]float64, len(wantGates))
	for i, g := range wantGates {
		row := logits[i/k*experts : (i/k+1)*experts]
		low, high := math.Inf(1), math.Inf(-1)
		for _, v := range row {
			if !math.IsInf(float64(v), 0) {
				low, high = math.Min(low, float64(v)), math.Max(high, float64(v))
			}
		}
		// Below e^−87 of the largest, gates are 0.
		bound[i] = ref.GateTolerance(modes[mode], experts, k, min(high-low, 90))*math.Abs(g) + math.Exp(-87)
	}
	gputest.RequireClose(t, gates, wantGates, bound, "gates")
}

// logitsOf returns normally distributed logits; every third row is rounded so that ties are common.
func logitsOf(r *rand.Rand, tokens, experts int) []float32 {
	logits := gputest.Normal(r, tokens*experts)
	for t := 0; t < tokens; t += 3 {
		for e := range experts {
			logits[t*experts+e] = float32(math.Round(float64(logits[t*experts+e])))
		}
	}
	return logits
}

func TestTopKStaysBelowTheLoopLimitOfLavapipe(t *testing.T) {
	for experts := 1; experts <= MaxExperts; experts++ {
		lanes := topKLanes(true, experts)
		require.Less(t, (check.CeilDiv(experts, lanes)+8)*(MaxTopK+2), maxLoop, "E=%d", experts)
	}
}

func TestTopKEqualsTheOracle(t *testing.T) {
	shapes := []struct{ tokens, experts, k int }{
		{0, 8, 2}, {1, 1, 1}, {1, 1024, 64}, {2, 2, 2}, {3, 3, 2}, {65, 4, 4}, {100, 8, 2}, {129, 60, 4}, {64, 64, 8}, {33, 128, 8},
		{17, 256, 8}, {50, 1000, 6}, {40, 1024, 64}, {70000, 8, 2},
	}
	for _, s := range shapes {
		for mode := range modes {
			for _, lanes := range []int{byRanks, 1, 4, 32} {
				if s.tokens > 1000 && lanes > 1 || s.experts*s.k/max(lanes, 1) >= maxLoop {
					continue
				}
				t.Run(fmt.Sprintf("T=%d E=%d k=%d %v lanes=%d", s.tokens, s.experts, s.k, mode, lanes), func(t *testing.T) {
					k := newKit(t)
					k.Shift = s.tokens % 2
					data := logitsOf(rand.New(rand.NewSource(int64(s.tokens))), s.tokens, s.experts)
					logits := k.F32("logits", data, s.tokens, s.experts)
					ids := k.Output("ids", vk.I32, s.tokens, s.k)
					gates := k.Output("gates", vk.F32, s.tokens, s.k)
					topK(k.Rec, logits, ids, gates, RouterConfig{TopK: s.k, Mode: mode}, lanes)
					k.Run()
					requireTopK(t, mode, data, gputest.Download[int32](t, ids), gputest.Download[float32](t, gates), s.tokens, s.experts, s.k)
				})
			}
		}
	}
}

// TestTopKOfUnusualLogits has a row for each documented case.
func TestTopKOfUnusualLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	negative := math.Float32frombits(0xffc00001) // a NaN with the sign bit
	largest, tiny := float32(math.MaxFloat32), math.Float32frombits(1)
	zero, minusZero := float32(0), float32(math.Copysign(0, -1))
	rows := [][]float32{
		{nan, nan, nan, nan, nan},
		{1, nan, 3, 2, negative},
		{-inf, nan, -inf, nan, -inf},
		{inf, 1, 2, inf, -inf},
		{-inf, -inf, -inf, -inf, -inf},
		{-inf, 2, -inf, -inf, 1},
		{-inf, -inf, 5, -inf, -inf},
		{zero, minusZero, zero, minusZero, zero},
		{minusZero, zero, -1, 1, minusZero},
		{largest, -largest, 0, largest, -largest},
		{tiny, 0, -tiny, 2 * tiny, tiny},
		{-100, -100, -100, -100, -100},
		{1000, 1000, 999, -1000, 1000},
		{88, 0, -88, 87, 86},
		{-1, -2, -3, -4, -5},
	}
	var data []float32
	for _, row := range rows {
		data = append(data, row...)
	}
	for mode := range modes {
		for _, choices := range []int{1, 2, 5} {
			for _, lanes := range []int{byRanks, 1, 4} {
				k := newKit(t)
				ids := k.Output("ids", vk.I32, len(rows), choices)
				gates := k.Output("gates", vk.F32, len(rows), choices)
				topK(k.Rec, k.F32("logits", data, len(rows), 5), ids, gates, RouterConfig{TopK: choices, Mode: mode}, lanes)
				k.Run()
				got, gotGates := gputest.Download[int32](t, ids), gputest.Download[float32](t, gates)
				requireTopK(t, mode, data, got, gotGates, len(rows), 5, choices)
				for row := range rows {
					seen := map[int32]bool{}
					for _, id := range got[row*choices : (row+1)*choices] {
						require.False(t, seen[id], "expert %d twice in row %d", id, row)
						seen[id] = true
					}
				}
				for j := range choices { // row 0 and row 3: NaN and +Inf
					require.True(t, math.IsNaN(float64(gotGates[j])))
					require.True(t, math.IsNaN(float64(gotGates[3*choices+j])))
				}
				require.Zero(t, math.Float32bits(gotGates[6*choices+choices-1])*uint32(min(choices-1, 1)),
					"a −Inf logit has gate exactly 0")
			}
		}
	}
}

func TestTopKArguments(t *testing.T) {
	k := newKit(t)
	logits := k.F32("logits", make([]float32, 24), 4, 6)
	var shape *vk.ShapeError
	var config *ConfigError
	for name, c := range map[string]struct {
		logits *vk.Tensor
		cfg    RouterConfig
		target any
	}{
		"nil":              {nil, RouterConfig{TopK: 1}, &shape},
		"a vector":         {k.F32("v", make([]float32, 4), 4), RouterConfig{TopK: 1}, &shape},
		"integers":         {k.I32("i", make([]int32, 4), 2, 2), RouterConfig{TopK: 1}, &shape},
		"k = 0":            {logits, RouterConfig{}, &config},
		"k > E":            {logits, RouterConfig{TopK: 7}, &config},
		"k > 64":           {k.F32("w", make([]float32, 100), 1, 100), RouterConfig{TopK: 65}, &config},
		"unknown mode":     {logits, RouterConfig{TopK: 1, Mode: 5}, &config},
		"too many experts": {k.F32("x", make([]float32, 1025), 1, 1025), RouterConfig{TopK: 1}, &config},
		"no experts":       {k.F32("z", nil, 4, 0), RouterConfig{TopK: 1}, &config},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, _, err = TopK(rec, c.logits, c.cfg)
		require.ErrorAs(t, err, c.target, name)
		require.NoError(t, rec.Close())
	}
	require.Equal(t, "topk-softmax", TopKSoftmax.String())
	require.Equal(t, "router mode 9", RouterMode(9).String())
	require.Equal(t, "sigmoid-topk-norm", SigmoidTopKNorm.String())
}
