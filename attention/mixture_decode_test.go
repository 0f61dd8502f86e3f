package attention

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// newCache makes a cache for a layer that is closed with the test.
func (l mixtureLayer) newCache(t testing.TB, sequences, capacity int) *KVCache {
	t.Helper()
	cache, err := NewKVCache(context.Background(), dev, l.Config.CacheConfig(sequences, capacity))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cache.Close()) })
	return cache
}

// decodeRows are what each step appends to two sequences: prompts, chunks, nothing, and tokens one by one.
var decodeRows = [][2]int{{9, 1}, {0, 4}, {1, 1}, {1, 1}, {5, 0}, {0, 0}, {17, 2}, {1, 1}, {1, 1}}

// TestDecodeEqualsForward appends rows step by step and compares every one with that of one pass over all rows.
func TestDecodeEqualsForward(t *testing.T) {
	for i, cfg := range []MixtureConfig{
		{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 24, Mode: moe.TopKSoftmax, OutputBias: true, Causal: true},
		{Experts: 4, TopK: 1, HeadsPerExpert: 3, HeadWidth: 10, Width: 15, Causal: true, Window: 6, Sinks: true, DType: vk.F16},
		{Experts: 3, TopK: 3, HeadsPerExpert: 1, HeadWidth: 80, Width: 12, Causal: true, SoftCap: 4, ExpertBias: true, DType: vk.BF16},
	} {
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			l := newMixture(t, cfg, []int{16, 4, 0}[i])
			totals := [2]int{}
			for _, rows := range decodeRows {
				totals[0], totals[1] = totals[0]+rows[0], totals[1]+rows[1]
			}
			r := rand.New(rand.NewSource(4))
			var data, want [2][]float32
			k := newKit(t)
			var whole [2]*vk.Tensor
			for s, n := range totals {
				data[s] = vk.Round(cfg.DType, gputest.Normal(r, n*cfg.Width))
				whole[s] = k.Output("y", cfg.DType, n, cfg.Width)
				_, err := l.Forward(k.Rec, k.Floats("x", cfg.DType, data[s], n, cfg.Width), whole[s],
					Sequences{Offsets: k.I32("offsets", []int32{0, int32(n)}, 2)})
				require.NoError(t, err)
			}
			k.Run()
			for s := range want {
				want[s] = gputest.Download[float32](t, whole[s])
			}
			capacity := 40
			if cfg.Window > 0 {
				capacity = cfg.Window - 1 + 17
			}
			l.requireDecode(t, l.newCache(t, 2, capacity), data, want)
		})
	}
}

// requireDecode appends the rows of two sequences and compares.
func (l mixtureLayer) requireDecode(t *testing.T, cache *KVCache, data, want [2][]float32) {
	t.Helper()
	cfg := l.Config
	at := [2]int{}
	for step, rows := range decodeRows {
		k := newKit(t)
		var x, expected []float32
		for s, n := range rows {
			from, to := at[s]*cfg.Width, (at[s]+n)*cfg.Width
			x, expected = append(x, data[s][from:to]...), append(expected, want[s][from:to]...)
			at[s] += n
		}
		n := rows[0] + rows[1]
		y := k.Output("y", cfg.DType, n, cfg.Width)
		require.NoError(t, cache.Reserve(rows[:]...))
		saved, err := l.Decode(k.Rec, cache, k.Floats("x", cfg.DType, x, n, cfg.Width), y,
			Sequences{Offsets: k.I32("offsets", []int32{0, int32(rows[0]), int32(n)}, 3)})
		require.NoError(t, err)
		require.NotNil(t, saved.Routing)
		require.Nil(t, saved.Heads)
		k.Run()
		relative := relativeError(gputest.Download[float32](t, y), ref.Widen(expected))
		require.True(t, relative <= 1e-6+gputest.Oracle(cfg.DType).Storage(), "step %d: %v", step, relative)
		k.Close()
	}
	require.Equal(t, at[:], cache.Counts())
}

