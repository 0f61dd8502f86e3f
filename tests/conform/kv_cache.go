package conform

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// cacheCase is one use of a key/value cache: rows that steps append to its sequences.
type cacheCase struct {
	cfg       attention.KVCacheConfig
	steps     [][]int
	padding   int // rows behind those of the steps' sequences
	headMajor bool
	odd       bool
}

// cacheRows are the rows of a case's steps, in the order of steps.
type cacheRows struct {
	keys, values []float32
	of           [][]int // rows of each sequence, by position
}

// step makes the rows of one step and returns where they are.
func (c cacheCase) step(k *Kit, s int, rows *cacheRows) (keys, values attention.Heads, offsets *vk.Tensor) {
	cfg := c.cfg
	n := c.padding
	for _, count := range c.steps[s] {
		n += count
	}
	at := len(rows.keys) / (cfg.KVHeads * cfg.Width)
	for b, count := range c.steps[s] {
		for range count {
			rows.of[b] = append(rows.of[b], at)
			at++
		}
	}
	f := flashCase{headMajor: c.headMajor}
	heads := func(name string, all *[]float32, width int) attention.Heads {
		data := k.Normal(cfg.DType, n*cfg.KVHeads*width)
		*all = append(*all, data...)
		h := f.heads(n, cfg.KVHeads, width)
		h.Tensor = k.Floats(fmt.Sprintf("%s_%d", name, s), cfg.DType, f.lay(data, n, cfg.KVHeads, width, false), n, cfg.KVHeads, width)
		return h
	}
	keys, values = heads("k", &rows.keys, cfg.Width), heads("v", &rows.values, cfg.ValueWidth)
	return keys, values, k.I32(fmt.Sprintf("offsets_%d", s), offsetsOf(c.steps[s]), cfg.Sequences+1)
}

// fits reports whether a sequence with so many keys has room for more.
func (c cacheCase) fits(length, count int) bool {
	if c.cfg.Window > 0 {
		length = min(length, c.cfg.Window-1)
	}
	return length+count <= c.cfg.Capacity
}

// append records all steps; the cache's contents are compared bit by bit. Rows without room must be left out and reported.
func (c cacheCase) append(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	cfg := c.cfg
	cache := k.cache(cfg)
	k.Rec.Fill(cache.Lengths, 0)
	rows := cacheRows{of: make([][]int, cfg.Sequences)}
	full := -1
	for s, counts := range c.steps {
		before := make([]int, cfg.Sequences)
		for b := range before {
			before[b] = len(rows.of[b])
		}
		keys, values, offsets := c.step(k, s, &rows)
		k.must(cache.Append(k.Rec, keys, values, offsets))
		for b, n := range counts {
			if !c.fits(before[b], n) {
				rows.of[b] = rows.of[b][:before[b]]
				if full < 0 {
					full = b
				}
			}
		}
	}
	if full >= 0 {
		k.ExpectRunError(func(err error) error {
			var e *attention.CacheFullError
			if !errors.As(err, &e) || e.Sequence != full || e.Capacity != cfg.Capacity {
				return fmt.Errorf("the run returned %v and should have said that sequence %d has no room", err, full)
			}
			return nil
		})
	}
	return func() {
		lengths := make([]int32, cfg.Sequences)
		for b := range lengths {
			lengths[b] = int32(len(rows.of[b]))
		}
		k.EqualInts("lengths", k.Ints(cache.Lengths), lengths)
		c.judgeRows(k, "keys", cache.Keys, rows.keys, rows.of, cfg.Width)
		c.judgeRows(k, "values", cache.Values, rows.values, rows.of, cfg.ValueWidth)
	}
}

