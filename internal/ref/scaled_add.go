package ref

import "math"

// ScaledAdd returns alpha·a + beta·b; b nil counts as 0.
func ScaledAdd[F Float](a, b []F, alpha, beta float64) Result {
	if b != nil {
		requireLen("ScaledAdd", "b", len(b), len(a))
	}
	out := newResult(len(a))
	for i := range a {
		x, y := alpha*float64(a[i]), 0.0
		if b != nil {
			y = beta * float64(b[i])
		}
		out.Y[i], out.Abs[i] = x+y, math.Abs(x)+math.Abs(y)
	}
	return out
}
