package moe

import "github.com/vkmoe/vkmoe/vk"

// LinearGrads says where a backward pass leaves the gradients of a ParallelLinear; a nil tensor is not computed. They are
// overwritten, or added to where Accumulate says so.
type LinearGrads struct {
	X      *vk.Tensor // shape and layout of x
	Weight *vk.Tensor // shape and storage order of the weights; an expert without rows gets zeros
	Bias   *vk.Tensor // F32 [E,Out]
	Gates  *vk.Tensor // F32 [T,K]; a slot without an expert gets 0

	AccumulateX, AccumulateWeights, AccumulateGates bool // AccumulateWeights is also the bias's
}

// Backward records the gradients of Forward with the same routing, x and options, from dy, the gradient of y in y's shape
// and layout (arXiv 2403.08245, section 3.2 and algorithm 2). With e the expert and dy the row of slot s:
//
//	dX[row of s]  = gate[s]·W[e]ᵀ·dy     summed over a token's slots, j ascending, where they share the row
//	dW[e]         = Σ_s gate[s]·dy·xᵀ    s over the expert's slots, ascending
//	db[e]         = Σ_s gate[s]·dy
//	dGates[s]     = dy·(W[e]·x + b[e])   taken as (W[e]ᵀ·dy)·x + dy·b[e], so y is not needed
//
// The weights are read transposed where they are; x is gathered inside the multiplications. Rows of dX that belong to no
// valid slot are left as they are where each slot has a row of its own, and get 0 where x is [T,In]. opts.Accumulate does
// not matter here.
//
// Where a token's slots share a row of x (x is [T,In] and K > 1), dX takes 4·T·K·In bytes of scratch, released afterwards; so
// does dGates without X, or with AccumulateX. Errors: see the package.
func (l *ParallelLinear) Backward(rec *vk.Recorder, r *Routing, x, dy *vk.Tensor, g LinearGrads, opts LinearOptions) error {
	const op = "ParallelLinear.Backward"
	fanIn, err := l.checkBackward(rec.Device(), op, r, x, dy, g, opts)
	if err != nil {
		return rec.Fail(err)
	}
	xs := operand{x, opts.In == Grouped, fanIn}
	dys := operand{dy, opts.Out == Grouped, 1}
	if err := l.weightsBackward(rec, r, xs, dys, opts.Gates, g); err != nil {
		return err
	}
	return l.inputBackward(rec, r, xs, dy, g, opts)
}

// DenseBackward records the gradients of Dense at x F32 [rows,In] from dy F32 [rows,Out]. grads.Gates must be nil. Errors: see
// the package.
func (l *ParallelLinear) DenseBackward(rec *vk.Recorder, x, dy *vk.Tensor, g LinearGrads) error {
	const op = "ParallelLinear.DenseBackward"
	rows, _, err := matrix(op, "x", x)
	if err == nil {
		err = firstError(
			inRange("ParallelLinearConfig", "Experts", l.Config.Experts, 1, 1),
			l.checkWeights(rec.Device(), op),
			checkTensor(rec.Device(), op, "x", x, vk.F32, rows, l.Config.In),
			checkTensor(rec.Device(), op, "dy", dy, vk.F32, rows, l.Config.Out),
			l.checkGrads(rec.Device(), op, g, x, dy),
		)
	}
	if err == nil && g.Gates != nil {
		err = &vk.ShapeError{Op: op, Arg: "grads.Gates", Want: "nil", Got: g.Gates.String()}
	}
	if err != nil {
		return rec.Fail(err)
	}
	return l.denseBackward(rec, x, dy, nil, g)
}

// denseBackward is DenseBackward with gates of the rows.
func (l *ParallelLinear) denseBackward(rec *vk.Recorder, x, dy, gates *vk.Tensor, g LinearGrads) error {
	err := l.weightsBackward(rec, nil, operand{x, false, 1}, operand{dy, false, 1}, gates, g)
	if err == nil && g.X != nil {
		err = l.reversed().dense(rec, dy, g.X, LinearOptions{Gates: gates, Accumulate: g.AccumulateX})
	}
	return err
}

// reversed is the layer that maps back: its weights are the same memory, read the other way.
func (l *ParallelLinear) reversed() *ParallelLinear {
	c := l.Config
	c.In, c.Out, c.InOut, c.Bias = c.Out, c.In, !c.InOut, false
	c.Label = l.label() + " dX"
	return &ParallelLinear{Config: c, Weight: l.Weight}
}

// label names the layer in timings.
func (l *ParallelLinear) label() string {
	if l.Config.Label == "" {
		return "scatter2scatter"
	}
	return l.Config.Label
}

