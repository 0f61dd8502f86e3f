package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var sumHeadsKernels = byStorage{shaders.SumHeadsF32, shaders.SumHeadsF16, shaders.SumHeadsBf16}

// sumHeads records y = the sum of a token's heads, for `heads` heads of width elements of x and one of y for each of tokens
// tokens, of one dtype and apart. Sums are in f32, heads ascending.
func sumHeads(rec *vk.Recorder, tokens, heads, width int, x, y Heads) error {
	const op = "sumHeads"
	err := checkMove(rec.Device(), op, tokens, [2]int{heads, 1}, width, x, y)
	if err != nil || tokens == 0 {
		return rec.Fail(err)
	}
	shape := chooseTeam(check.CeilDiv(width, 4), 64)
	push := shaders.SumHeadsPush{X: x.address(), Y: y.address(), Rows: uint32(tokens), Heads: uint32(heads), Width: uint32(width)}
	push.XToken, push.XHead = x.strides()
	push.YToken, _ = y.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: sumHeadsKernels[x.Tensor.DType()],
		Spec: shaders.SumHeadsSpec{Columns: uint32(shape.lanes), Rows: uint32(shape.rows),
			Quads: x.quads(width) && y.quads(width)}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{x.Tensor},
		Writes: []*vk.Tensor{y.Tensor},
		FLOPs:  float64(tokens) * float64(heads) * float64(width),
	}, uint64(check.CeilDiv(tokens, shape.rows))*uint64(check.CeilDiv(width, 4*shape.lanes)))
}
