package ref

import "math"

// An Epilogue is what a linear map does with its results z [rows,H], or [rows,2H] where Gated, on their way to memory:
//
//	h[r][c] = gate[r] · a(z[r][c])              or · a(z[r][c])·z[r][H+c] where Gated
//
// with Clamp the product of ActivateClamped. Interleaved says that z's columns are gates and ups in turn.
type Epilogue struct {
	Activation         Activation
	Gated, Interleaved bool
	Clamp              *Clamp // nil for none
}

// Apply computes h from z. gates may be nil for 1.
func (e Epilogue) Apply(z Result, rows, hidden int, gates []float64) Result {
	v := z.Y
	if e.Gated && e.Interleaved {
		v = Separate(v, rows, hidden, false)
	}
	var h Result
	switch {
	case e.Clamp != nil:
		h = ActivateClamped(*e.Clamp, v, rows, hidden)
	case e.Gated:
		h = ActivateGated(e.Activation, v, rows, hidden)
	default:
		h = Activate(e.Activation, v)
	}
	for i := range h.Y {
		if gates != nil {
			h.Y[i] *= gates[i/hidden]
			h.Abs[i] *= math.Abs(gates[i/hidden])
		}
	}
	return h
}

// steepest bounds the slope of every activation but ReLU2: 1.129 for both forms of GELU, 1.1 for SiLU.
const steepest = 1.13

// Bound is the largest error that h, the result of Apply, may show when z has errors of dz per element: the activation's slope
// times those, and what one activation, a gate and storing as dtype may add.
func (e Epilogue) Bound(z Result, dz []float64, h Result, rows, hidden int, gates []float64, dtype DType) []float64 {
	columns := hidden
	if e.Gated {
		columns = 2 * hidden
	}
	bound := h.BoundBy(ActivationTolerance(F32)+2*UnitF32, Underflow(dtype, 1))
	for i := range bound {
		r, c := i/hidden, i%hidden
		gate, up := r*columns+c, r*columns+hidden+c
		if e.Interleaved {
			gate, up = r*columns+2*c, r*columns+2*c+1
		}
		slope := steepest
		if e.Activation == ReLU2 {
			slope = 2*math.Abs(z.Y[gate]) + dz[gate]
		}
		err := slope * dz[gate]
		if e.Gated {
			size := math.Abs(z.Y[up]) + dz[up]
			if e.Clamp != nil {
				size++
			}
			err = err*size + math.Abs(z.Y[gate])*dz[up] // |a(x)| ≤ |x|
		}
		if gates != nil {
			err *= math.Abs(gates[r])
		}
		bound[i] += err
		bound[i] += dtype.Storage() * (math.Abs(h.Y[i]) + bound[i])
	}
	return bound
}
