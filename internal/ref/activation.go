package ref

import (
	"fmt"
	"math"
)

// An Activation is an element-wise function.
type Activation uint8

const (
	Identity Activation = iota // x
	GELU                       // x·Φ(x), Φ the normal distribution function, by erf
	GELUTanh                   // the tanh approximation of GELU
	SiLU                       // x·σ(x)
	ReLU                       // max(x, 0); NaN stays NaN
	ReLU2                      // max(x, 0)²
)

// Activations lists every activation.
var Activations = []Activation{Identity, GELU, GELUTanh, SiLU, ReLU, ReLU2}

func (a Activation) String() string {
	names := [...]string{"identity", "gelu", "gelu-tanh", "silu", "relu", "relu2"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("activation %d", uint8(a))
}

// geluTanhC and geluTanhCubic are √(2/π) and the cubic coefficient of Hendrycks and Gimpel's approximation
// (arXiv 1606.08415, section 2).
const (
	geluTanhC     = 0.79788456080286535587989211986876
	geluTanhCubic = 0.044715
)

// Of returns the activation of one value, evaluated as IEEE arithmetic evaluates its formula.
func (a Activation) Of(x float64) float64 {
	switch a {
	case Identity:
		return x
	case GELU:
		// erfc keeps the relative accuracy of the left tail, where 1 + erf would cancel.
		return 0.5 * x * math.Erfc(-x/math.Sqrt2)
	case GELUTanh:
		return x * sigmoid(2*geluTanhC*(x+geluTanhCubic*x*x*x))
	case SiLU:
		return x * sigmoid(x)
	case ReLU:
		return positivePart(x)
	case ReLU2:
		return positivePart(x) * positivePart(x)
	}
	panic("ref.Activation.Of: unknown " + a.String())
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// positivePart is max(x, 0) with NaN kept, which a bare comparison would turn into 0.
func positivePart(x float64) float64 {
	if x <= 0 {
		return 0
	}
	return x
}

// Activate applies a to z [rows,H]. Abs is |x| (x² for ReLU2): the size of the factors that a kernel multiplies.
func Activate[F Float](a Activation, z []F) Result {
	res := newResult(len(z))
	for i, v := range z {
		x := float64(v)
		res.Y[i] = a.Of(x)
		res.Abs[i] = math.Abs(x)
		if a == ReLU2 {
			res.Abs[i] = x * x
		}
	}
	return res
}

// ActivateGated computes h [rows,H] from z [rows,2H], gate columns first, then up columns:
//
//	h[r][c] = a(z[r][c]) · z[r][H+c]
//
// SwiGLU is SiLU, GEGLU is GELU. Abs is |gate|·|up|.
func ActivateGated[F Float](a Activation, z []F, rows, hidden int) Result {
	requireLen("ActivateGated", "z", len(z), rows*2*hidden)
	res := newResult(rows * hidden)
	for r := 0; r < rows; r++ {
		for c := 0; c < hidden; c++ {
			gate, up := float64(z[r*2*hidden+c]), float64(z[r*2*hidden+hidden+c])
			res.Y[r*hidden+c] = a.Of(gate) * up
			res.Abs[r*hidden+c] = math.Abs(gate * up)
			if a == ReLU2 {
				res.Abs[r*hidden+c] = math.Abs(gate * gate * up)
			}
		}
	}
	return res
}
