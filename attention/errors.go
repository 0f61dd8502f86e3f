package attention

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// A ConfigError is a configuration that makes no sense.
type ConfigError struct {
	Config, Field string
	Want, Got     string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("attention: %s.%s is %s, want %s", e.Config, e.Field, e.Got, e.Want)
}

// inRange makes a *ConfigError of a number outside [low, high].
func inRange(config, field string, got, low, high int) error {
	if got >= low && got <= high {
		return nil
	}
	return &ConfigError{config, field, fmt.Sprintf("%d to %d", low, high), fmt.Sprint(got)}
}

// isStorage reports whether queries, keys and values may be of a type.
func isStorage(t vk.DType) bool { return t == vk.F32 || t == vk.F16 || t == vk.BF16 }

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
	if err := checkUsable(dev, op, arg, t); err != nil {
		return err
	}
	if t.DType() != dtype || !slices.Equal(t.Shape(), shape) {
		return &vk.ShapeError{Op: op, Arg: arg, Want: fmt.Sprintf("%v%v", dtype, shape), Got: t.String()}
	}
	return nil
}

// checkUsable reports a tensor that is nil, closed or of another device.
func checkUsable(dev *vk.Device, op, arg string, t *vk.Tensor) error {
	switch {
	case t == nil:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor", Got: "nil"}
	case t.Closed():
		return fmt.Errorf("attention: %s: %s: %w", op, arg, vk.ErrClosed)
	case t.Device() != dev:
		return &vk.ShapeError{Op: op, Arg: arg, Want: "a tensor of the recorder's device", Got: "one of another device"}
	}
	return nil
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
