package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

func (l *ParallelLinear) checkWeights(dev *vk.Device, op string) error {
	c := l.Config
	err := l.Weight.checkFormat(dev, op, "Weight", c.Weights, c.DType, c.weightShape()...)
	if err == nil && c.Weights != WeightsFull && c.InOut != l.Weight.inOut {
		err = c.checkTrainable() // this is the layer of Transposed
	}
	if err == nil && c.Bias {
		err = l.Bias.check(dev, op, "Bias", c.DType, c.Experts, c.Out)
	}
	return err
}

// checkTrainable refuses quantized weights, which are neither read transposed nor have gradients.
func (c ParallelLinearConfig) checkTrainable() error {
	if c.Weights == WeightsFull {
		return nil
	}
	return check.Config("ParallelLinearConfig", "Weights", "full for gradients", c.Weights.String())
}

// checkOutputs is checkOutput of y and, where that is kept, Z.
func (l *ParallelLinear) checkOutputs(op string, y *vk.Tensor, opts LinearOptions, inputs map[string]*vk.Tensor) error {
	err := l.checkOutput(op, y, inputs)
	if err == nil && opts.Z != nil {
		inputs["y"] = y
		err = check.First(
			check.Apart(op, "Z", opts.Z, inputs),
			checkApartFromBank(op, "Z", opts.Z, "Weight", l.Weight),
			checkApartFromBank(op, "Z", opts.Z, "Bias", l.Bias),
		)
	}
	return err
}

// checkOutput reports an output that shares memory with the weights or an input.
func (l *ParallelLinear) checkOutput(op string, y *vk.Tensor, inputs map[string]*vk.Tensor) error {
	return check.First(
		check.Apart(op, "y", y, inputs),
		checkApartFromBank(op, "y", y, "Weight", l.Weight),
		checkApartFromBank(op, "y", y, "Bias", l.Bias),
	)
}

// checkForward checks all arguments and returns how many slots share a row of x.
func (l *ParallelLinear) checkForward(dev *vk.Device, op string, r *Routing, x, y *vk.Tensor, opts LinearOptions) (int, error) {
	if r == nil {
		return 0, &vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"}
	}
	if r.Experts != l.Config.Experts {
		return 0, &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("%d experts", l.Config.Experts),
			Got: fmt.Sprintf("%d", r.Experts)}
	}
	rows, fanIn := r.Slots(), 1
	if opts.In == Scattered && x != nil && x.Rank() == 2 && x.Dim(0) == r.Tokens {
		rows, fanIn = r.Tokens, r.K
	}
	columns, err := l.checkActivation(dev, op, opts, y, r.Slots())
	if err != nil {
		return 0, err
	}
	err = check.First(
		check.InRange("LinearOptions", "In", int(opts.In), 0, int(Grouped)),
		check.InRange("LinearOptions", "Out", int(opts.Out), 0, int(Grouped)),
		l.checkWeights(dev, op),
		r.check(dev, op),
		check.Tensor(dev, op, "x", x, l.rowsDType(x), rows, l.Config.In),
		check.Tensor(dev, op, "y", y, l.rowsDType(y), r.Slots(), columns),
	)
	if err == nil && opts.Gates != nil {
		err = check.Tensor(dev, op, "Gates", opts.Gates, vk.F32, r.Tokens, r.K)
	}
	if err == nil {
		err = l.checkOutputs(op, y, opts, map[string]*vk.Tensor{"x": x, "Gates": opts.Gates, "Order": r.Order})
	}
	return fanIn, err
}

// check reports a routing with tensors that are closed or do not fit together.
func (r *Routing) check(dev *vk.Device, op string) error {
	return check.First(
		check.Tensor(dev, op, "routing.Order", r.Order, vk.I32, r.Slots()),
		check.Tensor(dev, op, "routing.Inverse", r.Inverse, vk.I32, r.Slots()),
		check.Tensor(dev, op, "routing.Offsets", r.Offsets, vk.I32, r.Experts+1),
		check.Tensor(dev, op, "routing.Tiles", r.Tiles, vk.I32, r.TileBound, 3),
		check.Tensor(dev, op, "routing.TileArgs", r.TileArgs, vk.U32, 4),
	)
}
