package attention

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// FlashGrads are the gradients of Flash. What has no tensor is not computed.
type FlashGrads struct {
	Q, K, V Heads      // [T,Hq,d], [Tk,Hkv,d] and [Tk,Hkv,dv] of the configuration's dtype
	Sinks   *vk.Tensor // F32 [Hq]

	Accumulate      bool // add to Q, K and V instead of overwriting them
	AccumulateSinks bool // add to Sinks instead of overwriting it
}

// FlashBackward records the gradients of Flash from dOut [T,Hq,dv] (Dao et al., arXiv 2205.14135, appendix B.4). With the
// probabilities p of Flash, t the scores after the soft cap and s those before:
//
//	D_i = dOut_i·out_i              dv_j = Σ_i p_ij·dOut_i
//	dt_ij = p_ij·(dOut_i·v_j − D_i) ds_ij = dt_ij·(1 − tanh²(s_ij/c)), or dt_ij without a cap
//	dq_i = Scale·Σ_j ds_ij·k_j      dk_j = Scale·Σ_i ds_ij·q_i      dsink_h = −Σ_i p_sink,i·D_i
//
// in, out and lse F32 [T,Hq] are those of Flash, whose probabilities are computed again from lse. Keys in a cache have no
// gradients: in.KeyCapacity must be 0. Gradients are sums in f32 in an order that follows from shapes and device alone; a key
// that no query sees, and a query that sees none, get zeros. Rows that belong to no sequence are left alone. An infinity or NaN
// in a row may reach the gradients of other rows of its sequence, whether or not these see each other.
//
// By cooperative matrices, which Flash's rule chooses too, p and ds are rounded to the storage type before they are multiplied.
//
// Scratch: F32 [T,Hq], and F32 [⌈T/1024⌉,Hq] for the gradient of sinks. On software devices the gradients of very long
// sequences are added up in several dispatches, and rounded as often.
//
// Gradients must lie apart from all else, but several may be columns of one matrix. Errors: see the package.
func FlashBackward(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor, dOut Heads, grads FlashGrads) error {
	return flashBackwardBy(rec, cfg, in, out, lse, dOut, grads, backwardPlan{})
}

// flashBackwardBy is FlashBackward with a plan.
func flashBackwardBy(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor, dOut Heads, grads FlashGrads,
	plan backwardPlan) error {
	const op = "FlashBackward"
	tokens, keys, err := in.check(rec.Device(), op, cfg)
	if err == nil && in.KeyCapacity > 0 {
		err = &vk.ShapeError{Op: op, Arg: "KeyCapacity", Want: "0: keys in a cache have no gradients", Got: fmt.Sprint(in.KeyCapacity)}
	}
	b := flashBackward{rec: rec, cfg: cfg, in: in, out: out, dOut: dOut, lse: lse, grads: grads,
		tokens: tokens, keys: keys}
	if err == nil {
		err = b.check(op)
	}
	if err != nil {
		return rec.Fail(err)
	}
	b.plan = plan.complete(rec.Device(), cfg)
	if err := b.chooseMatrices(plan); err != nil {
		return rec.Fail(err)
	}
	b.delta = rec.Scratch(vk.F32, tokens, cfg.Heads)
	if rec.Err() != nil {
		return rec.Err()
	}
	b.recordDelta()
	b.recordSinks()
	b.recordKeys()
	b.recordQueries()
	rec.Release(b.delta)
	return rec.Err()
}

// flashBackward is one call of FlashBackward.
type flashBackward struct {
	rec          *vk.Recorder
	cfg          FlashConfig
	in           FlashInput
	out, dOut    Heads
	lse, delta   *vk.Tensor // F32 [T,Hq]
	grads        FlashGrads
	plan         backwardPlan
	tokens, keys int
	matrix       deviceMatrix // where plan has tiles for matrices
}

// maxRowStride bounds the distance of rows: the kernels' distances within a tile are 32-bit numbers of bytes.
const maxRowStride = 1 << 23

// inputs lists what is read, the five operands that are heads first.
func (b *flashBackward) inputs() []operand {
	queries := [3]int{b.tokens, b.cfg.Heads, b.cfg.Width}
	values := [3]int{b.tokens, b.cfg.Heads, b.cfg.ValueWidth}
	return []operand{
		{"Q", b.in.Q, queries},
		{"K", b.in.K, [3]int{b.keys, b.cfg.KVHeads, b.cfg.Width}},
		{"V", b.in.V, [3]int{b.keys, b.cfg.KVHeads, b.cfg.ValueWidth}},
		{"out", b.out, values},
		{"dOut", b.dOut, values},
		wholeOperand("lse", b.lse), wholeOperand("Sinks", b.in.Sinks),
		wholeOperand("QueryOffsets", b.in.QueryOffsets), wholeOperand("KeyOffsets", b.in.KeyOffsets),
	}
}

// outputs lists what is written.
func (b *flashBackward) outputs() []operand {
	var list []operand
	for _, g := range []operand{
		{"grads.Q", b.grads.Q, [3]int{b.tokens, b.cfg.Heads, b.cfg.Width}},
		{"grads.K", b.grads.K, [3]int{b.keys, b.cfg.KVHeads, b.cfg.Width}},
		{"grads.V", b.grads.V, [3]int{b.keys, b.cfg.KVHeads, b.cfg.ValueWidth}},
	} {
		if g.heads.Tensor != nil {
			list = append(list, g)
		}
	}
	return list
}

