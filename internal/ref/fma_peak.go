package ref

// FMAPeak returns what rounds fused multiply-adds v ← v·factor + term make of each x, and in Abs the sum of what was added up on
// the way, which bounds the rounding error: each step's error is at most one rounding of |v·factor| + |term|.
func FMAPeak(x []float32, factor, term float32, rounds int) Result {
	r := Result{Y: make([]float64, len(x)), Abs: make([]float64, len(x))}
	f, t := float64(factor), float64(term)
	for i, v := range x {
		y, abs := float64(v), max(float64(v), -float64(v))
		for range rounds {
			y = y*f + t
			abs = abs*max(f, -f) + max(t, -t)
		}
		r.Y[i], r.Abs[i] = y, abs
	}
	return r
}
