package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// LinearGrads says where a backward pass leaves the gradients of a ParallelLinear; what is nil is not computed. They are
// overwritten, or added to where Accumulate says so. X has the layer's dtype; Weight and Bias have it or are F32.
type LinearGrads struct {
	X      *vk.Tensor  // shape and layout of x
	Weight *ExpertBank // shape and storage order of the weights; an expert without rows gets zeros
	Bias   *ExpertBank // [E,Out]
	Gates  *vk.Tensor  // F32 [T,K]; a slot without an expert gets 0

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
// x and dy have the layer's dtype.
//
// Where a token's slots share a row of x (x is [T,In] and K > 1), dX takes T·K·In values of scratch, released afterwards; so
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

// DenseBackward records the gradients of Dense at x [rows,In] from dy [rows,Out], both of the layer's dtype. grads.Gates must be nil. Errors: see
// the package.
func (l *ParallelLinear) DenseBackward(rec *vk.Recorder, x, dy *vk.Tensor, g LinearGrads) error {
	const op = "ParallelLinear.DenseBackward"
	rows, _, err := matrix(op, "x", x)
	if err == nil {
		err = check.First(
			check.InRange("ParallelLinearConfig", "Experts", l.Config.Experts, 1, 1),
			l.Config.checkTrainable(),
			l.checkWeights(rec.Device(), op),
			check.Tensor(rec.Device(), op, "x", x, l.Config.DType, rows, l.Config.In),
			check.Tensor(rec.Device(), op, "dy", dy, l.Config.DType, rows, l.Config.Out),
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
		err = l.Transposed().dense(rec, dy, g.X, LinearOptions{Gates: gates, Accumulate: g.AccumulateX})
	}
	return err
}

// Transposed is the layer x = Wᵀ·y without a bias: its weights are the same memory, read the other way. It needs no Close,
// and serves until this layer is closed. With quantized weights its Forward fails with a *ConfigError.
func (l *ParallelLinear) Transposed() *ParallelLinear {
	c := l.Config
	c.In, c.Out, c.InOut, c.Bias = c.Out, c.In, !c.InOut, false
	if c.Path == PathDecode {
		c.Path = PathPortable // the decode path reads weights one way only
	}
	c.Label = l.label() + " dX"
	return &ParallelLinear{Config: c, Weight: l.Weight, tile: l.tile, matrices: l.matrices}
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
	err := l.biasBackward(rec, r, dy, gates, g)
	if err == nil && g.Weight != nil {
		err = l.weightBackward(rec, r, x, dy, gates, g)
	}
	return err
}

// biasBackward records db.
func (l *ParallelLinear) biasBackward(rec *vk.Recorder, r *Routing, dy operand, gates *vk.Tensor, g LinearGrads) error {
	if g.Bias == nil {
		return nil
	}
	return groupSum(rec, r, dy, gates, g.Bias, g.AccumulateWeights, l.label())
}

// weightBackward records dW, which is wanted.
func (l *ParallelLinear) weightBackward(rec *vk.Recorder, r *Routing, x, dy operand, gates *vk.Tensor, g LinearGrads) error {
	a, b := dy, x
	if l.Config.InOut {
		a, b = x, dy
	}
	return l.groupXTY(rec, r, a, b, gates, g.Weight, 0, g.AccumulateWeights)
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
		return l.Transposed().Forward(rec, r, dy, g.X, back)
	}
	slots := g.X // Wᵀ·dy of each slot
	if x.fanIn > 1 || g.X == nil || g.AccumulateX {
		if slots = rec.Scratch(l.Config.DType, r.Slots(), l.Config.In); rec.Err() != nil {
			return rec.Err()
		}
		defer rec.Release(slots)
	}
	if g.Gates != nil {
		back.Gates = nil // the gates' gradient needs it without them
	}
	if err := l.Transposed().Forward(rec, r, dy, slots, back); err != nil {
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
	return CombineWith(rec, r, slots, gates, g.X, opts.In, CombineOptions{Accumulate: g.AccumulateX})
}

// gatesBackward records dGates from Wᵀ·dy of each slot, and scales those rows into dX where each slot has one.
func (l *ParallelLinear) gatesBackward(rec *vk.Recorder, r *Routing, x operand, dy, slots *vk.Tensor, g LinearGrads,
	opts LinearOptions) error {
	rows := rowsOf(opts.In, 1)
	scaled := slotRows{nil, rows}
	if x.fanIn == 1 {
		scaled.t = g.X
	}
	flags := bit(addGates, g.AccumulateGates) | bit(addScaled, g.AccumulateX)
	err := gateBackward(rec, r, slotRows{slots, rows}, slotRows{x.t, rowsOf(opts.In, x.fanIn)}, scaled, opts.Gates, g.Gates,
		flags)
	if err != nil || l.Bias == nil {
		return err
	}
	return biasGateBackward(rec, r, slotRows{dy, rowsOf(opts.Out, 1)}, l.Bias, g.Gates)
}

// checkBackward checks all arguments and returns how many slots share a row of x.
func (l *ParallelLinear) checkBackward(dev *vk.Device, op string, r *Routing, x, dy *vk.Tensor, g LinearGrads,
	opts LinearOptions) (int, error) {
	if err := l.Config.checkTrainable(); err != nil {
		return 0, err
	}
	if opts.Activation != nil {
		return 0, check.Config("LinearOptions", "Activation", "nil for gradients, which are those of ActivateBackward first",
			opts.Activation.Function.String())
	}
	if err := opts.Columns.check("LinearOptions", l.Config.Out, true); err != nil {
		return 0, err
	}
	fanIn, err := l.checkForward(dev, op, r, x, dy, opts)
	if err == nil {
		err = check.First(
			check.Tensor(dev, op, "x", x, l.Config.DType, x.Shape()...),
			check.Tensor(dev, op, "dy", dy, l.Config.DType, dy.Shape()...),
			l.checkGrads(dev, op, g, x, dy),
			check.Tensor(dev, op, "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K),
			check.Optional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
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
	err := check.First(
		check.Optional(dev, op, "grads.X", g.X, c.DType, x.Shape()...),
		l.checkGradBank(dev, op, "grads.Weight", g.Weight, l.Weight),
		l.checkGradBank(dev, op, "grads.Bias", g.Bias, l.Bias),
	)
	if err != nil {
		return err
	}
	all := namedTensors{{"x", x}, {"dy", dy}}
	all = all.with("Weight", l.Weight).with("Bias", l.Bias)
	inputs := len(all)
	all = append(all, namedTensor{"grads.X", g.X}, namedTensor{"grads.Gates", g.Gates})
	all = all.with("grads.Weight", g.Weight).with("grads.Bias", g.Bias)
	return all.checkApart(op, inputs)
}

// checkGradBank checks a gradient bank against the bank that it is the gradient of.
func (l *ParallelLinear) checkGradBank(dev *vk.Device, op, arg string, g, of *ExpertBank) error {
	if g == nil {
		return nil
	}
	dtype := of.DType()
	if g.DType() == vk.F32 {
		dtype = vk.F32
	}
	return g.check(dev, op, arg, dtype, of.shape...)
}

// namedTensors are arguments that must not share memory.
type namedTensors []namedTensor

type namedTensor struct {
	arg string
	t   *vk.Tensor
}

// with returns the list and a bank's tensors.
func (n namedTensors) with(arg string, b *ExpertBank) namedTensors {
	for _, t := range b.tensors() {
		n = append(n, namedTensor{arg, t})
	}
	return n
}

// checkApart reports the first tensor from index inputs on that shares memory with one before it. A bank may have a
// thousand tensors, so the addresses are taken once.
func (n namedTensors) checkApart(op string, inputs int) error {
	type span struct{ from, to uint64 }
	spans := make([]span, len(n))
	for i, x := range n {
		if x.t != nil {
			spans[i] = span{x.t.Address(), x.t.Address() + x.t.Bytes()}
		}
	}
	for i := inputs; i < len(n); i++ {
		for j, other := range spans[:i] {
			if other.from < spans[i].to && spans[i].from < other.to {
				return &vk.ShapeError{Op: op, Arg: n[i].arg, Want: "memory apart from " + n[j].arg, Got: "overlapping memory"}
			}
		}
	}
	return nil
}
