package moe

import "github.com/vkmoe/vkmoe/vk"

// sharedForward records y = σ(SharedGate·x) · SharedDown·f(SharedUp·x), or nothing without shared experts.
func (m *MLP) sharedForward(rec *vk.Recorder, x, y *vk.Tensor, o ForwardOptions, s *MLPSaved) error {
	c := m.Config
	if c.SharedHidden == 0 {
		return nil
	}
	space := newWorkspace(rec, o.Workspace, c.DType)
	defer space.release()
	saved := newWorkspace(rec, nil, c.DType)
	hs := space
	if o.Save == SaveAll {
		hs = saved
	}
	tokens := x.Dim(0)
	var z *vk.Tensor
	if o.Save != SaveNothing {
		z = saved.take(tokens, c.Activation.columns(c.SharedHidden))
	}
	h := hs.take(tokens, c.SharedHidden)
	if c.SharedGate {
		s.Shared.Logits, s.Shared.Gate = rec.Scratch(vk.F32, tokens, 1), rec.Scratch(vk.F32, tokens, 1)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := m.SharedUp.DenseActivated(rec, x, z, h, c.activation()); err != nil {
		return err
	}
	if c.SharedGate {
		if err := m.SharedGate.Dense(rec, x, s.Shared.Logits); err != nil {
			return err
		}
		if err := activationDispatch(rec, ActivationConfig{}, sigmoidMode, false, s.Shared.Logits, s.Shared.Gate); err != nil {
			return err
		}
	}
	s.Shared.Z = z
	if o.Save == SaveAll {
		s.Shared.H = h
	}
	return m.SharedDown.dense(rec, h, y, LinearOptions{Gates: s.Shared.Gate})
}

// sharedBackward records the gradients of the shared experts and adds theirs to grads.X.
func (m *MLP) sharedBackward(rec *vk.Recorder, s *MLPSaved, x, dy *vk.Tensor, g MLPGrads) error {
	c := m.Config
	if c.SharedHidden == 0 {
		return nil
	}
	space := newWorkspace(rec, nil, c.DType)
	defer space.release()
	dh := space.take(x.Dim(0), c.SharedHidden)
	var dGate *vk.Tensor
	if c.SharedGate {
		dGate = rec.Scratch(vk.F32, x.Dim(0), 1)
		defer rec.Release(dGate)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := m.SharedDown.Transposed().dense(rec, dy, dh, LinearOptions{}); err != nil {
		return err
	}
	h := s.Shared.H
	f := activations[c.Activation]
	act := activationGrads{cfg: c.activation(), mode: f.mode, gated: f.gated, z: s.Shared.Z, dh: dh, dz: s.Shared.Z,
		gates: s.Shared.Gate, dgates: dGate}
	if h == nil {
		h, act.h = dh, dh
	}
	if err := act.record(rec, nil); err != nil {
		return err
	}
	if err := m.SharedDown.weightsBackward(rec, nil, operand{h, false, 1}, operand{dy, false, 1}, s.Shared.Gate,
		g.SharedDown.linear(g)); err != nil {
		return err
	}
	up := g.SharedUp.linear(g)
	up.X, up.AccumulateX = g.X, true
	if err := m.SharedUp.denseBackward(rec, x, s.Shared.Z, nil, up); err != nil || !c.SharedGate {
		return err
	}
	sigmoid := activationGrads{mode: sigmoidMode, z: s.Shared.Logits, dh: dGate, dz: dGate}
	if err := sigmoid.record(rec, nil); err != nil {
		return err
	}
	return m.narrowBackward(rec, m.SharedGate, x, dGate, g.SharedGate, g)
}
