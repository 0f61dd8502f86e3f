package moe

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

func TestJitterEqualsTheOracleBitForBit(t *testing.T) {
	for _, shape := range [][]int{{0, 3}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {5, 1}, {33, 7}, {1, 256}, {3, 171}, {70000, 2}} {
		t.Run(fmt.Sprint(shape), func(t *testing.T) {
			k := newKit(t)
			k.shift = shape[0] % 2
			rng := rand.New(rand.NewSource(3))
			n := shape[0] * shape[1]
			data, before := normal(rng, n), normal(rng, n)
			ones := make([]float32, n)
			for i := range ones {
				ones[i] = 1
			}
			cfg := JitterConfig{Eps: 0.5, Seed: 0x123456789abcdef0, Stream: 5}
			x, y := k.f32("x", data, shape...), k.output("y", vk.F32, shape...)
			numbers, sum := k.output("numbers", vk.F32, shape...), k.inout("sum", before, shape...)
			require.NoError(t, Jitter(k.rec, k.f32("ones", ones, shape...), numbers, cfg))
			cfg.Eps = 0.01
			require.NoError(t, Jitter(k.rec, x, y, cfg))
			require.NoError(t, JitterBackward(k.rec, x, sum, cfg, true))
			k.run()
			for i, v := range download[float32](t, numbers) {
				require.Equal(t, ref.JitterBits(i, cfg.Seed, 0, 5), int32((v-1)*(1<<23)), "ε = 1/2 and x = 1 keep every bit")
			}
			want := ref.Jitter(data, 0.01, cfg.Seed, 0, 5)
			require.Equal(t, want, download[float32](t, y))
			for i := range want {
				want[i] = before[i] + want[i]
			}
			require.Equal(t, want, download[float32](t, sum))
		})
	}
}

func TestJitterOf16BitTensors(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		for _, n := range []int{1, 2, 3, 4, 5, 255, 1001} {
			k := newKit(t)
			k.shift = n % 2 // odd halves
			rng := rand.New(rand.NewSource(int64(n)))
			data, before := rounded(dtype, normal(rng, n)), rounded(dtype, normal(rng, n))
			cfg := JitterConfig{Eps: 0.1, Seed: 77}
			x, y := k.floats("x", dtype, data, n), k.output("y", dtype, n)
			sum := k.floats("sum", dtype, before, n)
			k.bands[len(k.bands)-1].output = true
			require.NoError(t, Jitter(k.rec, x, y, cfg))
			require.NoError(t, JitterBackward(k.rec, x, sum, cfg, true))
			k.run()
			want := ref.Jitter(data, 0.1, 77, 0, 0)
			require.Equal(t, rounded(dtype, want), download[float32](t, y), "%v %d", dtype, n)
			for i := range want {
				want[i] += before[i]
			}
			require.Equal(t, rounded(dtype, want), download[float32](t, sum), "%v %d", dtype, n)
		}
	}
}

// TestJitterReadsItsStepOnTheDevice submits one recording twice.
func TestJitterReadsItsStepOnTheDevice(t *testing.T) {
	k := newKit(t)
	ctx := context.Background()
	data := normal(rand.New(rand.NewSource(4)), 100)
	x, y, again := k.f32("x", data, 10, 10), k.output("y", vk.F32, 10, 10), k.output("again", vk.F32, 10, 10)
	step, err := dev.NewTensor(vk.U32, 1)
	require.NoError(t, err)
	k.closes = append(k.closes, step.Close)
	cfg := JitterConfig{Eps: 0.25, Seed: 1, Step: step}
	require.NoError(t, Jitter(k.rec, x, y, cfg))
	require.NoError(t, JitterBackward(k.rec, x, again, cfg, false))
	var last []float32
	for _, s := range []uint32{0, 1, math.MaxUint32} {
		require.NoError(t, vk.Upload(ctx, step, []uint32{s}))
		k.run()
		got := download[float32](t, y)
		require.Equal(t, ref.Jitter(data, 0.25, 1, s, 0), got)
		require.Equal(t, got, download[float32](t, again), "the backward pass finds the same numbers")
		require.NotEqual(t, last, got)
		last = got
	}
}

func TestJitterArguments(t *testing.T) {
	k := newKit(t)
	x, y := k.f32("x", make([]float32, 6), 2, 3), k.inout("y", make([]float32, 6), 2, 3)
	ints := k.i32("ints", make([]int32, 1), 1)
	var shape *vk.ShapeError
	var config *ConfigError
	for name, c := range map[string]struct {
		x, y   *vk.Tensor
		cfg    JitterConfig
		target any
	}{
		"nil x":         {nil, y, JitterConfig{}, &shape},
		"nil y":         {x, nil, JitterConfig{}, &shape},
		"other shape":   {x, k.f32("z", make([]float32, 6), 3, 2), JitterConfig{}, &shape},
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
	logits := k.f32("logits", logitsOf(rng, tokens, experts), tokens, experts)
	cfg := RouterConfig{TopK: 4, Mode: SigmoidTopKNorm, CorrectionBias: k.f32("bias", normal(rng, experts), experts), Groups: 8,
		TopGroups: 3}
	r, err := Route(k.rec, logits, cfg)
	require.NoError(t, err)
	dLogits := k.output("dLogits", vk.F32, tokens, experts)
	require.NoError(t, TopKBackward(k.rec, r, logits, k.f32("dGates", normal(rng, tokens*4), tokens, 4), dLogits, false))
	losses, err := Losses(k.rec, []RoutedLayer{{r, logits, dLogits}}, LossConfig{Balance: 1, Z: 1}, true)
	require.NoError(t, err)
	jittered := k.output("jittered", vk.F32, tokens, experts)
	require.NoError(t, Jitter(k.rec, logits, jittered, JitterConfig{Eps: 0.1, Seed: 9}))
	var first [][]uint32
	for range 20 {
		k.run()
		var got [][]uint32
		for _, x := range []*vk.Tensor{r.IDs, r.Gates, dLogits, losses.Loss, losses.Layers[0].Sums, jittered} {
			got = append(got, words(t, x))
		}
		if first == nil {
			first = got
		}
		require.Equal(t, first, got)
	}
}
