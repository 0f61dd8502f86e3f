package ref

import (
	"math"
	"slices"
)

// RouterStats are sums over the tokens of one router, from which its losses and what a display shows are made.
//
// The probability p of an expert is the softmax over all E logits of a token; for the sigmoid modes it is the score
// divided by the sum of all E scores (DeepSeek-V3, arXiv 2412.19437, equation 19). A row that holds a NaN or +Inf, or
// nothing but −Inf, makes every sum NaN.
type RouterStats struct {
	Tokens, Experts int

	Counts      []int32 // [E] choices of each expert; ids outside [0,E) are not counted
	Probability Result  // [E] Σ_t p
	Entropy     Result  // [1] Σ_t −Σ_e p·ln p, in nats, with 0·ln 0 = 0; Abs has the terms of ln S + Σ p·(top − logit)
	LogSumExp2  Result  // [1] Σ_t (ln Σ_e e^logit)²; Abs is that of top + ln S
}

// CollectRouterStats computes the sums for logits [T,E] and ids [T,K].
func CollectRouterStats[F Float](mode RouterMode, logits []F, ids []int32, tokens, experts int) RouterStats {
	requireLen("CollectRouterStats", "logits", len(logits), tokens*experts)
	s := RouterStats{Tokens: tokens, Experts: experts, Counts: make([]int32, experts),
		Probability: newResult(experts), Entropy: newResult(1), LogSumExp2: newResult(1)}
	for _, e := range ids {
		if e >= 0 && int(e) < experts {
			s.Counts[e]++
		}
	}
	for t := 0; t < tokens; t++ {
		row := Widen(logits[t*experts : (t+1)*experts])
		p, lse, lseAbs := routerProbabilities(mode, row)
		entropy, spread, top := 0.0, 0.0, slices.Max(row)
		for e, v := range p {
			s.Probability.add(e, v, v)
			if v != 0 {
				entropy -= v * math.Log(v)
				spread += v * (top - row[e])
			}
		}
		s.Entropy.add(0, entropy, 1+entropy+lseAbs+spread)
		s.LogSumExp2.add(0, lse*lse, lseAbs*lseAbs)
	}
	return s
}

func (r Result) add(i int, v, abs float64) {
	r.Y[i] += v
	r.Abs[i] += abs
}

// routerSoftmax is the softmax of a row, all NaN for a row that has none.
func routerSoftmax(row []float64) []float64 {
	p, sum, top := make([]float64, len(row)), 0.0, math.Inf(-1)
	for _, v := range row {
		top = math.Max(top, v)
	}
	for e, v := range row {
		p[e] = math.Exp(v - top)
		sum += p[e]
	}
	for e := range p {
		p[e] /= sum
	}
	return p
}

// routerProbabilities returns the probabilities of a row, its logsumexp top + ln S and |top| + |ln S|; all NaN for a row
// without them.
func routerProbabilities(mode RouterMode, row []float64) (p []float64, lse, lseAbs float64) {
	p = routerSoftmax(row)
	if math.IsNaN(p[0]) {
		return p, math.NaN(), math.NaN()
	}
	top, sum := slices.Max(row), 0.0
	for _, v := range row {
		sum += math.Exp(v - top)
	}
	if mode.Sigmoid() {
		scores := 0.0
		for e, v := range row {
			p[e] = sigmoid(v)
			scores += p[e]
		}
		for e := range p {
			p[e] /= scores
		}
	}
	return p, top + math.Log(sum), math.Abs(top) + math.Log(sum)
}