// TestDecodeStepIsSubmittedAgain records one token per sequence once, with the next token uploaded before each run.
func TestDecodeStepIsSubmittedAgain(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 2, HeadWidth: 8, Width: 12, Mode: moe.TopKSoftmax, Causal: true}
	l := newMixture(t, cfg, 8)
	const sequences, steps = 3, 10
	data := gputest.Normal(rand.New(rand.NewSource(6)), sequences*steps*cfg.Width)
	k := newKit(t)
	whole := k.Output("whole", vk.F32, sequences*steps, cfg.Width)
	_, err := l.Forward(k.Rec, k.F32("all", data, sequences*steps, cfg.Width), whole,
		Sequences{Offsets: k.I32("offsets", []int32{0, steps, 2 * steps, 3 * steps}, 4)})
	require.NoError(t, err)
	k.Run()
	want := gputest.Download[float32](t, whole)

	cache := l.newCache(t, sequences, steps)
	x, err := dev.NewTensor(vk.F32, sequences, cfg.Width)
	require.NoError(t, err)
	defer x.Close()
	step := newKit(t)
	y := step.Output("y", vk.F32, sequences, cfg.Width)
	_, err = l.Decode(step.Rec, cache, x, y, Sequences{Offsets: step.I32("offsets", []int32{0, 1, 2, 3}, 4)})
	require.NoError(t, err)
	next := func(i int) {
		var rows []float32
		for s := range sequences {
			rows = append(rows, data[(s*steps+i)*cfg.Width:][:cfg.Width]...)
		}
		require.NoError(t, vk.Upload(step.Ctx, x, rows))
	}
	for i := range steps {
		next(i)
		require.NoError(t, cache.Reserve(1, 1, 1))
		step.Run()
		for s, got := 0, gputest.Download[float32](t, y); s < sequences; s++ {
			relative := relativeError(got[s*cfg.Width:][:cfg.Width], ref.Widen(want[(s*steps+i)*cfg.Width:][:cfg.Width]))
			require.True(t, relative <= 1e-6, "token %d of sequence %d: %v", i, s, relative)
		}
	}
	var full *CacheFullError
	require.ErrorAs(t, cache.Reserve(1, 1, 1), &full)
	require.ErrorAs(t, step.Rec.Run(step.Ctx), &full, "nor does the device believe that there is room")
	require.NoError(t, cache.Reset(step.Ctx))
	next(0)
	step.Run()
	require.True(t, relativeError(gputest.Download[float32](t, y)[:cfg.Width], ref.Widen(want[:cfg.Width])) <= 1e-6, "from the beginning")
}

func TestDecodeArguments(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 4, Width: 8, Causal: true}
	l := newMixture(t, cfg, 0)
	k := newKit(t)
	x, y := k.F32("x", make([]float32, 16), 2, 8), k.PartialOutput("y", vk.F32, 2, 8)
	seq := Sequences{Offsets: k.I32("offsets", []int32{0, 1, 2}, 3)}
	wide := l.newCache(t, 2, 5)
	wide.Config.KVHeads = 2
	closed := l.newCache(t, 2, 5)
	require.NoError(t, closed.Close())
	var shape *vk.ShapeError
	for arg, cache := range map[string]*KVCache{"cache": nil, "cache ": wide, "offsets": l.newCache(t, 3, 5)} {
		_, err := l.Decode(newRecorder(t), cache, x, y, seq)
		require.ErrorAs(t, err, &shape, arg)
	}
	_, err := l.Decode(newRecorder(t), closed, x, y, seq)
	require.ErrorIs(t, err, vk.ErrClosed)
	both := newMixture(t, MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 4, Width: 8}, 0)
	_, err = both.Decode(newRecorder(t), both.newCache(t, 2, 5), x, y, seq)
	var config *ConfigError
	require.ErrorAs(t, err, &config)
	require.Equal(t, "Causal", config.Field)
}
