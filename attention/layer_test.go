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
