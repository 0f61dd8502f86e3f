package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// RMSNorm records root mean square normalization (Zhang and Sennrich, arXiv 1910.07467) of rows that lie one behind the other:
//
//	y_c = w_c · x_c / √(Σ x²/n + eps)
//
// with n the length of weight [n], which divides the width of x and y [T,width]: with width = n it is the usual norm of a row,
// else that of each of width/n heads. x and y are F32, F16 or BF16, the same; weight is that or F32. y may be x, exactly, or is
// apart from it. Sums are in f32.
// Errors: see the package.
func RMSNorm(rec *vk.Recorder, x, weight *vk.Tensor, eps float32, y *vk.Tensor) error {
	const op = "RMSNorm"
	tokens, heads, width, err := normShape(op, x, weight)
	if err == nil {
		err = check.Tensor(rec.Device(), op, "y", y, x.DType(), x.Shape()...)
	}
	if err != nil {
		return rec.Fail(err)
	}
	return RMSNormHeads(rec, tokens, heads, DenseHeads(x, heads, width), weight, eps, DenseHeads(y, heads, width))
}

// normShape splits the rows of x into heads of weight's length.
func normShape(op string, x, weight *vk.Tensor) (tokens, heads, width int, err error) {
	if width, err = vectorLen(op, "weight", weight); err != nil {
		return 0, 0, 0, err
	}
	if x == nil || x.Rank() != 2 || width == 0 || x.Dim(1)%width != 0 || x.Dim(1) == 0 {
		return 0, 0, 0, &vk.ShapeError{Op: op, Arg: "x", Want: fmt.Sprintf("[T, a multiple of %d]", width), Got: fmt.Sprint(x)}
	}
	return x.Dim(0), x.Dim(1) / width, width, nil
}

// RMSNormHeads is RMSNorm of `heads` heads for each of tokens tokens, anywhere in tensors, each as wide as weight [n].
// Errors: see the package.
func RMSNormHeads(rec *vk.Recorder, tokens, heads int, x Heads, weight *vk.Tensor, eps float32, y Heads) error {
	const op = "RMSNormHeads"
	dev := rec.Device()
	width, err := checkNorm(dev, op, tokens, heads, weight, eps, x)
	if err == nil {
		err = checkHeads(dev, op, "y", y, tokens, heads, width, true)
	}
	if err == nil {
		err = check.First(sameDType(op, "y", x, y), checkApartOrSame(op, "y", y, "x", x, tokens, heads, width),
			checkSpansApart(op, headSpan("y", y, tokens, heads, width), tensorSpan("weight", weight)))
	}
	if err != nil || tokens == 0 {
		return rec.Fail(err)
	}
	quads := x.quads(width) && y.quads(width) && quadsOf(weight)
	shape := chooseTeam(check.CeilDiv(width, 4), 128)
	push := shaders.RmsNormPush{X: x.address(), Y: y.address(), W: weight.Address(), Rows: uint32(tokens * heads),
		Heads: uint32(heads), Width: uint32(width), Eps: eps}
	push.XToken, push.XHead = x.strides()
	push.YToken, push.YHead = y.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: rmsNormKernels[[2]vk.DType{x.Tensor.DType(), weight.DType()}],
		Spec:   shaders.RmsNormSpec{Lanes: uint32(shape.lanes), Rows: uint32(shape.rows), Quads: quads}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{x.Tensor, weight},
		Writes: []*vk.Tensor{y.Tensor},
		FLOPs:  4 * float64(tokens) * float64(heads) * float64(width),
	}, uint64(check.CeilDiv(tokens*heads, shape.rows)))
}

// The variants by the dtypes of the rows and of the weight, or of its gradient.
var (
	rmsNormKernels = check.NewByTypes(shaders.RmsNormF32, shaders.RmsNormF16, shaders.RmsNormF16F32,
		shaders.RmsNormBf16, shaders.RmsNormBf16F32)
	rmsNormBackwardKernels = check.NewByTypes(shaders.RmsNormBackwardF32, shaders.RmsNormBackwardF16, shaders.RmsNormBackwardF16F32,
		shaders.RmsNormBackwardBf16, shaders.RmsNormBackwardBf16F32)
	rmsNormWeightKernels = check.NewByTypes(shaders.RmsNormWeightF32, shaders.RmsNormWeightF16, shaders.RmsNormWeightF16F32,
		shaders.RmsNormWeightBf16, shaders.RmsNormWeightBf16F32)
)

// quadsOf reports whether a vector can be read four values at a time.
func quadsOf(t *vk.Tensor) bool { return t.Address()%(4*t.DType().Bytes()) == 0 }

// checkNorm checks what all passes take and returns the width of a head.
func checkNorm(dev *vk.Device, op string, tokens, heads int, weight *vk.Tensor, eps float32, x Heads) (int, error) {
	width, err := vectorLen(op, "weight", weight)
	if err == nil {
		err = check.First(
			check.InRange(op, "tokens", tokens, 0, 1<<31-1),
			check.InRange(op, "heads", heads, 1, maxHeads),
			check.InRange(op, "width of weight", width, 1, maxRowWidth),
			checkHeads(dev, op, "x", x, tokens, heads, width, false),
		)
	}
	if err != nil {
		return 0, err
	}
	dtype := x.Tensor.DType()
	if weight.DType() == vk.F32 {
		dtype = vk.F32
	}
	if !(eps >= 0) {
		return 0, check.Config(op, "eps", "a number that is not negative", fmt.Sprint(eps))
	}
	return width, check.Tensor(dev, op, "weight", weight, dtype, width)
}
