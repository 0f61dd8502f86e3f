package ref

import "math"

// A Clamp holds the constants of gpt-oss's SwiGLU.
type Clamp struct{ Alpha, Limit float64 }

// parts returns the clamped operands.
func (c Clamp) parts(gate, up float64) (g, u float64) {
	g, u = gate, up
	if gate > c.Limit {
		g = c.Limit
	}
	if math.Abs(up) > c.Limit {
		u = math.Copysign(c.Limit, up)
	}
	return g, u
}

// ActivateClamped computes h [rows,H] from z [rows,2H], gate columns first:
//
//	h = g·σ(α·g)·(u + 1),  g = min(gate, limit), u = up within ±limit
//
// Abs is |g|·(|u| + 1).
func ActivateClamped[F Float](c Clamp, z []F, rows, hidden int) Result {
	requireLen("ActivateClamped", "z", len(z), rows*2*hidden)
	res := newResult(rows * hidden)
	for r := range rows {
		for i := range hidden {
			g, u := c.parts(float64(z[r*2*hidden+i]), float64(z[r*2*hidden+hidden+i]))
			res.Y[r*hidden+i] = g * sigmoid(c.Alpha*g) * (u + 1)
			res.Abs[r*hidden+i] = math.Abs(g) * (math.Abs(u) + 1)
		}
	}
	return res
}

// ActivateClampedBackward returns dz [rows,2H] from z [rows,2H] and dh [rows,H]. An operand beyond its limit has gradient 0.
// Abs is the gradient's scale: |dh|·(|u| + 1)·(1 + |α·g|) and |dh·g|.
func ActivateClampedBackward[Z, D Float](c Clamp, z []Z, dh []D, rows, hidden int) Result {
	requireLen("ActivateClampedBackward", "z", len(z), rows*2*hidden)
	requireLen("ActivateClampedBackward", "dh", len(dh), rows*hidden)
	res := newResult(len(z))
	for r := range rows {
		for i := range hidden {
			at, d := r*2*hidden+i, float64(dh[r*hidden+i])
			gate, up := float64(z[at]), float64(z[at+hidden])
			g, u := c.parts(gate, up)
			s := sigmoid(c.Alpha * g)
			if !(gate > c.Limit) {
				res.Y[at] = d * (u + 1) * (s + c.Alpha*g*s*(1-s))
				res.Abs[at] = math.Abs(d) * (math.Abs(u) + 1) * (1 + math.Abs(c.Alpha*g))
			}
			if !(math.Abs(up) > c.Limit) {
				res.Y[at+hidden], res.Abs[at+hidden] = d*g*s, math.Abs(d*g)
			}
		}
	}
	return res
}
