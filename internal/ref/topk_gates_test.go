package ref

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSelectTopKPutsTiesAtTheLowerIDAndNaNLast(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]struct {
		row  []float64
		want []int32
	}{
		"descending":          {[]float64{0.1, 0.9, 0.5}, []int32{1, 2, 0}},
		"ties":                {[]float64{1, 2, 2, 1}, []int32{1, 2, 0, 3}},
		"all equal":           {[]float64{3, 3, 3}, []int32{0, 1, 2}},
		"NaN below -Inf":      {[]float64{nan, -inf, 5, nan}, []int32{2, 1, 0, 3}},
		"signed zeros equal":  {[]float64{math.Copysign(0, -1), 0}, []int32{0, 1}},
		"infinities in order": {[]float64{-inf, 0, inf}, []int32{2, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			for k := 0; k <= len(c.row); k++ {
				require.Equal(t, c.want[:k], SelectTopK(c.row, 1, len(c.row), k)[:k:k])
			}
		})
	}
}

func TestGatesOfHandComputedRow(t *testing.T) {
	// Softmax of ln(1), ln(2), ln(5) is 1/8, 2/8, 5/8.
	row := []float64{0, math.Log(2), math.Log(5)}
	for mode, want := range map[RouterMode][]float64{
		SoftmaxTopK:     {5. / 8, 2. / 8},
		SoftmaxTopKNorm: {5. / 7, 2. / 7},
		TopKSoftmax:     {5. / 7, 2. / 7},
	} {
		ids, gates := TopKGates(mode, row, 1, 3, 2)
		require.Equal(t, []int32{2, 1}, ids)
		require.InDeltaSlice(t, want, gates, 1e-15, mode.String())
	}
}

var softmaxModes = []RouterMode{SoftmaxTopK, SoftmaxTopKNorm, TopKSoftmax}

func TestGatesOfNonFiniteRows(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, c := range map[string]struct {
		row []float64
		nan map[RouterMode]bool
	}{
		"NaN outside the choice": {[]float64{nan, 1, 2}, map[RouterMode]bool{SoftmaxTopK: true, SoftmaxTopKNorm: true, TopKSoftmax: true}},
		"+Inf":                   {[]float64{inf, 1, 2}, map[RouterMode]bool{SoftmaxTopK: true, SoftmaxTopKNorm: true, TopKSoftmax: true}},
		"only -Inf":              {[]float64{-inf, -inf, -inf}, map[RouterMode]bool{SoftmaxTopK: true, SoftmaxTopKNorm: true, TopKSoftmax: true}},
		"some -Inf":              {[]float64{-inf, -inf, 7}, map[RouterMode]bool{}},
	} {
		for _, mode := range softmaxModes {
			t.Run(name+"/"+mode.String(), func(t *testing.T) {
				_, gates := TopKGates(mode, c.row, 1, 3, 2)
				if c.nan[mode] {
					require.True(t, math.IsNaN(gates[0]) && math.IsNaN(gates[1]), "%v", gates)
					return
				}
				require.Equal(t, []float64{1, 0}, gates)
			})
		}
	}
}

func TestGatesOfAskedForOnlyNegativeInfinities(t *testing.T) {
	// Not a top choice, but one a caller may ask about: over the chosen ones alone there is no probability to share.
	row := []float64{math.Inf(-1), 3}
	require.Equal(t, []float64{0}, GatesOf(SoftmaxTopK, row, []int32{0}, 1, 2, 1))
	require.True(t, math.IsNaN(GatesOf(TopKSoftmax, row, []int32{0}, 1, 2, 1)[0]))
}

func TestGatesSurviveLargeLogits(t *testing.T) {
	_, gates := TopKGates(SoftmaxTopKNorm, []float32{3e38, 3e38, -3e38}, 1, 3, 2)
	require.Equal(t, []float64{0.5, 0.5}, gates)
}

func TestTopKGatesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens, experts := rapid.IntRange(0, 5).Draw(t, "T"), rapid.IntRange(1, 12).Draw(t, "E")
		k := rapid.IntRange(1, experts).Draw(t, "k")
		mode := rapid.SampledFrom(RouterModes).Draw(t, "mode")
		// A coarse grid makes ties common.
		logits := rapid.SliceOfN(rapid.Map(rapid.IntRange(-4, 4), func(i int) float64 { return float64(i) }),
			tokens*experts, tokens*experts).Draw(t, "logits")
		ids, gates := TopKGates(mode, logits, tokens, experts, k)
		margins := Margins(logits, tokens, experts, k)
		for tok := 0; tok < tokens; tok++ {
			row, sum := logits[tok*experts:(tok+1)*experts], 0.0
			seen := map[int32]bool{}
			for j := 0; j < k; j++ {
				id := ids[tok*k+j]
				require.False(t, seen[id])
				seen[id] = true
				sum += gates[tok*k+j]
				if j > 0 {
					before := ids[tok*k+j-1]
					require.True(t, row[before] > row[id] || row[before] == row[id] && before < id)
				}
			}
			require.GreaterOrEqual(t, margins[tok], 0.0)
			switch mode {
			case SigmoidTopK:
				require.LessOrEqual(t, sum, float64(k))
			case SoftmaxTopK:
				require.LessOrEqual(t, sum, 1+1e-12)
			default:
				require.InDelta(t, 1, sum, 1e-12)
			}
		}
	})
}

func TestMarginsAreTheGapAtTheCut(t *testing.T) {
	m := Margins([]float64{4, 1, 3, 2.5, 0, 0, 0, 0}, 2, 4, 2)
	require.Equal(t, []float64{0.5, 0}, m)
	require.True(t, math.IsInf(Margins([]float64{1, 2}, 1, 2, 2)[0], 1))
}
