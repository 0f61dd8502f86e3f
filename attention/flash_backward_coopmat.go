package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// The backward pass on the tensor path.

var (
	matrixBackwardKVKernels = map[vk.DType]*vk.Kernel{
		vk.F16: shaders.FlashAttentionBackwardKvCoopmatF16, vk.BF16: shaders.FlashAttentionBackwardKvCoopmatBf16,
	}
	matrixBackwardQKernels = map[vk.DType]*vk.Kernel{
		vk.F16: shaders.FlashAttentionBackwardQCoopmatF16, vk.BF16: shaders.FlashAttentionBackwardQCoopmatBf16,
	}
)

// A backwardMatrixTile is a tile of the backward pass: rows are those of the own side. keep holds both operands' own rows in
// registers, early fetches the next step's rows before this one's are multiplied, and apart sums dk and dv in dispatches of
// their own.
type backwardMatrixTile struct {
	matrixTile
	keep, early, apart bool
}

// bytes is the kernels' work-group memory: both tiles of the other side, the strips of weights, what own rows are not kept
// and the queries' statistics, or the own rows on their way to registers, or results on their way to memory.
func (t backwardMatrixTile) bytes(x deviceMatrix, cfg FlashConfig, ownQueries bool) int {
	k, v := cfg.Width/8+1, cfg.ValueWidth/8+1
	rows := t.rows(x)
	first := t.BN*(k+v) + rows*(t.BN/8+1)
	loop := first
	if !ownQueries {
		first += rows * (t.BN/8 + 1)
		loop = first + (t.BN+1)/2
	}
	taken := rows * max(k, v)
	if !t.keep {
		loop += rows * v
		taken += first
	}
	return 16 * max(loop, taken, t.subgroups*int(x.m)*(int(x.n)/4+1))
}

// A backwardMatrixRule is one line of the tables of tiles: up to a width of the wider operand.
type backwardMatrixRule struct {
	width int
	tile  backwardMatrixTile
}

// matrixKeysRules and matrixQueriesRules are searched from the top for a tile that fits the device.
var (
	matrixKeysRules = []backwardMatrixRule{
		{64, backwardMatrixTile{matrixTile{4, 1, 32}, true, true, false}},
		{128, backwardMatrixTile{matrixTile{4, 1, 32}, false, true, false}},
		{128, backwardMatrixTile{matrixTile{4, 1, 16}, false, true, false}},
		{MaxHeadWidth, backwardMatrixTile{matrixTile{2, 1, 16}, false, false, true}},
	}
	matrixQueriesRules = []backwardMatrixRule{
		{128, backwardMatrixTile{matrixTile{4, 1, 32}, true, true, false}},
		{MaxHeadWidth, backwardMatrixTile{matrixTile{2, 1, 16}, false, false, false}},
	}
)

// suitsMatrices reports whether all operands suit the tensor path.
func (b *flashBackward) suitsMatrices() bool {
	cfg := b.cfg
	if cfg.Width%16 != 0 || cfg.ValueWidth%16 != 0 {
		return false
	}
	inputs := b.inputs()
	for _, o := range append([]operand{inputs[0], inputs[1], inputs[2], inputs[4]}, b.outputs()...) {
		if !o.heads.chunked(o.shape[0], o.shape[1], o.shape[2]) {
			return false
		}
	}
	return true
}

// chooseMatrices puts tiles of the tensor path into the plan where that is to be taken. It fails where it was asked for and
// cannot be had.
func (b *flashBackward) chooseMatrices(plan backwardPlan) error {
	dev, cfg, none := b.rec.Device(), b.cfg, backwardMatrixTile{}
	b.plan.matrixKeys, b.plan.matrixQueries = none, none
	asked := plan.matrixKeys != none || plan.matrixQueries != none || cfg.Path == moe.PathCoopMat
	few := b.tokens*cfg.group() < leastMatrixRows*b.in.sequences() || dev.Adapter().Type == vk.Software
	portable := cfg.Path == moe.PathPortable || plan.keys != (backwardTile{}) || plan.queries != (backwardTile{}) || plan.steps > 0
	if portable || !asked && few {
		return nil
	}
	if b.suitsMatrices() && b.tokens > 0 && b.keys > 0 {
		if x, ok := findMatrix(dev, cfg.DType); ok {
			b.matrix = x
			b.plan.matrixKeys = b.chooseTile(plan.matrixKeys, matrixKeysRules, false)
			b.plan.matrixQueries = b.chooseTile(plan.matrixQueries, matrixQueriesRules, true)
		}
	}
	if cfg.Path == moe.PathCoopMat && b.tokens > 0 && b.keys > 0 && (b.plan.matrixKeys == none || b.plan.matrixQueries == none) {
		return noFlashMatrices(dev, cfg)
	}
	return nil
}

