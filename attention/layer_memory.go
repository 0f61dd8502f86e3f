package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
)

// A LayerPass is what PassBytes of a SelfAttentionConfig or an MLAConfig estimates.
type LayerPass struct {
	Save      moe.Save
	Positions bool // the layer has a RoPE, and the caller does not give the positions
	Backward  bool // the backward pass follows in the same recorder, for all gradients
}

// A passMemory adds up the scratch of a pass.
type passMemory struct {
	bytes  uint64
	tokens int
	dtype  uint64 // bytes of the storage type
}

// rows adds matrices [T,width] of the storage type.
func (m *passMemory) rows(widths ...int) {
	for _, w := range widths {
		m.bytes += check.TensorBytes(m.dtype, m.tokens, w)
	}
}

// floats adds a tensor of f32 or of indices.
func (m *passMemory) floats(shape ...int) { m.bytes += check.TensorBytes(4, shape...) }

// norm adds what RMSNormBackward takes for heads of each token.
func (m *passMemory) norm(heads, width int) {
	rows := m.tokens * heads
	m.floats(rows)
	if rows > normPerBlock {
		m.floats(check.CeilDiv(rows, normPerBlock), width)
	}
}

// begin adds what every pass takes.
func (m *passMemory) begin(p LayerPass, heads int) {
	if p.Positions && m.tokens > 0 {
		m.floats(m.tokens)
		m.floats(2)
	}
	if p.Save != moe.SaveNothing {
		m.floats(m.tokens, heads) // LSE
	}
	if p.Backward {
		m.floats(m.tokens, heads) // of FlashBackward
	}
}

// PassBytes is the device memory that a pass of a layer takes from its recorder for T tokens, in bytes; x, y, weights and
// gradients are the caller's. With w the dtype's bytes and each tensor rounded up to 256 bytes:
//
//	positions  4·T + 8, where they are made
//	queries    w·T·Hq·d, and keys and values w·T·Hkv·d each; with a norm, queries and keys twice where they are saved
//	Heads      w·T·Hq·d
//	LSE        4·T·Hq, unless nothing is saved
//	backward   w·T·2·Hq·d + w·T·2·Hkv·d (gradients of Heads, queries, keys, values) + 4·T·Hq
//	           with sinks 4·Hq·⌈T/1024⌉; with a norm 4·T·(Hq + Hkv) or 8·T, and some thousandths of this
//
// RecomputeActivation keeps only Heads and LSE between the passes; the backward pass takes as much for queries, keys and values
// as SaveAll does, in what the forward pass gave back as far as that goes. Nothing grows with T². Of a few small tensors of the
// backward pass some may take each other's place, so that it can be a little less; where queries are few, Flash takes more.
//
// Compared with vk.MemoryStats it tells beforehand whether a batch fits.
func (c SelfAttentionConfig) PassBytes(tokens int, p LayerPass) uint64 {
	m := passMemory{tokens: tokens, dtype: c.DType.Bytes()}
	m.begin(p, c.Heads)
	query, key := c.queryWidth(), c.keyWidth()
	m.rows(query, key, key, query)
	if c.QKNorm != NoNorm && (p.Save == moe.SaveAll || p.Backward) {
		m.rows(query, key)
	}
	if !p.Backward {
		return m.bytes
	}
	m.rows(query, query, key, key)
	if c.Sinks {
		m.floats(check.CeilDiv(tokens, sinkBlock), c.Heads)
	}
	if query, key := c.normWidths(); query > 0 {
		m.norm(c.queryWidth()/query, query)
		m.norm(c.keyWidth()/key, key)
	}
	return m.bytes
}

// PassBytes is the device memory that a pass of a layer takes from its recorder for T tokens, in bytes; x, y, weights and
// gradients are the caller's. With w the dtype's bytes and each tensor rounded up to 256 bytes:
//
//	positions  4·T + 8, where they are made
//	queries    w·T·(QueryRank + H·(N + R)); QueryRank twice where it is saved
//	keys       w·T·(2·KVRank + R + H·(N + dv) + H·(N + R)), values included
//	Heads      w·T·H·dv
//	LSE        4·T·H, unless nothing is saved
//	backward   w·T·(H·dv + 2·H·(N + R) + H·(N + dv) + 2·KVRank + R + QueryRank) + 4·T·(H + 2), and some thousandths of this
//
// As for SelfAttentionConfig.PassBytes, RecomputeActivation keeps only Heads and LSE between the passes, nothing grows with T²,
// and it can be a little less.
func (c MLAConfig) PassBytes(tokens int, p LayerPass) uint64 {
	m := passMemory{tokens: tokens, dtype: c.DType.Bytes()}
	m.begin(p, c.Heads)
	head, up := c.Heads*c.headWidth(), c.Heads*c.upWidth()
	m.rows(c.QueryRank, head, c.KVRank+c.TurnedWidth, c.KVRank, up, head, c.Heads*c.ValueWidth)
	if p.Save == moe.SaveAll || p.Backward {
		m.rows(c.QueryRank)
	}
	if !p.Backward {
		return m.bytes
	}
	m.rows(c.Heads*c.ValueWidth, head, head, up, c.KVRank+c.TurnedWidth, c.KVRank, c.QueryRank)
	m.norm(1, c.KVRank)
	if c.QueryRank > 0 {
		m.norm(1, c.QueryRank)
	}
	return m.bytes
}
