package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompareJudgesNaNAndInfinities(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]struct {
		got  []float64
		want []float64
		ok   bool
	}{
		"equal":                  {[]float64{1, 2}, []float64{1, 2}, true},
		"NaN for NaN":            {[]float64{nan, 2}, []float64{nan, 2}, true},
		"NaN for a number":       {[]float64{nan, 2}, []float64{1, 2}, false},
		"a number for NaN":       {[]float64{1, 2}, []float64{nan, 2}, false},
		"the same infinity":      {[]float64{inf, 2}, []float64{inf, 2}, true},
		"the other infinity":     {[]float64{-inf, 2}, []float64{inf, 2}, false},
		"an infinity for number": {[]float64{inf, 2}, []float64{1, 2}, false},
		"a number for infinity":  {[]float64{1, 2}, []float64{inf, 2}, false},
		"NaN for infinity":       {[]float64{nan, inf}, []float64{inf, nan}, false},
		"empty":                  {nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			res := Compare(c.got, c.want, []float64{1e-3})
			require.Equal(t, c.ok, res.OK(), res.String())
			require.Equal(t, c.ok, res.Frobenius <= 1e-3, res.String())
			require.Equal(t, c.ok, RelativeFrobenius(c.got, c.want) <= 1e-3)
		})
	}
}

func TestCompareFindsTheWorstElementByItsOwnBound(t *testing.T) {
	res := Compare([]float32{1.5, 10, 3}, []float64{1, 9, 3}, []float64{1, 10, 0})
	require.True(t, res.OK())
	require.Equal(t, 0, res.Worst.Index)
	require.Equal(t, 0.5, res.Worst.Ratio)
	require.InDelta(t, math.Sqrt(1.25)/math.Sqrt(91), res.Frobenius, 1e-15)

	res = Compare([]float32{1.5, 20, 3}, []float64{1, 9, 3}, []float64{1, 10, 0})
	require.Equal(t, 1, res.Outside)
	require.Equal(t, 1, res.Worst.Index)
	require.False(t, Compare([]float32{1}, []float64{1 + 1e-9}, nil).OK(), "no bound asks for equality")
}

func TestRelativeFrobeniusOfZeroAndOfTinyAndHugeReferences(t *testing.T) {
	require.Zero(t, RelativeFrobenius([]float64{0, 0}, []float64{0, 0}))
	require.True(t, math.IsInf(RelativeFrobenius([]float64{0, 1e-30}, []float64{0, 0}), 1))
	for _, scale := range []float64{1e-300, 1e300} {
		got := RelativeFrobenius([]float64{3 * scale, 4.5 * scale}, []float64{3 * scale, 4 * scale})
		require.InDelta(t, 0.1, got, 1e-12)
	}
}

func TestCompareChoicesIgnoresOrderWithinAToken(t *testing.T) {
	logits := []float64{3, 2, 2.25, 0, 1, 0}
	want := SelectTopK(logits, 2, 3, 2)
	require.Equal(t, []int32{0, 2, 1, 0}, want)
	margins := Margins(logits, 2, 3, 2)
	require.Empty(t, CompareChoices([]int32{2, 0, 0, 1}, want, margins, 2))
	diffs := CompareChoices([]int32{0, 1, 1, 2}, want, margins, 2)
	require.Len(t, diffs, 2)
	require.Equal(t, ChoiceDiff{Token: 0, Got: []int32{0, 1}, Want: []int32{0, 2}, Margin: 0.25}, diffs[0])
	require.Zero(t, diffs[1].Margin)
}

// TestToleranceHoldsForFloat32Arithmetic sums in float32 in three orders and asks that the bound holds, and that it is not
// so wide that it would hide a lost term.
func TestToleranceHoldsForFloat32Arithmetic(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{1, 3, 100, 1025, 20000} {
		w, x := normals(rng, n), normals(rng, n)
		res := DenseLinear(Linear[float32]{Experts: 1, In: n, Out: 1, Weight: w}, x, 1)
		bound := res.Bound(F32, n)
		var forward, backward float32
		for i := range w {
			forward += w[i] * x[i]
			backward += w[n-1-i] * x[n-1-i]
		}
		require.True(t, Compare([]float32{forward}, res.Y, bound).OK())
		require.True(t, Compare([]float32{backward}, res.Y, bound).OK())
		require.True(t, Compare([]float32{pairwise(w, x)}, res.Y, bound).OK())
		if n <= 1025 {
			mean := res.Abs[0] / float64(n)
			require.Less(t, bound[0], mean, "n=%d: a lost average term must be seen", n)
		}
	}
}

func pairwise(w, x []float32) float32 {
	if len(w) == 1 {
		return w[0] * x[0]
	}
	half := len(w) / 2
	return pairwise(w[:half], x[:half]) + pairwise(w[half:], x[half:])
}

func TestToleranceOfStorage(t *testing.T) {
	require.Less(t, Tolerance(F32, 64), 1e-5)
	require.InDelta(t, 0x1p-11, Tolerance(F16, 1), 1e-6)
	require.InDelta(t, 0x1p-8, Tolerance(BF16, 1), 1e-6)
	require.True(t, math.IsInf(Gamma(1<<23), 1))
	require.True(t, math.IsInf(Tolerance(F32, 1<<24), 1))
}

// TestGateToleranceHoldsForFloat32Arithmetic evaluates the softmax in float32 as a kernel would.
func TestGateToleranceHoldsForFloat32Arithmetic(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	const experts, k = 64, 8
	for range 50 {
		logits := normals(rng, experts)
		for i := range logits {
			logits[i] *= 5
		}
		for _, mode := range RouterModes {
			ids, want := TopKGates(mode, logits, 1, experts, k)
			tol := GateTolerance(mode, experts, k, 40)
			require.Less(t, tol, 1e-4)
			for j, got := range gates32(mode, logits, ids) {
				diff := math.Abs(float64(got) - want[j])
				require.True(t, diff <= tol*want[j], "%v: %v against %v", mode, got, want[j])
			}
		}
	}
}

func gates32(mode RouterMode, logits []float32, ids []int32) []float32 {
	domain := logits
	if mode == TopKSoftmax {
		domain = nil
		for _, e := range ids {
			domain = append(domain, logits[e])
		}
	}
	top := logits[ids[0]]
	var sum, total float32
	for _, v := range domain {
		sum += float32(math.Exp(float64(v - top)))
	}
	gates := make([]float32, len(ids))
	for j, e := range ids {
		gates[j] = float32(math.Exp(float64(logits[e]-top))) / sum
		if mode.Sigmoid() {
			gates[j] = 1 / (1 + float32(math.Exp(float64(-logits[e]))))
		}
		total += gates[j]
	}
	if mode == SoftmaxTopKNorm || mode == SigmoidTopKNorm {
		for j := range gates {
			gates[j] /= total
		}
	}
	return gates
}
