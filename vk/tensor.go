package vk

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
)

// A DType is the element type of a tensor.
type DType uint8

// The element types. BF16 is the upper half of an IEEE-754 binary32, F16 is binary16.
const (
	F32 DType = iota
	F16
	BF16
	I32
	U32
)

// Bytes is the size of one element in bytes.
func (t DType) Bytes() uint64 {
	if t == F16 || t == BF16 {
		return 2
	}
	return 4
}

func (t DType) String() string {
	if int(t) < len(dtypeNames) {
		return dtypeNames[t]
	}
	return fmt.Sprintf("dtype(%d)", uint8(t))
}

var dtypeNames = [...]string{"f32", "f16", "bf16", "i32", "u32"}

// A Tensor is a dense row-major array in device memory: dtype, shape and a buffer device address. Its shape never
// changes. Whoever made it closes it; views share its memory and need no Close. The contents of a new tensor are
// undefined.
//
// A Tensor may be used from several goroutines at once as long as none of them closes it; ordering what the GPU does
// with its contents is the Recorder's work within one recorder and the order of Submit between recorders.
type Tensor struct {
	dev    *Device
	dtype  DType
	shape  []int
	offset uint64 // bytes from the start of mem
	mem    *tensorMemory
	view   bool
}

// tensorMemory is what a tensor and its views share.
type tensorMemory struct {
	alloc  *allocation // nil for an empty tensor
	closed atomic.Bool
	id     uint64 // entry in the device's registry of open objects
}

// NewTensor makes an uninitialised tensor. A shape with a zero in it is allowed and takes no memory. It fails with a
// *ShapeError for a negative dimension or an unknown dtype, with ErrOutOfMemory when the device's allocation limit,
// budget or memory is exceeded, and with ErrClosed or ErrDeviceLost.
func (d *Device) NewTensor(dtype DType, shape ...int) (*Tensor, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	n, err := countElements("NewTensor", shape)
	if err != nil {
		return nil, err
	}
	if int(dtype) >= len(dtypeNames) {
		return nil, &ShapeError{Op: "NewTensor", Arg: "dtype", Want: "f32, f16, bf16, i32 or u32", Got: dtype.String()}
	}
	t := &Tensor{dev: d, dtype: dtype, shape: slices.Clone(shape), mem: &tensorMemory{}}
	if n > 0 {
		d.collect()
		if t.mem.alloc, err = d.memory.alloc("NewTensor", n*dtype.Bytes()); err != nil {
			return nil, err
		}
	}
	t.mem.id = d.objects.add("tensor", fmt.Sprintf("%v%v", dtype, shape))
	return t, nil
}

// countElements multiplies a shape out, refusing negative and overflowing ones.
func countElements(op string, shape []int) (uint64, error) {
	n := uint64(1)
	for i, s := range shape {
		if s < 0 {
			return 0, &ShapeError{Op: op, Arg: fmt.Sprintf("dimension %d", i), Want: "≥ 0", Got: fmt.Sprint(s)}
		}
		if s > 0 && n > math.MaxInt64/8/uint64(s) {
			return 0, &ShapeError{Op: op, Arg: "shape", Want: "fewer than 2^60 elements", Got: fmt.Sprint(shape)}
		}
		n *= uint64(s)
	}
	return n, nil
}

// Shape returns a copy of the tensor's dimensions.
func (t *Tensor) Shape() []int { return slices.Clone(t.shape) }

// Dim returns dimension i; negative i counts from the end.
func (t *Tensor) Dim(i int) int {
	if i < 0 {
		i += len(t.shape)
	}
	return t.shape[i]
}

// Rank is the number of dimensions.
func (t *Tensor) Rank() int { return len(t.shape) }

// DType is the element type.
func (t *Tensor) DType() DType { return t.dtype }

// Elements is the number of elements.
func (t *Tensor) Elements() int {
	n := 1
	for _, s := range t.shape {
		n *= s
	}
	return n
}

// Bytes is the size of the elements in bytes, without padding.
func (t *Tensor) Bytes() uint64 { return uint64(t.Elements()) * t.dtype.Bytes() }

// Device is the device the tensor lives on.
func (t *Tensor) Device() *Device { return t.dev }

// Closed reports whether the tensor's memory has been given back.
func (t *Tensor) Closed() bool { return t.mem.closed.Load() }

// Address is the buffer device address of element 0, or 0 for a nil, empty or closed tensor. It is a multiple of 256
// for a tensor that is not a view.
func (t *Tensor) Address() uint64 {
	if t == nil || t.mem.alloc == nil || t.mem.closed.Load() {
		return 0
	}
	return t.mem.alloc.address() + t.offset
}

// View returns a tensor of the given shape over t's memory, starting offset elements in. It fails with a *ShapeError
// when the view would leave t. Views are valid until t is closed.
func (t *Tensor) View(offset int, shape ...int) (*Tensor, error) {
	n, err := countElements("View", shape)
	if err != nil {
		return nil, err
	}
	if offset < 0 || uint64(offset)+n > uint64(t.Elements()) {
		return nil, &ShapeError{Op: "View", Arg: "range", Want: fmt.Sprintf("within %d elements", t.Elements()),
			Got: fmt.Sprintf("%d elements from %d", n, offset)}
	}
	return &Tensor{dev: t.dev, dtype: t.dtype, shape: slices.Clone(shape), mem: t.mem, view: true,
		offset: t.offset + uint64(offset)*t.dtype.Bytes()}, nil
}

// Reshape returns a view of all of t with another shape of as many elements.
// Another number of elements is a *ShapeError.
func (t *Tensor) Reshape(shape ...int) (*Tensor, error) {
	n, err := countElements("Reshape", shape)
	if err != nil {
		return nil, err
	}
	if n != uint64(t.Elements()) {
		return nil, &ShapeError{Op: "Reshape", Arg: "shape", Want: fmt.Sprintf("%d elements", t.Elements()),
			Got: fmt.Sprint(shape)}
	}
	return t.View(0, shape...)
}

func (t *Tensor) String() string { return fmt.Sprintf("%v%v", t.dtype, t.shape) }

// Close gives the memory back once the GPU has finished everything submitted so far. Closing twice, or closing a
// view, does nothing. A recorder that used the tensor refuses to be submitted again.
func (t *Tensor) Close() error {
	if t == nil || t.view || t.mem.closed.Swap(true) {
		return nil
	}
	t.dev.objects.remove(t.mem.id)
	if t.mem.alloc != nil && !t.dev.closed.Load() {
		t.dev.retire(t.mem.alloc, t.dev.memory)
	}
	return nil
}

// check reports why the tensor cannot be used on device d.
func (t *Tensor) check(d *Device, op string) error {
	if t == nil {
		return &ShapeError{Op: op, Arg: "tensor", Want: "a tensor", Got: "nil"}
	}
	if t.mem.closed.Load() {
		return fmt.Errorf("%s: tensor %v: %w", op, t, ErrClosed)
	}
	if t.dev != d {
		return &ShapeError{Op: op, Arg: "tensor", Want: "a tensor of this device", Got: "one of " + t.dev.adapter.Name}
	}
	return nil
}

// extent is the tensor's byte range in device address space.
func (t *Tensor) extent() (lo, hi uint64) {
	a := t.Address()
	return a, a + t.Bytes()
}
