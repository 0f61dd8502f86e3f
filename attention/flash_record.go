package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// flashKernels and mergeKernels are the variants for F32, F16 and BF16.
var (
	flashKernels = [3]*vk.Kernel{shaders.FlashAttentionF32, shaders.FlashAttentionF16, shaders.FlashAttentionBf16}
	mergeKernels = [3]*vk.Kernel{shaders.FlashMergeF32, shaders.FlashMergeF16, shaders.FlashMergeBf16}
)

// The bits of flash_attention's flags.
const (
	flashCausal = 1 << iota
	flashTiled
	flashRing
)

// Flash records attention:
//
//	out[t,h] = Σ_j softmax_j(s)·v_j,   s_j = cap(Scale·q[t,h]·k_j)   over the keys j that query t of its sequence sees
//	lse[t,h] = ln(Σ_j e^s_j + e^Sinks[h])
//
// with cap(s) = SoftCap·tanh(s/SoftCap) where SoftCap is set (arXiv 2205.14135 and 2307.08691, algorithm 1). out are heads
// [T,Hq,dv] apart from all inputs, lse F32 [T,Hq] or nil. A query that sees no key gets 0, and its sink or −Inf as its LSE.
// Rows of no sequence are left alone. Keys and values that a query does not see do not touch it, even if they are NaN.
//
// In f16 and bf16 cooperative matrices multiply where the device has them and shapes suit them (FlashConfig.Path): a weight
// e^(s − max) is then rounded to the storage type before it multiplies its value.
//
// Nothing is as large as T²: beside the operands, and only where queries are so few that the keys are split among
// work-groups, there are splits·T·Hq·(dv + 2) floats of the recorder's scratch. Errors: see the package.
func Flash(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor) error {
	return flash(rec, cfg, in, out, lse, flashPlan{})
}

// A flashPlan is how an attention is computed. What is 0 in it is chosen.
type flashPlan struct {
	tile     flashTile
	splits   int
	matrices matrixTile // of the tensor path
}

// flash is Flash with a plan.
func flash(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor, plan flashPlan) error {
	tokens, keys, err := checkFlash(rec.Device(), cfg, in, out, lse)
	if err != nil {
		return rec.Fail(err)
	}
	if tokens == 0 || in.sequences() == 0 {
		return rec.Err()
	}
	asked := plan
	plan = plan.complete(rec.Device(), cfg, in, tokens, keys)
	if tile, x, ok := asked.chooseMatrices(rec.Device(), cfg, in, out, tokens, keys, plan.splits); ok {
		return flashByMatrices(rec, cfg, in, out, lse, tile, x)
	}
	if cfg.Path == moe.PathCoopMat {
		return rec.Fail(noFlashMatrices(rec.Device(), cfg))
	}
	spec := plan.tile.spec(cfg)
	spec.Partial = plan.splits > 1
	spec.Quads = in.Q.quads(cfg.Width) && in.K.quads(cfg.Width) && in.V.quads(cfg.ValueWidth) && out.quads(cfg.ValueWidth)
	push := flashPush(cfg, in, tokens, keys)
	push.Splits = uint32(plan.splits)
	push.Result, push.Lse = out.address(), lse.Address()
	push.ResultRow, push.ResultHead = out.strides()
	d := vk.Dispatch{
		Kernel: flashKernels[cfg.DType], Spec: spec.Values(),
		Reads: []*vk.Tensor{in.Q.Tensor, in.K.Tensor, in.V.Tensor, in.QueryOffsets, in.KeyOffsets, in.KeyLengths, in.Sinks},
		FLOPs: flashFLOPs(cfg, in, tokens, keys),
	}
	groups := uint64(cfg.KVHeads) * uint64(plan.splits) * uint64(tokens*cfg.group()/plan.tile.BM+in.sequences())
	if plan.splits == 1 {
		d.Push, d.Writes = push.Bytes(), []*vk.Tensor{out.Tensor, lse}
		return check.Record(rec, d, groups)
	}
	parts := rec.Scratch(vk.F32, plan.splits, tokens*cfg.Heads, cfg.ValueWidth)
	stats := rec.Scratch(vk.F32, plan.splits, tokens*cfg.Heads, 2)
	push.Result, push.Lse = parts.Address(), stats.Address()
	d.Push, d.Writes = push.Bytes(), []*vk.Tensor{parts, stats}
	if err := check.Record(rec, d, groups); err != nil {
		return err
	}
	err = mergeFlash(rec, cfg, in, out, lse, parts, stats)
	rec.Release(parts)
	rec.Release(stats)
	return err
}

// complete chooses what a plan leaves open.
func (p flashPlan) complete(dev *vk.Device, cfg FlashConfig, in FlashInput, tokens, keys int) flashPlan {
	b := in.sequences()
	if p.tile == (flashTile{}) {
		p.tile = chooseFlashTile(dev, cfg, check.CeilDiv(tokens, b)*cfg.group())
	}
	if p.splits == 0 {
		groups := cfg.KVHeads * (tokens*cfg.group()/p.tile.BM + b)
		p.splits = chooseSplits(dev.Adapter().Type == vk.Software, p.tile, cfg, groups, in.longest(cfg, p.tile, keys))
	}
	return p
}

