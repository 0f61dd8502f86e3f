// Package train has what the examples need to learn and the library does not have: a squared-error loss and Adam. It is
// written against the public packages vk and moe only, with kernels of its own, and is meant to be copied from.
//
// All tensors are F32. Functions record into a vk.Recorder; arguments that do not fit are a *vk.ShapeError, which is also
// the recorder's error.
package train

import (
	_ "embed"
	"fmt"

	"github.com/vkmoe/vkmoe/vk"
)

//go:generate go run github.com/vkmoe/vkmoe/shaders/gen squared_error adam adam_decay

//go:embed squared_error.spv
var squaredErrorModule []byte

//go:embed adam.spv
var adamModule []byte

//go:embed adam_decay.spv
var adamDecayModule []byte

var (
	squaredError = vk.MustKernel("squared_error", squaredErrorModule)
	adam         = vk.MustKernel("adam", adamModule)
	adamDecay    = vk.MustKernel("adam_decay", adamDecayModule)
)

// threads is the work-group size of the kernels with one invocation per element.
const threads = 64

// maxElements is how many values the one work-group of squared_error sums.
const maxElements = 1 << 22

// SquaredError records the mean squared error of y and its gradient:
//
//	loss = Σ_i (y[i] − target[i])² / n    dy[i] = 2·(y[i] − target[i]) / n
//
// y, target and dy have the same n elements, at most 2^22; loss has one.
func SquaredError(rec *vk.Recorder, y, target, dy, loss *vk.Tensor) error {
	const op = "SquaredError"
	if y == nil || y.Elements() == 0 || y.Elements() > maxElements {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "y", Want: fmt.Sprintf("1 to %d elements", maxElements), Got: fmt.Sprint(y)})
	}
	n := y.Elements()
	for _, t := range []struct {
		arg string
		t   *vk.Tensor
		n   int
	}{{"y", y, n}, {"target", target, n}, {"dy", dy, n}, {"loss", loss, 1}} {
		if err := checkFloats(op, t.arg, t.t, t.n); err != nil {
			return rec.Fail(err)
		}
	}
	return Dispatch(rec, vk.Dispatch{Kernel: squaredError, Groups: [3]uint32{1, 1, 1}, Reads: []*vk.Tensor{y, target},
		Writes: []*vk.Tensor{dy, loss}, FLOPs: 4 * float64(n)}, y, target, dy, loss, n)
}

// Dispatch records d with push constants packed by vk.PackPush and returns the recorder's error.
func Dispatch(rec *vk.Recorder, d vk.Dispatch, push ...any) error {
	if rec.Err() != nil {
		return rec.Err()
	}
	var err error
	if d.Push, err = vk.PackPush(d.Kernel, push...); err != nil {
		return rec.Fail(err)
	}
	rec.Dispatch(d)
	return rec.Err()
}

// checkFloats reports a tensor that has not n elements of F32.
func checkFloats(op, arg string, t *vk.Tensor, n int) error {
	if t == nil || t.DType() != vk.F32 || t.Elements() != n {
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%d elements of f32", n), Got: fmt.Sprint(t)}
	}
	return nil
}
