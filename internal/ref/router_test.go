package ref

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// logit is the inverse of the sigmoid.
func logit(p float64) float64 { return math.Log(p / (1 - p)) }

func TestSigmoidRouterByHand(t *testing.T) {
	row := []float64{logit(0.2), logit(0.9), logit(0.5), logit(0.6)}
	r := Router{Mode: SigmoidTopK, Experts: 4, K: 2}
	require.Equal(t, []int32{1, 3}, Select(r, row, 1))
	require.InDeltaSlice(t, []float64{0.9, 0.6}, RouterGates(r, row, []int32{1, 3}, 1), 1e-15)

	r.Bias = []float32{0.5, -0.5, 0.25, 0} // biased scores 0.7, 0.4, 0.75, 0.6
	r.Mode, r.Scale = SigmoidTopKNorm, 2
	require.Equal(t, []int32{2, 0}, Select(r, row, 1), "the bias decides the choice")
	require.InDeltaSlice(t, []float64{2 * 0.5 / 0.7, 2 * 0.2 / 0.7}, RouterGates(r, row, []int32{2, 0}, 1), 1e-14,
		"and not the gates")
	require.InDelta(t, 0.1, RouterMargins(r, row, 1)[0], 1e-7)
}

func TestGroupLimitedChoiceByHand(t *testing.T) {
	scores := []float64{0.90, 0.10, 0.10 /**/, 0.60, 0.59, 0.01 /**/, 0.55, 0.20, 0.50}
	row := make([]float64, len(scores))
	for e, s := range scores {
		row[e] = logit(s)
	}
	r := Router{Mode: SigmoidTopK, Experts: 9, K: 2, Groups: 3, TopGroups: 1} // groups score 1.00, 1.19, 1.05
	require.Equal(t, []int32{3, 4}, Select(r, row, 1), "the best expert of all is in a group that is not kept")
	require.InDelta(t, 0.07, RouterMargins(r, row, 1)[0], 1e-12)
	r.TopGroups = 2
	r.K = 4
	require.Equal(t, []int32{3, 4, 6, 8}, Select(r, row, 1))
	require.InDelta(t, 0.025, RouterMargins(r, row, 1)[0], 1e-12, "half the gap between the groups")
	r.TopGroups = 3
	require.Equal(t, []int32{0, 3, 4, 6}, Select(r, row, 1))

	r = Router{Mode: SigmoidTopK, Experts: 3, K: 2, Groups: 3, TopGroups: 2}
	require.Equal(t, []int32{2, 0}, Select(r, []float64{1, 0, 2}, 1), "groups of one expert")
}

func TestSigmoidRouterOfNonFiniteRows(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	r := Router{Mode: SigmoidTopKNorm, Experts: 4, K: 2}
	for name, c := range map[string]struct {
		row   []float64
		ids   []int32
		gates []float64
	}{
		"NaN":       {[]float64{nan, 1, 2, 3}, []int32{3, 2}, []float64{nan, nan}},
		"infinite":  {[]float64{-inf, inf, -inf, -inf}, []int32{1, 0}, []float64{1, 0}},
		"only -Inf": {[]float64{-inf, -inf, -inf, -inf}, []int32{0, 1}, []float64{0, 0}},
	} {
		ids := Select(r, c.row, 1)
		require.Equal(t, c.ids, ids, name)
		require.True(t, Compare(RouterGates(r, c.row, ids, 1), c.gates, nil).OK(), name)
	}
	r.Bias = []float32{0, float32(nan), 0, float32(-inf)}
	ids := Select(r, []float64{0, 9, 1, 9}, 1)
	require.Equal(t, []int32{2, 0}, ids)
	require.True(t, math.IsNaN(RouterGates(r, []float64{0, 9, 1, 9}, ids, 1)[0]), "a bias that is NaN is not hidden")
}

func TestRouterRefusesWhatMakesNoSense(t *testing.T) {
	for name, r := range map[string]Router{
		"softmax with groups": {Mode: SoftmaxTopK, Experts: 4, K: 1, Groups: 2, TopGroups: 1},
		"softmax with bias":   {Mode: TopKSoftmax, Experts: 1, K: 1, Bias: []float32{0}},
		"too few experts":     {Mode: SigmoidTopK, Experts: 8, K: 3, Groups: 4, TopGroups: 1},
		"ragged groups":       {Mode: SigmoidTopK, Experts: 8, K: 1, Groups: 3, TopGroups: 1},
	} {
		require.Panics(t, func() { Select(r, make([]float64, r.Experts), 1) }, name)
	}
}

func TestRouterGatesBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	const tokens, experts, k = 5, 8, 3
	for _, mode := range RouterModes {
		r := Router{Mode: mode, Experts: experts, K: k, Scale: 2.5}
		if mode.Sigmoid() {
			r.Bias, r.Groups, r.TopGroups = normals(rng, experts), 4, 2
		}
		logits, dg := normals64(rng, tokens*experts), normals64(rng, tokens*k)
		for tok, margin := range RouterMargins(r, logits, tokens) {
			require.Greater(t, margin, 1e-4, "token %d would change experts under the difference", tok)
		}
		got := RouterGatesBackward(r, logits, Select(r, logits, tokens), dg, tokens)
		requireGradient(t, mode.String(), logits, got.Y, func() float64 {
			return dot(RouterGates(r, logits, Select(r, logits, tokens), tokens), dg)
		})
		for i := range got.Y {
			require.LessOrEqual(t, math.Abs(got.Y[i]), got.Abs[i]+1e-15)
		}
	}
}

func TestRouterStatsByHand(t *testing.T) {
	// Probabilities 1/4, 3/4 and 1/2, 1/2; sums of exponentials 4 and 2.
	logits := []float64{0, math.Log(3), 0, 0}
	s := CollectRouterStats(SoftmaxTopK, logits, []int32{1, 0}, 2, 2)
	require.Equal(t, []int32{1, 1}, s.Counts)
	require.InDeltaSlice(t, []float64{0.75, 1.25}, s.Probability.Y, 1e-15)
	require.InDelta(t, 2*math.Log(2)-0.75*math.Log(3)+math.Log(2), s.Entropy.Y[0], 1e-15)
	require.InDelta(t, math.Pow(math.Log(4), 2)+math.Pow(math.Log(2), 2), s.LogSumExp2.Y[0], 1e-15)

	s = CollectRouterStats(SigmoidTopK, []float64{logit(0.2), logit(0.6)}, []int32{1}, 1, 2)
	require.InDeltaSlice(t, []float64{0.25, 0.75}, s.Probability.Y, 1e-15)

	s = CollectRouterStats(SoftmaxTopK, []float64{math.Inf(-1), 5}, []int32{1}, 1, 2)
	require.Equal(t, []float64{0, 1, 0}, append(s.Probability.Y, s.Entropy.Y...))
	for _, bad := range [][]float64{{math.NaN(), 1}, {math.Inf(1), 1}, {math.Inf(-1), math.Inf(-1)}} {
		s = CollectRouterStats(SigmoidTopK, bad, []int32{1}, 1, 2)
		require.True(t, math.IsNaN(s.Probability.Y[0]) && math.IsNaN(s.Entropy.Y[0]) && math.IsNaN(s.LogSumExp2.Y[0]))
	}
}

// TestRouterLossesByHand has two layers of two tokens. Layer 0 sends both to expert 0 and layer 1 one to each.
func TestRouterLossesByHand(t *testing.T) {
	l3 := math.Log(3)
	layers := []RoutedLayer[float64]{
		{Logits: []float64{l3, 0, l3, 0}, IDs: []int32{0, 0}}, // P = 3/4, 1/4
		{Logits: []float64{l3, 0, 0, l3}, IDs: []int32{0, 1}}, // P = 1/2, 1/2
	}
	c := RouterLoss{Experts: 2, Balance: 10, Z: 100}
	total, balance, z := RouterLosses(c, layers, 2)
	require.InDelta(t, 2*(3./4*5./8+1./4*3./8), balance, 1e-15, "F = 3/4, 1/4 and P = 5/8, 3/8 over both layers")
	require.InDelta(t, math.Pow(math.Log(4), 2), z, 1e-15)
	require.InDelta(t, 10*balance+100*z, total, 1e-12)

	c.Form = JetMoEBalance
	_, balance, z = RouterLosses(c, layers, 2)
	require.InDelta(t, 2*3./4+1, balance, 1e-15, "2·(1·3/4) and 2·(1/2·1/2 + 1/2·1/2)")
	require.InDelta(t, 2*math.Pow(math.Log(4), 2), z, 1e-15)

	for _, form := range []BalanceForm{MixtralBalance, JetMoEBalance} {
		c.Form = form
		total, _, _ = RouterLosses(c, []RoutedLayer[float64]{{}, {}}, 0)
		require.Zero(t, total)
		_, balance, _ = RouterLosses(c, []RoutedLayer[float64]{{Logits: make([]float64, 8), IDs: []int32{0, 1, 0, 1, 0, 1, 0, 1}}}, 4)
		require.InDelta(t, []float64{2, 1}[form], balance, 1e-15, "balanced: k in one form, 1 in the other")
	}
}

func TestRouterLossesBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	const tokens, experts, k = 5, 6, 2
	for _, mode := range []RouterMode{SoftmaxTopK, SigmoidTopKNorm} {
		for _, form := range []BalanceForm{MixtralBalance, JetMoEBalance} {
			c := RouterLoss{Mode: mode, Experts: experts, Form: form, Balance: 3, Z: 0.5}
			var layers []RoutedLayer[float64]
			for range 3 {
				logits := normals64(rng, tokens*experts)
				layers = append(layers, RoutedLayer[float64]{logits, SelectTopK(logits, tokens, experts, k)})
			}
			layers[2].IDs[3] = -1 // a slot without an expert
			for l, got := range RouterLossesBackward(c, layers, tokens) {
				requireGradient(t, fmt.Sprint(mode, form, l), layers[l].Logits, got.Y, func() float64 {
					total, _, _ := RouterLosses(c, layers, tokens)
					return total
				})
				for i := range got.Y {
					require.LessOrEqual(t, math.Abs(got.Y[i]), got.Abs[i]+1e-15)
				}
			}
		}
	}
}

// TestPhilox holds the generator to the known answers that its authors publish with Random123 (kat_vectors).
func TestPhilox(t *testing.T) {
	const ones = 0xffffffff
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{want: [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{ones, ones, ones, ones}, [2]uint32{ones, ones}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		require.Equal(t, c.want, Philox4x32(c.counter, c.key))
	}
}

func TestJitterIsUniformAroundOne(t *testing.T) {
	const n = 20000
	ones := make([]float32, n)
	for i := range ones {
		ones[i] = 1
	}
	y := Jitter(ones, 0.5, 7, 3, 1)
	var sum, squares, low, high float64 = 0, 0, 2, 0
	for i, v := range y {
		require.Equal(t, JitterBits(i, 7, 3, 1), int32((v-1)*(1<<23)), "eps 1/2 keeps every bit")
		d := float64(v) - 1
		sum, squares = sum+d, squares+d*d
		low, high = math.Min(low, float64(v)), math.Max(high, float64(v))
	}
	require.InDelta(t, 0, sum/n, 0.01)
	require.InDelta(t, 1./12, squares/n, 0.002, "the variance of a uniform distribution of width 1")
	require.GreaterOrEqual(t, low, 0.5)
	require.Less(t, high, 1.5)
	require.NotEqual(t, y, Jitter(ones, 0.5, 7, 4, 1), "another step")
	require.NotEqual(t, y, Jitter(ones, 0.5, 7, 3, 2), "another stream")
	require.NotEqual(t, y, Jitter(ones, 0.5, 8, 3, 1), "another seed")
	require.Equal(t, y[:5], Jitter(ones[:5], 0.5, 7, 3, 1), "an element's number does not depend on the others")
}

// TestGroupLimitedChoiceProperties states what is chosen without saying how: groups that are kept beat those that are not,
// and experts that are chosen beat all others of the kept groups.
func TestGroupLimitedChoiceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups, size := rapid.IntRange(1, 6).Draw(t, "groups"), rapid.IntRange(1, 5).Draw(t, "size")
		top := rapid.IntRange(1, groups).Draw(t, "top groups")
		r := Router{Mode: SigmoidTopKNorm, Experts: groups * size, K: rapid.IntRange(1, top*size).Draw(t, "k"), Groups: groups,
			TopGroups: top, Bias: make([]float32, groups*size)}
		row, keys := make([]float64, r.Experts), make([]float64, r.Experts)
		for e := range row { // a coarse grid makes ties common
			row[e] = float64(rapid.IntRange(-2, 2).Draw(t, "logit"))
			r.Bias[e] = float32(rapid.IntRange(-2, 2).Draw(t, "bias"))
			keys[e] = sigmoid(row[e]) + float64(r.Bias[e])
		}
		score := func(g int) float64 {
			group := slices.Sorted(slices.Values(keys[g*size : (g+1)*size]))
			if size == 1 {
				return group[0]
			}
			return group[size-1] + group[size-2]
		}
		rank := func(g int) (better int) {
			for other := range groups {
				if score(other) > score(g) || score(other) == score(g) && other < g {
					better++
				}
			}
			return better
		}
		ids := Select(r, row, 1)
		require.Len(t, ids, r.K)
		for j, id := range ids {
			require.Less(t, rank(int(id)/size), top, "expert %d is in a group that is not kept", id)
			require.False(t, slices.Contains(ids[:j], id))
		}
		last := ids[r.K-1]
		for e := range keys {
			if rank(e/size) < top && !slices.Contains(ids, int32(e)) {
				require.True(t, keys[e] < keys[last] || keys[e] == keys[last] && int32(e) > last)
			}
		}
		require.InDelta(t, 1, dot(RouterGates(r, row, ids, 1), slices.Repeat([]float64{1}, r.K)), 1e-12)
	})
}