// judgeRows compares the cache's rows, of which key j is in row j mod Capacity, exactly; those of no key must hold poison.
func (c cacheCase) judgeRows(k *Kit, name string, t *vk.Tensor, data []float32, of [][]int, width int) {
	cfg := c.cfg
	got, err := k.words(t)
	k.must(err)
	row := cfg.KVHeads * width
	want := make([]uint32, len(got))
	for i := range want {
		want[i] = k.poison(cfg.DType)
	}
	for b, rows := range of {
		for j, from := range rows {
			copy(want[(b*cfg.Capacity+j%cfg.Capacity)*row:][:row], bitsOf(cfg.DType, data[from*row:(from+1)*row]))
		}
	}
	for i, w := range want {
		if got[i] != w {
			k.Fail(CheckOracle, name, "element %d of %d is %08x and should be %08x", i, len(got), got[i], w)
			return
		}
	}
}

// grow fills a cache, makes it larger and goes on: attention over it is compared with that over all rows. The growth itself runs
// while the case is recorded, as it does in a program.
func (c cacheCase) grow(k *Kit, capacity int) func() {
	cfg := c.cfg
	cache, err := attention.NewKVCache(k.Ctx, k.Dev, cfg)
	k.must(err)
	k.closes = append(k.closes, func() error { return cache.Close() })
	rows := cacheRows{of: make([][]int, cfg.Sequences)}
	last := len(c.steps) - 1
	lengths := make([]int32, cfg.Sequences)
	for s := range last {
		keys, values, offsets := c.step(k, s, &rows)
		k.runNow(func(rec *vk.Recorder) error { return cache.Append(rec, keys, values, offsets) })
		for b, n := range c.steps[s] {
			lengths[b] += int32(n)
		}
	}
	if err := cache.Grow(k.Ctx, capacity); !errors.Is(err, vk.ErrCompileOnly) {
		k.must(err)
	}
	k.Rec.Copy(cache.Lengths, k.I32("before", lengths, cfg.Sequences))
	keys, values, offsets := c.step(k, last, &rows)
	k.must(cache.Append(k.Rec, keys, values, offsets))
	f := attention.FlashConfig{Heads: cfg.KVHeads, KVHeads: cfg.KVHeads, Width: cfg.Width, ValueWidth: cfg.ValueWidth, Causal: true,
		Window: cfg.Window, DType: cfg.DType}
	queries := len(rows.keys)/(cfg.KVHeads*cfg.Width) - rows.first(c, last)
	q := k.Normal(cfg.DType, queries*cfg.KVHeads*cfg.Width)
	out := k.Output("out", cfg.DType, queries, cfg.KVHeads*cfg.ValueWidth)
	in := cache.Input(attention.DenseHeads(k.Floats("q", cfg.DType, q, queries, cfg.KVHeads*cfg.Width), cfg.KVHeads, cfg.Width), offsets)
	k.must(attention.Flash(k.Rec, f, in, attention.DenseHeads(out, cfg.KVHeads, cfg.ValueWidth), nil))
	return func() {
		keyCounts := make([]int, cfg.Sequences)
		order := []int{}
		for b, of := range rows.of {
			keyCounts[b] = len(of)
			order = append(order, of...)
		}
		a := ref.Attention{Heads: cfg.KVHeads, KVHeads: cfg.KVHeads, Width: cfg.Width, ValueWidth: cfg.ValueWidth, Causal: true,
			Window: cfg.Window, Scale: float64(float32(1 / math.Sqrt(float64(cfg.Width)))), QueryOffsets: offsetsOf(c.steps[last]),
			KeyOffsets: offsetsOf(keyCounts)}
		want := ref.AttentionForward(a, q, gather(rows.keys, order, cfg.KVHeads*cfg.Width), gather(rows.values, order, cfg.KVHeads*cfg.ValueWidth))
		bound, _ := want.RoundedBounds(refTypes[cfg.DType])
		k.Close("out", out, want.Out.Y, bound)
	}
}

// first is the number of rows before a step.
func (r *cacheRows) first(c cacheCase, step int) int {
	n := 0
	for _, counts := range c.steps[:step] {
		n += c.padding
		for _, count := range counts {
			n += count
		}
	}
	return n
}

// gather returns some rows.
func gather(data []float32, rows []int, width int) []float32 {
	var out []float32
	for _, r := range rows {
		out = append(out, data[r*width:(r+1)*width]...)
	}
	return out
}

