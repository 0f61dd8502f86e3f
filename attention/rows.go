package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// maxRowWidth bounds the widths of rows and heads, as package moe does.
const maxRowWidth = 1 << 19

// byStorage is a kernel's variants for F32, F16 and BF16.
type byStorage = check.ByStorage

// team is the work-group shape of kernels that give a row to a team of invocations.
type team struct{ lanes, rows int }

// chooseTeam gives a row of so many items at most so many lanes, a power of two, and fills a work-group of 64 with rows.
func chooseTeam(items, most int) team {
	lanes := 1
	for lanes < most && lanes < items {
		lanes *= 2
	}
	return team{lanes: lanes, rows: max(1, 64/lanes)}
}

// vectorLen is the length of a tensor of rank 1.
func vectorLen(op, arg string, t *vk.Tensor) (int, error) {
	switch {
	case t == nil:
		return 0, &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of rank 1", Got: "nil"}
	case t.Rank() != 1:
		return 0, &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of rank 1", Got: t.String()}
	}
	return t.Dim(0), nil
}

// same reports whether two arguments are the same heads.
func (h Heads) same(other Heads) bool {
	return h.address() == other.address() && h.RowStride == other.RowStride && h.HeadStride == other.HeadStride &&
		h.Tensor.DType() == other.Tensor.DType()
}

// checkHeads reports why h cannot be `heads` heads of width elements for each of tokens tokens; those of an output must not
// share elements.
func checkHeads(dev *vk.Device, op, arg string, h Heads, tokens, heads, width int, output bool) error {
	if err := check.Usable(dev, op, arg, h.Tensor); err != nil {
		return err
	}
	if !check.IsStorage(h.Tensor.DType()) {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "f32, f16 or bf16", Got: h.Tensor.String()}
	}
	err := h.check(dev, op, arg, h.Tensor.DType())
	switch {
	case err != nil:
		return err
	case h.Rows(heads, width) < tokens:
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%d rows of %d heads of %d", tokens, heads, width),
			Got: fmt.Sprintf("%d that fit %v", h.Rows(heads, width), h.Tensor)}
	case uint64(tokens)*uint64(heads) >= 1<<31:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "fewer than 2^31 heads in all", Got: fmt.Sprintf("%d·%d", tokens, heads)}
	case output:
		return h.checkDistinct(op, arg, tokens, heads, width)
	}
	return nil
}

// checkApartOrSame reports an output that shares memory with an input, unless it is the same heads, or other columns of the
// same rows.
func checkApartOrSame(op, arg string, out Heads, inArg string, in Heads, tokens, heads, width int) error {
	if out.same(in) {
		return nil
	}
	shape := [3]int{tokens, heads, width}
	return checkHeadsApart(op, arg, operand{arg, out, shape}, operand{inArg, in, shape})
}

// sameDType reports a second argument of another dtype than the first.
func sameDType(op, arg string, x, y Heads) error {
	if x.Tensor.DType() == y.Tensor.DType() {
		return nil
	}
	return &vk.ShapeError{Op: op, Arg: arg, Want: x.Tensor.DType().String(), Got: y.Tensor.String()}
}

// A span is an argument's memory.
type span struct {
	arg      string
	from, to uint64
}

// tensorSpan is a tensor's memory; nil has none.
func tensorSpan(arg string, t *vk.Tensor) span {
	if t == nil || t.Address() == 0 {
		return span{arg: arg}
	}
	return span{arg, t.Address(), t.Address() + t.Bytes()}
}

// headSpan is the memory from the first element of heads to the last, gaps included.
func headSpan(arg string, h Heads, tokens, heads, width int) span {
	if h.Tensor == nil {
		return span{arg: arg}
	}
	from, to := operand{arg, h, [3]int{tokens, heads, width}}.span()
	return span{arg, from, to}
}

// checkSpansApart reports an output that shares memory with another argument.
func checkSpansApart(op string, out span, others ...span) error {
	for _, o := range others {
		if out.from < o.to && o.from < out.to {
			return &vk.ShapeError{Op: op, Arg: out.arg, Want: "memory apart from " + o.arg, Got: "overlapping memory"}
		}
	}
	return nil
}
