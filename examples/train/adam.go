package train

import (
	"context"
	"errors"

	"github.com/vkmoe/vkmoe/vk"
)

// A Param is a tensor to be trained and its gradient, both F32 of the same shape.
type Param struct {
	Name        string
	Value, Grad *vk.Tensor
}

// An AdamConfig holds Adam's numbers; those that are 0 are 0.9, 0.999 and 1e-8.
type AdamConfig struct {
	Rate                  float32 // the learning rate
	Beta1, Beta2, Epsilon float32
}

// Adam is an optimizer's state. It needs twice the memory of the parameters.
type Adam struct {
	Config AdamConfig
	params []Param
	m, v   []*vk.Tensor // one per param: running means of gradient and squared gradient
	decay  *vk.Tensor   // F32 [2]: the betas to the power of the steps done
}

// NewAdam allocates and clears the state. Whoever makes it closes it; the params stay the caller's.
func NewAdam(ctx context.Context, dev *vk.Device, cfg AdamConfig, params []Param) (*Adam, error) {
	set := func(v *float32, to float32) {
		if *v == 0 {
			*v = to
		}
	}
	set(&cfg.Beta1, 0.9)
	set(&cfg.Beta2, 0.999)
	set(&cfg.Epsilon, 1e-8)
	a := &Adam{Config: cfg, params: params}
	fail := func(err error) (*Adam, error) { return nil, errors.Join(err, a.Close()) }
	zeros := func(n int) (*vk.Tensor, error) {
		t, err := dev.NewTensor(vk.F32, n)
		if err != nil {
			return nil, err
		}
		return t, vk.Upload(ctx, t, make([]float32, n))
	}
	for _, p := range params {
		if p.Value == nil {
			return fail(&vk.ShapeError{Op: "NewAdam", Arg: p.Name, Want: "a tensor", Got: "nil"})
		}
		n := p.Value.Elements()
		if err := errors.Join(checkFloats("NewAdam", p.Name, p.Value, n), checkFloats("NewAdam", p.Name+".Grad", p.Grad, n)); err != nil {
			return fail(err)
		}
		for _, state := range []*[]*vk.Tensor{&a.m, &a.v} {
			t, err := zeros(n)
			*state = append(*state, t)
			if err != nil {
				return fail(err)
			}
		}
	}
	var err error
	if a.decay, err = zeros(2); err != nil {
		return fail(err)
	}
	if err := vk.Upload(ctx, a.decay, []float32{1, 1}); err != nil {
		return fail(err)
	}
	return a, nil
}

// Step records one step on all params with the gradients that their Grad tensors hold by then.
func (a *Adam) Step(rec *vk.Recorder) error {
	c := a.Config
	err := Dispatch(rec, vk.Dispatch{Kernel: adamDecay, Groups: [3]uint32{1, 1, 1}, Reads: []*vk.Tensor{a.decay},
		Writes: []*vk.Tensor{a.decay}}, a.decay, c.Beta1, c.Beta2)
	if err != nil {
		return err
	}
	for i, p := range a.params {
		n := p.Value.Elements()
		err := Dispatch(rec, vk.Dispatch{
			Kernel: adam,
			Linear: uint64(n+threads-1) / threads,
			Reads:  []*vk.Tensor{p.Value, p.Grad, a.m[i], a.v[i], a.decay},
			Writes: []*vk.Tensor{p.Value, a.m[i], a.v[i]},
			Label:  "adam " + p.Name,
			FLOPs:  12 * float64(n),
		}, p.Value, p.Grad, a.m[i], a.v[i], a.decay, n, c.Rate, c.Beta1, c.Beta2, c.Epsilon)
		if err != nil {
			return err
		}
	}
	return nil
}

// Close frees the state. Closing twice does nothing.
func (a *Adam) Close() error {
	err := a.decay.Close()
	for _, state := range [][]*vk.Tensor{a.m, a.v} {
		for _, t := range state {
			err = errors.Join(err, t.Close())
		}
	}
	return err
}
