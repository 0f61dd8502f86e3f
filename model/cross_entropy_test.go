package model

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// lossError is the error of one loss in f32 from exact logits of the given span: the logarithm of a sum of exponentials, each
// of them relative to an argument that is rounded, and the scale's product.
func lossError(vocabulary int, span float64) float64 {
	return ref.Gamma(vocabulary) + 8*ref.UnitF32 + 4*span*ref.UnitF32
}

func TestCrossEntropyEqualsTheOracle(t *testing.T) {
	for _, s := range []struct{ rows, vocabulary int }{{0, 5}, {1, 1}, {1, 2}, {3, 7}, {70, 64}, {33, 257}, {5, 9000}} {
		for _, dtype := range gputest.Storages {
			t.Run(fmt.Sprintf("%+v %v", s, dtype), func(t *testing.T) {
				k := gputest.New(t, dev)
				k.Shift = s.rows % 2
				rng := rand.New(rand.NewSource(int64(s.vocabulary)))
				logits := gputest.Normal(rng, s.rows*s.vocabulary)
				for i := range logits {
					logits[i] *= 5
				}
				targets := tokensOf(rng, s.rows, s.vocabulary)
				losses, count := k.Output("losses", vk.F32, s.rows), k.Output("count", vk.U32, 1)
				mean, gradient := k.Output("mean", vk.F32, 1), k.Output("gradient", dtype, s.rows, s.vocabulary)
				targetsT, logitsT := k.I32("targets", targets, s.rows), k.F32("logits", logits, s.rows, s.vocabulary)
				require.NoError(t, CountTargets(k.Rec, targetsT, count, s.vocabulary))
				require.NoError(t, CrossEntropy(k.Rec, logitsT, targetsT, losses, gradient, count, 0.8, 64))
				require.NoError(t, MeanLoss(k.Rec, losses, count, mean))
				place := k.InOut("in place", vk.F32, logits, s.rows, s.vocabulary)
				again := k.Output("again", vk.F32, s.rows)
				require.NoError(t, CrossEntropy(k.Rec, place, targetsT, again, place, count, 0.8, 64))
				k.Run()

				want := ref.CrossEntropy(logits, targets, s.vocabulary, float64(float32(0.8)), 64)
				require.Equal(t, uint32(want.Count), gputest.Download[uint32](t, count)[0])
				const span = 60
				relative := lossError(s.vocabulary, span)
				gputest.RequireClose(t, gputest.Download[float32](t, losses), want.Losses, []float64{relative + relative*span}, "losses")
				gputest.RequireClose(t, gputest.Download[float32](t, mean), []float64{want.Mean}, []float64{2 * relative * span}, "mean")
				f32 := want.Gradient.BoundBy(2*relative, 1e-30)
				gputest.RequireClose(t, gputest.Download[float32](t, place), want.Gradient.Y, f32, "gradient in place")
				relative = 2*relative + gputest.Oracle(dtype).Storage()
				bound := want.Gradient.BoundBy(relative, ref.Underflow(gputest.Oracle(dtype), 1))
				gputest.RequireClose(t, gputest.Download[float32](t, gradient), want.Gradient.Y, bound, "gradient")
				require.Equal(t, gputest.Words(t, losses), gputest.Words(t, again))
			})
		}
	}
}

func TestCrossEntropyOfLogitsThatAreNoNumbers(t *testing.T) {
	k := gputest.New(t, dev)
	inf := float32(math.Inf(1))
	nan := float32(math.NaN())
	logits := []float32{
		0, nan, 1, 2,
		inf, 1, 2, 3,
		-inf, 1, -inf, 1,
		88, -88, 1e30, 0,
		nan, nan, nan, nan,
	}
	targets := []int32{0, 1, 1, 2, 9}
	losses, count := k.Output("losses", vk.F32, 5), k.Output("count", vk.U32, 1)
	logitsT, targetsT := k.F32("logits", logits, 5, 4), k.I32("targets", targets, 5)
	gradient := k.Output("gradient", vk.F32, 5, 4)
	require.NoError(t, CountTargets(k.Rec, targetsT, count, 4))
	require.NoError(t, CrossEntropy(k.Rec, logitsT, targetsT, losses, gradient, count, 1, 4))
	k.Run()
	got, grads := gputest.Download[float32](t, losses), gputest.Download[float32](t, gradient)
	require.True(t, math.IsNaN(float64(got[0])) && math.IsNaN(float64(got[1])))
	require.InDelta(t, math.Ln2, got[2], 1e-6)
	require.Zero(t, got[3])
	require.Zero(t, got[4], "an ignored row is ignored whatever it holds")
	require.InDeltaSlice(t, []float32{0, -0.5, 0, 0.5}, grads[8:12], 1e-6)
	require.Equal(t, []float32{0, 0, 0, 0}, grads[16:20])
}

