package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// CombinedBackward records the gradients of Forward followed by Combine, whose gates are opts.Gates:
//
//	out[t] = Σ_j gate[s]·(W[e]·x[row of s] + b[e]),  s = t·K + j,  e = ids[s]
//
// for x [T·K,In] in the layout opts.In, from dOut [T,Out], the gradient of out. Backward would take dOut once per slot,
// [T·K,Out]; here the slots of a token read its row (arXiv 2403.08245, algorithm 2):
//
//	dX[row of s]  = gate[s]·W[e]ᵀ·dOut[t]
//	dW[e]         = Σ_s gate[s]·dOut[t]·xᵀ
//	db[e]         = Σ_s gate[s]·dOut[t]
//	dGates[s]     = (W[e]ᵀ·dOut[t])·x + dOut[t]·b[e]
//
// x and dOut have the layer's dtype. Rows of a scattered dX whose slot has no expert get 0. grads.X is overwritten; where
// it is nil and Gates is not, T·K·In values of scratch take its place. opts.Out and opts.Accumulate do not matter here.
// Errors: see the package.
func (l *ParallelLinear) CombinedBackward(rec *vk.Recorder, r *Routing, x, dOut *vk.Tensor, g LinearGrads,
	opts LinearOptions) error {
	const op = "ParallelLinear.CombinedBackward"
	if err := l.checkCombinedBackward(rec.Device(), op, r, x, dOut, g, opts); err != nil {
		return rec.Fail(err)
	}
	dx := g.X
	if dx == nil && g.Gates != nil {
		if dx = rec.Scratch(l.Config.DType, r.Slots(), l.Config.In); rec.Err() != nil {
			return rec.Err()
		}
		defer rec.Release(dx)
	}
	if dx != nil {
		// Without the gates, which the gates' gradient needs; they follow in the pass that computes it.
		if err := l.Transposed().Forward(rec, r, dOut, dx, LinearOptions{Out: opts.In}); err != nil {
			return err
		}
		rows := rowsOf(opts.In, 1)
		err := gateBackward(rec, r, slotRows{dx, rows}, slotRows{x, rows}, slotRows{dx, rows}, opts.Gates, g.Gates,
			bit(addGates, g.AccumulateGates))
		if err == nil && g.Gates != nil && l.Bias != nil {
			err = biasGateBackward(rec, r, slotRows{dOut, rowsByToken}, l.Bias, g.Gates)
		}
		if err != nil {
			return err
		}
	}
	return l.weightsBackward(rec, r, operand{x, opts.In == Grouped, 1}, operand{dOut, false, r.K}, opts.Gates, g)
}

func (l *ParallelLinear) checkCombinedBackward(dev *vk.Device, op string, r *Routing, x, dOut *vk.Tensor, g LinearGrads,
	opts LinearOptions) error {
	if r == nil || r.Experts != l.Config.Experts {
		return &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("a routing to %d experts", l.Config.Experts), Got: "another"}
	}
	err := check.First(
		check.InRange("LinearOptions", "In", int(opts.In), 0, int(Grouped)),
		l.checkWeights(dev, op),
		r.check(dev, op),
		check.Tensor(dev, op, "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K),
		check.Tensor(dev, op, "x", x, l.Config.DType, r.Slots(), l.Config.In),
		check.Tensor(dev, op, "dOut", dOut, l.Config.DType, r.Tokens, l.Config.Out),
		check.Optional(dev, op, "Gates", opts.Gates, vk.F32, r.Tokens, r.K),
		check.Optional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
	)
	if err == nil {
		err = opts.Columns.check("LinearOptions", l.Config.Out, true)
	}
	if err == nil && g.AccumulateX {
		err = &vk.ShapeError{Op: op, Arg: "grads.AccumulateX", Want: "false", Got: "true"}
	}
	if err == nil {
		err = l.checkGrads(dev, op, g, x, dOut)
	}
	return err
}

// SumRows records sum (+)= Σ_t y[t] for y [T,D] and sum [1,D] of y's dtype or F32: the gradient of a bias that is added to
// every row. T ascends, in f32. Errors: see the package.
func SumRows(rec *vk.Recorder, y *vk.Tensor, sum *ExpertBank, accumulate bool) error {
	const op = "SumRows"
	rows, width, err := matrix(op, "y", y)
	if err == nil {
		err = check.First(check.Storage(op, "y", y), check.Tensor(rec.Device(), op, "y", y, y.DType(), rows, width))
	}
	if err == nil {
		dtype := y.DType()
		if sum != nil && sum.DType() == vk.F32 {
			dtype = vk.F32
		}
		err = sum.check(rec.Device(), op, "sum", dtype, 1, width)
	}
	if err == nil {
		err = namedTensors{{"y", y}}.with("sum", sum).checkApart(op, 1)
	}
	if err != nil {
		return rec.Fail(err)
	}
	return groupSum(rec, nil, operand{y, false, 1}, nil, sum, accumulate, "rows")
}
