package main

import (
	"context"
	_ "embed"
	"errors"
	"slices"

	"github.com/vkmoe/vkmoe/examples/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

//go:generate go run github.com/vkmoe/vkmoe/shaders/gen rmsnorm rmsnorm_backward rmsnorm_scale

//go:embed rmsnorm.spv
var rmsnormModule []byte

//go:embed rmsnorm_backward.spv
var rmsnormBackwardModule []byte

//go:embed rmsnorm_scale.spv
var rmsnormScaleModule []byte

var (
	rmsnorm         = vk.MustKernel("rmsnorm", rmsnormModule)
	rmsnormBackward = vk.MustKernel("rmsnorm_backward", rmsnormBackwardModule)
	rmsnormScale    = vk.MustKernel("rmsnorm_scale", rmsnormScaleModule)
)

// epsilon keeps the norm of a row of zeros finite.
const epsilon = 1e-6

// A Config describes a mixture of normalized experts.
type Config struct {
	Experts, TopK, Width, Hidden int
}

// NormExperts is a mixture of experts of two layers each, with a normalization between them that has a scale of its own in
// every expert:
//
//	y[t] = Σ_j gate[t,j] · Down[e]·silu(scale[e] ⊙ rmsnorm(Up[e]·x[t])),  e = ids[t,j]
//
// rmsnorm(z) = z / √(mean(z²) + ε) (Zhang and Sennrich, arXiv 1910.07467). All values are F32.
type NormExperts struct {
	Config Config
	Router *train.Linear // [1,E,D]
	Up     *train.Linear // [E,H,D]
	Down   *train.Linear // [E,D,H]
	Scale  *vk.Tensor    // [E,H]

	scaleGrad *vk.Tensor // [E,H]
}

// NewNormExperts allocates weights and gradients. The scales are 1, the rest is undefined until uploaded.
func NewNormExperts(ctx context.Context, dev *vk.Device, c Config) (*NormExperts, error) {
	m := &NormExperts{Config: c}
	var err error
	m.Router, err = train.NewLinear(dev, "router", 1, c.Width, c.Experts)
	if err == nil {
		m.Up, err = train.NewLinear(dev, "up", c.Experts, c.Width, c.Hidden)
	}
	if err == nil {
		m.Down, err = train.NewLinear(dev, "down", c.Experts, c.Hidden, c.Width)
	}
	if err == nil {
		m.scaleGrad, err = dev.NewTensor(vk.F32, c.Experts, c.Hidden)
	}
	if err == nil {
		m.Scale, err = dev.NewTensor(vk.F32, c.Experts, c.Hidden)
	}
	if err == nil {
		err = vk.Upload(ctx, m.Scale, slices.Repeat([]float32{1}, m.Scale.Elements()))
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Params are all weights.
func (m *NormExperts) Params() []train.Param {
	return slices.Concat(m.Router.Params(), m.Up.Params(), m.Down.Params(),
		[]train.Param{{Name: "scale", Value: m.Scale, Grad: m.scaleGrad}})
}

// Close frees the weights and gradients.
func (m *NormExperts) Close() error {
	return errors.Join(m.Router.Close(), m.Up.Close(), m.Down.Close(), m.Scale.Close(), m.scaleGrad.Close())
}

// Saved is what Backward needs of Forward; its tensors are the recorder's.
type Saved struct {
	Module  *NormExperts
	X       *vk.Tensor // [T,D], the caller's
	Logits  *vk.Tensor // [T,E]
	Routing *moe.Routing
	Z       *vk.Tensor // [T·K,H] grouped: Up[e]·x
	InvRMS  *vk.Tensor // [T·K] grouped
	H       *vk.Tensor // [T·K,H] grouped: Down's input
	Slots   *vk.Tensor // [T·K,D] scattered: the experts' results before the gates
}

// Forward records y [T,D] for x [T,D].
func (m *NormExperts) Forward(rec *vk.Recorder, x, y *vk.Tensor) (train.Pass, error) {
	c := m.Config
	if x == nil || x.Rank() != 2 {
		return nil, rec.Fail(&vk.ShapeError{Op: "NormExperts", Arg: "x", Want: "a matrix", Got: "another tensor"})
	}
	s := &Saved{Module: m, X: x, Logits: rec.Scratch(vk.F32, x.Dim(0), c.Experts)}
	if err := m.Router.Dense(rec, x, s.Logits); err != nil {
		return nil, err
	}
	var err error
	if s.Routing, err = moe.Route(rec, s.Logits, moe.RouterConfig{TopK: c.TopK, Mode: moe.SoftmaxTopKNorm}); err != nil {
		return nil, err
	}
	r := s.Routing
	s.Z = rec.Scratch(vk.F32, r.Slots(), c.Hidden)
	s.InvRMS = rec.Scratch(vk.F32, r.Slots())
	s.H = rec.Scratch(vk.F32, r.Slots(), c.Hidden)
	s.Slots = rec.Scratch(vk.F32, r.Slots(), c.Width)
	if err := m.Up.Forward(rec, r, x, s.Z, moe.LinearOptions{In: moe.Scattered, Out: moe.Grouped}); err != nil {
		return nil, err
	}
	err = train.Dispatch(rec, vk.Dispatch{
		Kernel:   rmsnorm,
		Indirect: r.TileArgs,
		Reads:    []*vk.Tensor{s.Z, m.Scale, r.Tiles, r.TileArgs},
		Writes:   []*vk.Tensor{s.H, s.InvRMS},
		FLOPs:    10 * float64(s.Z.Elements()),
	}, s.Z, m.Scale, s.H, s.InvRMS, r.Tiles, r.TileArgs, r.BlockM, c.Hidden, float32(epsilon))
	if err != nil {
		return nil, err
	}
	if err := m.Down.Forward(rec, r, s.H, s.Slots, moe.LinearOptions{In: moe.Grouped, Out: moe.Scattered}); err != nil {
		return nil, err
	}
	return s, moe.Combine(rec, r, s.Slots, r.Gates, y, moe.Scattered)
}

// Choice is the tensor of expert ids.
func (s *Saved) Choice() *vk.Tensor { return s.Routing.IDs }

// Backward records the gradients from dy [T,D], the gradient of a loss with respect to Forward's y: those of the params, and
// dx [T,D] unless it is nil. All are overwritten, and so is Slots, whose memory its gradient takes.
func (s *Saved) Backward(rec *vk.Recorder, dy, dx *vk.Tensor) error {
	m, r := s.Module, s.Routing
	dh := rec.Scratch(vk.F32, r.Slots(), m.Config.Hidden)
	dGates := rec.Scratch(vk.F32, r.Tokens, r.K)
	dLogits := rec.Scratch(vk.F32, r.Tokens, r.Experts)
	if rec.Err() != nil {
		return rec.Err()
	}
	err := moe.CombineBackward(rec, r, s.Slots, r.Gates, dy, moe.CombineGrads{Y: s.Slots, Gates: dGates}, moe.Scattered)
	if err != nil {
		return err
	}
	err = m.Down.Backward(rec, r, s.H, s.Slots, moe.LinearGrads{X: dh, Weight: m.Down.Grad},
		moe.LinearOptions{In: moe.Grouped, Out: moe.Scattered})
	if err != nil {
		return err
	}
	dz := dh
	if err := s.normBackward(rec, dh, dz); err != nil {
		return err
	}
	err = m.Up.Backward(rec, r, s.X, dz, moe.LinearGrads{X: dx, Weight: m.Up.Grad},
		moe.LinearOptions{In: moe.Scattered, Out: moe.Grouped})
	if err != nil {
		return err
	}
	if err := moe.TopKBackward(rec, r, s.Logits, dGates, dLogits, false); err != nil {
		return err
	}
	return m.Router.DenseBackward(rec, s.X, dLogits, moe.LinearGrads{X: dx, Weight: m.Router.Grad, AccumulateX: true})
}

// normBackward records the gradients of the scale and of Z, which may take the memory of dh: the recorder sees that the
// first kernel reads what the second one writes, and keeps them apart.
func (s *Saved) normBackward(rec *vk.Recorder, dh, dz *vk.Tensor) error {
	m, r, c := s.Module, s.Routing, s.Module.Config
	err := train.Dispatch(rec, vk.Dispatch{
		Kernel: rmsnormScale,
		Linear: uint64(c.Experts*c.Hidden+63) / 64,
		Reads:  []*vk.Tensor{s.Z, m.Scale, s.InvRMS, dh, r.Offsets},
		Writes: []*vk.Tensor{m.scaleGrad},
		FLOPs:  10 * float64(s.Z.Elements()),
	}, s.Z, m.Scale, s.InvRMS, dh, m.scaleGrad, r.Offsets, c.Experts, c.Hidden)
	if err != nil {
		return err
	}
	return train.Dispatch(rec, vk.Dispatch{
		Kernel:   rmsnormBackward,
		Indirect: r.TileArgs,
		Reads:    []*vk.Tensor{s.Z, m.Scale, s.InvRMS, dh, r.Tiles, r.TileArgs},
		Writes:   []*vk.Tensor{dz},
		FLOPs:    20 * float64(s.Z.Elements()),
	}, s.Z, m.Scale, s.InvRMS, dh, dz, r.Tiles, r.TileArgs, r.BlockM, c.Hidden)
}