// runNow records and runs something at once, or only records it on a device that runs nothing.
func (k *Kit) runNow(record func(rec *vk.Recorder) error) {
	rec, err := k.Dev.NewRecorder()
	k.must(err)
	err = record(rec)
	if err == nil {
		err = rec.Run(k.Ctx)
	}
	if errors.Is(err, vk.ErrCompileOnly) {
		err = nil
	}
	k.must(errors.Join(err, rec.Close()))
}

func cacheCases(add func(Case)) {
	single := slices.Repeat([][]int{{1, 1}}, 13)
	cases := []struct {
		name     string
		cfg      attention.KVCacheConfig
		steps    [][]int
		padding  int
		required bool
	}{
		{"append.chunks", attention.KVCacheConfig{Sequences: 3, Capacity: 20, KVHeads: 2, Width: 16, ValueWidth: 12}, [][]int{{9, 0, 4}, {1, 1, 1},
			{0, 17, 0}, {0, 0, 0}, {10, 2, 1}}, 0, true},
		{"append.padded", attention.KVCacheConfig{Sequences: 2, Capacity: 9, KVHeads: 1, Width: 7, ValueWidth: 5}, [][]int{{3, 1}, {1, 4}}, 3, false},
		{"append.one_key", attention.KVCacheConfig{Sequences: 1, Capacity: 1, KVHeads: 3, Width: 1, ValueWidth: 1}, [][]int{{1}}, 0, false},
		{"append.wide", attention.KVCacheConfig{Sequences: 1, Capacity: 70, KVHeads: 4, Width: 128, ValueWidth: 256}, [][]int{{65}, {1}}, 0, false},
		{"append.full", attention.KVCacheConfig{Sequences: 3, Capacity: 5, KVHeads: 2, Width: 4, ValueWidth: 6}, [][]int{{3, 5, 0}, {2, 1, 0},
			{0, 0, 5}}, 0, true},
		{"ring.single", attention.KVCacheConfig{Sequences: 2, Capacity: 5, KVHeads: 2, Width: 8, ValueWidth: 8, Window: 5}, single, 0, true},
		{"ring.chunks", attention.KVCacheConfig{Sequences: 2, Capacity: 11, KVHeads: 1, Width: 19, ValueWidth: 4, Window: 6},
			[][]int{{6, 1}, {6, 1}, {2, 6}, {0, 6}, {5, 5}}, 2, false},
		{"ring.full", attention.KVCacheConfig{Sequences: 2, Capacity: 8, KVHeads: 1, Width: 4, ValueWidth: 4, Window: 5}, [][]int{{8, 2}, {4, 7}}, 0, false},
	}
	grown := []struct {
		name  string
		cfg   attention.KVCacheConfig
		steps [][]int
		to    int
	}{
		{"grow.whole", attention.KVCacheConfig{Sequences: 3, Capacity: 6, KVHeads: 2, Width: 16, ValueWidth: 12}, [][]int{{6, 0, 1}, {0, 3, 1},
			{7, 1, 2}}, 21},
		{"grow.ring", attention.KVCacheConfig{Sequences: 2, Capacity: 6, KVHeads: 2, Width: 8, ValueWidth: 8, Window: 4}, [][]int{{6, 2}, {3, 1},
			{3, 0}, {5, 2}}, 13},
	}
	for _, dtype := range storages {
		for _, c := range cases {
			for i, layout := range []string{"rows", "heads_odd"} {
				k := cacheCase{cfg: c.cfg, steps: c.steps, padding: c.padding, headMajor: i == 1, odd: i == 1}
				k.cfg.DType = dtype
				add(Case{Name: fmt.Sprintf("kv_cache.%s.%v.%s", c.name, dtype, layout), Required: c.required && i == int(dtype)%2, Record: k.append})
			}
		}
		for i, c := range grown {
			k := cacheCase{cfg: c.cfg, steps: c.steps}
			k.cfg.DType = dtype
			add(Case{Name: fmt.Sprintf("kv_cache.%s.%v.rows", c.name, dtype), Required: i == int(dtype)%2,
				Record: func(kit *Kit) func() { return k.grow(kit, c.to) }})
		}
	}
}
