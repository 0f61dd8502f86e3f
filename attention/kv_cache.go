package attention

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// A KVCacheConfig describes a KVCache.
type KVCacheConfig struct {
	Sequences         int // B
	Capacity          int // rows per sequence
	KVHeads           int // Hkv
	Width, ValueWidth int // d and dv
	Window            int // that of the attention; above 0 old keys make room for new ones
	DType             vk.DType
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c KVCacheConfig) Validate() error {
	const name = "KVCacheConfig"
	err := check.First(
		check.InRange(name, "Sequences", c.Sequences, 1, math.MaxInt32),
		check.InRange(name, "Capacity", c.Capacity, max(1, c.Window), 1<<30-1),
		check.InRange(name, "KVHeads", c.KVHeads, 1, maxHeads),
		check.InRange(name, "Width", c.Width, 1, MaxHeadWidth),
		check.InRange(name, "ValueWidth", c.ValueWidth, 1, MaxHeadWidth),
		check.InRange(name, "Window", c.Window, 0, math.MaxInt32/2),
	)
	switch {
	case err != nil:
		return err
	case c.Sequences*c.Capacity >= 1<<30:
		return check.Config(name, "Sequences·Capacity", "below 2^30", fmt.Sprint(c.Sequences*c.Capacity))
	}
	return check.DType(name, c.DType)
}

// Bytes is the size of the keys and values: B·Capacity·Hkv·(d + dv) elements.
func (c KVCacheConfig) Bytes() uint64 {
	return uint64(c.Sequences) * uint64(c.Capacity) * uint64(c.KVHeads) * uint64(c.Width+c.ValueWidth) * c.DType.Bytes()
}

// A CacheFullError is a sequence of a KVCache without room for what is to be appended. With a Window, Count + Window − 1 rows
// are asked for, since the first of the new queries sees Window keys.
type CacheFullError struct {
	Sequence int
	Length   int // keys that it had, as far as Reserve was told
	Count    int // that were to be appended; 0 where only the device knows
	Capacity int // rows that it has
}

func (e *CacheFullError) Error() string {
	if e.Count == 0 {
		return fmt.Sprintf("attention: sequence %d of the cache has no room in %d rows", e.Sequence, e.Capacity)
	}
	return fmt.Sprintf("attention: sequence %d of the cache has %d keys and no room for %d more in %d rows", e.Sequence, e.Length,
		e.Count, e.Capacity)
}

// A KVCache keeps the keys and values of B sequences from one run to the next. Each has Capacity rows, used as a ring: key j
// is in row j mod Capacity. How many keys a sequence has is on the device, so a recorded step may be submitted again and
// again. A step is
//
//	cache.Append(rec, k, v, offsets)       // T rows of new keys and values, unequally many per sequence
//	Flash(rec, cfg, cache.Input(q, offsets), out, nil)
//
// Positions of the new rows for a RoPE begin at Lengths before Append. Before each submission tell the host what the step
// appends (Reserve), which fails where there is no room; then Grow the cache or Reset sequences. The device does not trust
// that: rows of a sequence without room are dropped, and waiting for the run returns a *CacheFullError.
//
// Without a Window a sequence holds up to Capacity keys. With one it goes on forever, in Capacity ≥ Window − 1 + the rows
// appended at a time.
type KVCache struct {
	Config       KVCacheConfig // Capacity grows
	Keys, Values *vk.Tensor    // [B,Capacity,Hkv,d] and [B,Capacity,Hkv,dv]
	Lengths      *vk.Tensor    // I32 [B]: keys that each sequence had so far

	dev    *vk.Device
	counts []int // what the host knows of Lengths
}

// NewKVCache makes an empty cache: Bytes of keys and values and a word per sequence. It fails with a *ConfigError or
// vk.ErrOutOfMemory.
func NewKVCache(ctx context.Context, dev *vk.Device, cfg KVCacheConfig) (*KVCache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &KVCache{Config: cfg, dev: dev, counts: make([]int, cfg.Sequences)}
	var err error
	if c.Keys, c.Values, err = cfg.newRows(dev); err != nil {
		return nil, err
	}
	if c.Lengths, err = dev.NewTensor(vk.I32, cfg.Sequences); err == nil {
		err = vk.Upload(ctx, c.Lengths, make([]int32, cfg.Sequences))
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// newRows makes the tensors of keys and values.
func (c KVCacheConfig) newRows(dev *vk.Device) (keys, values *vk.Tensor, err error) {
	if keys, err = dev.NewTensor(c.DType, c.Sequences, c.Capacity, c.KVHeads, c.Width); err != nil {
		return nil, nil, err
	}
	if values, err = dev.NewTensor(c.DType, c.Sequences, c.Capacity, c.KVHeads, c.ValueWidth); err != nil {
		return nil, nil, errors.Join(err, keys.Close())
	}
	return keys, values, nil
}

// Close frees the cache. Closing twice does nothing.
func (c *KVCache) Close() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.Keys.Close(), c.Values.Close(), c.Lengths.Close())
}