func TestHeadCrossEntropyInChunksEqualsTheOracle(t *testing.T) {
	for _, s := range []struct{ tokens, width, vocabulary, chunk int }{{0, 4, 5, 0}, {1, 3, 2, 0}, {50, 20, 31, 7}, {64, 32, 65, 64}} {
		for _, dtype := range gputest.Storages {
			t.Run(fmt.Sprintf("%+v %v", s, dtype), func(t *testing.T) {
				k := gputest.New(t, dev)
				rng := rand.New(rand.NewSource(9))
				x := vk.Round(dtype, gputest.Normal(rng, s.tokens*s.width))
				w := vk.Round(dtype, gputest.Normal(rng, s.vocabulary*s.width))
				targets := tokensOf(rng, s.tokens, s.vocabulary)
				head, err := moe.NewParallelLinearFromExperts(dev, moe.ParallelLinearConfig{Experts: 1, In: s.width,
					Out: s.vocabulary, DType: dtype}, []*vk.Tensor{k.Floats("w", dtype, w, s.vocabulary, s.width)}, nil)
				require.NoError(t, err)
				dw := k.Output("dW", vk.F32, s.vocabulary, s.width)
				bank, err := moe.BankOfExperts(dev, []*vk.Tensor{dw})
				require.NoError(t, err)
				dx, mean := k.Output("dX", dtype, s.tokens, s.width), k.Output("mean", vk.F32, 1)
				_, err = HeadCrossEntropy(k.Rec, head, k.Floats("x", dtype, x, s.tokens, s.width),
					k.I32("targets", targets, s.tokens), mean, HeadLoss{Scale: 0.5, X: dx, Weight: bank, ChunkRows: s.chunk})
				require.NoError(t, err)
				k.Run()
				logits := make([]float64, s.tokens*s.vocabulary)
				for r := range s.tokens {
					for v := range s.vocabulary {
						for c := range s.width {
							logits[r*s.vocabulary+v] += float64(x[r*s.width+c]) * float64(w[v*s.width+c])
						}
					}
				}
				want := ref.CrossEntropy(logits, targets, s.vocabulary, 0.5, 1)
				require.InDelta(t, want.Mean, gputest.Download[float32](t, mean)[0], 2e-5)
				wantX, wantW := make([]float64, len(x)), make([]float64, len(w))
				for r := range s.tokens {
					for v := range s.vocabulary {
						g := want.Gradient.Y[r*s.vocabulary+v]
						for c := range s.width {
							wantX[r*s.width+c] += g * float64(w[v*s.width+c])
							wantW[v*s.width+c] += g * float64(x[r*s.width+c])
						}
					}
				}
				limit := map[vk.DType]float64{vk.F32: 1e-5, vk.F16: 2e-3, vk.BF16: 1.6e-2}[dtype]
				require.LessOrEqual(t, ref.RelativeFrobenius(gputest.Download[float32](t, dx), wantX), limit, "dX")
				require.LessOrEqual(t, ref.RelativeFrobenius(gputest.Download[float32](t, dw), wantW), limit, "dW")
			})
		}
	}
}

func TestCrossEntropyRefusesBadArguments(t *testing.T) {
	k := gputest.New(t, dev)
	logits, targets := k.F32("logits", make([]float32, 6), 3, 2), k.I32("targets", make([]int32, 3), 3)
	losses, half := k.F32("losses", make([]float32, 3), 3), k.Floats("half", vk.F16, make([]float32, 6), 3, 2)
	other := k.F32("other", make([]float32, 8), 4, 2)
	for name, call := range map[string]func(*vk.Recorder) error{
		"logits in 16 bits":       func(r *vk.Recorder) error { return CrossEntropy(r, half, targets, losses, nil, nil, 1, 1) },
		"no targets":              func(r *vk.Recorder) error { return CrossEntropy(r, logits, nil, losses, nil, nil, 1, 1) },
		"gradient without count":  func(r *vk.Recorder) error { return CrossEntropy(r, logits, targets, losses, half, nil, 1, 1) },
		"gradient of other shape": func(r *vk.Recorder) error { return CrossEntropy(r, logits, targets, losses, other, losses, 1, 1) },
		"count of floats":         func(r *vk.Recorder) error { return MeanLoss(r, losses, losses, losses) },
		"ids of floats":           func(r *vk.Recorder) error { return Sample(r, logits, losses, SamplingConfig{}) },
		"share above 1":           func(r *vk.Recorder) error { return Sample(r, logits, targets, SamplingConfig{TopP: 1.5}) },
		"temperature NaN": func(r *vk.Recorder) error {
			return Sample(r, logits, targets, SamplingConfig{Temperature: float32(math.NaN())})
		},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.Error(t, call(rec), name)
		require.Error(t, rec.Run(t.Context()), name)
		require.NoError(t, rec.Close())
	}
}
