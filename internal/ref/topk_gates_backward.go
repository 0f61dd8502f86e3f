package ref

// GatesBackward returns d loss / d logits [T,E] from dGates [T,k], for the experts ids [T,k] chosen under logits [T,E]; the
// choice itself has no gradient.
//
// SoftmaxTopK, p = softmax(logits): dl[e] = p[e]·(dp[e] − Σ_f p[f]·dp[f]) with dp = dGates at the chosen experts, else 0.
// The other two modes are a softmax over the chosen logits alone (dividing by the sum cancels the others), so unchosen
// experts have gradient 0 and the same formula holds with the gates for p. Rows with NaN gates have NaN gradients
// wherever the formula touches them. Abs is p[e]·(|dp[e]| + Σ_f p[f]·|dp[f]|).
func GatesBackward[L, D Float](mode RouterMode, logits []L, ids []int32, dGates []D, tokens, experts, k int) Result {
	requireLen("GatesBackward", "dGates", len(dGates), tokens*k)
	gates := GatesOf(mode, logits, ids, tokens, experts, k)
	res := newResult(tokens * experts)
	for t := range tokens {
		chosen, dg := ids[t*k:(t+1)*k], Widen(dGates[t*k:(t+1)*k])
		var inner, scale float64
		for j := range dg {
			inner += gates[t*k+j] * dg[j]
			scale += gates[t*k+j] * max(dg[j], -dg[j])
		}
		y, abs := res.Y[t*experts:(t+1)*experts], res.Abs[t*experts:(t+1)*experts]
		if mode == SoftmaxTopK {
			all := make([]int32, experts)
			for e := range all {
				all[e] = int32(e)
			}
			p := GatesOf(mode, logits[t*experts:(t+1)*experts], all, 1, experts, experts)
			for e := range y {
				y[e], abs[e] = -p[e]*inner, p[e]*scale
			}
		}
		for j, e := range chosen {
			y[e] = gates[t*k+j] * (dg[j] - inner)
			abs[e] = gates[t*k+j] * (max(dg[j], -dg[j]) + scale)
		}
	}
	return res
}