// Input is what Flash needs beside its configuration to let queries [T,Hq,d] see the cache. offsets I32 [B+1] say which of
// them belong to a sequence; its last query stands at its last key.
func (c *KVCache) Input(q Heads, offsets *vk.Tensor) FlashInput {
	return FlashInput{
		Q: q, QueryOffsets: offsets,
		K:           DenseHeads(c.Keys, c.Config.KVHeads, c.Config.Width),
		V:           DenseHeads(c.Values, c.Config.KVHeads, c.Config.ValueWidth),
		KeyCapacity: c.Config.Capacity, KeyLengths: c.Lengths,
	}
}

// Reserve notes that counts[b] rows are about to be appended to sequence b, by a step that is then submitted once. Without
// room for all of them it returns a *CacheFullError that names the first sequence, and notes nothing.
func (c *KVCache) Reserve(counts ...int) error {
	if len(counts) != c.Config.Sequences {
		return &vk.ShapeError{Op: "KVCache.Reserve", Arg: "counts", Want: fmt.Sprintf("%d counts", c.Config.Sequences),
			Got: fmt.Sprint(len(counts))}
	}
	for b, n := range counts {
		if n < 0 {
			return &vk.ShapeError{Op: "KVCache.Reserve", Arg: fmt.Sprintf("counts[%d]", b), Want: "at least 0", Got: fmt.Sprint(n)}
		}
		before := c.counts[b]
		if c.Config.Window > 0 {
			before = min(before, c.Config.Window-1)
		}
		if n > c.Config.Capacity-before || n >= 1<<30-c.counts[b] {
			return &CacheFullError{Sequence: b, Length: c.counts[b], Count: n, Capacity: c.Config.Capacity}
		}
	}
	for b, n := range counts {
		c.counts[b] += n
	}
	return nil
}

// Counts is how many keys each sequence has by what Reserve was told.
func (c *KVCache) Counts() []int { return slices.Clone(c.counts) }

// Reset empties sequences, all of them if none is named, once everything submitted so far has run.
func (c *KVCache) Reset(ctx context.Context, sequences ...int) error {
	if len(sequences) == 0 {
		if err := vk.Upload(ctx, c.Lengths, make([]int32, c.Config.Sequences)); err != nil {
			return err
		}
		clear(c.counts)
		return nil
	}
	for _, b := range sequences {
		if b < 0 || b >= c.Config.Sequences {
			return &vk.ShapeError{Op: "KVCache.Reset", Arg: "sequences", Want: fmt.Sprintf("0 to %d", c.Config.Sequences-1),
				Got: fmt.Sprint(b)}
		}
		word, err := c.Lengths.View(b, 1)
		if err == nil {
			err = vk.Upload(ctx, word, []int32{0})
		}
		if err != nil {
			return err
		}
		c.counts[b] = 0
	}
	return nil
}

// Grow makes room for capacity rows per sequence, keeping what is there, and waits for it; meanwhile the old and the new rows
// both take memory. Steps recorded before refuse to be submitted again (vk.ErrClosed), for Keys and Values are other tensors
// then. When it fails the cache is as it was.
func (c *KVCache) Grow(ctx context.Context, capacity int) error {
	cfg := c.Config
	if err := check.InRange("KVCacheConfig", "Capacity", capacity, c.Config.Capacity, math.MaxInt32); err != nil {
		return err
	}
	cfg.Capacity = capacity
	if err := cfg.Validate(); err != nil {
		return err
	}
	grown := &KVCache{Config: cfg, dev: c.dev, Lengths: c.Lengths}
	var err error
	if grown.Keys, grown.Values, err = cfg.newRows(c.dev); err != nil {
		return err
	}
	rec, err := c.dev.NewRecorder()
	if err == nil {
		err = c.move(rec, grown)
		if err == nil {
			err = rec.Run(ctx)
		}
		err = errors.Join(err, rec.Close())
	}
	if err != nil {
		return errors.Join(err, grown.Keys.Close(), grown.Values.Close())
	}
	err = errors.Join(c.Keys.Close(), c.Values.Close())
	c.Config, c.Keys, c.Values = cfg, grown.Keys, grown.Values
	return err
}
