package vk

import (
	"context"
	"fmt"
	"unsafe"
)

// A Scalar is a host type that tensors are filled from and read into.
type Scalar interface {
	~float32 | ~int32 | ~uint32 | ~uint16 | ~byte
}

// Upload copies data to t and returns once it has arrived. float32 data is rounded to nearest even where t is f16 or
// bf16; uint16 data is taken as the bits of a 16-bit tensor; byte data as the raw little-endian bytes of any tensor.
// It fails with a *ShapeError when the length or the type does not fit, with ctx's error when ctx ends first (t then
// holds a mixture), with ErrClosed, ErrDeviceLost or ErrOutOfMemory.
func Upload[S Scalar](ctx context.Context, t *Tensor, data []S) error {
	raw, convert, err := transferable[S]("Upload", t, len(data))
	if err != nil || len(data) == 0 || t.dev.opts.CompileOnly {
		return err
	}
	if !convert {
		return t.dev.ring.upload(ctx, t, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), raw))
	}
	words := make([]uint16, len(data))
	narrow := ToF16
	if t.dtype == BF16 {
		narrow = ToBF16
	}
	for i, v := range unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(data))), len(data)) {
		words[i] = narrow(v)
	}
	return t.dev.ring.upload(ctx, t, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), raw))
}

// Download returns the contents of t after everything submitted before the call. Asked for float32 it widens f16 and
// bf16; uint16 gives the bits of a 16-bit tensor and byte the raw little-endian bytes of any tensor. Errors are those
// of Upload.
func Download[S Scalar](ctx context.Context, t *Tensor) ([]S, error) {
	if t == nil {
		return nil, (*Tensor)(nil).check(nil, "Download")
	}
	n := t.Elements()
	var s S
	if _, ok := any(s).(byte); ok {
		n = int(t.Bytes())
	}
	raw, convert, err := transferable[S]("Download", t, n)
	if err != nil {
		return nil, err
	}
	if t.dev.opts.CompileOnly {
		return nil, fmt.Errorf("Download: %w", ErrCompileOnly)
	}
	data := make([]S, n)
	if n == 0 {
		return data, nil
	}
	if !convert {
		return data, t.dev.ring.download(ctx, t, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), raw))
	}
	words := make([]uint16, n)
	if err := t.dev.ring.download(ctx, t, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), raw)); err != nil {
		return nil, err
	}
	widen := FromF16
	if t.dtype == BF16 {
		widen = FromBF16
	}
	floats := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(data))), n)
	for i, w := range words {
		floats[i] = widen(w)
	}
	return data, nil
}

// transferable checks that n values of type S are what t holds. raw is the tensor's size in bytes; convert says that
// S is float32 and t 16 bits wide.
func transferable[S Scalar](op string, t *Tensor, n int) (raw uint64, convert bool, err error) {
	if t == nil {
		return 0, false, t.check(nil, op)
	}
	if err := t.check(t.dev, op); err != nil {
		return 0, false, err
	}
	if err := t.dev.usable(); err != nil {
		return 0, false, err
	}
	var s S
	want := t.Elements()
	fits := false
	switch any(s).(type) {
	case float32:
		fits = t.dtype == F32 || t.dtype.Bytes() == 2
		convert = t.dtype.Bytes() == 2
	case int32:
		fits = t.dtype == I32
	case uint32:
		fits = t.dtype == U32
	case uint16:
		fits = t.dtype.Bytes() == 2
	case byte:
		fits, want = true, int(t.Bytes())
	}
	if !fits {
		return 0, false, &ShapeError{Op: op, Arg: "element type", Want: "one that fits " + t.dtype.String(),
			Got: fmt.Sprintf("%T", s)}
	}
	if n != want {
		return 0, false, &ShapeError{Op: op, Arg: "data", Want: fmt.Sprintf("%d values for %v", want, t),
			Got: fmt.Sprint(n)}
	}
	return t.Bytes(), convert, nil
}
