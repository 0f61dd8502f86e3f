package main

import (
	_ "embed"
	"errors"
	"slices"

	"github.com/vkmoe/vkmoe/examples/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

//go:generate go run github.com/vkmoe/vkmoe/shaders/gen lora_output

//go:embed lora_output.spv
var loraOutputModule []byte

var loraOutput = vk.MustKernel("lora_output", loraOutputModule)

// A Config describes a mixture of LoRA experts.
type Config struct {
	Experts, TopK int
	In, Out       int     // of the dense layer
	Rank          int     // of each expert's update
	Alpha         float32 // the updates are scaled by Alpha/Rank
}

// A Mixture is a dense layer that stays as it is, and E low-rank updates of it of which each token gets its K best:
//
//	y[t] = W0·x[t] + Alpha/Rank · Σ_j gate[t,j] · B[e]·(A[e]·x[t]),  e = ids[t,j]
//
// (LoRA: Hu et al., arXiv 2106.09685.) All values are F32.
type Mixture struct {
	Config Config
	Base   *moe.ParallelLinear // W0 [1,Out,In], frozen: no gradient is computed
	Router *train.Linear       // [1,E,In]
	A      *train.Linear       // [E,Rank,In]
	B      *train.Linear       // [E,Out,Rank]
}

// NewMixture allocates weights and gradients, undefined until written.
func NewMixture(dev *vk.Device, c Config) (*Mixture, error) {
	m := &Mixture{Config: c}
	var err error
	m.Base, err = moe.NewParallelLinear(dev, moe.ParallelLinearConfig{Experts: 1, In: c.In, Out: c.Out, Label: "base"})
	if err == nil {
		m.Router, err = train.NewLinear(dev, "router", 1, c.In, c.Experts)
	}
	if err == nil {
		m.A, err = train.NewLinear(dev, "A", c.Experts, c.In, c.Rank)
	}
	if err == nil {
		m.B, err = train.NewLinear(dev, "B", c.Experts, c.Rank, c.Out)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Params are the weights to be trained: all but W0.
func (m *Mixture) Params() []train.Param {
	return slices.Concat(m.Router.Params(), m.A.Params(), m.B.Params())
}

// Close frees the weights and gradients.
func (m *Mixture) Close() error {
	return errors.Join(m.Base.Close(), m.Router.Close(), m.A.Close(), m.B.Close())
}

// Saved is what Backward needs of Forward; its tensors are the recorder's.
type Saved struct {
	Mixture *Mixture
	X       *vk.Tensor // [T,In], the caller's
	Logits  *vk.Tensor // [T,E]
	Routing *moe.Routing
	Low     *vk.Tensor // [T·K,Rank] grouped: A[e]·x
	High    *vk.Tensor // [T·K,Out] grouped: B[e]·A[e]·x
}

// Forward records y [T,Out] for x [T,In]. The rows of x are gathered by A and the results stay in expert order until they
// are added to y: nothing is regrouped.
func (m *Mixture) Forward(rec *vk.Recorder, x, y *vk.Tensor) (train.Pass, error) {
	c := m.Config
	if err := m.Base.Dense(rec, x, y); err != nil {
		return nil, err // it has checked x and y too
	}
	tokens := x.Dim(0)
	s := &Saved{Mixture: m, X: x, Logits: rec.Scratch(vk.F32, tokens, c.Experts)}
	if err := m.Router.Dense(rec, x, s.Logits); err != nil {
		return nil, err
	}
	// The router scales every gate, which is where Alpha/Rank goes.
	var err error
	s.Routing, err = moe.Route(rec, s.Logits, moe.RouterConfig{TopK: c.TopK, Mode: moe.SoftmaxTopKNorm, Scale: c.Alpha / float32(c.Rank)})
	if err != nil {
		return nil, err
	}
	r := s.Routing
	s.Low = rec.Scratch(vk.F32, r.Slots(), c.Rank)
	s.High = rec.Scratch(vk.F32, r.Slots(), c.Out)
	if err := m.A.Forward(rec, r, x, s.Low, moe.LinearOptions{In: moe.Scattered, Out: moe.Grouped}); err != nil {
		return nil, err
	}
	if err := m.B.Forward(rec, r, s.Low, s.High, moe.LinearOptions{In: moe.Grouped, Out: moe.Grouped}); err != nil {
		return nil, err
	}
	return s, train.Dispatch(rec, vk.Dispatch{
		Kernel: loraOutput,
		Linear: uint64(tokens*c.Out+63) / 64,
		Reads:  []*vk.Tensor{s.High, r.Gates, r.Inverse, y},
		Writes: []*vk.Tensor{y},
		FLOPs:  2 * float64(r.Slots()) * float64(c.Out),
	}, s.High, r.Gates, r.Inverse, y, tokens, c.Out, c.TopK)
}

// Choice is the tensor of expert ids.
func (s *Saved) Choice() *vk.Tensor { return s.Routing.IDs }

// Backward records the gradients from dy [T,Out], the gradient of a loss with respect to Forward's y: those of the params,
// and dx [T,In] unless it is nil. All are overwritten, and so is High, whose memory its gradient takes.
func (s *Saved) Backward(rec *vk.Recorder, dy, dx *vk.Tensor) error {
	m, r := s.Mixture, s.Routing
	dLow := rec.Scratch(vk.F32, r.Slots(), m.Config.Rank)
	dGates := rec.Scratch(vk.F32, r.Tokens, r.K)
	dLogits := rec.Scratch(vk.F32, r.Tokens, r.Experts)
	if rec.Err() != nil {
		return rec.Err()
	}
	// lora_output adds what Combine would have written, so it has Combine's gradients: dHigh = gate·dy, and dGates.
	err := moe.CombineBackward(rec, r, s.High, r.Gates, dy, moe.CombineGrads{Y: s.High, Gates: dGates}, moe.Grouped)
	if err != nil {
		return err
	}
	err = m.B.Backward(rec, r, s.Low, s.High, moe.LinearGrads{X: dLow, Weight: m.B.Grad},
		moe.LinearOptions{In: moe.Grouped, Out: moe.Grouped})
	if err != nil {
		return err
	}
	if dx != nil { // the dense layer comes first and overwrites dx; A and the router add to it
		if err := m.Base.DenseBackward(rec, s.X, dy, moe.LinearGrads{X: dx}); err != nil {
			return err
		}
	}
	err = m.A.Backward(rec, r, s.X, dLow, moe.LinearGrads{X: dx, Weight: m.A.Grad, AccumulateX: true},
		moe.LinearOptions{In: moe.Scattered, Out: moe.Grouped})
	if err != nil {
		return err
	}
	if err := moe.TopKBackward(rec, r, s.Logits, dGates, dLogits, false); err != nil {
		return err
	}
	return m.Router.DenseBackward(rec, s.X, dLogits, moe.LinearGrads{X: dx, Weight: m.Router.Grad, AccumulateX: true})
}
