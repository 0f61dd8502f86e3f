package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestActivationsHandComputed(t *testing.T) {
	for a, want := range map[Activation][3]float64{ // at −1, 0, 2
		Identity: {-1, 0, 2},
		GELU:     {-0.15865525393145707, 0, 1.9544997361036416},
		GELUTanh: {-0.15880800939172324, 0, 1.954597694087775},
		SiLU:     {-0.2689414213699951, 0, 1.7615941559557649},
		ReLU:     {0, 0, 2},
		ReLU2:    {0, 0, 4},
	} {
		for i, x := range []float64{-1, 0, 2} {
			require.InDelta(t, want[i], a.Of(x), 1e-15, "%v(%v)", a, x)
		}
		require.True(t, math.IsNaN(a.Of(math.NaN())), "%v keeps NaN", a)
	}
}

func TestGELUTanhIsTheTanhFormula(t *testing.T) {
	for x := -6.0; x <= 6; x += 0.37 {
		want := 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
		require.InDelta(t, want, GELUTanh.Of(x), 1e-14)
	}
}

func TestActivateGatedTakesGateColumnsFirst(t *testing.T) {
	res := ActivateGated(ReLU, []float32{1, -2, 3, 4 /* row 1 */, 5, 6, -7, 8}, 2, 2)
	require.Equal(t, []float64{3, 0, -35, 48}, res.Y)
	require.Equal(t, []float64{3, 8, 35, 48}, res.Abs)
}

func TestCombineHandComputed(t *testing.T) {
	// Token 0: slots 0 (expert 1), 1 (bad); token 1: slots 2 (expert 0), 3 (expert 1).
	r := Route([]int32{1, 7, 0, 1}, 2, 2, 2)
	nan := float32(math.NaN())
	scattered := Combine([]float32{1, 2, nan, nan, 3, 4, 5, 6}, []float32{2, nan, -1, 0.5}, r, 2, false)
	require.Equal(t, []float64{2, 4, -0.5, -1}, scattered.Y)
	require.Equal(t, []float64{2, 4, 5.5, 7}, scattered.Abs)
	// Grouped rows: position 0 is slot 2, 1 is slot 0, 2 is slot 3; row 3 belongs to nobody.
	grouped := Combine([]float32{3, 4, 1, 2, 5, 6, nan, nan}, []float32{2, nan, -1, 0.5}, r, 2, true)
	require.Equal(t, scattered, grouped)
}

// randomMLP draws a layer of normal weights.
func randomMLP(rng *rand.Rand, experts, k, width, hidden int, a Activation, gated bool, mode RouterMode) MLP[float32] {
	up := hidden
	if gated {
		up *= 2
	}
	return MLP[float32]{Mode: mode, K: k, Activation: a, Gated: gated,
		Router: Linear[float32]{Experts: 1, In: width, Out: experts, Weight: normals(rng, experts*width)},
		Up: Linear[float32]{Experts: experts, In: width, Out: up,
			Weight: normals(rng, experts*up*width), Bias: normals(rng, experts*up)},
		Down: Linear[float32]{Experts: experts, In: hidden, Out: width,
			Weight: normals(rng, experts*width*hidden), Bias: normals(rng, experts*width)},
	}
}

func TestMLPEqualsTheNaiveTokenLoop(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const tokens, experts, k, width, hidden = 9, 5, 2, 4, 3
	for _, gated := range []bool{false, true} {
		for _, mode := range RouterModes {
			m := randomMLP(rng, experts, k, width, hidden, SiLU, gated, mode)
			x := normals(rng, tokens*width)
			got := Forward(m, x, tokens)
			for tok := 0; tok < tokens; tok++ {
				want := make([]float64, width)
				logits := apply(m.Router, 0, Widen(x[tok*width:(tok+1)*width]))
				ids, gates := TopKGates(mode, logits, 1, experts, k)
				for j, e := range ids {
					z := apply(m.Up, int(e), Widen(x[tok*width:(tok+1)*width]))
					h := make([]float64, hidden)
					for c := range h {
						h[c] = SiLU.Of(z[c])
						if gated {
							h[c] *= z[hidden+c]
						}
					}
					for c, v := range apply(m.Down, int(e), h) {
						want[c] += gates[j] * v
					}
				}
				require.InDeltaSlice(t, want, got.Out.Y[tok*width:(tok+1)*width], 1e-12, "%v gated %v", mode, gated)
			}
		}
	}
}

// apply is W[e]·x + b[e].
func apply(l Linear[float32], e int, x []float64) []float64 {
	y := make([]float64, l.Out)
	for o := range y {
		if l.Bias != nil {
			y[o] = float64(l.Bias[e*l.Out+o])
		}
		for i := range x {
			y[o] += float64(l.Weight[(e*l.Out+o)*l.In+i]) * x[i]
		}
	}
	return y
}
