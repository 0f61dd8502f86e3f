package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// RMSNormGrads says where RMSNormBackward leaves its gradients; what is nil is not computed. They are overwritten, or added to
// where Accumulate says so.
type RMSNormGrads struct {
	X      *vk.Tensor // shape and dtype of x; it may be dy and, without AccumulateX, x, each exactly
	Weight *vk.Tensor // [n], of the dtype of x or F32

	AccumulateX, AccumulateWeight bool // add to what X and Weight hold
}

// RMSNormBackward records the gradients of RMSNorm at x [T,width] from dy, the gradient of y. With s = 1/√(Σ x²/n + eps):
//
//	dx_c = s·(w_c·dy_c − x_c·s²·Σ w·dy·x/n)
//	dw_c = Σ dy_c·x_c·s      over all rows, in a fixed order
//
// It takes 4·T·width/n bytes of scratch, with Weight and 4·n·⌈T·width/(512·n)⌉ more, and releases them.
// Errors: see the package.
func RMSNormBackward(rec *vk.Recorder, x, weight *vk.Tensor, eps float32, dy *vk.Tensor, g RMSNormGrads) error {
	const op = "RMSNormBackward"
	tokens, heads, width, err := normShape(op, x, weight)
	if err == nil {
		err = check.Tensor(rec.Device(), op, "dy", dy, x.DType(), x.Shape()...)
	}
	if err == nil && g.X != nil {
		err = check.Tensor(rec.Device(), op, "grads.X", g.X, x.DType(), x.Shape()...)
	}
	if err != nil {
		return rec.Fail(err)
	}
	grads := RMSNormHeadsGrads{Weight: g.Weight, AccumulateX: g.AccumulateX, AccumulateWeight: g.AccumulateWeight}
	if g.X != nil {
		grads.X = DenseHeads(g.X, heads, width)
	}
	return RMSNormHeadsBackward(rec, tokens, heads, DenseHeads(x, heads, width), weight, eps, DenseHeads(dy, heads, width), grads)
}

// RMSNormHeadsGrads are RMSNormGrads of heads anywhere in tensors; X without a tensor is not computed.
type RMSNormHeadsGrads struct {
	X      Heads      // of the dtype of x; it may be the heads of dy and, without AccumulateX, those of x
	Weight *vk.Tensor // [n], of the dtype of x or F32

	AccumulateX, AccumulateWeight bool // add to what X and Weight hold
}

// RMSNormHeadsBackward is RMSNormBackward of RMSNormHeads.
// Errors: see the package.
func RMSNormHeadsBackward(rec *vk.Recorder, tokens, heads int, x Heads, weight *vk.Tensor, eps float32, dy Heads,
	g RMSNormHeadsGrads) error {
	const op = "RMSNormHeadsBackward"
	width, err := checkNorm(rec.Device(), op, tokens, heads, weight, eps, x)
	if err == nil {
		err = checkNormGrads(rec.Device(), op, tokens, heads, width, x, weight, dy, g)
	}
	if err != nil || g.X.Tensor == nil && g.Weight == nil {
		return rec.Fail(err)
	}
	n := normBackward{rec: rec, rows: tokens * heads, heads: heads, width: width, x: x, dy: dy, weight: weight, grads: g}
	if g.Weight != nil {
		n.scales = rec.Scratch(vk.F32, n.rows)
		defer rec.Release(n.scales)
	}
	if g.Weight != nil && g.X.Tensor != nil && (g.X.same(dy) || g.X.same(x)) { // the weight's gradient needs what that overwrites
		if err := n.input(eps, false); err != nil {
			return err
		}
		if err := n.weights(); err != nil {
			return err
		}
		n.scales = nil
		return n.input(eps, true)
	}
	if err := n.input(eps, true); err != nil {
		return err
	}
	return n.weights()
}

// checkNormGrads checks the gradients and what they must be apart from.
func checkNormGrads(dev *vk.Device, op string, tokens, heads, width int, x Heads, weight *vk.Tensor, dy Heads,
	g RMSNormHeadsGrads) error {
	err := checkHeads(dev, op, "dy", dy, tokens, heads, width, false)
	if err == nil {
		err = sameDType(op, "dy", x, dy)
	}
	if err != nil {
		return err
	}
	inputs := []span{tensorSpan("weight", weight), headSpan("x", x, tokens, heads, width), headSpan("dy", dy, tokens, heads, width)}
	if g.Weight != nil {
		dtype := x.Tensor.DType()
		if g.Weight.DType() == vk.F32 {
			dtype = vk.F32
		}
		err = check.First(check.Tensor(dev, op, "grads.Weight", g.Weight, dtype, width),
			checkSpansApart(op, tensorSpan("grads.Weight", g.Weight), inputs...))
	}
	if err != nil || g.X.Tensor == nil {
		return err
	}
	if err = checkHeads(dev, op, "grads.X", g.X, tokens, heads, width, true); err != nil {
		return err
	}
	dx := headSpan("grads.X", g.X, tokens, heads, width)
	err = check.First(
		sameDType(op, "grads.X", x, g.X),
		checkSpansApart(op, dx, inputs[0], tensorSpan("grads.Weight", g.Weight)),
		checkApartOrSame(op, "grads.X", g.X, "x", x, tokens, heads, width),
		checkApartOrSame(op, "grads.X", g.X, "dy", dy, tokens, heads, width),
	)
	if err == nil && g.AccumulateX && g.X.same(x) {
		err = checkSpansApart(op, dx, inputs[1])
	}
	return err
}

