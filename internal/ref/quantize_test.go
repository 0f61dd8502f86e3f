package ref

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantizeHandComputed(t *testing.T) {
	q, err := Quantize(Int8, []float32{127, -63.5, 0.5, 0, 1, -2.54, 0, 0}, 2, 4)
	require.NoError(t, err)
	require.Equal(t, []float32{1, float32(2.54) / 127}, q.Scales)
	require.Equal(t, []int8{127, -64, 0, 0}, q.Codes[:4], "ties to even")
	require.Equal(t, []int8{50, -127, 0, 0}, q.Codes[32:36])
	require.Equal(t, []uint32{0x808040ff, 0x80808080}, q.Pack()[:2])

	w := make([]float32, 40)
	w[0], w[1], w[2], w[3], w[32], w[33] = 8, -8, 7, -1.5, -16, 3
	q, err = Quantize(Q4, w, 1, 40)
	require.NoError(t, err)
	require.Equal(t, []float32{-1, 2}, q.Scales, "the first of two extremes is exact")
	require.Equal(t, []int8{-8, 7, -7, 2}, q.Codes[:4])
	require.Equal(t, []int8{-8, 2}, q.Codes[32:34])
	words := q.Pack()
	require.Equal(t, []uint32{0x8888a1f0, 0x88888888}, words[:2])
	require.Equal(t, []uint32{0x888888a0, 0x88888888, 0x88888888, 0x88888888}, words[4:8])
	require.Equal(t, []uint32{0x4000bc00, 0, 0, 0}, words[8:])
}

// quantInputs are kinds of weights at different magnitudes, some of them at the edges of the formats.
var quantInputs = map[string]func(rng *rand.Rand) float64{
	"normal":   func(rng *rand.Rand) float64 { return rng.NormFloat64() / 50 },
	"heavy":    func(rng *rand.Rand) float64 { return math.Pow(rng.NormFloat64(), 5) },
	"two":      func(rng *rand.Rand) float64 { return float64(1 - 2*rng.IntN(2)) },
	"tiny":     func(rng *rand.Rand) float64 { return rng.NormFloat64() * 0x1p-22 },
	"smallest": func(rng *rand.Rand) float64 { return rng.NormFloat64() * 0x1p-120 },
	"large":    func(rng *rand.Rand) float64 { return 60000 * (2*rng.Float64() - 1) },
	"positive": func(rng *rand.Rand) float64 { return 1 + rng.Float64() },
	"one sign": func(rng *rand.Rand) float64 { return max(0, rng.NormFloat64()) },
	"spread":   func(rng *rand.Rand) float64 { return math.Ldexp(rng.NormFloat64(), rng.IntN(60)-50) },
}

// TestQuantizationErrorIsWithinItsBound, and packing loses nothing.
func TestQuantizationErrorIsWithinItsBound(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range slices.Sorted(maps.Keys(quantInputs)) {
		value := quantInputs[name]
		for _, format := range WeightFormats {
			for _, in := range []int{1, 31, 32, 33, 64, 100, 257} {
				what := fmt.Sprintf("%s %v in=%d", name, format, in)
				rows := 9
				w := make([]float32, rows*in)
				for i := range w {
					w[i] = float32(value(rng))
					if name == "large" || format == Int8 {
						continue
					}
					w[i] = min(60000, max(-60000, w[i]))
				}
				q, err := Quantize(format, w, rows, in)
				require.NoError(t, err, what)
				for i, v := range q.Dequantize() {
					bound := format.QuantizationBound(float64(w[i]), q.Scale(i/in, i%in))
					require.False(t, !(math.Abs(v-float64(w[i])) <= bound), "%s: %v became %v, bound %v", what, w[i], v, bound)
				}
				words := q.Pack()
				require.Zero(t, len(words)%4)
				require.Equal(t, q, Unpack(format, words, rows, in), what)
			}
		}
	}
}

// TestScalesOfQ4KeepEveryWeightExactIn16Bits: five bits of scale times three of code are float16 and bfloat16.
func TestScalesOfQ4KeepEveryWeightExactIn16Bits(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		w := make([]float64, QuantBlock)
		for i := range w {
			w[i] = math.Ldexp(rng.NormFloat64(), rng.IntN(30)-24)
			w[i] = min(60000, max(-60000, w[i]))
		}
		q, err := Quantize(Q4, w, 1, QuantBlock)
		require.NoError(t, err)
		for _, v := range q.Dequantize() {
			require.Equal(t, v, RoundBits(v, 8), "bfloat16")
			require.Equal(t, v, float64(float16Value(float16Bits(float32(v)))), "float16")
		}
	}
}

// TestRelativeErrorOfNormalWeights: what the formats cost where weights are normal, as trained ones nearly are.
func TestRelativeErrorOfNormalWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	w := normals(rng, 64*4096)
	for format, want := range map[WeightFormat]float64{Int8: 0.0086, Q4: 0.0860} {
		q, err := Quantize(format, w, 64, 4096)
		require.NoError(t, err)
		got := RelativeFrobenius(q.Dequantize(), Widen(w))
		require.InEpsilon(t, want, got, 0.03, format.String())
	}
}

func TestWhatCannotBeQuantized(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		format WeightFormat
		value  float32
		fails  bool
	}{{Int8, nan, true}, {Q4, nan, true}, {Int8, inf, true}, {Q4, -inf, true}, {Int8, math.MaxFloat32, false},
		{Q4, 64511, false}, {Q4, 64512, true}, {Q4, -64512, true}, {Int8, 0, false}, {Q4, 0, false}} {
		w := make([]float32, 3*40)
		w[40+37] = c.value
		q, err := Quantize(c.format, w, 3, 40)
		if !c.fails {
			require.NoError(t, err)
			require.InDelta(t, float64(c.value), q.Dequantize()[40+37], math.Abs(float64(c.value))*0.02)
			continue
		}
		var fault *UnquantizableError
		require.ErrorAs(t, err, &fault, "%v %v", c.format, c.value)
		require.Equal(t, 1, fault.Row)
		require.EqualError(t, err, "ref: row 1 has no codes")
	}
}

func TestMatrixOfDequantizedWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	w, x := normals(rng, 5*70), normals(rng, 70)
	for _, format := range WeightFormats {
		q, err := Quantize(format, w, 5, 70)
		require.NoError(t, err)
		got := DenseLinear(Linear[float64]{Experts: 1, In: 70, Out: 5, Weight: q.Dequantize()}, x, 1)
		exact := DenseLinear(Linear[float32]{Experts: 1, In: 70, Out: 5, Weight: w}, x, 1)
		for o := range 5 {
			bound := 0.0
			for i, v := range x {
				bound += math.Abs(float64(v)) * format.QuantizationBound(float64(w[o*70+i]), q.Scale(o, i))
			}
			require.InDelta(t, exact.Y[o], got.Y[o], bound)
		}
	}
}
