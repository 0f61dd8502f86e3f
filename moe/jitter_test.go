package moe

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

func TestJitterEqualsTheOracleBitForBit(t *testing.T) {
	for _, shape := range [][]int{{0, 3}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {5, 1}, {33, 7}, {1, 256}, {3, 171}, {70000, 2}} {
		t.Run(fmt.Sprint(shape), func(t *testing.T) {
			k := newKit(t)
			k.Shift = shape[0] % 2
			rng := rand.New(rand.NewSource(3))
			n := shape[0] * shape[1]
			data, before := gputest.Normal(rng, n), gputest.Normal(rng, n)
			ones := make([]float32, n)
			for i := range ones {
				ones[i] = 1
			}
			cfg := JitterConfig{Eps: 0.5, Seed: 0x123456789abcdef0, Stream: 5}
			x, y := k.F32("x", data, shape...), k.Output("y", vk.F32, shape...)
			numbers, sum := k.Output("numbers", vk.F32, shape...), k.InOut("sum", vk.F32, before, shape...)
			require.NoError(t, Jitter(k.Rec, k.F32("ones", ones, shape...), numbers, cfg))
			cfg.Eps = 0.01
			require.NoError(t, Jitter(k.Rec, x, y, cfg))
			require.NoError(t, JitterBackward(k.Rec, x, sum, cfg, true))
			k.Run()
			for i, v := range gputest.Download[float32](t, numbers) {
				require.Equal(t, ref.JitterBits(i, cfg.Seed, 0, 5), int32((v-1)*(1<<23)), "ε = 1/2 and x = 1 keep every bit")
			}
			want := ref.Jitter(data, 0.01, cfg.Seed, 0, 5)
			require.Equal(t, want, gputest.Download[float32](t, y))
			for i := range want {
				want[i] = before[i] + want[i]
			}
			require.Equal(t, want, gputest.Download[float32](t, sum))
		})
	}
}

func TestJitterOf16BitTensors(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		for _, n := range []int{1, 2, 3, 4, 5, 255, 1001} {
			k := newKit(t)
			k.Shift = n % 2 // odd gputest.Halves
			rng := rand.New(rand.NewSource(int64(n)))
			data, before := vk.Round(dtype, gputest.Normal(rng, n)), vk.Round(dtype, gputest.Normal(rng, n))
			cfg := JitterConfig{Eps: 0.1, Seed: 77}
			x, y := k.Floats("x", dtype, data, n), k.Output("y", dtype, n)
			sum := k.InOut("sum", dtype, before, n)
			require.NoError(t, Jitter(k.Rec, x, y, cfg))
			require.NoError(t, JitterBackward(k.Rec, x, sum, cfg, true))
			k.Run()
			want := ref.Jitter(data, 0.1, 77, 0, 0)
			require.Equal(t, vk.Round(dtype, want), gputest.Download[float32](t, y), "%v %d", dtype, n)
			for i := range want {
				want[i] += before[i]
			}
			require.Equal(t, vk.Round(dtype, want), gputest.Download[float32](t, sum), "%v %d", dtype, n)
		}
	}
}

// TestJitterReadsItsStepOnTheDevice submits one recording twice.
func TestJitterReadsItsStepOnTheDevice(t *testing.T) {
	k := newKit(t)
	ctx := context.Background()
	data := gputest.Normal(rand.New(rand.NewSource(4)), 100)
	x, y, again := k.F32("x", data, 10, 10), k.Output("y", vk.F32, 10, 10), k.Output("again", vk.F32, 10, 10)
	step, err := dev.NewTensor(vk.U32, 1)
	require.NoError(t, err)
	k.OnClose(step.Close)
	cfg := JitterConfig{Eps: 0.25, Seed: 1, Step: step}
	require.NoError(t, Jitter(k.Rec, x, y, cfg))
	require.NoError(t, JitterBackward(k.Rec, x, again, cfg, false))
	var last []float32
	for _, s := range []uint32{0, 1, math.MaxUint32} {
		require.NoError(t, vk.Upload(ctx, step, []uint32{s}))
		k.Run()
		got := gputest.Download[float32](t, y)
		require.Equal(t, ref.Jitter(data, 0.25, 1, s, 0), got)
		require.Equal(t, got, gputest.Download[float32](t, again), "the backward pass finds the same numbers")
		require.NotEqual(t, last, got)
		last = got
	}
}

func TestJitterArguments(t *testing.T) {
	k := newKit(t)
	x, y := k.F32("x", make([]float32, 6), 2, 3), k.InOut("y", vk.F32, make([]float32, 6), 2, 3)
	ints := k.I32("ints", make([]int32, 1), 1)
	var shape *vk.ShapeError
	var config *ConfigError
	for name, c := range map[string]struct {
		x, y   *vk.Tensor
		cfg    JitterConfig
		target any
	}{
		"nil x":         {nil, y, JitterConfig{}, &shape},
		"nil y":         {x, nil, JitterConfig{}, &shape},
		"other shape":   {x, k.F32("z", make([]float32, 6), 3, 2), JitterConfig{}, &shape},
		"in place":      {x, x, JitterConfig{}, &shape},
		"eps too large": {x, y, JitterConfig{Eps: 1.5}, &config},
		"eps NaN":       {x, y, JitterConfig{Eps: float32(math.NaN())}, &config},
		"step":          {x, y, JitterConfig{Step: ints}, &shape},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, Jitter(rec, c.x, c.y, c.cfg), c.target, name)
		require.NoError(t, rec.Close())
	}
}

// TestRouterPassesRepeatTheirBits runs every pass of a router 20 times.
func TestRouterPassesRepeatTheirBits(t *testing.T) {
	k := newKit(t)
	const tokens, experts = 500, 48
	rng := rand.New(rand.NewSource(6))
	logits := k.F32("logits", logitsOf(rng, tokens, experts), tokens, experts)
	cfg := RouterConfig{TopK: 4, Mode: SigmoidTopKNorm, CorrectionBias: k.F32("bias", gputest.Normal(rng, experts), experts), Groups: 8,
		TopGroups: 3}
	r, err := Route(k.Rec, logits, cfg)
	require.NoError(t, err)
	dLogits := k.Output("dLogits", vk.F32, tokens, experts)
	require.NoError(t, TopKBackward(k.Rec, r, logits, k.F32("dGates", gputest.Normal(rng, tokens*4), tokens, 4), dLogits, false))
	losses, err := Losses(k.Rec, []RoutedLayer{{r, logits, dLogits}}, LossConfig{Balance: 1, Z: 1}, true)
	require.NoError(t, err)
	jittered := k.Output("jittered", vk.F32, tokens, experts)
	require.NoError(t, Jitter(k.Rec, logits, jittered, JitterConfig{Eps: 0.1, Seed: 9}))
	k.RunAlike(r.IDs, r.Gates, dLogits, losses.Loss, losses.Layers[0].Sums, jittered)
}
