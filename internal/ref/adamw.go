package ref

import "math"

// AdamW is the optimizer's state for one tensor (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).
type AdamW struct {
	Beta1, Beta2, Epsilon, Decay float64
	P, M, V                      []float64
	Steps                        int
}

// Step makes one step with gradient g at the given learning rate:
//
//	m = β1·m + (1 − β1)·g,  v = β2·v + (1 − β2)·g²
//	p = p·(1 − rate·λ) − rate · m/(1 − β1^t) / (√(v/(1 − β2^t)) + ε)
func (a *AdamW) Step(g []float64, rate float64) {
	requireLen("AdamW", "g", len(g), len(a.P))
	a.Steps++
	c1 := 1 / (1 - math.Pow(a.Beta1, float64(a.Steps)))
	c2 := 1 / (1 - math.Pow(a.Beta2, float64(a.Steps)))
	for i, v := range g {
		a.M[i] = a.Beta1*a.M[i] + (1-a.Beta1)*v
		a.V[i] = a.Beta2*a.V[i] + (1-a.Beta2)*v*v
		a.P[i] = a.P[i]*(1-rate*a.Decay) - rate*(a.M[i]*c1)/(math.Sqrt(a.V[i]*c2)+a.Epsilon)
	}
}
