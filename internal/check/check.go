// Package check judges the arguments of operations that are recorded: what package moe does for its own, for the packages
// above it.
package check

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// First returns the first error that is not nil.
func First(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Tensor reports why t cannot be the argument arg of op on a device: nil, closed, of another device, or of another dtype or
// shape.
func Tensor(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType, shape ...int) error {
	want := fmt.Sprintf("%v%v", dtype, shape)
	switch {
	case t == nil:
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: "nil"}
	case t.Closed():
		return fmt.Errorf("vkmoe: %s: %s: %w", op, arg, vk.ErrClosed)
	case t.Device() != dev:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of the recorder's device", Got: "one of another device"}
	case t.DType() != dtype || !slices.Equal(t.Shape(), shape):
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: t.String()}
	}
	return nil
}

// Optional is Tensor for an argument that may be nil.
func Optional(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType, shape ...int) error {
	if t == nil {
		return nil
	}
	return Tensor(dev, op, arg, t, dtype, shape...)
}

// Rank reports a tensor that is nil or of another number of dimensions.
func Rank(op, arg string, t *vk.Tensor, rank int) error {
	if t == nil {
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%d dimensions", rank), Got: "nil"}
	}
	if t.Rank() != rank {
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%d dimensions", rank), Got: t.String()}
	}
	return nil
}

// Storage reports a tensor that is nil or of no storage type.
func Storage(op, arg string, t *vk.Tensor) error {
	if t == nil {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "f32, f16 or bf16", Got: "nil"}
	}
	if t.DType() != vk.F32 && t.DType() != vk.F16 && t.DType() != vk.BF16 {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "f32, f16 or bf16", Got: t.String()}
	}
	return nil
}

// Apart reports an output that shares memory with one of the inputs, which may be nil.
func Apart(op, outArg string, out *vk.Tensor, inputs ...*vk.Tensor) error {
	if out == nil {
		return nil
	}
	from, to := out.Address(), out.Address()+out.Bytes()
	for _, in := range inputs {
		if in == nil || in.Bytes() == 0 || out.Bytes() == 0 {
			continue
		}
		if a := in.Address(); a < to && from < a+in.Bytes() {
			return &vk.ShapeError{Op: op, Arg: outArg, Want: "memory apart from " + in.String(), Got: "overlapping memory"}
		}
	}
	return nil
}

// Elements reports a tensor of too many elements for kernels that count them in 32 bits.
func Elements(op, arg string, t *vk.Tensor) error {
	if uint64(t.Elements()) >= 1<<32-1<<12 {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "fewer than 2^32 − 2^12 elements", Got: t.String()}
	}
	return nil
}

// Quads reports whether every tensor begins at a multiple of four of its values.
func Quads(tensors ...*vk.Tensor) bool {
	for _, t := range tensors {
		if t != nil && t.Address()%(4*t.DType().Bytes()) != 0 {
			return false
		}
	}
	return true
}

// CeilDiv is ⌈a/b⌉.
func CeilDiv(a, b int) int { return (a + b - 1) / b }

// Grid is the work-group shape of kernels over a [rows, width] matrix: columns × rows invocations of one or four values.
type Grid struct {
	Columns, Rows uint32
	Quads         bool
}

// NewGrid fills a work-group of 64 with rows of a narrow matrix.
func NewGrid(width int, quads bool) Grid {
	items := width
	if quads {
		items = width / 4
	}
	columns := 1
	for columns < 64 && columns < items {
		columns *= 2
	}
	return Grid{uint32(columns), uint32(64 / columns), quads}
}

// Groups is the number of work-groups.
func (g Grid) Groups(rows, width int) uint64 {
	per := int(g.Columns)
	if g.Quads {
		per *= 4
	}
	return uint64(CeilDiv(rows, int(g.Rows))) * uint64(CeilDiv(width, per))
}