// chooseTile picks a kernel's tile: the one asked for or the table's first that fits the device. It is empty where none does.
func (b *flashBackward) chooseTile(asked backwardMatrixTile, rules []backwardMatrixRule, ownQueries bool) backwardMatrixTile {
	dev := b.rec.Device()
	fits := func(t backwardMatrixTile) bool {
		loads := ownQueries || t.subgroups*int(dev.Caps().SubgroupSize) >= t.BN // of statistics, one by each invocation
		return loads && t.fits(dev, b.matrix, t.bytes(b.matrix, b.cfg, ownQueries))
	}
	switch {
	case asked != (backwardMatrixTile{}):
		if !fits(asked) {
			return backwardMatrixTile{}
		}
		return asked
	case dev.Adapter().Type == vk.Software:
		rules = []backwardMatrixRule{{MaxHeadWidth, backwardMatrixTile{matrixTile: softwareMatrixTile}}}
	}
	for _, r := range rules {
		if max(b.cfg.Width, b.cfg.ValueWidth) <= r.width && fits(r.tile) {
			return r.tile
		}
	}
	return backwardMatrixTile{}
}

// recordKeysByMatrices records dk and dv on the tensor path, or returns false where the plan has none.
func (b *flashBackward) recordKeysByMatrices(push shaders.FlashAttentionBackwardKvPush, s strides, l layout) bool {
	cfg, t := b.cfg, b.plan.matrixKeys
	if t == (backwardMatrixTile{}) {
		return false
	}
	f := t.matrixSpec(b.rec.Device(), b.matrix, cfg)
	spec := shaders.FlashAttentionBackwardKvCoopmatSpec{Threads: f.Threads, Subgroup: f.Subgroup, MI: f.MI, BN: f.BN, MM: f.MM, MN: f.MN,
		MK: f.MK, Slots: f.Slots, Shift: f.Shift, Mates: f.Mates, Pairs: f.Pairs, Width: f.Width, ValueWidth: f.ValueWidth, Cap: f.Cap,
		Scale: cfg.scale(), Causal: cfg.Causal, Tiled: cfg.Tiled, Accumulate: b.grads.Accumulate, Keep: t.keep, Early: t.early,
		HeadMajor: l.headMajor, QStride: s.q, KStride: s.k, VStride: s.v, DoutStride: s.dOut, DkStride: s.first, DvStride: s.second}
	wants := []uint32{3}
	if t.apart {
		wants = []uint32{1, 2}
	}
	grads := []*vk.Tensor{b.grads.K.Tensor, b.grads.V.Tensor}
	for _, spec.Wants = range wants {
		if t.apart && grads[spec.Wants-1] == nil {
			continue
		}
		check.Record(b.rec, vk.Dispatch{
			Kernel: matrixBackwardKVKernels[cfg.DType], Spec: spec.Values(), SubgroupSize: subgroupOf(b.rec.Device()),
			Push:   shaders.FlashAttentionBackwardKvCoopmatPush(push).Bytes(),
			Reads:  b.reads(grads...),
			Writes: grads,
			FLOPs:  2 * flashFLOPs(cfg, b.in, b.tokens, b.keys),
		}, uint64(cfg.KVHeads)*uint64(b.keys/t.rows(b.matrix)+b.in.sequences()))
	}
	return true
}

// recordQueriesByMatrices records dq on the tensor path, or returns false where the plan has none.
func (b *flashBackward) recordQueriesByMatrices(push shaders.FlashAttentionBackwardQPush, s strides, l layout) bool {
	cfg, t := b.cfg, b.plan.matrixQueries
	if t == (backwardMatrixTile{}) {
		return false
	}
	f := t.matrixSpec(b.rec.Device(), b.matrix, cfg)
	spec := shaders.FlashAttentionBackwardQCoopmatSpec{Threads: f.Threads, Subgroup: f.Subgroup, MI: f.MI, BN: f.BN, MM: f.MM, MN: f.MN,
		MK: f.MK, Slots: f.Slots, Shift: f.Shift, Mates: f.Mates, Pairs: f.Pairs, Width: f.Width, ValueWidth: f.ValueWidth, Cap: f.Cap,
		Scale: cfg.scale(), Causal: cfg.Causal, Tiled: cfg.Tiled, Accumulate: b.grads.Accumulate, Keep: t.keep, Early: t.early, Wants: 3,
		HeadMajor: l.headMajor, QStride: s.q, KStride: s.k, VStride: s.v, DoutStride: s.dOut, DqStride: s.first}
	check.Record(b.rec, vk.Dispatch{
		Kernel: matrixBackwardQKernels[cfg.DType], Spec: spec.Values(), SubgroupSize: subgroupOf(b.rec.Device()),
		Push:   shaders.FlashAttentionBackwardQCoopmatPush(push).Bytes(),
		Reads:  b.reads(b.grads.Q.Tensor),
		Writes: []*vk.Tensor{b.grads.Q.Tensor},
		FLOPs:  1.5 * flashFLOPs(cfg, b.in, b.tokens, b.keys),
	}, uint64(cfg.Heads)*uint64(b.tokens/t.rows(b.matrix)+b.in.sequences()))
	return true
}
