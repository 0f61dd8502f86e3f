package ref

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDecoder differentiates a model of two layers of linear maps, with a head of its own and without.
func TestDecoder(t *testing.T) {
	const width, vocabulary = 4, 5
	rng := rand.New(rand.NewPCG(51, 52))
	ids := []int32{1, 4, 1, 0, 2, 3, 3}
	grads := map[*Linear[float64]]LinearGrads{}
	block := func() (DecoderBlock, *Linear[float64]) {
		l := randomDense(rng, width, width, false)
		return func(x []float64) ([]float64, func([]float64) []float64) {
			return DenseLinear(l, x, len(ids)).Y, func(dOut []float64) []float64 {
				grads[&l] = denseBackward(l, x, dOut)
				return grads[&l].X.Y
			}
		}, &l
	}
	d := Decoder{Width: width, Offsets: []int32{0, 4, 4, 7}, Embedding: normals64(rng, vocabulary*width), Norm: normals64(rng, width),
		Epsilon: 3, EmbeddingScale: 1.5, ResidualScale: 0.7, LogitScale: 1.2}
	var linears []*Linear[float64]
	for range 2 {
		mix, one := block()
		mlp, other := block()
		d.Layers = append(d.Layers, DecoderLayer{normals64(rng, width), normals64(rng, width), mix, mlp})
		linears = append(linears, one, other)
	}
	for _, head := range [][]float64{normals64(rng, vocabulary*width), nil} {
		d.Head = head
		loss := func() float64 { return RunDecoder(d, ids).Loss }
		g := RunDecoder(d, ids)
		requireGradient(t, "embedding", d.Embedding, g.Embedding, loss)
		requireGradient(t, "norm", d.Norm, g.Norm, loss)
		if head != nil {
			requireGradient(t, "head", head, g.Head, loss)
		}
		for l, layer := range d.Layers {
			requireGradient(t, "mix norm", layer.MixNorm, g.Layers[l].DMixNorm, loss)
			requireGradient(t, "MLP norm", layer.MLPNorm, g.Layers[l].DMLPNorm, loss)
		}
		for _, l := range linears {
			RunDecoder(d, ids)
			requireGradient(t, "block", l.Weight, grads[l].Weight.Y, loss)
		}
	}
	d.Embedding = make([]float64, vocabulary*width)
	require.InDelta(t, math.Log(vocabulary), RunDecoder(d, ids).Loss, 1e-12, "equal logits")
	require.Panics(t, func() { RunDecoder(d, []int32{0, 1, 2, 3, 4, 5, 6}) })
}
