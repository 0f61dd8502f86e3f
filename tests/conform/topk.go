package conform

import (
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// topKCase is one use of a router.
type topKCase struct {
	experts, k, tokens int
	mode               moe.RouterMode
	values             string // normal, ties, or unusual
	bias               bool
	groups, top        int
	scale              float32
	odd, accumulate    bool
}

// logits draws [T,E]. Ties are common where values are rounded.
func (c topKCase) logits(k *Kit) []float32 {
	data := k.Normal(vk.F32, c.tokens*c.experts)
	for i := range data {
		if c.values == "ties" || c.values == "mixed" && i/c.experts%3 == 0 {
			data[i] = float32(math.Round(float64(data[i])))
		}
	}
	return data
}

// unusualLogits has a row for each documented case; scores of ties by rounding are left out.
func unusualLogits() (data []float32, experts int) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	rows := [][]float32{
		{nan, nan, nan, nan, nan, nan}, {1, nan, 3, 2, math.Float32frombits(0xffc00001), 0}, {-inf, nan, -inf, nan, -inf, -inf},
		{inf, 1, 2, inf, -inf, 0}, {-inf, -inf, -inf, -inf, -inf, -inf}, {-inf, 2, -inf, -inf, 1, 0}, {0, 0, 0, 0, 0, 0},
		{float32(math.Copysign(0, -1)), 0, -1, 1, float32(math.Copysign(0, -1)), 0}, {2, 1, 2, 1, 2, 1}, {9, 9, 9, 8, 9, 9},
		{1000, -1000, 0, 0, 1000, -1000}, {-1, -2, -3, -4, -5, -6}, {8, 0, -8, 7, 6, 5},
	}
	for _, r := range rows {
		data = append(data, r...)
	}
	return data, len(rows[0])
}

// config makes the router's configuration and its oracle.
func (c topKCase) config(k *Kit) (moe.RouterConfig, ref.Router) {
	cfg := moe.RouterConfig{TopK: c.k, Mode: c.mode, Scale: c.scale, Groups: c.groups, TopGroups: c.top}
	oracle := ref.Router{Mode: ref.RouterMode(c.mode), Experts: c.experts, K: c.k, Scale: float64(c.scale), Groups: c.groups,
		TopGroups: c.top}
	if c.bias {
		oracle.Bias = k.Normal(vk.F32, c.experts)
		cfg.CorrectionBias = k.F32("bias", oracle.Bias, c.experts)
	}
	return cfg, oracle
}

// forward records a choice and its gates, and the grouping that follows.
func (c topKCase) forward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	var data []float32
	if c.values == "unusual" {
		data, c.experts = unusualLogits()
		c.tokens = len(data) / c.experts
	} else {
		data = c.logits(k)
	}
	cfg, oracle := c.config(k)
	r, err := moe.Route(k.Rec, k.F32("logits", data, c.tokens, c.experts), cfg)
	k.must(err)
	k.Scratch("ids", r.IDs)
	k.Scratch("gates", r.Gates)
	k.Scratch("order", r.Order)
	return func() {
		ids := k.Ints(r.IDs)
		k.judgeChoice(oracle, data, ids, c.tokens)
		want := ref.RouterGates(oracle, data, ids, c.tokens)
		k.Close("gates", r.Gates, want, gateBound(oracle, data, want))
		k.judgeRouting(r, ref.Route(ids, c.tokens, c.experts, c.k))
	}
}

// keyTolerance is how far a router's corrected score in f32 may be off; logits are exact.
func keyTolerance(r ref.Router) float64 {
	if !r.Mode.Sigmoid() {
		return 0
	}
	largest := 1.0
	for _, b := range r.Bias {
		largest = max(largest, 1+math.Abs(float64(b)))
	}
	return ref.SigmoidTolerance + 2*largest*ref.UnitF32
}

