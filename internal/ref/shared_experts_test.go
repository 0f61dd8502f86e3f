package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestActivateClampedHandComputed(t *testing.T) {
	c := Clamp{Alpha: 1.702, Limit: 7}
	// rows of one hidden unit: (gate, up)
	z := []float64{1, 2, 9, -8, -20, 0.5}
	res := ActivateClamped(c, z, 3, 1)
	require.InDelta(t, 1*sigmoid(1.702)*3, res.Y[0], 1e-15)
	require.InDelta(t, 7*sigmoid(1.702*7)*-6, res.Y[1], 1e-14)
	require.InDelta(t, -20*sigmoid(-1.702*20)*1.5, res.Y[2], 1e-15)
	dz := ActivateClampedBackward(c, z, []float64{1, 1, 1}, 3, 1).Y
	require.Zero(t, dz[2], "the gate is beyond its limit")
	require.Zero(t, dz[3], "and so is up")
	require.NotZero(t, dz[4], "a gate has no lower limit")
	nan := math.NaN()
	require.True(t, math.IsNaN(ActivateClamped(c, []float64{nan, 1}, 1, 1).Y[0]))
	require.True(t, math.IsNaN(ActivateClamped(c, []float64{1, nan}, 1, 1).Y[0]))
}

func TestActivateClampedBackward(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	const rows, hidden = 5, 6
	c := Clamp{Alpha: 1.702, Limit: 1.5} // many operands are beyond it
	z, dh := normals64(rng, rows*2*hidden), normals64(rng, rows*hidden)
	for i := range z {
		z[i] *= 2
	}
	requireGradient(t, "clamped", z, ActivateClampedBackward(c, z, dh, rows, hidden).Y, func() float64 {
		return dot(ActivateClamped(c, z, rows, hidden).Y, dh)
	})
}

func TestMLPBackwardWithSharedExperts(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	const tokens, experts, k, width, hidden, shared = 5, 4, 2, 4, 3, 5
	for _, gate := range []bool{false, true} {
		for _, clamp := range []*Clamp{nil, {Alpha: 1.702, Limit: 3}} {
			m := widenMLP(randomMLP(rng, experts, k, width, hidden, SiLU, true, SoftmaxTopKNorm))
			m.Clamp = clamp
			m.Shared = &Shared[float64]{
				Up:   Linear[float64]{Experts: 1, In: width, Out: 2 * shared, Weight: normals64(rng, 2*shared*width)},
				Down: Linear[float64]{Experts: 1, In: shared, Out: width, Weight: normals64(rng, shared*width)},
			}
			if gate {
				m.Shared.Gate = &Linear[float64]{Experts: 1, In: width, Out: 1, Weight: normals64(rng, width)}
			}
			m.OutputBias = normals64(rng, width)
			x, dOut := normals64(rng, tokens*width), normals64(rng, tokens*width)
			saved := Forward(m, x, tokens)
			for _, margin := range Margins(saved.Logits.Y, tokens, experts, k) {
				require.Greater(t, margin, 1e-3)
			}
			loss := func() float64 { return dot(Forward(m, x, tokens).Out.Y, dOut) }
			got := MLPBackward(m, x, saved, dOut)
			requireGradient(t, "dX", x, got.X, loss)
			requireGradient(t, "output bias", m.OutputBias, got.OutputBias, loss)
			requireGradient(t, "shared up", m.Shared.Up.Weight, got.Shared.Up.Weight.Y, loss)
			requireGradient(t, "shared down", m.Shared.Down.Weight, got.Shared.Down.Weight.Y, loss)
			requireGradient(t, "up", m.Up.Weight, got.Up.Weight.Y, loss)
			requireGradient(t, "down", m.Down.Weight, got.Down.Weight.Y, loss)
			if gate {
				requireGradient(t, "shared gate", m.Shared.Gate.Weight, got.Shared.Gate.Weight.Y, loss)
			}
		}
	}
}
