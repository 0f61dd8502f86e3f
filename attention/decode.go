package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// CacheConfig describes a cache of the layer's keys and values. With a Window, capacity is at least Window − 1 and the rows
// that are appended at a time.
func (c SelfAttentionConfig) CacheConfig(sequences, capacity int) KVCacheConfig {
	return c.flash().cacheConfig(sequences, capacity)
}

// CacheConfig describes a cache of the layer's keys and values, expanded for all heads.
func (c MLAConfig) CacheConfig(sequences, capacity int) KVCacheConfig {
	return c.flash(nil).cacheConfig(sequences, capacity)
}

// cacheConfig describes a cache of an attention's keys and values.
func (c FlashConfig) cacheConfig(sequences, capacity int) KVCacheConfig {
	return KVCacheConfig{Sequences: sequences, Capacity: capacity, KVHeads: c.KVHeads, Width: c.Width, ValueWidth: c.ValueWidth,
		Window: c.Window, DType: c.DType}
}

// Decode records y = SelfAttention(x) for rows that continue the sequences of a cache: their keys and values are appended to
// it, and their queries see all that it holds. x and y are [T,D] of the layer's dtype. T may be anything from whole prompts to
// one row per sequence, and seq.Offsets may give sequences unequally many, even none. Position by position the result is that
// of Forward of the whole sequences. Without seq.Positions a sequence's positions go on from the cache's Lengths.
//
// Recorded once, it may be submitted for each step anew. Before each submission cache.Reserve says whether there is room, and
// RoPE.Grow makes the table long enough; what the host missed ends the run in a *CacheFullError or a *PositionError. Nothing is
// saved: keys in a cache have no gradients. It takes PassBytes of SaveNothing, and what Flash takes where queries are few.
func (l *SelfAttention) Decode(rec *vk.Recorder, cache *KVCache, x, y *vk.Tensor, seq Sequences) error {
	const op = "SelfAttention.Decode"
	c := l.Config
	tokens, err := checkForward(rec.Device(), op, l, x, y, seq)
	if err == nil {
		err = checkCache(rec.Device(), op, cache, c.flash(), y)
	}
	if err != nil {
		return rec.Fail(err)
	}
	if err := makePositions(rec, l.RoPE, tokens, &seq, cache); err != nil {
		return err
	}
	seq.check(rec, tokens)
	heads, whole := clearable(rec, c.DType, tokens, c.queryWidth())
	defer rec.Release(whole)
	p := l.takeStages(rec, tokens, false)
	defer p.release(rec)
	if err := l.project(rec, x, seq, p); err != nil {
		return err
	}
	in := cache.Input(l.queryHeads(p.turned[0]), seq.Offsets)
	in.Sinks = l.Sinks
	err = decodeHeads(rec, c.flash(), in, cache, l.keyHeads(p.turned[1]), l.keyHeads(p.value), l.queryHeads(heads), seq, whole)
	if err != nil {
		return err
	}
	return l.Output.Dense(rec, heads, y)
}

// Decode records y = MLA(x) for rows that continue the sequences of a cache, as SelfAttention.Decode does.
// Errors: see the package.
func (l *MLA) Decode(rec *vk.Recorder, cache *KVCache, x, y *vk.Tensor, seq Sequences) error {
	const op = "MLA.Decode"
	c := l.Config
	tokens, err := checkForward(rec.Device(), op, l, x, y, seq)
	if err == nil {
		err = checkCache(rec.Device(), op, cache, c.flash(l.RoPE), y)
	}
	if err != nil {
		return rec.Fail(err)
	}
	if err := makePositions(rec, l.RoPE, tokens, &seq, cache); err != nil {
		return err
	}
	seq.check(rec, tokens)
	heads, whole := clearable(rec, c.DType, tokens, c.Heads*c.ValueWidth)
	defer rec.Release(whole)
	p := l.takeStages(rec, tokens, false)
	defer p.release(rec)
	if err := l.project(rec, x, seq, p); err != nil {
		return err
	}
	in := cache.Input(l.queryHeads(p.Query), seq.Offsets)
	err = decodeHeads(rec, c.flash(l.RoPE), in, cache, l.queryHeads(p.Key), l.valueHeads(p.Up), l.outputHeads(heads), seq, whole)
	if err != nil {
		return err
	}
	return l.Output.Dense(rec, heads, y)
}

// decodeHeads appends keys and values to the cache and records attention over it; whole is the memory of out.
func decodeHeads(rec *vk.Recorder, cfg FlashConfig, in FlashInput, cache *KVCache, k, v, out Heads, seq Sequences, whole *vk.Tensor) error {
	if err := cache.Append(rec, k, v, seq.Offsets); err != nil {
		return err
	}
	if seq.Padded {
		rec.Fill(whole, 0)
	}
	return Flash(rec, cfg, in, out, nil)
}

// checkCache reports a cache that is not an attention's, and an attention whose queries see later keys, which a cache does not
// have. One without a Window serves an attention with one, but not the reverse. y must not be part of it.
func checkCache(dev *vk.Device, op string, cache *KVCache, cfg FlashConfig, y *vk.Tensor) error {
	if !cfg.Causal {
		return check.Config(op, "Causal", "true with a cache", "false")
	}
	if err := cache.check(dev, op); err != nil {
		return err
	}
	c := cache.Config
	want := cfg.cacheConfig(c.Sequences, c.Capacity)
	if c.Window == 0 {
		want.Window = 0
	}
	if c != want {
		return &vk.ShapeError{Op: op, Arg: "cache", Want: fmt.Sprintf("%+v", want), Got: fmt.Sprintf("%+v", c)}
	}
	return checkSpansApart(op, tensorSpan("y", y), tensorSpan("cache.Keys", cache.Keys), tensorSpan("cache.Values", cache.Values),
		tensorSpan("cache.Lengths", cache.Lengths))
}