func TestMLPOfAGroupLimitedRouter(t *testing.T) {
	rng := rand.New(rand.NewPCG(25, 26))
	const tokens, experts, k, width, hidden = 6, 8, 3, 4, 3
	m := widenMLP(randomMLP(rng, experts, k, width, hidden, SiLU, true, SigmoidTopKNorm))
	m.Gating = Router{Scale: 2.5, Bias: normals(rng, experts), Groups: 4, TopGroups: 2}
	x, dOut := normals64(rng, tokens*width), normals64(rng, tokens*width)
	saved := Forward(m, x, tokens)
	for tok, margin := range RouterMargins(m.Rules(), saved.Logits.Y, tokens) {
		require.Greater(t, margin, 1e-4, "token %d would change experts under the difference", tok)
		total := 0.0
		for _, g := range saved.Gates[tok*k : (tok+1)*k] {
			total += g
		}
		require.InDelta(t, 2.5, total, 1e-12)
	}
	got := MLPBackward(m, x, saved, dOut)
	loss := func() float64 { return dot(Forward(m, x, tokens).Out.Y, dOut) }
	requireGradient(t, "dX", x, got.X, loss)
	requireGradient(t, "dRouter", m.Router.Weight, got.Router.Weight.Y, loss)
}

// TestNearTieCoversFloat32 computes logits, scores and keys in float32 and asks that no key, and no half sum of two, is
// further off than half a near tie, and that the bound is not wider than a few hundred times what happens.
func TestNearTieCoversFloat32(t *testing.T) {
	rng := rand.New(rand.NewPCG(51, 52))
	const tokens, experts, width = 200, 8, 40
	m := Linear[float32]{Experts: 1, In: width, Out: experts, Weight: normals(rng, experts*width)}
	x := normals(rng, tokens*width)
	logits := DenseLinear(m, x, tokens)
	for _, r := range []Router{
		{Mode: SoftmaxTopK, Experts: experts, K: 2}, {Mode: SigmoidTopKNorm, Experts: experts, K: 2},
		{Mode: SigmoidTopK, Experts: experts, K: 2, Bias: normals(rng, experts), Groups: 4, TopGroups: 2},
	} {
		closest := math.Inf(1)
		for tok := range tokens {
			tie := r.NearTie(logits.Abs[tok*experts:(tok+1)*experts], width, 0)
			exact, _ := r.keys(logits.Y[tok*experts : (tok+1)*experts])
			for e := range experts {
				var key float32
				for i := range width {
					key += m.Weight[e*width+i] * x[tok*width+i]
				}
				if r.Mode.Sigmoid() {
					key = 1 / (1 + float32(math.Exp(-float64(key))))
				}
				if r.Bias != nil {
					key += r.Bias[e]
				}
				off := math.Abs(float64(key) - exact[e])
				require.LessOrEqual(t, off, tie/2)
				closest = min(closest, tie/2/max(off, 1e-300))
			}
		}
		require.Less(t, closest, 300.0, "%+v", r)
	}
}
