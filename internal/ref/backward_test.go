package ref

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireGradient compares an analytic gradient with central differences of loss, which depends on x.
func requireGradient(t *testing.T, what string, x, gradient []float64, loss func() float64) {
	t.Helper()
	require.Len(t, gradient, len(x), what)
	const h = 1e-5 // truncation h² and cancellation ε/h are both about 1e-10
	moved := false
	for i := range x {
		at := x[i]
		x[i] = at + h
		above := loss()
		x[i] = at - h
		below := loss()
		x[i] = at
		numeric := (above - below) / (2 * h)
		require.InDelta(t, numeric, gradient[i], 1e-7*math.Max(1, math.Abs(numeric)), "%s[%d]", what, i)
		moved = moved || math.Abs(numeric) > 1e-3
	}
	require.True(t, moved || len(x) == 0, "%s has no gradient to speak of: the test shows nothing", what)
}

func normals64(rng *rand.Rand, n int) []float64 { return Widen(normals(rng, n)) }

func dot(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func TestActivationDerivatives(t *testing.T) {
	for _, a := range Activations {
		for _, x := range []float64{-7, -2.5, -0.3, 0.2, 1, 6} { // away from ReLU's corner
			const h = 1e-5
			numeric := (a.Of(x+h) - a.Of(x-h)) / (2 * h)
			require.InDelta(t, numeric, a.Derivative(x), 1e-9, "%v at %v", a, x)
		}
		if a != Identity {
			require.True(t, math.IsNaN(a.Derivative(math.NaN())), "%v keeps NaN", a)
		}
	}
	require.Zero(t, ReLU.Derivative(0))
}

func TestActivateBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	const rows, hidden = 3, 4
	for _, a := range Activations {
		z, dh := normals64(rng, rows*hidden), normals64(rng, rows*hidden)
		requireGradient(t, a.String(), z, ActivateBackward(a, z, dh).Y, func() float64 { return dot(Activate(a, z).Y, dh) })
		gated := normals64(rng, rows*2*hidden)
		requireGradient(t, a.String()+" gated", gated, ActivateGatedBackward(a, gated, dh, rows, hidden).Y, func() float64 {
			return dot(ActivateGated(a, gated, rows, hidden).Y, dh)
		})
	}
}

func TestGatesBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	const tokens, experts = 4, 6
	for _, mode := range RouterModes {
		for _, k := range []int{2, experts} {
			logits, dg := normals64(rng, tokens*experts), normals64(rng, tokens*k)
			ids := SelectTopK(logits, tokens, experts, k)
			got := GatesBackward(mode, logits, ids, dg, tokens, experts, k)
			requireGradient(t, fmt.Sprint(mode, k), logits, got.Y, func() float64 {
				return dot(GatesOf(mode, logits, ids, tokens, experts, k), dg)
			})
			for i := range got.Y {
				require.LessOrEqual(t, math.Abs(got.Y[i]), got.Abs[i]+1e-15)
			}
		}
	}
}

func TestGatesBackwardOfNonFiniteRows(t *testing.T) {
	logits := []float64{math.NaN(), 1, 2 /* row 1 */, math.Inf(-1), 1, 2}
	ids := SelectTopK(logits, 2, 3, 2)
	all := GatesBackward(SoftmaxTopK, logits, ids, []float64{1, 2, 1, 2}, 2, 3, 2).Y
	chosen := GatesBackward(TopKSoftmax, logits, ids, []float64{1, 2, 1, 2}, 2, 3, 2).Y
	for e := range 3 {
		require.True(t, math.IsNaN(all[e]))
	}
	require.Zero(t, chosen[0], "not chosen, not touched")
	require.True(t, math.IsNaN(chosen[1]) && math.IsNaN(chosen[2]))
	require.Zero(t, all[3], "a logit of −Inf has probability 0 and so has its gradient")
	require.Zero(t, chosen[3])
}

