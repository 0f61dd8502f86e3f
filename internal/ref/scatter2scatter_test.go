package ref

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func normals(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func TestScatter2scatterHandComputed(t *testing.T) {
	// Two experts 2 → 1: W[0] = (1 2), W[1] = (3 −4), b = (10, 20); tokens (1 1) and (2 0), both to experts 1 and 0.
	l := Linear[float32]{Experts: 2, In: 2, Out: 1, Weight: []float32{1, 2, 3, -4}, Bias: []float32{10, 20}}
	r := Route([]int32{1, 0, 1, 0}, 2, 2, 2)
	x := []float32{1, 1, 2, 0}
	gates := []float32{1, 2, -1, 0.5}

	got := Scatter2scatter(l, x, r, Layout{}, gates)
	require.Equal(t, []float64{19, 26, -26, 6}, got.Y)
	require.Equal(t, []float64{27, 26, 26, 6}, got.Abs)

	grouped := Scatter2scatter(l, x, r, Layout{GroupedOut: true}, gates)
	require.Equal(t, []float64{26, 6, 19, -26}, grouped.Y)
}

// naive is ParallelLinear one slot at a time with nothing sorted: y[s] = gate·(W[id]·x[row] + b).
func naive(l Linear[float32], x []float32, ids []int32, k int, perSlot bool, gates []float32) []float64 {
	y := make([]float64, len(ids)*l.Out)
	for s, e := range ids {
		row := s / k
		if perSlot {
			row = s
		}
		for o := 0; o < l.Out && e >= 0 && int(e) < l.Experts; o++ {
			sum := float64(l.Bias[int(e)*l.Out+o])
			for i := 0; i < l.In; i++ {
				sum += float64(x[row*l.In+i]) * float64(l.Weight[(int(e)*l.Out+o)*l.In+i])
			}
			y[s*l.Out+o] = sum * float64(gates[s])
		}
	}
	return y
}

func TestScatter2scatterLayoutsEqualTheNaiveLoop(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, shape := range []struct{ tokens, experts, k, in, out int }{
		{0, 3, 2, 4, 5}, {1, 1, 1, 1, 1}, {7, 5, 3, 6, 4}, {20, 4, 4, 3, 9}, {5, 8, 2, 1, 2},
	} {
		l := Linear[float32]{Experts: shape.experts, In: shape.in, Out: shape.out,
			Weight: normals(rng, shape.experts*shape.in*shape.out), Bias: normals(rng, shape.experts*shape.out)}
		ids := make([]int32, shape.tokens*shape.k)
		for i := range ids {
			ids[i] = int32(rng.IntN(shape.experts+1)) - 1 // −1 now and then: a bad id
		}
		gates := normals(rng, len(ids))
		r := Route(ids, shape.tokens, shape.experts, shape.k)
		for _, layout := range Layouts {
			x := normals(rng, layout.InRows(r)*shape.in)
			// A grouped input is the per-slot input in another order; bring it back to slots for the naive loop.
			plain, perSlot := x, layout.PerSlot || layout.GroupedIn
			if layout.GroupedIn {
				plain = make([]float32, len(x))
				for p, s := range r.Order {
					copy(plain[int(s)*shape.in:(int(s)+1)*shape.in], x[p*shape.in:])
				}
			}
			want := naive(l, plain, ids, shape.k, perSlot, gates)
			got := Scatter2scatter(l, x, r, layout, gates).Y
			for s := range ids {
				if !r.Valid(s) {
					continue
				}
				row := layout.OutRow(r, s) * shape.out
				require.InDeltaSlice(t, want[s*shape.out:(s+1)*shape.out], got[row:row+shape.out], 1e-12, "%v %v", layout, shape)
				one := Scatter2scatterSlot(l, x, r, layout, s, float64(gates[s]))
				require.Equal(t, got[row:row+shape.out], one.Y)
			}
		}
	}
}

func TestScatter2scatterReadsInOutWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const experts, in, out, tokens = 3, 4, 5, 6
	a := Linear[float32]{Experts: experts, In: in, Out: out, Weight: normals(rng, experts*in*out)}
	b := Linear[float32]{Experts: experts, In: in, Out: out, Weight: make([]float32, experts*in*out), InOut: true}
	for e := 0; e < experts; e++ {
		for o := 0; o < out; o++ {
			for i := 0; i < in; i++ {
				b.Weight[(e*in+i)*out+o] = a.Weight[(e*out+o)*in+i]
			}
		}
	}
	r := Route([]int32{0, 1, 2, 2, 1, 0}, tokens, experts, 1)
	x := normals(rng, tokens*in)
	none := []float32(nil)
	require.Equal(t, Scatter2scatter(a, x, r, Layout{}, none), Scatter2scatter(b, x, r, Layout{}, none))
}

func TestScatter2scatterNamesTheOperandOfAWrongLength(t *testing.T) {
	l := Linear[float32]{Experts: 1, In: 2, Out: 1, Weight: []float32{1, 2}}
	require.PanicsWithValue(t, "ref.Scatter2scatter: x has 3 elements, its shape says 4", func() {
		DenseLinear(l, []float32{1, 2, 3}, 2)
	})
}
