package ref

import "math"

// GatesBackward is RouterGatesBackward of a router that only has a mode.
func GatesBackward[L, D Float](mode RouterMode, logits []L, ids []int32, dGates []D, tokens, experts, k int) Result {
	return RouterGatesBackward(Router{Mode: mode, Experts: experts, K: k}, logits, ids, dGates, tokens)
}

// RouterGatesBackward returns d loss / d logits [T,E] from dGates [T,K], for the experts ids [T,K] chosen under logits
// [T,E]. The choice itself has no gradient, so neither has a bias. With c the scale, g the gates before scaling and
// D = Σ_j dGates_j·g_j:
//
//	SoftmaxTopK                   dLogits_e = c·p_e·(dGates_e − D), p the softmax, dGates_e = 0 for experts not chosen
//	SoftmaxTopKNorm, TopKSoftmax  dLogits_e = c·g_e·(dGates_e − D) for chosen e, else 0
//	SigmoidTopK                   dLogits_e = c·(1 − s_e)·g_e·dGates_e for chosen e, else 0; s the score
//	SigmoidTopKNorm               dLogits_e = c·(1 − s_e)·g_e·(dGates_e − D) for chosen e, else 0
//
// Normalizing a softmax cancels the unchosen experts, so the middle two modes are one formula. Rows with NaN gates have
// NaN gradients wherever the formula touches them. Abs is the same with sums of absolute values.
func RouterGatesBackward[L, D Float](r Router, logits []L, ids []int32, dGates []D, tokens int) Result {
	requireLen("RouterGatesBackward", "dGates", len(dGates), tokens*r.K)
	unscaled := r
	unscaled.Scale = 1
	gates := RouterGates(unscaled, logits, ids, tokens)
	res := newResult(tokens * r.Experts)
	for t := range tokens {
		first, end := t*r.K, (t+1)*r.K
		row := Widen(logits[t*r.Experts : (t+1)*r.Experts])
		out := Result{res.Y[t*r.Experts : (t+1)*r.Experts], res.Abs[t*r.Experts : (t+1)*r.Experts]}
		r.gatesBackwardRow(row, ids[first:end], gates[first:end], Widen(dGates[first:end]), out)
	}
	return res
}

func (r Router) gatesBackwardRow(row []float64, ids []int32, gates, dGates []float64, out Result) {
	var inner, scale float64
	for j, g := range gates {
		inner += g * dGates[j]
		scale += g * math.Abs(dGates[j])
	}
	switch r.Mode {
	case SigmoidTopK:
		inner, scale = 0, 0
	case SoftmaxTopK:
		for e, p := range routerSoftmax(row) {
			out.Y[e] = -r.scale() * p * inner
			out.Abs[e] = math.Abs(r.scale()) * p * scale
		}
	}
	for j, e := range ids {
		factor := r.scale() * gates[j]
		if r.Mode.Sigmoid() {
			factor *= sigmoid(-row[e]) // 1 − s without cancellation
		}
		out.Y[e] = factor * (dGates[j] - inner)
		out.Abs[e] = math.Abs(factor) * (math.Abs(dGates[j]) + scale)
	}
}
