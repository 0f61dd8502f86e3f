package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var copyHeadsKernels = byStorage{shaders.CopyHeadsF32, shaders.CopyHeadsF16, shaders.CopyHeadsBf16}

// copyHeads records y = x for `heads` heads of width elements for each of tokens tokens, of one dtype and apart.
func copyHeads(rec *vk.Recorder, tokens, heads, width int, x, y Heads) error {
	const op = "copyHeads"
	err := checkMove(rec.Device(), op, tokens, [2]int{heads, heads}, width, x, y)
	if err != nil || tokens == 0 {
		return rec.Fail(err)
	}
	shape := chooseTeam(check.CeilDiv(width, 4), 64)
	push := shaders.CopyHeadsPush{X: x.address(), Y: y.address(), Rows: uint32(tokens * heads), Heads: uint32(heads), Width: uint32(width)}
	push.XToken, push.XHead = x.strides()
	push.YToken, push.YHead = y.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: copyHeadsKernels[x.Tensor.DType()],
		Spec: shaders.CopyHeadsSpec{Columns: uint32(shape.lanes), Rows: uint32(shape.rows),
			Quads: x.quads(width) && y.quads(width)}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{x.Tensor},
		Writes: []*vk.Tensor{y.Tensor},
		FLOPs:  float64(tokens) * float64(heads) * float64(width),
	}, uint64(check.CeilDiv(tokens*heads, shape.rows))*uint64(check.CeilDiv(width, 4*shape.lanes)))
}

// checkMove checks what goes from the heads of x to those of y.
func checkMove(dev *vk.Device, op string, tokens int, heads [2]int, width int, x, y Heads) error {
	err := check.First(
		checkHeads(dev, op, "x", x, tokens, heads[0], width, false),
		checkHeads(dev, op, "y", y, tokens, heads[1], width, true),
	)
	if err == nil {
		err = check.First(sameDType(op, "y", x, y), checkHeadsApart(op, "y", operand{"y", y, [3]int{tokens, heads[1], width}},
			operand{"x", x, [3]int{tokens, heads[0], width}}))
	}
	return err
}
