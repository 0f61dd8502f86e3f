package ref

import "math"

// CrossEntropyResult is the loss of next-token prediction and its gradient.
type CrossEntropyResult struct {
	Losses []float64 // [T]; 0 where the target is ignored
	Mean   float64   // over the tokens with a target; 0 without any
	Count  int       // tokens with a target

	// Gradient [T,V] is that of gradientScale·Mean with respect to the logits; Abs is the sum of its two terms.
	Gradient Result
}

// CrossEntropy computes losses[t] = ln Σ_c e^(scale·logits[t,c]) − scale·logits[t,target]; targets outside [0, V) are ignored.
func CrossEntropy[F Float](logits []F, targets []int32, vocabulary int, scale, gradientScale float64) CrossEntropyResult {
	requireLen("CrossEntropy", "logits", len(logits), len(targets)*vocabulary)
	out := CrossEntropyResult{Losses: make([]float64, len(targets)), Gradient: newResult(len(logits))}
	counted := func(target int32) bool { return target >= 0 && int(target) < vocabulary }
	for _, target := range targets {
		if counted(target) {
			out.Count++
		}
	}
	factor := gradientScale * scale / float64(max(1, out.Count))
	for t, target := range targets {
		if !counted(target) {
			continue
		}
		row := Widen(logits[t*vocabulary : (t+1)*vocabulary])
		top := math.Inf(-1)
		for c := range row {
			row[c] *= scale
			top = math.Max(top, row[c])
		}
		var sum float64
		for _, z := range row {
			sum += math.Exp(z - top)
		}
		out.Losses[t] = math.Log(sum) + top - row[target]
		out.Mean += out.Losses[t]
		for c, z := range row {
			p, hit := math.Exp(z-top)/sum, 0.0
			if c == int(target) {
				hit = 1
			}
			out.Gradient.Y[t*vocabulary+c] = factor * (p - hit)
			out.Gradient.Abs[t*vocabulary+c] = math.Abs(factor) * (p + hit)
		}
	}
	out.Mean /= float64(max(1, out.Count))
	return out
}
