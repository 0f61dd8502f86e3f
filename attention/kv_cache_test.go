package attention

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// decodeCase decodes sequences in steps that append unequal numbers of rows to them.
type decodeCase struct {
	cfg      FlashConfig
	capacity int
	steps    [][]int
	grow     map[int]int // before a step: the new capacity
	sinks    bool
	plan     flashPlan
}

// decoder is a cache with the recorded step that is under way.
type decoder struct {
	t       *testing.T
	c       decodeCase
	cache   *KVCache
	rec     *vk.Recorder
	tokens  int // of the recorded step
	inputs  [3]*vk.Tensor
	offsets *vk.Tensor
	sinks   *vk.Tensor
	out     *vk.Tensor
	closes  []func() error
}

func (d *decoder) tensor(dtype vk.DType, shape ...int) *vk.Tensor {
	x, err := dev.NewTensor(dtype, shape...)
	require.NoError(d.t, err)
	d.closes = append(d.closes, x.Close)
	return x
}

// rerecord records a step of so many tokens, unless that is what is recorded.
func (d *decoder) rerecord(tokens int) {
	if d.rec != nil && d.tokens == tokens {
		return
	}
	cfg := d.c.cfg
	var err error
	d.rec, err = dev.NewRecorder()
	require.NoError(d.t, err)
	d.closes = append(d.closes, d.rec.Close)
	d.tokens = tokens
	d.inputs = [3]*vk.Tensor{d.tensor(cfg.DType, tokens, cfg.Heads, cfg.Width), d.tensor(cfg.DType, tokens, cfg.KVHeads, cfg.Width),
		d.tensor(cfg.DType, tokens, cfg.KVHeads, cfg.ValueWidth)}
	d.out = d.tensor(cfg.DType, tokens, cfg.Heads, cfg.ValueWidth)
	require.NoError(d.t, d.cache.Append(d.rec, DenseHeads(d.inputs[1], cfg.KVHeads, cfg.Width),
		DenseHeads(d.inputs[2], cfg.KVHeads, cfg.ValueWidth), d.offsets))
	in := d.cache.Input(DenseHeads(d.inputs[0], cfg.Heads, cfg.Width), d.offsets)
	in.Sinks = d.sinks
	require.NoError(d.t, flash(d.rec, cfg, in, DenseHeads(d.out, cfg.Heads, cfg.ValueWidth), nil, d.c.plan))
}

// poisonCache fills a cache's rows with NaN.
func poisonCache(t *testing.T, c *KVCache) {
	for _, x := range []*vk.Tensor{c.Keys, c.Values} {
		bits := slices.Repeat([]uint32{gputest.Poison(x.DType())}, x.Elements())
		if x.DType().Bytes() == 2 {
			halves := make([]uint16, len(bits))
			for i, b := range bits {
				halves[i] = uint16(b)
			}
			require.NoError(t, vk.Upload(context.Background(), x, halves))
			continue
		}
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		rec.Fill(x, bits[0])
		require.NoError(t, rec.Run(context.Background()))
		require.NoError(t, rec.Close())
	}
}

// rowsOf picks rows of width elements.
func rowsOf(data []float32, rows []int, width int) []float32 {
	var out []float32
	for _, r := range rows {
		out = append(out, data[r*width:(r+1)*width]...)
	}
	return out
}