// normBackward is one backward pass.
type normBackward struct {
	rec                *vk.Recorder
	rows, heads, width int
	x, dy              Heads
	weight             *vk.Tensor
	scales             *vk.Tensor // F32 [rows], nil where no weight's gradient is wanted
	grads              RMSNormHeadsGrads
}

// input records the gradient of x, where that is wanted now, and the rows' scales.
func (n *normBackward) input(eps float32, x bool) error {
	if n.rec.Err() != nil || n.rows == 0 {
		return n.rec.Err()
	}
	shape := chooseTeam(check.CeilDiv(n.width, 4), 128)
	quads := n.x.quads(n.width) && n.dy.quads(n.width) && quadsOf(n.weight)
	push := shaders.RmsNormBackwardPush{X: n.x.address(), Dy: n.dy.address(), W: n.weight.Address(), S: n.scales.Address(),
		Rows: uint32(n.rows), Heads: uint32(n.heads), Width: uint32(n.width), Eps: eps}
	push.XToken, push.XHead = n.x.strides()
	push.DyToken, push.DyHead = n.dy.strides()
	reads, writes := []*vk.Tensor{n.x.Tensor, n.dy.Tensor, n.weight}, []*vk.Tensor{n.scales}
	if dx := n.grads.X; x && dx.Tensor != nil {
		quads = quads && dx.quads(n.width)
		push.Dx = dx.address()
		push.DxToken, push.DxHead = dx.strides()
		reads, writes = append(reads, dx.Tensor), append(writes, dx.Tensor)
	}
	return check.Record(n.rec, vk.Dispatch{
		Kernel: rmsNormBackwardKernels[[2]vk.DType{n.x.Tensor.DType(), n.weight.DType()}],
		Spec: shaders.RmsNormBackwardSpec{Lanes: uint32(shape.lanes), Rows: uint32(shape.rows), Quads: quads,
			Accumulate: n.grads.AccumulateX}.Values(),
		Push:   push.Bytes(),
		Reads:  reads,
		Writes: writes,
		FLOPs:  10 * float64(n.rows) * float64(n.width),
	}, uint64(check.CeilDiv(n.rows, shape.rows)))
}

// The work-group shape of rms_norm_weight, and how many rows one adds up.
const (
	normColumns  = 32
	normRows     = 8
	normPerBlock = 512
)

// weights records the gradient of the weight, if it is wanted: in blocks of rows, then over the blocks.
func (n *normBackward) weights() error {
	if n.grads.Weight == nil || n.rec.Err() != nil {
		return n.rec.Err()
	}
	blocks := max(1, check.CeilDiv(n.rows, normPerBlock))
	if blocks == 1 {
		return n.sum(nil, 1, false, true)
	}
	partials := n.rec.Scratch(vk.F32, blocks, n.width)
	if n.rec.Err() != nil {
		return n.rec.Err()
	}
	defer n.rec.Release(partials)
	if err := n.sum(partials, blocks, false, false); err != nil {
		return err
	}
	return n.sum(partials, blocks, true, true)
}

// sum records rms_norm_weight: over rows, or over the partial sums of blocks; into the partial sums, or into the gradient.
func (n *normBackward) sum(partials *vk.Tensor, blocks int, fromPartials, last bool) error {
	push := shaders.RmsNormWeightPush{X: n.x.address(), Dy: n.dy.address(), S: n.scales.Address(), Partials: partials.Address(),
		Dw: n.grads.Weight.Address(), Rows: uint32(n.rows), PerBlock: normPerBlock, Blocks: uint32(blocks),
		Heads: uint32(n.heads), Width: uint32(n.width)}
	push.XToken, push.XHead = n.x.strides()
	push.DyToken, push.DyHead = n.dy.strides()
	reads, writes := []*vk.Tensor{n.x.Tensor, n.dy.Tensor, n.scales}, []*vk.Tensor{partials}
	if fromPartials {
		push.Rows, push.PerBlock, push.Blocks = uint32(blocks), uint32(blocks), 1
		reads = []*vk.Tensor{partials}
	}
	if last {
		reads, writes = append(reads, n.grads.Weight), []*vk.Tensor{n.grads.Weight}
	}
	return check.Record(n.rec, vk.Dispatch{
		Kernel: rmsNormWeightKernels[[2]vk.DType{n.x.Tensor.DType(), n.grads.Weight.DType()}],
		Spec: shaders.RmsNormWeightSpec{Columns: normColumns, Rows: normRows, Partials: fromPartials, Reduce: last,
			Accumulate: n.grads.AccumulateWeight}.Values(),
		Push:   push.Bytes(),
		Reads:  reads,
		Writes: writes,
		FLOPs:  3 * float64(push.Rows) * float64(n.width),
	}, uint64(push.Blocks)*uint64(check.CeilDiv(n.width, normColumns)))
}