// weightsBackward records dW and db. dy may have one row per token; r is nil for a dense layer.
func (l *ParallelLinear) weightsBackward(rec *vk.Recorder, r *Routing, x, dy operand, gates *vk.Tensor, g LinearGrads) error {
	if g.Bias != nil {
		if err := groupSum(rec, r, dy, gates, g.Bias, g.AccumulateWeights, l.label()); err != nil {
			return err
		}
	}
	if g.Weight == nil {
		return nil
	}
	a, b := dy, x
	if l.Config.InOut {
		a, b = x, dy
	}
	return groupXTY(rec, r, a, b, gates, g.Weight, g.AccumulateWeights, l.label())
}

// inputBackward records dX and dGates.
func (l *ParallelLinear) inputBackward(rec *vk.Recorder, r *Routing, x operand, dy *vk.Tensor, g LinearGrads,
	opts LinearOptions) error {
	if g.X == nil && g.Gates == nil {
		return nil
	}
	back := LinearOptions{In: opts.Out, Out: opts.In, Gates: opts.Gates}
	if x.fanIn == 1 && g.Gates == nil {
		back.Accumulate = g.AccumulateX
		return l.reversed().Forward(rec, r, dy, g.X, back)
	}
	slots := g.X // Wᵀ·dy of each slot
	if x.fanIn > 1 || g.X == nil || g.AccumulateX {
		if slots = rec.Scratch(vk.F32, r.Slots(), l.Config.In); rec.Err() != nil {
			return rec.Err()
		}
		defer rec.Release(slots)
	}
	if g.Gates != nil {
		back.Gates = nil // the gates' gradient needs it without them
	}
	if err := l.reversed().Forward(rec, r, dy, slots, back); err != nil {
		return err
	}
	if g.Gates != nil {
		if err := l.gatesBackward(rec, r, x, dy, slots, g, opts); err != nil {
			return err
		}
	}
	if x.fanIn == 1 || g.X == nil {
		return nil
	}
	var gates *vk.Tensor
	if g.Gates != nil {
		gates = opts.Gates
	}
	return combine(rec, r, slots, gates, g.X, opts.In, g.AccumulateX)
}

// gatesBackward records dGates from Wᵀ·dy of each slot, and scales those rows into dX where each slot has one.
func (l *ParallelLinear) gatesBackward(rec *vk.Recorder, r *Routing, x operand, dy, slots *vk.Tensor, g LinearGrads,
	opts LinearOptions) error {
	rows := rowsOf(opts.In, 1)
	scaled := slotRows{nil, rows}
	if x.fanIn == 1 {
		scaled.t = g.X
	}
	flags := bit(1, g.AccumulateGates) | bit(2, g.AccumulateX)
	err := gateBackward(rec, r, slotRows{slots, rows}, slotRows{x.t, rowsOf(opts.In, x.fanIn)}, scaled, opts.Gates, g.Gates,
		flags)
	if err != nil || l.Bias == nil {
		return err
	}
	return gateBackward(rec, r, slotRows{dy, rowsOf(opts.Out, 1)}, slotRows{l.Bias, rowsByExpert}, slotRows{}, nil, g.Gates, 1)
}

// checkBackward checks all arguments and returns how many slots share a row of x.
func (l *ParallelLinear) checkBackward(dev *vk.Device, op string, r *Routing, x, dy *vk.Tensor, g LinearGrads,
	opts LinearOptions) (int, error) {
	fanIn, err := l.checkForward(dev, op, r, x, dy, opts)
	if err == nil {
		err = firstError(
			l.checkGrads(dev, op, g, x, dy),
			checkTensor(dev, op, "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K),
			checkOptional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
		)
	}
	return fanIn, err
}

// checkGrads checks the gradients' shapes, and that they share no memory with each other or an input.
func (l *ParallelLinear) checkGrads(dev *vk.Device, op string, g LinearGrads, x, dy *vk.Tensor) error {
	c := l.Config
	if g.Bias != nil && !c.Bias {
		return &vk.ShapeError{Op: op, Arg: "grads.Bias", Want: "nil: the layer has no bias", Got: g.Bias.String()}
	}
	err := firstError(
		checkOptional(dev, op, "grads.X", g.X, vk.F32, x.Shape()...),
		checkOptional(dev, op, "grads.Weight", g.Weight, vk.F32, l.Weight.Shape()...),
		checkOptional(dev, op, "grads.Bias", g.Bias, vk.F32, c.Experts, c.Out),
	)
	if err != nil {
		return err
	}
	outputs := []struct {
		arg string
		t   *vk.Tensor
	}{{"grads.X", g.X}, {"grads.Weight", g.Weight}, {"grads.Bias", g.Bias}, {"grads.Gates", g.Gates}}
	for i, o := range outputs {
		if o.t == nil {
			continue
		}
		inputs := map[string]*vk.Tensor{"x": x, "dy": dy, "Weight": l.Weight, "Bias": l.Bias}
		for _, other := range outputs[:i] {
			inputs[other.arg] = other.t
		}
		if err := checkApart(op, o.arg, o.t, inputs); err != nil {
			return err
		}
	}
	return nil
}
