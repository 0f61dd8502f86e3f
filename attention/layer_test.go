package attention

import (
	"context"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// upload fills a tensor of a storage type; 16-bit values must be exact.
func upload(t testing.TB, x *vk.Tensor, data []float32) {
	t.Helper()
	require.Equal(t, vk.Round(x.DType(), data), data)
	require.NoError(t, vk.Upload(context.Background(), x, data))
}

// bankValues downloads a bank of one tensor.
func bankValues(t testing.TB, b *moe.ExpertBank) []float32 {
	t.Helper()
	require.Len(t, b.Parts(), 1)
	return gputest.Download[float32](t, b.Parts()[0])
}

// randomLinear gives a linear map random weights, and returns them as the oracle's.
func randomLinear(t testing.TB, r *rand.Rand, l *moe.ParallelLinear) ref.Linear[float32] {
	t.Helper()
	c := l.Config
	out := ref.Linear[float32]{Experts: 1, In: c.In, Out: c.Out, Weight: randomWeight(r, c.DType, c.In*c.Out, c.In)}
	upload(t, l.Weight.Parts()[0], out.Weight)
	if c.Bias {
		out.Bias = randomWeight(r, c.DType, c.Out, 4)
		upload(t, l.Bias.Parts()[0], out.Bias)
	}
	return out
}

// randomWeight returns n values of variance 1/in, rounded to a storage type.
func randomWeight(r *rand.Rand, dtype vk.DType, n, in int) []float32 {
	w := gputest.Normal(r, n)
	for i := range w {
		w[i] /= float32(math.Sqrt(float64(in)))
	}
	return vk.Round(dtype, w)
}

// randomVector gives a norm or sinks random values around 1.
func randomVector(t testing.TB, r *rand.Rand, x *vk.Tensor) []float32 {
	t.Helper()
	if x == nil {
		return nil
	}
	w := gputest.Normal(r, x.Elements())
	for i := range w {
		w[i] = 1 + w[i]/4
	}
	w = vk.Round(x.DType(), w)
	upload(t, x, w)
	return w
}

// layerTolerance is the relative Frobenius error of a layer, in f32 and for so many roundings to a storage type, each at most half an
// ulp of its own element; of n on the way to a result, which are independent, about √n count.
func layerTolerance(dtype vk.DType, roundings float64) float64 {
	return 3e-6 + roundings*gputest.Oracle(dtype).Storage()
}

// requireNear compares by the relative Frobenius norm, and elements that should be 0 exactly where all are.
func requireNear(t testing.TB, got []float32, want []float64, tolerance float64, what string) {
	t.Helper()
	c := ref.Compare(got, want, nil)
	require.True(t, c.Frobenius <= tolerance, "%s: relative error %v, at most %v: %v", what, c.Frobenius, tolerance, c)
}

// fillGrads fills gradients with ones.
func fillGrads(t testing.TB, parts []gradPart, vectors []gradVector) {
	t.Helper()
	ones := func(x *vk.Tensor) {
		data := make([]float32, x.Elements())
		for i := range data {
			data[i] = 1
		}
		upload(t, x, data)
	}
	for _, p := range parts {
		for _, b := range []*moe.ExpertBank{p.grads.Weight, p.grads.Bias} {
			if b != nil {
				ones(b.Parts()[0])
			}
		}
	}
	for _, v := range vectors {
		if *v.grad != nil {
			ones(*v.grad)
		}
	}
}

// layerGradients are what a backward pass of a layer left.
type layerGradients struct {
	x       *vk.Tensor
	parts   []gradPart
	vectors []gradVector
}

// requireLayerGradients compares gradients with the oracle's, those of weights added to fill.
func requireLayerGradients(t *testing.T, g layerGradients, fill float64, x []float64, linears []ref.LinearGrads, vectors [][]float64) {
	t.Helper()
	near := func(got []float32, want []float64, fill float64, what string) {
		t.Helper()
		for i := range want {
			want[i] += fill
		}
		requireNear(t, got, want, layerTolerance(g.x.DType(), 6), what)
	}
	near(gputest.Download[float32](t, g.x), x, 0, "dx")
	for i, part := range g.parts {
		if part.layer == nil {
			continue
		}
		near(bankValues(t, part.grads.Weight), linears[i].Weight.Y, fill, part.name)
		if part.grads.Bias != nil {
			near(bankValues(t, part.grads.Bias), linears[i].Bias.Y, fill, part.name+" bias")
		}
	}
	require.Len(t, vectors, len(g.vectors))
	for i, v := range g.vectors {
		if v.weight != nil {
			near(gputest.Download[float32](t, *v.grad), vectors[i], fill, v.name)
		}
	}
}
