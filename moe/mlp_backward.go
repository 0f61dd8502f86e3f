package moe

import (
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// WeightGrads are the gradients of a linear map's weights and biases; what is nil is not computed. Their dtype is the
// layer's, or F32.
type WeightGrads struct{ Weight, Bias *ExpertBank }

// linear makes them the gradients of a ParallelLinear's backward pass.
func (w WeightGrads) linear(g MLPGrads) LinearGrads {
	return LinearGrads{Weight: w.Weight, Bias: w.Bias, AccumulateWeights: g.AccumulateWeights}
}

// MLPGrads says where a backward pass leaves the gradients of an MLP; what is nil is not computed. They are overwritten, or
// added to where Accumulate says so.
type MLPGrads struct {
	X        *vk.Tensor  // [T,D]; it may be the forward's y, which the backward pass does not read
	Router   WeightGrads // all nil when the caller chose the experts
	Up, Down WeightGrads // of the routed experts
	Gates    *vk.Tensor  // F32 [T,K]: of the routing's gates
	Logits   *vk.Tensor  // F32 [T,E]: of the router's logits

	SharedUp, SharedDown, SharedGate WeightGrads // all nil without shared experts
	OutputBias                       *ExpertBank // [1,D], of the layer's dtype or F32

	AccumulateX       bool // adds to what X holds
	AccumulateWeights bool // adds to what the gradients of weights and biases hold
	// AccumulateLogits adds to what Logits holds, for example the gradients of router losses, before they go on to the
	// router's weights and X.
	AccumulateLogits bool
}

// NewGrads allocates the gradients of all weights and biases, as many bytes as they take themselves, in the layer's
// dtype. The caller closes them with Close. It fails with vk.ErrOutOfMemory, and with a *ConfigError for quantized weights.
func (m *MLP) NewGrads() (*MLPGrads, error) {
	if err := m.Up.Config.checkTrainable(); err != nil {
		return nil, err
	}
	g := &MLPGrads{}
	dev := m.Router.Weight.Device()
	for _, part := range m.gradParts(g) {
		var err error
		if part.grads.Weight, err = NewExpertBank(dev, m.Config.DType, part.layer.Weight.shape...); err != nil {
			return nil, errors.Join(err, g.Close())
		}
		if part.layer.Bias != nil {
			if part.grads.Bias, err = NewExpertBank(dev, m.Config.DType, part.layer.Bias.shape...); err != nil {
				return nil, errors.Join(err, g.Close())
			}
		}
	}
	if m.OutputBias != nil {
		var err error
		if g.OutputBias, err = NewExpertBank(dev, m.Config.DType, m.OutputBias.shape...); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// Close frees the gradients of weights and biases; X, Gates and Logits stay. Closing twice does nothing.
func (g *MLPGrads) Close() error {
	err := g.OutputBias.Close()
	for _, w := range []WeightGrads{g.Router, g.Up, g.Down, g.SharedUp, g.SharedDown, g.SharedGate} {
		err = errors.Join(err, w.Weight.Close(), w.Bias.Close())
	}
	return err
}

// gradPart is a linear map of the layer with its gradients.
type gradPart struct {
	name  string
	layer *ParallelLinear
	grads *WeightGrads
}

// gradParts lists the layer's linear maps with their gradients; layers that it does not have are nil.
func (m *MLP) gradParts(g *MLPGrads) []gradPart {
	all := []gradPart{{"Router", m.Router, &g.Router}, {"Up", m.Up, &g.Up}, {"Down", m.Down, &g.Down}}
	if m.SharedUp != nil {
		all = append(all, gradPart{"SharedUp", m.SharedUp, &g.SharedUp}, gradPart{"SharedDown", m.SharedDown, &g.SharedDown})
	}
	if m.SharedGate != nil {
		all = append(all, gradPart{"SharedGate", m.SharedGate, &g.SharedGate})
	}
	return all
}

// Backward records the gradients of the forward pass that left saved, at the same x [T,D], from dy [T,D], the gradient of
// its y; both of the layer's dtype. The choice of experts has no gradient; that of the gates flows on through the router.
// The caller's ids make no gradients of slots without an expert: their gates get 0.
//
// saved is used up: dZ takes the place of Z, and what else was saved becomes memory of the pass, so the experts'
// gradients need neither a copy of x nor one of dy. What the pass takes besides is T·K·max(H, D) values at a time, or half of D where the
// slots' gradients take more than 128 MiB (see PassBytes), which it
// finds in saved.Slots, or in the gradient of Up's weights, which is written last, unless that accumulates or is too
// small; else in the recorder's scratch (see PassBytes). Z may lie in the gradient of Down's weights (ForwardOptions.SaveIn), unless
// that accumulates: then that is written last. Recorded with its forward pass in one recorder, it can be
// submitted again and again. Errors: see the package.
func (m *MLP) Backward(rec *vk.Recorder, s *MLPSaved, x, dy *vk.Tensor, g MLPGrads) error {
	const op = "MLP.Backward"
	if err := m.checkBackward(rec.Device(), op, s, x, dy, g); err != nil {
		return rec.Fail(err)
	}
	routed := s.Logits != nil
	dLogits, dGates := g.Logits, g.Gates
	if routed && dLogits == nil && (g.X != nil || g.Router != WeightGrads{}) {
		dLogits = rec.Scratch(vk.F32, s.Routing.Tokens, s.Routing.Experts)
		defer rec.Release(dLogits)
	}
	if dGates == nil && dLogits != nil {
		dGates = rec.Scratch(vk.F32, s.Routing.Tokens, s.Routing.K)
		defer rec.Release(dGates)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if g.OutputBias != nil {
		if err := groupSum(rec, nil, operand{dy, false, 1}, nil, g.OutputBias, g.AccumulateWeights, "output"); err != nil {
			return err
		}
	}
	if err := m.expertsBackward(rec, s, x, dy, dGates, g); err != nil {
		return err
	}
	if routed && dLogits != nil {
		if err := TopKBackward(rec, s.Routing, s.Logits, dGates, dLogits, g.AccumulateLogits); err != nil {
			return err
		}
		if err := m.routerBackward(rec, s, x, dLogits, g); err != nil {
			return err
		}
	}
	return m.sharedBackward(rec, s, x, dy, g)
}

// expertsBackward records the gradients of Up, Down and the gates, and the experts' part of grads.X.
func (m *MLP) expertsBackward(rec *vk.Recorder, s *MLPSaved, x, dy, dGates *vk.Tensor, g MLPGrads) error {
	r, c := s.Routing, m.Config
	space := newWorkspace(rec, m.backwardSpace(s, g), c.DType)
	defer space.release()
	dhs, last := space, m.savedInDown(s, g) // the gradient of Down's weights is written last
	if last {
		dhs = newWorkspace(rec, m.spaceOfH(rec, s, g), c.DType)
		defer dhs.release()
	}
	dh := dhs.take(r.Slots(), c.Hidden)
	var left *vk.Tensor // the first half of h, where the other is in the gradient
	if last && dhs.scratch == nil {
		left = rec.Scratch(c.DType, r.Slots(), c.hiddenAtOnce())
		defer rec.Release(left)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	// Wᵀ·dy before the gates: with h it gives the gates' gradient, so that the slots' outputs are not needed.
	if err := m.Down.Transposed().Forward(rec, r, dy, dh, LinearOptions{Out: Grouped}); err != nil {
		return err
	}
	h, f := s.H, activations[c.Activation]
	act := activationGrads{cfg: c.activation(), mode: f.mode, gated: f.gated, z: s.Z, dh: dh, dz: s.Z, gates: r.Gates,
		dgates: dGates}
	down, gates := g.Down.linear(g), r.Gates
	if h == nil {
		h, act.h = dh, dh
	}
	if gates != nil && down.Weight != nil && m.Down.onTensors(rec.Device(), dy, dh, down.Weight) {
		// The tensor path would have to scale and round what it loads, again for every tile: scale h once instead.
		h, act.h, act.gateH, gates = dh, dh, true, nil
	}
	act.left = left
	if err := act.record(rec, r); err != nil {
		return err
	}
	if dGates != nil && m.Down.Bias != nil {
		if err := biasGateBackward(rec, r, slotRows{dy, rowsByToken}, m.Down.Bias, dGates); err != nil {
			return err
		}
	}
	dys := operand{dy, false, r.K}
	if err := m.Down.biasBackward(rec, r, dys, r.Gates, down); err != nil {
		return err
	}
	if down.Weight != nil && !last {
		if err := m.Down.weightBackward(rec, r, operand{h, true, 1}, dys, gates, down); err != nil {
			return err
		}
	}
	space.release()
	if g.X != nil {
		if err := m.inputBackward(rec, s, space, g); err != nil {
			return err
		}
	}
	err := m.Up.weightsBackward(rec, r, operand{x, false, r.K}, operand{s.Z, true, 1}, nil, g.Up.linear(g))
	if err != nil || !last {
		return err
	}
	space.release()
	if left == nil {
		return m.Down.weightBackward(rec, r, operand{h, true, 1}, dys, gates, down)
	}
	return m.lastGradient(rec, r, left, h, dys, gates, down)
}

// inputBackward records the experts' part of grads.X from dz, which is in saved.Z.
func (m *MLP) inputBackward(rec *vk.Recorder, s *MLPSaved, space *workspace, g MLPGrads) error {
	r, back := s.Routing, m.Up.Transposed()
	if r.K == 1 && s.Logits != nil { // every slot has an expert and a row of X
		return back.Forward(rec, r, s.Z, g.X, LinearOptions{In: Grouped, Accumulate: g.AccumulateX})
	}
	rows := space.take(r.Slots(), columnsOfSlots(r.Slots(), m.Config.Width, m.Config.DType))
	return sumSlots(rec, r, back, s.Z, nil, rows, g.X, CombineOptions{Accumulate: g.AccumulateX})
}

// backwardSpace is memory that is idle until Up's weight gradient is written, or nil.
func (m *MLP) backwardSpace(s *MLPSaved, g MLPGrads) *vk.Tensor {
	if s.Slots != nil {
		return s.Slots
	}
	if g.Up.Weight == nil || g.AccumulateWeights || g.Up.Weight.DType() != m.Config.DType {
		return nil
	}
	flat, err := g.Up.Weight.parts[0].Reshape(g.Up.Weight.parts[0].Elements())
	if err != nil {
		return nil
	}
	return flat
}

// narrowBackward records the gradients of the router or the shared experts' gate from an F32 dy, which is rounded to the
// layer's dtype, and adds theirs to grads.X.
func (m *MLP) narrowBackward(rec *vk.Recorder, l *ParallelLinear, x, dy *vk.Tensor, w WeightGrads, g MLPGrads) error {
	if m.Config.DType != vk.F32 {
		rounded := rec.Scratch(m.Config.DType, dy.Shape()...)
		if rec.Err() != nil {
			return rec.Err()
		}
		defer rec.Release(rounded)
		if err := Convert(rec, dy, rounded); err != nil {
			return err
		}
		dy = rounded
	}
	grads := w.linear(g)
	grads.X, grads.AccumulateX = g.X, true
	return l.denseBackward(rec, x, dy, nil, grads)
}

// checkBackward checks all arguments of Backward.
func (m *MLP) checkBackward(dev *vk.Device, op string, s *MLPSaved, x, dy *vk.Tensor, g MLPGrads) error {
	c := m.Config
	if err := m.Up.Config.checkTrainable(); err != nil {
		return err
	}
	if s == nil || s.Routing == nil || s.Save == SaveNothing || s.Z == nil {
		return &vk.ShapeError{Op: op, Arg: "saved", Want: "what a forward pass that saves left", Got: "another"}
	}
	r := s.Routing
	err := check.First(
		r.check(dev, op),
		check.Tensor(dev, op, "saved.Z", s.Z, c.DType, r.Slots(), c.Activation.columns(c.Hidden)),
		check.Optional(dev, op, "saved.H", s.H, c.DType, r.Slots(), c.Hidden),
		check.Tensor(dev, op, "x", x, c.DType, r.Tokens, c.Width),
		check.Tensor(dev, op, "dy", dy, c.DType, r.Tokens, c.Width),
		check.Optional(dev, op, "grads.X", g.X, c.DType, r.Tokens, c.Width),
		check.Optional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
		check.Optional(dev, op, "grads.Logits", g.Logits, vk.F32, r.Tokens, r.Experts),
		m.checkGradBanks(dev, op, s, &g),
	)
	if err != nil {
		return err
	}
	z := s.Z
	if m.savedInDown(s, g) {
		z = nil // it ends before the gradient is written
	}
	all := namedTensors{{"x", x}, {"dy", dy}, {"saved.Z", z}, {"saved.H", s.H}, {"saved.Logits", s.Logits}}
	all = all.with("OutputBias", m.OutputBias)
	for _, part := range m.gradParts(&g) {
		all = append(all, part.layer.operands(part.name)...)
	}
	inputs := len(all)
	all = append(all, namedTensor{"grads.X", g.X}, namedTensor{"grads.Gates", g.Gates}, namedTensor{"grads.Logits", g.Logits})
	for _, part := range m.gradParts(&g) {
		all = all.with("grads."+part.name+".Weight", part.grads.Weight).with("grads."+part.name+".Bias", part.grads.Bias)
	}
	return all.with("grads.OutputBias", g.OutputBias).checkApart(op, inputs)
}

// checkGradBanks checks the gradients of all weights, and that none is asked for that the layer or the pass does not have.
func (m *MLP) checkGradBanks(dev *vk.Device, op string, s *MLPSaved, g *MLPGrads) error {
	if s.Logits == nil && (g.Router != WeightGrads{} || g.Logits != nil) {
		return &vk.ShapeError{Op: op, Arg: "grads.Router", Want: "nil: the caller chose the experts", Got: "a gradient"}
	}
	for _, part := range []struct {
		name  string
		layer *ParallelLinear
		grads WeightGrads
	}{{"SharedUp", m.SharedUp, g.SharedUp}, {"SharedDown", m.SharedDown, g.SharedDown}, {"SharedGate", m.SharedGate, g.SharedGate}} {
		if part.layer == nil && (part.grads != WeightGrads{}) {
			return &vk.ShapeError{Op: op, Arg: "grads." + part.name, Want: "nil: the layer has none", Got: "a gradient"}
		}
	}
	if g.OutputBias != nil && m.OutputBias == nil {
		return &vk.ShapeError{Op: op, Arg: "grads.OutputBias", Want: "nil: the layer has none", Got: g.OutputBias.String()}
	}
	if err := m.Router.checkGradBank(dev, op, "grads.OutputBias", g.OutputBias, m.OutputBias); err != nil {
		return err
	}
	for _, part := range m.gradParts(g) {
		if part.grads.Bias != nil && part.layer.Bias == nil {
			return &vk.ShapeError{Op: op, Arg: fmt.Sprintf("grads.%s.Bias", part.name), Want: "nil: the layer has no bias",
				Got: part.grads.Bias.String()}
		}
		err := check.First(
			part.layer.checkGradBank(dev, op, "grads."+part.name+".Weight", part.grads.Weight, part.layer.Weight),
			part.layer.checkGradBank(dev, op, "grads."+part.name+".Bias", part.grads.Bias, part.layer.Bias),
		)
		if err != nil {
			return err
		}
	}
	return nil
}