// check decodes step by step and compares each row with the oracle's of the whole sequences.
func (c decodeCase) check(t *testing.T) {
	t.Helper()
	gputest.Need(t, dev)
	ctx, cfg, b := context.Background(), c.cfg, len(c.steps[0])
	lengths := make([]int, b)
	for _, step := range c.steps {
		for i, n := range step {
			lengths[i] += n
		}
	}
	whole := flashCase{cfg: cfg, queries: lengths}.oracle()
	r := rand.New(rand.NewSource(7))
	q := vk.Round(cfg.DType, gputest.Normal(r, whole.Queries()*cfg.Heads*cfg.Width))
	k := vk.Round(cfg.DType, gputest.Normal(r, whole.Queries()*cfg.KVHeads*cfg.Width))
	v := vk.Round(cfg.DType, gputest.Normal(r, whole.Queries()*cfg.KVHeads*cfg.ValueWidth))
	d := &decoder{t: t, c: c}
	defer func() {
		for _, f := range slices.Backward(d.closes) {
			require.NoError(t, f())
		}
	}()
	if c.sinks {
		whole.Sinks = gputest.Normal(r, cfg.Heads)
		d.sinks = d.tensor(vk.F32, cfg.Heads)
		require.NoError(t, vk.Upload(ctx, d.sinks, whole.Sinks))
	}
	want := ref.AttentionForward(whole, q, k, v)
	bound, _ := want.Bounds(gputest.Oracle(cfg.DType))
	var err error
	d.cache, err = NewKVCache(ctx, dev, KVCacheConfig{Sequences: b, Capacity: c.capacity, KVHeads: cfg.KVHeads, Width: cfg.Width,
		ValueWidth: cfg.ValueWidth, Window: cfg.Window, DType: cfg.DType})
	require.NoError(t, err)
	d.closes = append(d.closes, d.cache.Close)
	d.offsets = d.tensor(vk.I32, b+1)
	poisonCache(t, d.cache)
	done := slices.Clone(whole.QueryOffsets[:b])
	for s, step := range c.steps {
		if capacity, ok := c.grow[s]; ok {
			require.NoError(t, d.cache.Grow(ctx, capacity))
			d.rec = nil
		}
		var rows []int
		for i, n := range step {
			for range n {
				rows = append(rows, int(done[i]))
				done[i]++
			}
		}
		d.rerecord(len(rows))
		require.NoError(t, d.cache.Reserve(step...))
		require.NoError(t, vk.Upload(ctx, d.offsets, offsetsOf(step)))
		require.NoError(t, vk.Upload(ctx, d.inputs[0], rowsOf(q, rows, cfg.Heads*cfg.Width)))
		require.NoError(t, vk.Upload(ctx, d.inputs[1], rowsOf(k, rows, cfg.KVHeads*cfg.Width)))
		require.NoError(t, vk.Upload(ctx, d.inputs[2], rowsOf(v, rows, cfg.KVHeads*cfg.ValueWidth)))
		require.NoError(t, d.rec.Run(ctx))
		got := gputest.Download[float32](t, d.out)
		width := cfg.Heads * cfg.ValueWidth
		for i, row := range rows {
			gputest.RequireClose(t, got[i*width:(i+1)*width], want.Out.Y[row*width:(row+1)*width], bound[row*width:(row+1)*width],
				fmt.Sprintf("%+v: row %d in step %d", c, row, s))
		}
	}
	counts := make([]int32, b)
	for i, n := range d.cache.Counts() {
		counts[i] = int32(n)
	}
	require.Equal(t, counts, gputest.Download[int32](t, d.cache.Lengths))
}

// steps repeats one step.
func steps(n int, counts ...int) [][]int { return slices.Repeat([][]int{counts}, n) }

func TestDecodingTokenByTokenEqualsTheWhole(t *testing.T) {
	mixture := gqa(6, 2, 16, 24)
	mixture.Tiled = true
	for _, cfg := range []FlashConfig{gqa(4, 2, 16, 16), mixture, gqa(3, 1, 7, 5)} {
		for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
			cfg.DType = dtype
			decodeCase{cfg: cfg, capacity: 40, steps: steps(35, 1), sinks: dtype == vk.F32}.check(t)
			// A prompt, then unequal numbers, of which some are 0.
			decodeCase{cfg: cfg, capacity: 60, steps: slices.Concat([][]int{{0, 30, 7}}, steps(5, 1, 1, 1), [][]int{{2, 0, 1}, {1, 1, 1}, {0, 3, 0}})}.check(t)
		}
	}
}

func TestDecodingInChunksEqualsTheWhole(t *testing.T) {
	chunks := [][]int{{17, 1}, {1, 2}, {64, 3}, {2, 63}, {1, 1}}
	decodeCase{cfg: gqa(4, 2, 16, 16), capacity: 90, steps: chunks}.check(t)
	decodeCase{cfg: gqa(4, 2, 16, 16), capacity: 90, steps: chunks, plan: flashPlan{splits: 3}}.check(t)
}

func TestDecodingWithAWindowInARing(t *testing.T) {
	for _, window := range []int{1, 5, 33} {
		cfg := gqa(4, 2, 16, 16)
		cfg.Window = window
		// The least room for single tokens, which wraps at once, and for chunks of 6.
		decodeCase{cfg: cfg, capacity: window, steps: steps(3*window, 1, 1)}.check(t)
		decodeCase{cfg: cfg, capacity: window + 5, steps: slices.Concat(steps(12, 6, 1), steps(3, 1, 6), [][]int{{0, 4}, {5, 0}})}.check(t)
	}
}

func TestCacheGrows(t *testing.T) {
	cfg := gqa(4, 2, 16, 16)
	decodeCase{cfg: cfg, capacity: 4, steps: steps(20, 1, 1), grow: map[int]int{4: 9, 9: 30}}.check(t)
	cfg.Window = 6
	decodeCase{cfg: cfg, capacity: 6, steps: slices.Concat(steps(15, 1, 1), steps(5, 4, 2)), grow: map[int]int{15: 10, 17: 17}}.check(t)
}

