package ref

import "math"

// A BalanceForm says how a load balancing loss is normalized.
type BalanceForm uint8

const (
	// MixtralBalance is the loss of the Switch Transformer (arXiv 2101.03961, equations 4 to 6) over the tokens of all
	// layers together, N of them, as transformers computes it for Mixtral and most others:
	//
	//	E · Σ_e F_e·P_e,  F_e = choices of e / N,  P_e = Σ p_e / N
	//
	// It is K when the choices are balanced. The z-loss is the mean over the same N tokens.
	MixtralBalance BalanceForm = iota
	// JetMoEBalance is that of JetMoE's published training code: each layer alone, added up, with both distributions
	// normalized to 1:
	//
	//	Σ_layers E · Σ_e f_e·P_e,  f_e = choices of e / choices of all,  P_e = Σ p_e / T
	//
	// It is 1 for each layer whose choices are balanced. The z-loss is the sum over layers of the mean over T tokens.
	JetMoEBalance
)

// A RouterLoss holds the coefficients of the losses of routers with E experts.
type RouterLoss struct {
	Mode    RouterMode
	Experts int
	Form    BalanceForm
	Balance float64 // coefficient of the load balancing loss
	Z       float64 // coefficient of the router z-loss, mean (ln Σ_e e^logit)² (ST-MoE, arXiv 2202.08906, equation 5)
}

// A RoutedLayer is a layer's logits [T,E] and the ids [T,K] chosen.
type RoutedLayer[F Float] struct {
	Logits []F
	IDs    []int32
}

// RouterLosses returns the two losses without their coefficients, and the total with them. All layers have the same
// number of tokens; without tokens the losses are 0.
func RouterLosses[F Float](c RouterLoss, layers []RoutedLayer[F], tokens int) (total, balance, z float64) {
	stats := collectLayers(c, layers, tokens)
	weights, share := c.weights(stats)
	for l, s := range stats {
		for e, p := range s.Probability.Y {
			balance += weights[l][e] * p
		}
		z += s.LogSumExp2.Y[0] * share
	}
	return c.Balance*balance + c.Z*z, balance, z
}

// RouterLossesBackward returns per layer the gradient [T,E] of the total with respect to the logits. The frequencies of
// the choices have no gradient. With w the derivative of the balance loss with respect to a token's probabilities:
//
//	softmax  dLogits_e = Balance·p_e·(w_e − Σ_i p_i·w_i) + Z·2·share·lse·softmax_e
//	sigmoid  dLogits_e = Balance·(1 − s_e)·p_e·(w_e − Σ_i p_i·w_i) + the same
func RouterLossesBackward[F Float](c RouterLoss, layers []RoutedLayer[F], tokens int) []Result {
	weights, share := c.weights(collectLayers(c, layers, tokens))
	grads := make([]Result, len(layers))
	for l, layer := range layers {
		grads[l] = newResult(tokens * c.Experts)
		for t := 0; t < tokens; t++ {
			row := Widen(layer.Logits[t*c.Experts : (t+1)*c.Experts])
			c.backwardRow(row, weights[l], share, t*c.Experts, grads[l])
		}
	}
	return grads
}

func collectLayers[F Float](c RouterLoss, layers []RoutedLayer[F], tokens int) []RouterStats {
	stats := make([]RouterStats, len(layers))
	for l, layer := range layers {
		stats[l] = CollectRouterStats(c.Mode, layer.Logits, layer.IDs, tokens, c.Experts)
	}
	return stats
}

// weights returns per layer w [E], the derivative of the balance loss with respect to a token's probabilities, and the
// share that each token's squared logsumexp has in the z-loss. Both losses are linear in those.
func (c RouterLoss) weights(stats []RouterStats) (w [][]float64, share float64) {
	pooled := make([]float64, c.Experts)
	tokens := 0
	for _, s := range stats {
		tokens += s.Tokens
		for e, n := range s.Counts {
			pooled[e] += float64(n)
		}
	}
	w = make([][]float64, len(stats))
	for l, s := range stats {
		w[l] = make([]float64, c.Experts)
		choices := 0.0
		for _, n := range s.Counts {
			choices += float64(n)
		}
		for e := range w[l] {
			switch {
			case s.Tokens == 0:
			case c.Form == MixtralBalance:
				w[l][e] = float64(c.Experts) * pooled[e] / float64(tokens) / float64(tokens)
			case choices > 0:
				w[l][e] = float64(c.Experts) * float64(s.Counts[e]) / choices / float64(s.Tokens)
			}
		}
	}
	if c.Form == JetMoEBalance && len(stats) > 0 {
		tokens = stats[0].Tokens
	}
	return w, 1 / float64(max(1, tokens))
}

func (c RouterLoss) backwardRow(row, w []float64, share float64, first int, out Result) {
	p, lse, lseAbs := routerProbabilities(c.Mode, row)
	dot, dotAbs := 0.0, 0.0
	for e, v := range p {
		dot += v * w[e]
		dotAbs += v * math.Abs(w[e])
	}
	softmax := p
	if c.Mode.Sigmoid() {
		softmax = routerSoftmax(row)
	}
	for e, v := range p {
		if c.Mode.Sigmoid() {
			v *= sigmoid(-row[e]) // 1 − s without cancellation
		}
		z := c.Z * 2 * share * softmax[e]
		out.Y[first+e] = c.Balance*v*(w[e]-dot) + z*lse
		out.Abs[first+e] = math.Abs(c.Balance)*v*(math.Abs(w[e])+dotAbs) + math.Abs(z)*lseAbs
	}
}
