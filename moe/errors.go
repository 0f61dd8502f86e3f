package moe

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// MaxExperts is the largest number of experts of one layer.
const MaxExperts = 1024

// MaxTopK is the largest number of experts that a router chooses per token.
const MaxTopK = 64

// maxWidth bounds the widths of linear maps. A row's size in bytes must fit 32 bits, and lavapipe ends a shader's loops
// without a word after 65,535 iterations (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa), which is 16 inputs each.
const maxWidth = 1 << 19

// maxLoop is that number of iterations.
const maxLoop = 65535

// An ExpertIDError is an expert id outside [0, Experts). Of several it names the one with the lowest slot.
type ExpertIDError struct {
	Slot    int // t·K + j
	ID      int32
	Experts int
	Count   int // how many slots have such an id
}

func (e *ExpertIDError) Error() string {
	return fmt.Sprintf("moe: slot %d names expert %d of %d (%d such slots)", e.Slot, e.ID, e.Experts, e.Count)
}

// A ConfigError is a layer or router configuration that makes no sense.
type ConfigError struct {
	Config, Field string
	Want, Got     string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("moe: %s.%s is %s, want %s", e.Config, e.Field, e.Got, e.Want)
}

// inRange makes a *ConfigError of a number outside [low, high].
func inRange(config, field string, got, low, high int) error {
	if got >= low && got <= high {
		return nil
	}
	return &ConfigError{config, field, fmt.Sprintf("%d to %d", low, high), fmt.Sprint(got)}
}

// firstError returns the first error that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTensor reports why t cannot be the argument arg of op on a device: nil, closed, of another device, or of another
// dtype or shape.
func checkTensor(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType, shape ...int) error {
	want := fmt.Sprintf("%v%v", dtype, shape)
	switch {
	case t == nil:
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: "nil"}
	case t.Closed():
		return fmt.Errorf("moe: %s: %s: %w", op, arg, vk.ErrClosed)
	case t.Device() != dev:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of the recorder's device", Got: "one of another device"}
	case t.DType() != dtype || !slices.Equal(t.Shape(), shape):
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: t.String()}
	}
	return nil
}

// checkApart reports an output that shares memory with an input.
func checkApart(op, outArg string, out *vk.Tensor, inputs map[string]*vk.Tensor) error {
	from, to := out.Address(), out.Address()+out.Bytes()
	for arg, in := range inputs {
		if in == nil || in.Bytes() == 0 || out.Bytes() == 0 {
			continue
		}
		if a := in.Address(); a < to && from < a+in.Bytes() {
			return &vk.ShapeError{Op: op, Arg: outArg, Want: "memory apart from " + arg, Got: "overlapping memory"}
		}
	}
	return nil
}

// quads reports whether a matrix of this width at this address can be read four values at a time.
func quads(t *vk.Tensor, width int) bool {
	return width%4 == 0 && t.Address()%(4*t.DType().Bytes()) == 0
}

// record dispatches n work-groups, refusing counts that the kernels' 32-bit group ids cannot tell apart.
func record(rec *vk.Recorder, d vk.Dispatch, n uint64) error {
	if n >= 1<<31 {
		return rec.Fail(&vk.ShapeError{Op: d.Kernel.Name(), Arg: "work-groups", Want: "fewer than 2^31", Got: fmt.Sprint(n)})
	}
	d.Linear = n
	rec.Dispatch(d)
	return rec.Err()
}

// ceilDiv is ⌈a/b⌉.
func ceilDiv(a, b int) int { return (a + b - 1) / b }