// check checks the operands beside FlashInput.
func (b *flashBackward) check(op string) error {
	dev := b.rec.Device()
	if err := check.Tensor(dev, op, "lse", b.lse, vk.F32, b.tokens, b.cfg.Heads); err != nil {
		return err
	}
	inputs, outputs := b.inputs(), b.outputs()
	for _, o := range slices.Concat(inputs[:5], outputs) {
		err := check.First(o.heads.check(dev, op, o.name, b.cfg.DType), checkRowStride(op, o))
		if err == nil {
			err = o.heads.checkRows(op, o.name, o.shape[0], o.shape[1], o.shape[2])
		}
		if err != nil {
			return err
		}
	}
	if b.grads.Sinks != nil {
		if b.in.Sinks == nil {
			return &vk.ShapeError{Op: op, Arg: "grads.Sinks", Want: "nil without sinks", Got: b.grads.Sinks.String()}
		}
		if err := check.Tensor(dev, op, "grads.Sinks", b.grads.Sinks, vk.F32, b.cfg.Heads); err != nil {
			return err
		}
		outputs = append(outputs, wholeOperand("grads.Sinks", b.grads.Sinks))
	}
	for i, out := range outputs {
		err := out.heads.checkDistinct(op, out.name, out.shape[0], out.shape[1], out.shape[2])
		for _, other := range slices.Concat(inputs, outputs[:i]) {
			err = check.First(err, checkHeadsApart(op, out.name, out, other))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkRowStride(op string, o operand) error {
	if o.heads.RowStride <= maxRowStride {
		return nil
	}
	return &vk.ShapeError{Op: op, Arg: o.name, Want: fmt.Sprintf("rows at most %d elements apart", maxRowStride),
		Got: fmt.Sprint(o.heads.RowStride)}
}

// longest bounds the rows of one sequence by what the caller knows, if he does, and by all there are.
func (b *flashBackward) longest(known, all int) int {
	if known > 0 {
		return min(known, all)
	}
	return all
}

var flashDeltaKernels = byStorage{shaders.FlashAttentionDeltaF32, shaders.FlashAttentionDeltaF16, shaders.FlashAttentionDeltaBf16}

// recordDelta records D = dOut·out.
func (b *flashBackward) recordDelta() {
	width := b.cfg.ValueWidth
	shape := chooseTeam(check.CeilDiv(width, 4), 16)
	check.Record(b.rec, vk.Dispatch{
		Kernel: flashDeltaKernels[b.cfg.DType],
		Spec: shaders.FlashAttentionDeltaSpec{Lanes: uint32(shape.lanes), Rows: uint32(shape.rows),
			Quads: b.out.quads(width) && b.dOut.quads(width)}.Values(),
		Push: shaders.FlashAttentionDeltaPush{O: b.out.address(), Dout: b.dOut.address(), Delta: b.delta.Address(),
			OutRowStride: uint32(b.out.RowStride), OutHeadStride: uint32(b.out.HeadStride),
			DoutRowStride: uint32(b.dOut.RowStride), DoutHeadStride: uint32(b.dOut.HeadStride),
			Tokens: uint32(b.tokens), Heads: uint32(b.cfg.Heads), Width: uint32(width)}.Bytes(),
		Reads:  []*vk.Tensor{b.out.Tensor, b.dOut.Tensor},
		Writes: []*vk.Tensor{b.delta},
		FLOPs:  2 * float64(b.tokens) * float64(b.cfg.Heads) * float64(width),
	}, uint64(check.CeilDiv(b.tokens*b.cfg.Heads, shape.rows)))
}

const (
	sinkColumns = 16 // work-group shape of flash_attention_sinks_backward
	sinkRows    = 8
	sinkBlock   = 1024 // rows that a work-group of the first pass adds up
)

// recordSinks records the sinks' gradient, in two passes.
func (b *flashBackward) recordSinks() {
	if b.grads.Sinks == nil {
		return
	}
	blocks := check.CeilDiv(b.tokens, sinkBlock)
	if b.in.sequences() == 0 {
		blocks = 0
	}
	partial := b.rec.Scratch(vk.F32, blocks, b.cfg.Heads)
	if b.rec.Err() != nil {
		return
	}
	push := shaders.FlashAttentionSinksBackwardPush{Sinks: b.in.Sinks.Address(), Lse: b.lse.Address(),
		QueryOffsets: b.in.QueryOffsets.Address(), Heads: uint32(b.cfg.Heads), Sequences: uint32(b.in.sequences())}
	spec := shaders.FlashAttentionSinksBackwardSpec{Columns: sinkColumns, Rows: sinkRows, Block: sinkBlock}
	across := uint64(check.CeilDiv(b.cfg.Heads, sinkColumns))
	push.Terms, push.Sums, push.Rows = b.delta.Address(), partial.Address(), uint32(b.tokens)
	check.Record(b.rec, vk.Dispatch{
		Kernel: shaders.FlashAttentionSinksBackward, Spec: spec.Values(), Push: push.Bytes(),
		Reads:  []*vk.Tensor{b.in.Sinks, b.lse, b.delta, b.in.QueryOffsets},
		Writes: []*vk.Tensor{partial},
	}, across*uint64(blocks))
	push.Terms, push.Sums, push.Rows = partial.Address(), b.grads.Sinks.Address(), uint32(blocks)
	push.Flags = bit(1, b.grads.AccumulateSinks)
	spec.Final = true
	check.Record(b.rec, vk.Dispatch{
		Kernel: shaders.FlashAttentionSinksBackward, Spec: spec.Values(), Push: push.Bytes(),
		Reads:  []*vk.Tensor{partial, b.grads.Sinks},
		Writes: []*vk.Tensor{b.grads.Sinks},
	}, across)
	b.rec.Release(partial)
}
