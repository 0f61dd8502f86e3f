package ref

import "math"

// Derivative returns a'(x). At 0, ReLU has derivative 0.
func (a Activation) Derivative(x float64) float64 {
	switch a {
	case Identity:
		return 1
	case GELU:
		density := math.Exp(-x*x/2) / math.Sqrt(2*math.Pi)
		return 0.5*math.Erfc(-x/math.Sqrt2) + x*density
	case GELUTanh:
		s := sigmoid(2 * geluTanhC * (x + geluTanhCubic*x*x*x))
		return s + x*s*(1-s)*2*geluTanhC*(1+3*geluTanhCubic*x*x)
	case SiLU:
		s := sigmoid(x)
		return s + x*s*(1-s)
	case ReLU:
		switch {
		case x > 0:
			return 1
		case x <= 0:
			return 0
		}
		return x // NaN
	case ReLU2:
		return 2 * positivePart(x)
	}
	panic("ref.Activation.Derivative: unknown " + a.String())
}

// ActivateBackward returns dz = a'(z)·dh, all [rows,H]. Abs is |dh|, times |2z| for ReLU2.
func ActivateBackward[Z, D Float](a Activation, z []Z, dh []D) Result {
	requireLen("ActivateBackward", "dh", len(dh), len(z))
	res := newResult(len(z))
	for i := range z {
		res.Y[i] = a.Derivative(float64(z[i])) * float64(dh[i])
		res.Abs[i] = math.Abs(float64(dh[i])) * a.slope(float64(z[i]))
	}
	return res
}

// ActivateGatedBackward returns dz [rows,2H] from z [rows,2H] and dh [rows,H], for h = a(gate)·up:
//
//	d gate = a'(gate)·up·dh    d up = a(gate)·dh
//
// Abs is |up·dh| (times |2·gate| for ReLU2) and the scale of a(gate) times |dh|.
func ActivateGatedBackward[Z, D Float](a Activation, z []Z, dh []D, rows, hidden int) Result {
	requireLen("ActivateGatedBackward", "z", len(z), rows*2*hidden)
	requireLen("ActivateGatedBackward", "dh", len(dh), rows*hidden)
	res := newResult(len(z))
	for r := range rows {
		for c := range hidden {
			g, u := r*2*hidden+c, r*2*hidden+hidden+c
			gate, up, d := float64(z[g]), float64(z[u]), float64(dh[r*hidden+c])
			res.Y[g], res.Abs[g] = a.Derivative(gate)*up*d, math.Abs(up*d)*a.slope(gate)
			res.Y[u], res.Abs[u] = a.Of(gate)*d, Activate(a, []float64{gate}).Abs[0]*math.Abs(d)
		}
	}
	return res
}

// slope is the scale of the derivative: it is bounded by about 1, save ReLU2's.
func (a Activation) slope(x float64) float64 {
	if a == ReLU2 {
		return 2 * math.Abs(x)
	}
	return 1
}