// longest bounds how many keys a tile of rows sees.
func (in FlashInput) longest(cfg FlashConfig, tile flashTile, keys int) int {
	if in.KeyCapacity > 0 {
		keys = min(keys, in.KeyCapacity)
	}
	if in.MaxKeys > 0 {
		keys = min(keys, in.MaxKeys)
	}
	if cfg.Window > 0 && cfg.Causal {
		keys = min(keys, cfg.Window+tile.BM)
	}
	return keys
}

// flashFLOPs estimates an attention's work from the mean length of its sequences.
func flashFLOPs(cfg FlashConfig, in FlashInput, tokens, keys int) float64 {
	mean := float64(keys) / float64(in.sequences())
	if in.MaxKeys > 0 {
		mean = min(mean, float64(in.MaxKeys))
	}
	if cfg.Window > 0 && cfg.Causal {
		mean = min(mean, float64(cfg.Window))
	}
	return 2 * float64(tokens) * float64(cfg.Heads) * float64(cfg.Width+cfg.ValueWidth) * mean
}

// flashPush fills in what the inputs say.
func flashPush(cfg FlashConfig, in FlashInput, tokens, keys int) shaders.FlashAttentionPush {
	push := shaders.FlashAttentionPush{
		Q: in.Q.address(), K: in.K.address(), V: in.V.address(),
		QueryOffsets: in.QueryOffsets.Address(), KeyOffsets: in.keyOffsets().Address(), Sinks: in.Sinks.Address(),
		Tokens: uint32(tokens), KeyRows: uint32(keys), Sequences: uint32(in.sequences()),
		Heads: uint32(cfg.KVHeads) | uint32(cfg.group())<<16, Window: int32(cfg.Window), Scale: cfg.scale(),
	}
	push.QRow, push.QHead = in.Q.strides()
	push.KRow, push.KHead = in.K.strides()
	push.VRow, push.VHead = in.V.strides()
	if cfg.Causal {
		push.Flags |= flashCausal
	}
	if cfg.Tiled {
		push.Flags |= flashTiled
	}
	if in.KeyCapacity > 0 {
		push.Flags |= flashRing
		push.KeyOffsets, push.KeyRows = in.KeyLengths.Address(), uint32(in.KeyCapacity)
	}
	return push
}

const mergeThreads = 64

// mergeFlash records the second pass over split keys.
func mergeFlash(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse, parts, stats *vk.Tensor) error {
	splits, rows := parts.Dim(0), parts.Dim(1)
	wide := out.quads(cfg.ValueWidth)
	items := cfg.ValueWidth
	if wide {
		items /= 4
	}
	lanes := 1
	for lanes < mergeThreads && lanes < items {
		lanes *= 2
	}
	push := shaders.FlashMergePush{Parts: parts.Address(), Stats: stats.Address(), Result: out.address(), Lse: lse.Address(),
		Sinks: in.Sinks.Address(), QueryOffsets: in.QueryOffsets.Address(), Tokens: uint32(rows / cfg.Heads),
		Heads: uint32(cfg.Heads), Splits: uint32(splits), Sequences: uint32(in.sequences())}
	push.ResultRow, push.ResultHead = out.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: mergeKernels[cfg.DType],
		Spec: shaders.FlashMergeSpec{Lanes: uint32(lanes), Rows: uint32(mergeThreads / lanes), ValueWidth: uint32(cfg.ValueWidth),
			Quads: wide}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{parts, stats, in.Sinks, in.QueryOffsets},
		Writes: []*vk.Tensor{out.Tensor, lse},
		FLOPs:  2 * float64(splits) * float64(rows) * float64(cfg.ValueWidth),
	}, uint64(check.CeilDiv(rows, mergeThreads/lanes)))
}

// checkFlash checks all arguments and returns T and Tk.
func checkFlash(dev *vk.Device, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor) (tokens, keys int, err error) {
	const op = "Flash"
	tokens, keys, err = in.check(dev, op, cfg)
	if err == nil {
		err = out.check(dev, op, "out", cfg.DType)
	}
	if err == nil && lse != nil {
		err = check.Tensor(dev, op, "lse", lse, vk.F32, tokens, cfg.Heads)
	}
	if err != nil {
		return 0, 0, err
	}
	return tokens, keys, check.First(
		out.checkRows(op, "out", tokens, cfg.Heads, cfg.ValueWidth),
		out.checkDistinct(op, "out", tokens, cfg.Heads, cfg.ValueWidth),
		checkOutputApart(op, cfg, in, out, lse, tokens, keys),
	)
}

// checkOutputApart reports outputs that share memory with an input or each other.
func checkOutputApart(op string, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor, tokens, keys int) error {
	shape := [3]int{tokens, cfg.Heads, cfg.ValueWidth}
	others := []operand{
		{"Q", in.Q, [3]int{tokens, cfg.Heads, cfg.Width}},
		{"K", in.K, [3]int{keys, cfg.KVHeads, cfg.Width}},
		{"V", in.V, [3]int{keys, cfg.KVHeads, cfg.ValueWidth}},
		wholeOperand("QueryOffsets", in.QueryOffsets), wholeOperand("KeyOffsets", in.KeyOffsets),
		wholeOperand("KeyLengths", in.KeyLengths), wholeOperand("Sinks", in.Sinks),
	}
	for _, o := range others {
		err := checkHeadsApart(op, "out", operand{"out", out, shape}, o)
		if err == nil {
			err = checkHeadsApart(op, "lse", wholeOperand("lse", lse), o)
		}
		if err != nil {
			return err
		}
	}
	return checkHeadsApart(op, "lse", wholeOperand("lse", lse), operand{"out", out, shape})
}
