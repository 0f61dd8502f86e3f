package ref

import "math"

// RMSNormGrads are the gradients of RMSNorm.
type RMSNormGrads struct {
	X      Result // shape of x
	Weight Result // [width]
}

// RMSNorm divides each row of x [rows,width] by its root mean square (arXiv 1910.07467, equation 4):
//
//	y = weight ∘ x·r,  r = 1/√(mean(x²) + epsilon)
//
// weight is [width], or nil for 1.
func RMSNorm[X, W Float](x []X, weight []W, width int, epsilon float64) Result {
	requireNorm("RMSNorm", x, weight, width)
	res := newResult(len(x))
	for first := 0; first < len(x); first += width {
		r := reciprocalRMS(x[first:first+width], epsilon)
		for i := range width {
			add(&res, first+i, weightOf(weight, i)*float64(x[first+i])*r)
		}
	}
	return res
}

// RMSNormBackward differentiates RMSNorm from dy, of x's shape:
//
//	dx = r·(weight∘dy − x·r²·mean(weight∘dy∘x)),  dweight = Σ_rows dy∘x·r
//
// The weight's gradient is also computed where the weight is nil.
func RMSNormBackward[X, W, D Float](x []X, weight []W, width int, epsilon float64, dy []D) RMSNormGrads {
	requireNorm("RMSNormBackward", x, weight, width)
	requireLen("RMSNormBackward", "dy", len(dy), len(x))
	g := RMSNormGrads{newResult(len(x)), newResult(width)}
	for first := 0; first < len(x); first += width {
		r := reciprocalRMS(x[first:first+width], epsilon)
		var mean, abs float64
		for i := range width {
			term := weightOf(weight, i) * float64(dy[first+i]) * float64(x[first+i]) / float64(width)
			mean += term
			abs += math.Abs(term)
			add(&g.Weight, i, float64(dy[first+i])*float64(x[first+i])*r)
		}
		for i := range width {
			add(&g.X, first+i, r*weightOf(weight, i)*float64(dy[first+i]))
			along := r * r * r * float64(x[first+i])
			g.X.Y[first+i] -= along * mean
			g.X.Abs[first+i] += math.Abs(along) * abs
		}
	}
	return g
}

func requireNorm[X, W Float](op string, x []X, weight []W, width int) {
	requireLen(op, "x", len(x)%width, 0)
	if weight != nil {
		requireLen(op, "weight", len(weight), width)
	}
}

func reciprocalRMS[X Float](row []X, epsilon float64) float64 {
	sum := 0.0
	for _, v := range row {
		sum += float64(v) * float64(v)
	}
	return 1 / math.Sqrt(sum/float64(len(row))+epsilon)
}

func weightOf[W Float](weight []W, i int) float64 {
	if weight == nil {
		return 1
	}
	return float64(weight[i])
}