// judgeChoice holds ids to the oracle's. A choice that rounding leaves open may be any, as long as its experts differ.
func (k *Kit) judgeChoice(r ref.Router, logits []float32, ids []int32, tokens int) {
	want, margins := ref.Select(r, logits, tokens), ref.RouterMargins(r, logits, tokens)
	tolerance := 4 * keyTolerance(r)
	for t := range tokens {
		got := ids[t*r.K : (t+1)*r.K]
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		if len(slices.Compact(slices.Clone(sorted))) != r.K || sorted[0] < 0 || int(sorted[r.K-1]) >= r.Experts {
			k.Fail(CheckOracle, "ids", "token %d goes to %v of %d experts", t, got, r.Experts)
			return
		}
		if r.Mode.Sigmoid() && (margins[t] != 0 && margins[t] <= tolerance || tiesByRounding(logits[t*r.Experts:(t+1)*r.Experts], r)) {
			continue
		}
		expect := slices.Clone(want[t*r.K : (t+1)*r.K])
		if r.Mode.Sigmoid() { // order within tolerance is checked by the gates
			slices.Sort(expect)
			got = sorted
		}
		if !slices.Equal(got, expect) {
			k.Fail(CheckOracle, "ids", "token %d goes to %v, to the oracle to %v with margin %v", t, got, expect, margins[t])
			return
		}
	}
}

// tiesByRounding reports a row in which different logits have scores that f32 cannot tell apart.
func tiesByRounding(row []float32, r ref.Router) bool {
	for i, a := range row {
		for _, b := range row[:i] {
			score := func(x float32) float64 { return 1 / (1 + math.Exp(-float64(x))) }
			if a != b && math.Abs(score(a)-score(b)) <= 4*keyTolerance(r) {
				return true
			}
		}
	}
	return false
}

// gateBound is the error of gates. Below e^−87 of the largest, softmax gates are 0; scores below that are 0 too, which a sum
// of nothing but such scores shows.
func gateBound(r ref.Router, logits []float32, want []float64) []float64 {
	bound := make([]float64, len(want))
	for i, g := range want {
		span := 90.0
		if !r.Mode.Sigmoid() {
			row := logits[i/r.K*r.Experts : (i/r.K+1)*r.Experts]
			low, high := math.Inf(1), math.Inf(-1)
			for _, v := range row {
				if !math.IsInf(float64(v), 0) && v == v {
					low, high = math.Min(low, float64(v)), math.Max(high, float64(v))
				}
			}
			span = min(high-low, span)
		}
		scale := math.Max(1, math.Abs(r.Scale))
		bound[i] = (ref.GateTolerance(r.Mode, r.Experts, r.K, span)+ref.UnitF32)*math.Abs(g) + scale*math.Exp(-87)
	}
	return bound
}

// backward records the gates' gradient.
func (c topKCase) backward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	data := c.logits(k)
	cfg, oracle := c.config(k)
	logits := k.F32("logits", data, c.tokens, c.experts)
	r, err := moe.Route(k.Rec, logits, cfg)
	k.must(err)
	dg := k.Normal(vk.F32, c.tokens*c.k)
	dGates := k.F32("dgates", dg, c.tokens, c.k)
	dLogits := linearCase{accumulate: c.accumulate}.target(k, "dlogits", vk.F32, false, c.tokens, c.experts)
	k.must(moe.TopKBackward(k.Rec, r, logits, dGates, dLogits.t, c.accumulate))
	return func() {
		want := ref.RouterGatesBackward(oracle, data, k.Ints(r.IDs), dg, c.tokens)
		relative := 2*ref.GateTolerance(oracle.Mode, c.experts, c.k, 20) + 2*ref.SigmoidTolerance + ref.Gamma(c.k+8)
		bound := want.BoundBy(relative, 1e-30)
		for i := range dLogits.start {
			bound[i] += ref.Gamma(3) * want.Abs[i]
		}
		dLogits.judge(k, "dlogits", want, bound, false)
	}
}
