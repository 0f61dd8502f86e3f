package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// Heads says where the heads of a matrix's rows are in a tensor: element i of head h of row t is element
//
//	Offset + t·RowStride + h·HeadStride + i
//
// of it. How many heads there are and how wide they are, the operation says; how many rows there are follows from how many
// fit the tensor. So queries, keys and values may be columns of one matrix.
type Heads struct {
	Tensor                        *vk.Tensor
	Offset, RowStride, HeadStride int // in elements
}

// DenseHeads are the heads of a tensor that holds nothing else: [rows, heads, width] or any shape of as many elements.
func DenseHeads(t *vk.Tensor, heads, width int) Heads {
	return Heads{Tensor: t, RowStride: heads * width, HeadStride: width}
}

// Rows is how many rows of so many heads of a width fit the tensor: 0 for no tensor or strides that make no sense.
func (h Heads) Rows(heads, width int) int {
	if h.Tensor == nil || h.RowStride < 1 || h.HeadStride < 0 || h.Offset < 0 {
		return 0
	}
	rest := h.Tensor.Elements() - h.Offset - (heads-1)*h.HeadStride - width
	if rest < 0 {
		return 0
	}
	return rest/h.RowStride + 1
}

// maxStride bounds the strides: they are 32-bit numbers of bytes on the device.
const maxStride = 1 << 29

// check reports why these cannot be the heads arg of op. Without rows the tensor may be empty.
func (h Heads) check(dev *vk.Device, op, arg string, dtype vk.DType) error {
	if err := check.Usable(dev, op, arg, h.Tensor); err != nil {
		return err
	}
	if h.Tensor.DType() != dtype {
		return &vk.ShapeError{Op: op, Arg: arg, Want: dtype.String(), Got: h.Tensor.String()}
	}
	if h.Offset < 0 || h.RowStride < 1 || h.RowStride > maxStride || h.HeadStride < 0 || h.HeadStride > maxStride {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "an offset of at least 0 and strides up to 2^29, of rows from 1 on",
			Got: fmt.Sprintf("offset %d, strides %d and %d", h.Offset, h.RowStride, h.HeadStride)}
	}
	return nil
}

// checkRows asks for a number of rows.
func (h Heads) checkRows(op, arg string, rows, heads, width int) error {
	if got := h.Rows(heads, width); got != rows {
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%d rows of %d heads of %d", rows, heads, width),
			Got: fmt.Sprintf("%d that fit %v", got, h.Tensor)}
	}
	return nil
}

// checkDistinct reports heads that share elements, as those of an output must not.
func (h Heads) checkDistinct(op, arg string, rows, heads, width int) error {
	rowMajor := (heads == 1 || h.HeadStride >= width) && (rows <= 1 || h.RowStride >= (heads-1)*h.HeadStride+width)
	headMajor := (rows <= 1 || h.RowStride >= width) && (heads == 1 || h.HeadStride >= (rows-1)*h.RowStride+width)
	if rowMajor || headMajor {
		return nil
	}
	return &vk.ShapeError{Op: op, Arg: arg, Want: "elements of their own for every row and head",
		Got: fmt.Sprintf("strides %d and %d for %d heads of %d", h.RowStride, h.HeadStride, heads, width)}
}

// address is that of element (0, 0, 0).
func (h Heads) address() uint64 {
	a := h.Tensor.Address()
	if a == 0 {
		return 0
	}
	return a + uint64(h.Offset)*h.Tensor.DType().Bytes()
}

// strides are the distances of rows and of heads in bytes.
func (h Heads) strides() (row, head uint32) {
	bytes := uint32(h.Tensor.DType().Bytes())
	return uint32(h.RowStride) * bytes, uint32(h.HeadStride) * bytes
}

// quads reports whether every head can be read four values at a time.
func (h Heads) quads(width int) bool {
	return width%4 == 0 && h.RowStride%4 == 0 && h.HeadStride%4 == 0 && h.address()%(4*h.Tensor.DType().Bytes()) == 0
}

// An operand is one argument of an operation with its rows, heads and width. Its tensor may be nil.
type operand struct {
	name  string
	heads Heads
	shape [3]int
}

// wholeOperand is all of a tensor, as one row.
func wholeOperand(name string, t *vk.Tensor) operand {
	n := 0
	if t != nil {
		n = t.Elements()
	}
	return operand{name, DenseHeads(t, 1, max(n, 1)), [3]int{min(n, 1), 1, n}}
}

// bytes is the size of so many elements.
func (o operand) bytes(elements int) uint64 { return uint64(elements) * o.heads.Tensor.DType().Bytes() }

// span is the range of device addresses from the first element to behind the last.
func (o operand) span() (lo, hi uint64) {
	if o.shape[0] == 0 || o.heads.Tensor.Address() == 0 {
		return 0, 0
	}
	lo = o.heads.address()
	return lo, lo + o.bytes((o.shape[0]-1)*o.heads.RowStride) + o.rowBytes()
}

// rowBytes is from a row's first element to behind its last.
func (o operand) rowBytes() uint64 { return o.bytes((o.shape[1]-1)*o.heads.HeadStride + o.shape[2]) }

// checkHeadsApart reports an output that shares memory with another operand. Different columns of one matrix do not.
func checkHeadsApart(op, arg string, out, other operand) error {
	from, to := out.span()
	lo, hi := other.span()
	if from >= hi || lo >= to || interleaved(out, other) {
		return nil
	}
	return &vk.ShapeError{Op: op, Arg: arg, Want: "memory apart from " + other.name, Got: "overlapping memory"}
}

// interleaved reports whether two operands lie in different columns of rows of one stride.
func interleaved(a, b operand) bool {
	if a.heads.RowStride != b.heads.RowStride || a.heads.Tensor.DType() != b.heads.Tensor.DType() {
		return false
	}
	if a.heads.address() > b.heads.address() {
		a, b = b, a
	}
	row := a.bytes(a.heads.RowStride)
	from := (b.heads.address() - a.heads.address()) % row
	return from >= a.rowBytes() && from+b.rowBytes() <= row
}
