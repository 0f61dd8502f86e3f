package moe

import "github.com/vkmoe/vkmoe/vk"

// routerForward records the logits of x, with noise where the options ask for it.
func (m *MLP) routerForward(rec *vk.Recorder, x *vk.Tensor, jitter JitterConfig, logits *vk.Tensor) error {
	in, err := m.routerInput(rec, x, jitter)
	if err != nil {
		return err
	}
	if in != x {
		defer rec.Release(in)
	}
	return m.Router.Dense(rec, in, logits)
}

// routerInput is what the router reads: x, or x with noise in scratch that the caller releases.
func (m *MLP) routerInput(rec *vk.Recorder, x *vk.Tensor, jitter JitterConfig) (*vk.Tensor, error) {
	if jitter.Eps == 0 {
		return x, nil
	}
	in := rec.Scratch(x.DType(), x.Shape()...)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	return in, Jitter(rec, x, in, jitter)
}

// routerBackward records the gradients of the router's weights and its part of grads.X, which it adds, from those of its
// logits. Noise is made once more rather than kept.
func (m *MLP) routerBackward(rec *vk.Recorder, s *MLPSaved, x, dLogits *vk.Tensor, g MLPGrads) error {
	if s.Jitter.Eps == 0 {
		return m.narrowBackward(rec, m.Router, x, dLogits, g.Router, g)
	}
	in, err := m.routerInput(rec, x, s.Jitter)
	if err != nil {
		return err
	}
	defer rec.Release(in)
	dx := g.X
	if dx != nil {
		if g.X = rec.Scratch(dx.DType(), dx.Shape()...); rec.Err() != nil {
			return rec.Err()
		}
		defer rec.Release(g.X)
		rec.Fill(g.X, 0)
	}
	if err := m.narrowBackward(rec, m.Router, in, dLogits, g.Router, g); err != nil || dx == nil {
		return err
	}
	return JitterBackward(rec, g.X, dx, s.Jitter, true)
}
