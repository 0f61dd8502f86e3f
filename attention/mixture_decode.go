package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// CacheConfig describes a cache of the layer's keys and values: of h heads, whatever K is. With a Window, capacity is at least
// Window − 1 and the rows that are appended at a time.
func (c MixtureConfig) CacheConfig(sequences, capacity int) KVCacheConfig {
	return KVCacheConfig{Sequences: sequences, Capacity: capacity, KVHeads: c.HeadsPerExpert, Width: c.HeadWidth,
		ValueWidth: c.HeadWidth, Window: c.Window, DType: c.DType}
}

// Decode records y = Mixture(x) for the rows x [T,D] that follow those whose keys and values the cache holds: a token per
// sequence, a chunk of a prompt, or unequally many, of which seq.Offsets I32 [B+1] says whose they are. It equals the last rows
// of a Forward of all rows, but for the order of sums. The routing is in what it returns, and nothing else is.
//
// Rows for which the cache has no room are left out, and waiting for the run returns a *CacheFullError; KVCache.Reserve tells
// beforehand. The recording may be submitted for one step after another. Errors: see the package.
func (m *Mixture) Decode(rec *vk.Recorder, cache *KVCache, x, y *vk.Tensor, seq Sequences) (*MixtureSaved, error) {
	if cache == nil {
		return nil, rec.Fail(&vk.ShapeError{Op: "Mixture.Decode", Arg: "cache", Want: "a cache", Got: "nil"})
	}
	return m.ForwardWith(rec, x, y, seq, MixtureOptions{Cache: cache})
}

// cachedInput is flashInput, or with a cache records what is appended to it and returns what attention reads of it.
func (m *Mixture) cachedInput(rec *vk.Recorder, seq Sequences, p projections, cache *KVCache) (FlashInput, error) {
	if cache == nil {
		return m.flashInput(seq, p.query, p.keyValue), nil
	}
	in := cache.Input(m.slotHeads(p.query), seq.Offsets)
	in.Sinks = m.Sinks
	return in, cache.Append(rec, m.keyHeads(p.keyValue), m.valueHeads(p.keyValue), seq.Offsets)
}

// checkCache reports a cache of other keys and values, or that the layer cannot use one.
func (m *Mixture) checkCache(dev *vk.Device, op string, seq Sequences, cache *KVCache) error {
	if !m.Config.Causal {
		return check.Config("MixtureConfig", "Causal", "true with a cache", "false")
	}
	want := m.Config.CacheConfig(cache.Config.Sequences, cache.Config.Capacity)
	if cache.Config != want {
		return &vk.ShapeError{Op: op, Arg: "cache", Want: fmt.Sprintf("%+v", want), Got: fmt.Sprintf("%+v", cache.Config)}
	}
	return check.First(
		cache.check(dev, op),
		check.Tensor(dev, op, "offsets", seq.Offsets, vk.I32, cache.Config.Sequences+1),
	)
}