func TestScatter2scatterBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	const tokens, experts, k, in, out = 5, 4, 2, 3, 4
	ids := []int32{0, 2, 2, 0, -1, 2, 3, 3, 0, 9} // expert 1 stays empty, two ids are bad
	r := Route(ids, tokens, experts, k)
	for _, layout := range Layouts {
		for _, inOut := range []bool{false, true} {
			l := Linear[float64]{Experts: experts, In: in, Out: out, InOut: inOut,
				Weight: normals64(rng, experts*in*out), Bias: normals64(rng, experts*out)}
			x, gates := normals64(rng, layout.InRows(r)*in), normals64(rng, r.Slots())
			dy := normals64(rng, r.Slots()*out)
			loss := func() float64 { return dot(Scatter2scatter(l, x, r, layout, gates).Y, dy) }
			got := Scatter2scatterBackward(l, x, r, layout, gates, dy)
			requireGradient(t, layout.String()+" dX", x, got.X.Y, loss)
			requireGradient(t, layout.String()+" dW", l.Weight, got.Weight.Y, loss)
			requireGradient(t, layout.String()+" db", l.Bias, got.Bias.Y, loss)
			requireGradient(t, layout.String()+" dgates", gates, got.Gates.Y, loss)

			ones := []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
			noGates := []float64(nil)
			require.Equal(t, Scatter2scatterBackward(l, x, r, layout, ones, dy), Scatter2scatterBackward(l, x, r, layout, noGates, dy))
		}
	}
}

func TestCombineBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(17, 18))
	const tokens, width = 3, 4
	r := Route([]int32{1, 0, 0, 5, 1, 1}, tokens, 2, 2)
	for _, grouped := range []bool{false, true} {
		y, gates, dOut := normals64(rng, r.Slots()*width), normals64(rng, r.Slots()), normals64(rng, tokens*width)
		loss := func() float64 { return dot(Combine(y, gates, r, width, grouped).Y, dOut) }
		dY, dGates := CombineBackward(y, gates, dOut, r, width, grouped)
		requireGradient(t, "dY", y, dY.Y, loss)
		requireGradient(t, "dGates", gates, dGates.Y, loss)
	}
}

func TestMLPBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(19, 20))
	const tokens, experts, k, width, hidden = 6, 5, 2, 4, 3
	for _, mode := range RouterModes {
		for _, gated := range []bool{false, true} {
			m := widenMLP(randomMLP(rng, experts, k, width, hidden, GELU, gated, mode))
			x, dOut := normals64(rng, tokens*width), normals64(rng, tokens*width)
			saved := Forward(m, x, tokens)
			for tok, margin := range Margins(saved.Logits.Y, tokens, experts, k) {
				require.Greater(t, margin, 1e-3, "token %d would change experts under the difference", tok)
			}
			loss := func() float64 { return dot(Forward(m, x, tokens).Out.Y, dOut) }
			got := MLPBackward(m, x, saved, dOut)
			what := fmt.Sprintf("%v gated %v ", mode, gated)
			requireGradient(t, what+"dX", x, got.X, loss)
			requireGradient(t, what+"dRouter", m.Router.Weight, got.Router.Weight.Y, loss)
			requireGradient(t, what+"dUp", m.Up.Weight, got.Up.Weight.Y, loss)
			requireGradient(t, what+"dUp bias", m.Up.Bias, got.Up.Bias.Y, loss)
			requireGradient(t, what+"dDown", m.Down.Weight, got.Down.Weight.Y, loss)
			requireGradient(t, what+"dDown bias", m.Down.Bias, got.Down.Bias.Y, loss)
		}
	}
}

func widenMLP(m MLP[float32]) MLP[float64] {
	widen := func(l Linear[float32]) Linear[float64] {
		w := Linear[float64]{Experts: l.Experts, In: l.In, Out: l.Out, InOut: l.InOut, Weight: Widen(l.Weight)}
		if l.Bias != nil {
			w.Bias = Widen(l.Bias)
		}
		return w
	}
	return MLP[float64]{Mode: m.Mode, K: m.K, Router: widen(m.Router), Up: widen(m.Up), Down: widen(m.Down),
		Activation: m.Activation, Gated: m.Gated}
}
