// Package check is what packages that record operations have in common: it judges configurations and arguments, finds kernels by
// dtype and counts work-groups and memory.
package check

import (
	"fmt"
	"maps"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// Tensor reports why t cannot be the argument arg of op on a device: nil, closed, of another device, or of another dtype or
// shape.
func Tensor(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType, shape ...int) error {
	want := fmt.Sprintf("%v%v", dtype, shape)
	if t == nil {
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: "nil"}
	}
	if err := Usable(dev, op, arg, t); err != nil {
		return err
	}
	if t.DType() != dtype || !slices.Equal(t.Shape(), shape) {
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: t.String()}
	}
	return nil
}

// Usable reports a tensor that is nil, closed or of another device.
func Usable(dev *vk.Device, op, arg string, t *vk.Tensor) error {
	switch {
	case t == nil:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor", Got: "nil"}
	case t.Closed():
		return fmt.Errorf("vkmoe: %s: %s: %w", op, arg, vk.ErrClosed)
	case t.Device() != dev:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of the recorder's device", Got: "one of another device"}
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

// IsStorage reports whether weights and activations may be of a type.
func IsStorage(t vk.DType) bool { return t == vk.F32 || t == vk.F16 || t == vk.BF16 }

// DType reports a field DType that is no storage type, as a *ConfigError.
func DType(config string, t vk.DType) error {
	if IsStorage(t) {
		return nil
	}
	return Config(config, "DType", "f32, f16 or bf16", t.String())
}

// Storage reports a tensor that is nil or of no storage type.
func Storage(op, arg string, t *vk.Tensor) error {
	if t == nil {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "f32, f16 or bf16", Got: "nil"}
	}
	if !IsStorage(t.DType()) {
		return &vk.ShapeError{Op: op, Arg: arg, Want: "f32, f16 or bf16", Got: t.String()}
	}
	return nil
}

// Inputs are tensors, which may be nil, by their arguments' names.
type Inputs map[string]*vk.Tensor

// Apart reports an output, which may be nil, that shares memory with an input.
func Apart(op, outArg string, out *vk.Tensor, inputs Inputs) error {
	if out == nil || out.Bytes() == 0 {
		return nil
	}
	from, to := out.Address(), out.Address()+out.Bytes()
	for _, arg := range slices.Sorted(maps.Keys(inputs)) {
		in := inputs[arg]
		if in == nil || in.Bytes() == 0 {
			continue
		}
		if a := in.Address(); a < to && from < a+in.Bytes() {
			return &vk.ShapeError{Op: op, Arg: outArg, Want: "memory apart from " + arg, Got: "overlapping memory"}
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

// Record dispatches n work-groups, refusing counts that the kernels' 32-bit group ids cannot tell apart.
func Record(rec *vk.Recorder, d vk.Dispatch, n uint64) error {
	if n >= 1<<31 {
		return rec.Fail(&vk.ShapeError{Op: d.Kernel.Name(), Arg: "work-groups", Want: "fewer than 2^31", Got: fmt.Sprint(n)})
	}
	d.Linear = n
	rec.Dispatch(d)
	return rec.Err()
}

// TensorBytes is the memory that a tensor takes: its elements of so many bytes, rounded up to 256 bytes.
func TensorBytes(element uint64, shape ...int) uint64 {
	n := element
	for _, s := range shape {
		n *= uint64(s)
	}
	return (n + 255) / 256 * 256
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
