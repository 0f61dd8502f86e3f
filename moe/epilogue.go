package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// An epilogue is an activation that a layer applies to its results before it stores them.
type epilogue struct {
	cfg ActivationConfig
	z   *vk.Tensor // what the activation is applied to, [rows,Out], where that is kept; nil otherwise
}

// linearMode is ACTIVATION of kernels whose results are stored as they are.
const linearMode = 7

// constants are ACTIVATION, GATED and INTERLEAVED of the kernels of linear maps.
func (e *epilogue) constants() (mode uint32, gated, interleaved bool) {
	if e == nil {
		return linearMode, false, false
	}
	f := activations[e.cfg.Function]
	return f.mode, f.gated, e.cfg.Interleaved
}

// gated reports whether two of the layer's outputs make one value.
func (e *epilogue) gated() bool { return e != nil && e.cfg.Function.Gated() }

// fill puts the activation's constants and addresses into push constants whose Y is the address of what the layer stores.
func (e *epilogue) fill(push *shaders.Scatter2scatterPush) {
	if e == nil {
		return
	}
	push.H, push.Y = push.Y, e.z.Address()
	push.Alpha, push.Limit = e.cfg.constants()
}

// tensors are what is stored beside the output.
func (e *epilogue) tensors() []*vk.Tensor {
	if e == nil || e.z == nil {
		return nil
	}
	return []*vk.Tensor{e.z}
}

// with is the layer with the options' activation and columns; it shares the weights and needs no Close.
func (l *ParallelLinear) with(opts LinearOptions) *ParallelLinear {
	if opts.Activation == nil && opts.Columns == (Columns{}) {
		return l
	}
	other := *l
	other.columns = opts.Columns
	if opts.Activation != nil {
		other.epilogue = &epilogue{*opts.Activation, opts.Z}
	}
	return &other
}

// checkActivation checks the options' activation, Z and columns for an output y of so many rows, and returns how many columns y has.
func (l *ParallelLinear) checkActivation(dev *vk.Device, op string, opts LinearOptions, y *vk.Tensor, rows int) (int, error) {
	if opts.Activation == nil {
		if opts.Z != nil {
			return 0, &vk.ShapeError{Op: op, Arg: "Z", Want: "nil without an activation", Got: opts.Z.String()}
		}
		return opts.Columns.rowWidth(y, l.Config.Out), opts.Columns.check("LinearOptions", l.Config.Out, false)
	}
	if err := opts.Activation.Validate(); err != nil {
		return 0, err
	}
	columns := l.Config.Out
	if opts.Activation.Function.Gated() {
		if columns%2 != 0 {
			return 0, check.Config("ParallelLinearConfig", "Out", "even for the activation "+opts.Activation.Function.String(), fmt.Sprint(columns))
		}
		columns /= 2
	}
	return opts.Columns.rowWidth(y, columns), check.First(
		opts.Columns.check("LinearOptions", columns, false),
		check.Optional(dev, op, "Z", opts.Z, l.rowsDType(y), rows, l.Config.Out),
	)
}