func newTestCache(t *testing.T, cfg KVCacheConfig) *KVCache {
	t.Helper()
	gputest.Need(t, dev)
	c, err := NewKVCache(context.Background(), dev, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestCacheWithoutRoomIsATypedError(t *testing.T) {
	c := newTestCache(t, KVCacheConfig{Sequences: 3, Capacity: 8, KVHeads: 1, Width: 4, ValueWidth: 4})
	require.NoError(t, c.Reserve(8, 5, 0))
	var full *CacheFullError
	require.ErrorAs(t, c.Reserve(0, 4, 9), &full)
	require.Equal(t, CacheFullError{Sequence: 1, Length: 5, Count: 4, Capacity: 8}, *full)
	require.Equal(t, []int{8, 5, 0}, c.Counts(), "nothing was noted")
	require.NoError(t, c.Reserve(0, 3, 8))
	require.NoError(t, c.Reset(context.Background(), 1))
	require.Equal(t, []int{8, 0, 8}, c.Counts())
	require.NoError(t, c.Reserve(0, 8, 0))

	ring := newTestCache(t, KVCacheConfig{Sequences: 1, Capacity: 8, KVHeads: 1, Width: 4, ValueWidth: 4, Window: 5})
	require.NoError(t, ring.Reserve(8), "the first chunk has no keys before it")
	require.NoError(t, ring.Reserve(4))
	require.ErrorAs(t, ring.Reserve(5), &full)
	require.NoError(t, ring.Reserve(4))
}

// TestCacheThatTheHostOverfillsStaysWhole submits steps without Reserve.
func TestCacheThatTheHostOverfillsStaysWhole(t *testing.T) {
	ctx := context.Background()
	c := newTestCache(t, KVCacheConfig{Sequences: 2, Capacity: 5, KVHeads: 2, Width: 3, ValueWidth: 2})
	k := newKit(t)
	poisonCache(t, c)
	keys, values := gputest.Normal(rand.New(rand.NewSource(1)), 3*6), gputest.Normal(rand.New(rand.NewSource(2)), 3*4)
	key, value := k.F32("k", keys, 3, 2, 3), k.F32("v", values, 3, 2, 2)
	require.NoError(t, c.Append(k.Rec, DenseHeads(key, 2, 3), DenseHeads(value, 2, 2), k.I32("offsets", []int32{0, 1, 3}, 3)))
	k.Run()
	k.Run()
	for range 2 {
		var full *CacheFullError
		require.ErrorAs(t, k.Rec.Run(ctx), &full)
		require.Equal(t, CacheFullError{Sequence: 1, Capacity: 5}, *full)
	}
	k.Verify()
	require.Equal(t, []int32{4, 4}, gputest.Download[int32](t, c.Lengths), "the other sequence goes on")
	got := gputest.Words(t, c.Keys)
	for b, rows := range [][]int{{0, 0, 0, 0, -1}, {1, 2, 1, 2, -1}} {
		for j, row := range rows {
			for i := range 6 {
				want := gputest.Poison(vk.F32)
				if row >= 0 {
					want = vk.Bits(vk.F32, keys[row*6+i])
				}
				require.Equal(t, want, got[(b*5+j)*6+i], "sequence %d key %d", b, j)
			}
		}
	}
}

func TestCacheRefusesWhatDoesNotFit(t *testing.T) {
	ctx := context.Background()
	for _, bad := range []KVCacheConfig{{}, {Sequences: 1, Capacity: 4, KVHeads: 1, Width: 4},
		{Sequences: 1, Capacity: 4, KVHeads: 1, Width: 257, ValueWidth: 4}, {Sequences: 1, Capacity: 4, KVHeads: 1, Width: 4, ValueWidth: 4, Window: 5},
		{Sequences: 1 << 15, Capacity: 1 << 15, KVHeads: 1, Width: 4, ValueWidth: 4}, {Sequences: 1, Capacity: 4, KVHeads: 1, Width: 4, ValueWidth: 4, DType: vk.I32}} {
		var config *ConfigError
		require.ErrorAs(t, bad.Validate(), &config, "%+v", bad)
	}
	c := newTestCache(t, KVCacheConfig{Sequences: 2, Capacity: 8, KVHeads: 1, Width: 4, ValueWidth: 4})
	var shape *vk.ShapeError
	require.ErrorAs(t, c.Reserve(1), &shape)
	require.ErrorAs(t, c.Reserve(1, -1), &shape)
	require.ErrorAs(t, c.Reset(ctx, 2), &shape)
	var config *ConfigError
	require.ErrorAs(t, c.Grow(ctx, 7), &config)
	require.Error(t, c.Grow(ctx, 1<<30))
	k := newKit(t)
	x := k.F32("x", make([]float32, 8), 2, 4)
	require.ErrorAs(t, c.Append(k.Rec, DenseHeads(x, 1, 4), DenseHeads(x, 1, 4), k.I32("offsets", []int32{0, 2}, 2)), &shape)

	// What was recorded before growth cannot run after it.
	k = newKit(t)
	x = k.F32("x", make([]float32, 8), 2, 4)
	require.NoError(t, c.Append(k.Rec, DenseHeads(x, 1, 4), DenseHeads(x, 1, 4), k.I32("offsets", []int32{0, 1, 2}, 3)))
	require.NoError(t, c.Grow(ctx, 9))
	require.True(t, errors.Is(k.Rec.Run(ctx), vk.ErrClosed))
}
