package ref

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMLPValuesAreThoseOfThePlainLoops(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	for _, s := range []struct{ tokens, experts, k, width, hidden int }{
		{0, 3, 2, 4, 5}, {1, 3, 2, 4, 5}, {30, 4, 3, 7, 9}, {41, 5, 2, 10, 6},
	} {
		for _, gated := range []bool{false, true} {
			m := randomMLP(rng, s.experts, s.k, s.width, s.hidden, GELU, gated, SoftmaxTopKNorm)
			x, dOut := normals(rng, s.tokens*s.width), normals(rng, s.tokens*s.width)
			if s.tokens == 1 {
				m.Up.Bias, m.Down.Bias = nil, nil
			}
			saved := Forward(m, x, s.tokens)
			want := MLPBackward(m, x, saved, dOut)
			got := MLPValuesOf(m, x, dOut, s.tokens, saved.IDs)
			for name, pair := range map[string][2][]float64{
				"out": {saved.Out.Y, got.Out}, "x": {want.X, got.X}, "logits": {want.Logits.Y, got.Logits},
				"gates": {want.Gates.Y, got.Gates}, "router": {want.Router.Weight.Y, got.Router},
				"up": {want.Up.Weight.Y, got.Up}, "up bias": {want.Up.Bias.Y, got.UpBias},
				"down": {want.Down.Weight.Y, got.Down}, "down bias": {want.Down.Bias.Y, got.DownBias},
			} {
				require.Len(t, pair[1], len(pair[0]), name)
				require.InDeltaSlice(t, pair[0], pair[1], 1e-10, "%s of %v gated %v", name, s, gated)
			}
		}
	}
}

func BenchmarkAddProduct(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	const m, n, k = 256, 600, 600
	x, w, c := normals64(rng, m*k), normals64(rng, n*k), make([]float64, m*n)
	for b.Loop() {
		addProduct(c, x, w, m, n, k)
	}
	b.ReportMetric(float64(m*n*k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
}
