package attention

import (
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var (
	flashBackwardKVKernels = byStorage{shaders.FlashAttentionBackwardKvF32, shaders.FlashAttentionBackwardKvF16,
		shaders.FlashAttentionBackwardKvBf16}
	flashBackwardQKernels = byStorage{shaders.FlashAttentionBackwardQF32, shaders.FlashAttentionBackwardQF16,
		shaders.FlashAttentionBackwardQBf16}
)

// A backwardTile is how flash_attention_backward_kv and _q cut their work: a work-group owns own rows of one side and walks the
// other side other rows at a time; an invocation computes to × tx pairs, and sums for own·lanes/threads rows, every lanes-th
// quad of their columns. Columns pass through shared memory chunk at a time.
type backwardTile struct{ own, other, to, tx, chunk, lanes int }

func (t backwardTile) threads() int { return t.own / t.to * (t.other / t.tx) }

// backwardLanes shares rows of a width, which is that of the wider operand, among as many invocations as they have quads, within limits.
func backwardLanes(width, least, most int) int {
	lanes := least
	for lanes < most && 4*lanes < width {
		lanes *= 2
	}
	return lanes
}

// sharedBytes is the work-group memory that the tile takes: chunks of both sides or the results of all pairs, and two
// statistics of each query.
func (t backwardTile) sharedBytes() int {
	chunks, pairs := (t.own+t.other)*(t.chunk/4+1), t.own*t.other/2
	return 16*max(chunks, pairs) + 8*max(t.own, t.other)
}

// chooseBackwardTile returns the tile for sums of rows of a width on a device with so many bytes of work-group memory. Each
// invocation's sums stay below 128 registers. The tile of software devices is, of those measured on lavapipe, within a third of
// the fastest and compiles in half the time of that.
func chooseBackwardTile(software bool, shared, width int) backwardTile {
	if software {
		t := backwardTile{own: 16, other: 32, to: 4, tx: 4, chunk: 32, lanes: backwardLanes(width, 8, 16)}
		if width <= 16 {
			t.chunk = 16
		}
		return t
	}
	t := backwardTile{own: 64, other: 32, to: 4, tx: 4, chunk: 32, lanes: backwardLanes(width, 8, 64)}
	if t.lanes == 64 {
		t.own, t.tx = 32, 2
	}
	if t.sharedBytes() > shared { // 16 KiB are all that Vulkan promises
		t.other, t.tx = t.other/2, t.tx/2
	}
	return t
}

// A backwardPlan is how the gradients are computed. What is 0 in it is chosen.
type backwardPlan struct {
	keys, queries backwardTile // of the kernels whose own side these are
	steps         int          // of one dispatch

	matrixKeys, matrixQueries backwardMatrixTile // the same on the tensor path
}

// complete chooses what a plan leaves open.
func (p backwardPlan) complete(dev *vk.Device, cfg FlashConfig) backwardPlan {
	software, shared := dev.Adapter().Type == vk.Software, int(dev.Caps().SharedMemoryBytes)
	if p.keys == (backwardTile{}) {
		p.keys = chooseBackwardTile(software, shared, max(cfg.Width, cfg.ValueWidth))
	}
	if p.queries == (backwardTile{}) {
		p.queries = chooseBackwardTile(software, shared, cfg.Width)
	}
	if p.steps == 0 {
		p.steps = min(p.keys.steps(software, cfg), p.queries.steps(software, cfg))
	}
	return p
}

// steps is how many steps over the other side one dispatch may take on a device.
func (t backwardTile) steps(software bool, cfg FlashConfig) int {
	if !software {
		return math.MaxInt32 / 2
	}
	chunks := check.CeilDiv(cfg.Width, t.chunk) + check.CeilDiv(cfg.ValueWidth, t.chunk)
	loads := check.CeilDiv(t.own*t.chunk/4, t.threads()) + check.CeilDiv(t.other*t.chunk/4, t.threads())
	per := chunks*(t.chunk/4+loads+1) + t.other + check.CeilDiv(t.other, t.threads()) + 8
	return (maxLoop - 256) / per
}

// The operands' bits in the kernels' QUADS and HEAD_MAJOR.
const (
	bitQ = 1 << iota
	bitK
	bitV
	bitDOut
	bitFirst  // dq or dk
	bitSecond // dv
)

// layout gathers what the kernels take as masks of operands.
type layout struct{ quads, headMajor uint32 }

// add returns an operand's larger stride, a push constant, and its smaller, a specialization constant.
func (l *layout) add(operand uint32, h Heads, width int) (push, spec uint32) {
	l.quads |= bit(operand, h.Tensor != nil && h.quads(width))
	if h.HeadStride > h.RowStride {
		l.headMajor |= operand
		return uint32(h.HeadStride), uint32(h.RowStride)
	}
	return uint32(h.RowStride), uint32(h.HeadStride)
}

// bit returns flag when on, else 0.
func bit(flag uint32, on bool) uint32 {
	if on {
		return flag
	}
	return 0
}

// strides are the smaller strides of the operands, which are specialization constants.
type strides struct{ q, k, v, dOut, first, second uint32 }

// keysPush fills in the push constants of dk and dv.
func (b *flashBackward) keysPush() (push shaders.FlashAttentionBackwardKvPush, s strides, l layout) {
	cfg := b.cfg
	push = shaders.FlashAttentionBackwardKvPush{Q: b.in.Q.address(), K: b.in.K.address(), V: b.in.V.address(),
		Dout: b.dOut.address(), Lse: b.lse.Address(), Delta: b.delta.Address(),
		QueryOffsets: b.in.QueryOffsets.Address(), KeyOffsets: b.in.keyOffsets().Address(),
		Sequences: uint32(b.in.sequences()), Queries: uint32(b.tokens), Keys: uint32(b.keys),
		Heads: uint32(cfg.KVHeads) | uint32(cfg.group())<<16, Window: int32(cfg.Window)}
	push.QStride, s.q = l.add(bitQ, b.in.Q, cfg.Width)
	push.KStride, s.k = l.add(bitK, b.in.K, cfg.Width)
	push.VStride, s.v = l.add(bitV, b.in.V, cfg.ValueWidth)
	push.DoutStride, s.dOut = l.add(bitDOut, b.dOut, cfg.ValueWidth)
	if b.grads.K.Tensor != nil {
		push.Dk = b.grads.K.address()
		push.DkStride, s.first = l.add(bitFirst, b.grads.K, cfg.Width)
	}
	if b.grads.V.Tensor != nil {
		push.Dv = b.grads.V.address()
		push.DvStride, s.second = l.add(bitSecond, b.grads.V, cfg.ValueWidth)
	}
	return push, s, l
}

// recordKeys records dk and dv.
func (b *flashBackward) recordKeys() {
	if b.grads.K.Tensor == nil && b.grads.V.Tensor == nil || b.in.sequences() == 0 {
		return
	}
	push, s, l := b.keysPush()
	if b.recordKeysByMatrices(push, s, l) {
		return
	}
	cfg, tile := b.cfg, b.plan.keys
	spec := shaders.FlashAttentionBackwardKvSpec{Threads: uint32(tile.threads()), Own: uint32(tile.own), Other: uint32(tile.other),
		TO: uint32(tile.to), TX: uint32(tile.tx), Chunk: uint32(tile.chunk), Lanes: uint32(tile.lanes),
		Most: uint32(b.plan.steps), Width: uint32(cfg.Width), ValueWidth: uint32(cfg.ValueWidth),
		Scale: cfg.scale(), SoftCap: cfg.SoftCap, Causal: cfg.Causal, Tiled: cfg.Tiled, Accumulate: b.grads.Accumulate,
		Quads: l.quads, HeadMajor: l.headMajor, QStride: s.q, KStride: s.k, VStride: s.v, DoutStride: s.dOut,
		DkStride: s.first, DvStride: s.second}
	total := cfg.group() * check.CeilDiv(b.longest(b.in.MaxQueries, b.tokens), tile.other)
	b.split(total, func(skip uint32) {
		push.Skip = skip
		check.Record(b.rec, vk.Dispatch{
			Kernel: flashBackwardKVKernels[cfg.DType], Spec: spec.Values(), Push: push.Bytes(),
			Reads:  b.reads(b.grads.K.Tensor, b.grads.V.Tensor),
			Writes: []*vk.Tensor{b.grads.K.Tensor, b.grads.V.Tensor},
			FLOPs:  2 * flashFLOPs(cfg, b.in, b.tokens, b.keys), // four products where Flash has two
		}, uint64(cfg.KVHeads)*uint64(b.keys/tile.own+b.in.sequences()))
	})
}

// queriesPush fills in the push constants of dq.
func (b *flashBackward) queriesPush() (push shaders.FlashAttentionBackwardQPush, s strides, l layout) {
	cfg := b.cfg
	push = shaders.FlashAttentionBackwardQPush{Q: b.in.Q.address(), K: b.in.K.address(), V: b.in.V.address(),
		Dout: b.dOut.address(), Lse: b.lse.Address(), Delta: b.delta.Address(), Dq: b.grads.Q.address(),
		QueryOffsets: b.in.QueryOffsets.Address(), KeyOffsets: b.in.keyOffsets().Address(),
		Sequences: uint32(b.in.sequences()), Queries: uint32(b.tokens), Keys: uint32(b.keys),
		Heads: uint32(cfg.KVHeads) | uint32(cfg.group())<<16, Window: int32(cfg.Window)}
	push.QStride, s.q = l.add(bitQ, b.in.Q, cfg.Width)
	push.KStride, s.k = l.add(bitK, b.in.K, cfg.Width)
	push.VStride, s.v = l.add(bitV, b.in.V, cfg.ValueWidth)
	push.DoutStride, s.dOut = l.add(bitDOut, b.dOut, cfg.ValueWidth)
	push.DqStride, s.first = l.add(bitFirst, b.grads.Q, cfg.Width)
	return push, s, l
}

// recordQueries records dq.
func (b *flashBackward) recordQueries() {
	if b.grads.Q.Tensor == nil || b.in.sequences() == 0 {
		return
	}
	push, s, l := b.queriesPush()
	if b.recordQueriesByMatrices(push, s, l) {
		return
	}
	cfg, tile := b.cfg, b.plan.queries
	spec := shaders.FlashAttentionBackwardQSpec{Threads: uint32(tile.threads()), Own: uint32(tile.own), Other: uint32(tile.other),
		TO: uint32(tile.to), TX: uint32(tile.tx), Chunk: uint32(tile.chunk), Lanes: uint32(tile.lanes),
		Most: uint32(b.plan.steps), Width: uint32(cfg.Width), ValueWidth: uint32(cfg.ValueWidth),
		Scale: cfg.scale(), SoftCap: cfg.SoftCap, Causal: cfg.Causal, Tiled: cfg.Tiled, Accumulate: b.grads.Accumulate,
		Quads: l.quads, HeadMajor: l.headMajor, QStride: s.q, KStride: s.k, VStride: s.v, DoutStride: s.dOut, DqStride: s.first}
	b.split(check.CeilDiv(b.longest(b.in.MaxKeys, b.keys), tile.other), func(skip uint32) {
		push.Skip = skip
		check.Record(b.rec, vk.Dispatch{
			Kernel: flashBackwardQKernels[cfg.DType], Spec: spec.Values(), Push: push.Bytes(),
			Reads:  b.reads(b.grads.Q.Tensor),
			Writes: []*vk.Tensor{b.grads.Q.Tensor},
			FLOPs:  1.5 * flashFLOPs(cfg, b.in, b.tokens, b.keys),
		}, uint64(cfg.Heads)*uint64(b.tokens/tile.own+b.in.sequences()))
	})
}

// reads lists what both kernels read beside what they add to.
func (b *flashBackward) reads(more ...*vk.Tensor) []*vk.Tensor {
	return append(more, b.in.Q.Tensor, b.in.K.Tensor, b.in.V.Tensor, b.dOut.Tensor, b.lse, b.delta, b.in.QueryOffsets,
		b.in.keyOffsets())
}

// split calls dispatch for all steps: once, or on software devices for as many at a time as their loops can take, each adding
// to what the one before left.
func (b *flashBackward) split(total int, dispatch func(skip uint32)) {
	for skip := 0; skip == 0 || skip < total; skip += b.plan.steps {
		dispatch(uint32(skip))
	}
}
