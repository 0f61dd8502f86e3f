package ref

import "math"

// GlobalNorm is multiplier · √Σ x² over all tensors.
func GlobalNorm[F Float](tensors [][]F, multiplier float64) float64 {
	var sum float64
	for _, x := range tensors {
		for _, v := range x {
			sum += float64(v) * float64(v)
		}
	}
	return multiplier * math.Sqrt(sum)
}

// ClipFactor is what gradients are multiplied by so that a norm is at most limit: min(1, limit/(norm + 1e-6)), as
// torch.nn.utils.clip_grad_norm_ has it; 1 where limit is 0.
func ClipFactor(norm, limit float64) float64 {
	if limit == 0 {
		return 1
	}
	return math.Min(1, limit/(norm+1e-6))
}
