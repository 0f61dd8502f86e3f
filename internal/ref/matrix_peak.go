package ref

import "math"

// MatrixPeak returns rounds·a·bᵀ [m,n] for a [m,k] and b [n,k], with the sum of the products' sizes in Abs.
func MatrixPeak(a, b []float32, m, n, k, rounds int) Result {
	r := Result{Y: make([]float64, m*n), Abs: make([]float64, m*n)}
	for i := range m {
		for j := range n {
			for l := range k {
				p := float64(rounds) * float64(a[i*k+l]) * float64(b[j*k+l])
				r.Y[i*n+j] += p
				r.Abs[i*n+j] += math.Abs(p)
			}
		}
	}
	return r
}
