package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRMSNorm(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	const rows, width, epsilon = 3, 5, 0.1
	x, w, dy := normals64(rng, rows*width), normals64(rng, width), normals64(rng, rows*width)
	require.InDeltaSlice(t, []float64{0.6 * 2, 0.8 * 3}, RMSNorm([]float64{0.6, 0.8}, []float64{2, 3}, 2, 0.5).Y, 1e-15)
	for _, weight := range [][]float64{w, nil} {
		loss := func() float64 { return dot(RMSNorm(x, weight, width, epsilon).Y, dy) }
		g := RMSNormBackward(x, weight, width, epsilon, dy)
		requireGradient(t, "dx", x, g.X.Y, loss)
		if weight != nil {
			requireGradient(t, "dweight", weight, g.Weight.Y, loss)
		}
	}
	require.Panics(t, func() { RMSNorm(x, w, 4, epsilon) })
}

func TestRotate(t *testing.T) {
	rng := rand.New(rand.NewPCG(33, 34))
	const heads, width = 2, 10
	positions := []int32{0, 1, 5}
	x, dy := normals64(rng, len(positions)*heads*width), normals64(rng, len(positions)*heads*width)
	for _, r := range []RoPE{
		{Width: width, Base: 100},
		{First: 3, Width: 6, Base: 100, Interleaved: true},
		{Width: 8, Base: 100, Scaling: RoPEScaling{Kind: YaRNScaling, Factor: 4, OriginalLength: 16, BetaFast: 2, BetaSlow: 0.5}},
	} {
		y := Rotate(r, x, positions, heads, width)
		requireGradient(t, "dx", x, RotateBackward(r, dy, positions, heads, width).Y, func() float64 {
			return dot(Rotate(r, x, positions, heads, width).Y, dy)
		})
		_, factor := r.Frequencies()
		for row := range len(positions) * heads {
			for i := range width {
				at := row*width + i
				if i < r.First || i >= r.First+r.Width {
					require.Equal(t, x[at], y.Y[at], "elements beside the rotated ones pass")
				} else if row < heads {
					require.Equal(t, factor*x[at], y.Y[at], "position 0 is not turned")
				}
			}
		}
	}
	half := Rotate(RoPE{Width: 4, Base: 100}, []float64{1, 0, 0, 2}, []int32{3}, 1, 4)
	pairs := Rotate(RoPE{Width: 4, Base: 100, Interleaved: true}, []float64{1, 0, 0, 2}, []int32{3}, 1, 4)
	require.InDeltaSlice(t, []float64{math.Cos(3), -2 * math.Sin(0.3), math.Sin(3), 2 * math.Cos(0.3)}, half.Y, 1e-15)
	require.InDeltaSlice(t, []float64{math.Cos(3), math.Sin(3), -2 * math.Sin(0.3), 2 * math.Cos(0.3)}, pairs.Y, 1e-15)
	require.Panics(t, func() { Rotate(RoPE{Width: 4}, x, positions, heads, 3) })
	require.Panics(t, func() { Rotate(RoPE{Width: 3}, x[:3], positions[:1], 1, 3) })
}

// TestFrequencies checks each scaling where it is known without its formula: unchanged and divided frequencies at the
// ends, and between them in the middle.
func TestFrequencies(t *testing.T) {
	plain, one := RoPE{Width: 64, Base: 10000}.Frequencies()
	require.Equal(t, 1.0, one)
	require.InDelta(t, 0.01, plain[16], 1e-15)
	for name, s := range map[string]RoPEScaling{
		"linear": {Kind: LinearScaling, Factor: 8},
		"yarn":   {Kind: YaRNScaling, Factor: 8, OriginalLength: 4096, BetaFast: 32, BetaSlow: 1},
		"exact":  {Kind: YaRNScaling, Factor: 8, OriginalLength: 4096, BetaFast: 32, BetaSlow: 1, KeepFractions: true},
		"llama3": {Kind: Llama3Scaling, Factor: 8, OriginalLength: 8192, LowFrequencyFactor: 1, HighFrequencyFactor: 4},
	} {
		got, _ := RoPE{Width: 64, Base: 10000, Scaling: s}.Frequencies()
		require.InEpsilon(t, plain[31]/8, got[31], 1e-14, name)
		between := 0
		for i, f := range got {
			require.True(t, f >= plain[i]/8*(1-1e-14) && f <= plain[i], name)
			if f > plain[i]/8*1.001 && f < plain[i]*0.999 {
				between++
			}
		}
		if name == "linear" {
			require.Zero(t, between)
			continue
		}
		require.Equal(t, plain[0], got[0], name)
		require.Greater(t, between, 3, name)
	}
	yarn := RoPEScaling{Kind: YaRNScaling, Factor: 40}
	require.InDelta(t, 0.1*math.Log(40)+1, yarn.attentionFactor(), 1e-15)
	yarn.MScale, yarn.MScaleAllDim = 2, 0.5
	require.InDelta(t, (0.2*math.Log(40)+1)/(0.05*math.Log(40)+1), yarn.attentionFactor(), 1e-15)
	yarn.AttentionFactor = 3
	require.Equal(t, 3.0, yarn.attentionFactor())
	require.Equal(t, 1.0, YaRNMScale(0.5, 1))
}
