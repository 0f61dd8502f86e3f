package train

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Param is a tensor to be trained, of a storage dtype, and its gradient, of the same shape and dtype or F32.
type Param struct {
	Name        string // tells it from others in a checkpoint
	Value, Grad *vk.Tensor
	NoDecay     bool // exempt from weight decay, as gains and biases usually are
}

// An AdamWConfig holds the optimizer's numbers. The zero value of a field means what its comment says.
type AdamWConfig struct {
	Beta1, Beta2, Epsilon float32 // 0.9, 0.999 and 1e-8
	Decay                 float32 // λ, decoupled from the gradient; 0
	ClipNorm              float32 // largest global norm of the gradients; 0 for no clipping

	// GradScale is what the gradients hold too much of, a loss scale for 16-bit storage: they are divided by it. 1.
	GradScale float32
}

func (c AdamWConfig) withDefaults() AdamWConfig {
	set := func(v *float32, to float32) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.Beta1, 0.9)
	set(&c.Beta2, 0.999)
	set(&c.Epsilon, 1e-8)
	set(&c.GradScale, 1)
	return c
}

// Validate reports the first field that makes no sense as a *moe.ConfigError.
func (c AdamWConfig) Validate() error {
	c = c.withDefaults()
	for _, f := range []struct {
		name      string
		value     float32
		low, high float32
	}{
		{"Beta1", c.Beta1, 0, 0.9999999}, {"Beta2", c.Beta2, 0, 0.9999999}, {"Epsilon", c.Epsilon, 1e-30, 1},
		{"Decay", c.Decay, 0, 1e6}, {"ClipNorm", c.ClipNorm, 0, 1e30}, {"GradScale", c.GradScale, 1e-30, 1e30},
	} {
		if !(f.value >= f.low && f.value <= f.high) {
			return &moe.ConfigError{Config: "AdamWConfig", Field: f.name, Want: fmt.Sprintf("%g to %g", f.low, f.high), Got: fmt.Sprint(f.value)}
		}
	}
	return nil
}

// AdamW is the optimizer's state: two F32 values per parameter element, and for 16-bit parameters a third, their master copy.
type AdamW struct {
	Config AdamWConfig

	params    []Param
	states    []state    // one per param
	hyper     *vk.Tensor // F32 [9]: see shaders/adamw.comp
	partials  *vk.Tensor // F32: sums of squares
	norm      *vk.Tensor // F32 [2]: the global norm and the gradients' factor
	closables []*vk.Tensor
}

// state is what the optimizer keeps of one param.
type state struct{ m, v, master *vk.Tensor } // F32 [n]; master nil for F32 params

const (
	adamThreads   = 64 // work-group size of adamw; each invocation takes 2 elements
	squareThreads = 128
	squareBlock   = 8192 // elements that a work-group of square_sum adds up
)

// adamKernels are by the dtypes of the gradient and the param.
var adamKernels = map[[2]vk.DType]*vk.Kernel{
	{vk.F32, vk.F32}:   shaders.AdamwF32,
	{vk.F16, vk.F16}:   shaders.AdamwF16,
	{vk.F32, vk.F16}:   shaders.AdamwF32F16,
	{vk.BF16, vk.BF16}: shaders.AdamwBf16,
	{vk.F32, vk.BF16}:  shaders.AdamwF32Bf16,
}

var squareKernels = map[vk.DType]*vk.Kernel{
	vk.F32: shaders.SquareSumF32, vk.F16: shaders.SquareSumF16, vk.BF16: shaders.SquareSumBf16,
}

// NewAdamW allocates and clears the state, and fills the master copies from the params as they are by then. The params stay
// the caller's. It fails with a *moe.ConfigError, a *vk.ShapeError or vk.ErrOutOfMemory.
func NewAdamW(ctx context.Context, dev *vk.Device, cfg AdamWConfig, params []Param) (*AdamW, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &AdamW{Config: cfg.withDefaults(), params: params}
	if err := a.allocate(ctx, dev); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *AdamW) allocate(ctx context.Context, dev *vk.Device) error {
	blocks := 0
	for _, p := range a.params {
		if err := p.check(dev); err != nil {
			return err
		}
		blocks += check.CeilDiv(p.Value.Elements(), squareBlock)
	}
	rec, err := dev.NewRecorder()
	if err != nil {
		return err
	}
	defer rec.Close()
	tensor := func(n int) *vk.Tensor {
		t, err := dev.NewTensor(vk.F32, n)
		if err != nil {
			rec.Fail(err)
			return nil
		}
		a.closables = append(a.closables, t)
		rec.Fill(t, 0)
		return t
	}
	a.hyper, a.norm, a.partials = tensor(9), tensor(2), tensor(blocks)
	for _, p := range a.params {
		if rec.Err() != nil {
			return rec.Err()
		}
		s := state{m: tensor(p.Value.Elements()), v: tensor(p.Value.Elements())}
		if p.Value.DType() != vk.F32 {
			if s.master = tensor(p.Value.Elements()); s.master != nil {
				a.toMaster(rec, p, s)
			}
		}
		a.states = append(a.states, s)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := rec.Run(ctx); !errors.Is(err, vk.ErrCompileOnly) {
		return err
	}
	return nil // a device that runs nothing lists the pipelines of steps all the same
}

func (a *AdamW) toMaster(rec *vk.Recorder, p Param, s state) {
	flat, err := p.Value.Reshape(p.Value.Elements())
	if err != nil {
		rec.Fail(err)
		return
	}
	rec.Fail(moe.Convert(rec, flat, s.master))
}

func (p Param) check(dev *vk.Device) error {
	const op = "NewAdamW"
	err := check.First(check.Storage(op, p.Name, p.Value), check.Storage(op, p.Name+".Grad", p.Grad))
	if err == nil {
		err = check.First(
			check.Tensor(dev, op, p.Name, p.Value, p.Value.DType(), p.Value.Shape()...),
			check.Tensor(dev, op, p.Name+".Grad", p.Grad, p.Grad.DType(), p.Value.Shape()...),
			check.Apart(op, p.Name+".Grad", p.Grad, check.Inputs{p.Name: p.Value}),
			check.Elements(op, p.Name, p.Value),
		)
	}
	if err == nil && adamKernels[[2]vk.DType{p.Grad.DType(), p.Value.DType()}] == nil {
		err = &vk.ShapeError{Op: op, Arg: p.Name + ".Grad", Want: p.Value.DType().String() + " or f32", Got: p.Grad.String()}
	}
	return err
}

// SetStep uploads the learning rate and the number of the step to come, from 1 on, by which the means are corrected. A step
// that was recorded reads them when it runs.
func (a *AdamW) SetStep(ctx context.Context, step int, rate float64) error {
	c := a.Config
	b1, b2 := float64(c.Beta1), float64(c.Beta2)
	return vk.Upload(ctx, a.hyper, []float32{
		float32(rate), c.Beta1, float32(1 - b1), c.Beta2, float32(1 - b2), c.Epsilon, c.Decay,
		float32(1 / (1 - math.Pow(b1, float64(step)))), float32(1 / (1 - math.Pow(b2, float64(step)))),
	})
}

// Norm F32 [2] holds, once a step has run, the global norm of the gradients before clipping and the factor that they were
// multiplied by. Where the norm is not finite both are NaN, and the step has changed nothing.
func (a *AdamW) Norm() *vk.Tensor { return a.norm }

// Step records one step on all params with the gradients that their Grad tensors hold when it runs: the global norm over
// all of them, the factor that clips it to Config.ClipNorm, and
//
//	m = β1·m + (1 − β1)·g,  v = β2·v + (1 − β2)·g²
//	p = p·(1 − rate·λ) − rate · m/(1 − β1^t) / (√(v/(1 − β2^t)) + ε)
//
// (arXiv 1711.05101, algorithm 2), g being the gradient times the factor. SetStep says rate and t.
func (a *AdamW) Step(rec *vk.Recorder) error {
	a.recordNorm(rec)
	for i, p := range a.params {
		n, s := p.Value.Elements(), a.states[i]
		if n == 0 {
			continue
		}
		decay := float32(1)
		if p.NoDecay {
			decay = 0
		}
		rec.Dispatch(vk.Dispatch{
			Kernel: adamKernels[[2]vk.DType{p.Grad.DType(), p.Value.DType()}],
			Spec:   shaders.AdamwSpec{Threads: adamThreads}.Values(),
			Push: shaders.AdamwPush{P: p.Value.Address(), Master: s.master.Address(), M: s.m.Address(), V: s.v.Address(),
				G: p.Grad.Address(), Hyper: a.hyper.Address(), Norm: a.norm.Address(), Count: uint32(n), Decay: decay}.Bytes(),
			Linear: uint64(check.CeilDiv(n, 2*adamThreads)),
			Reads:  []*vk.Tensor{p.Value, s.master, s.m, s.v, p.Grad, a.hyper, a.norm},
			Writes: []*vk.Tensor{p.Value, s.master, s.m, s.v},
			Label:  "adamw",
			FLOPs:  12 * float64(n),
		})
	}
	return rec.Err()
}

// recordNorm records the global norm of all gradients and the factor that clips it.
func (a *AdamW) recordNorm(rec *vk.Recorder) {
	at := 0
	for _, p := range a.params {
		n := p.Grad.Elements()
		blocks := check.CeilDiv(n, squareBlock)
		if n == 0 {
			continue
		}
		partials, err := a.partials.View(at, blocks)
		if err != nil {
			rec.Fail(err)
			return
		}
		rec.Dispatch(vk.Dispatch{
			Kernel: squareKernels[p.Grad.DType()],
			Spec:   shaders.SquareSumSpec{Threads: squareThreads, PerGroup: squareBlock}.Values(),
			Push:   shaders.SquareSumPush{X: p.Grad.Address(), Partials: partials.Address(), Count: uint32(n)}.Bytes(),
			Linear: uint64(blocks),
			Reads:  []*vk.Tensor{p.Grad},
			Writes: []*vk.Tensor{partials},
			FLOPs:  2 * float64(n),
		})
		at += blocks
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.GlobalNorm,
		Spec:   shaders.GlobalNormSpec{Threads: squareThreads}.Values(),
		Push: shaders.GlobalNormPush{Partials: a.partials.Address(), Norm: a.norm.Address(), Count: uint32(at),
			Multiplier: 1 / a.Config.GradScale, Limit: a.Config.ClipNorm}.Bytes(),
		Groups: [3]uint32{1, 1, 1},
		Reads:  []*vk.Tensor{a.partials},
		Writes: []*vk.Tensor{a.norm},
		FLOPs:  float64(at),
	})
}

// named are the states by the names of a checkpoint.
func (a *AdamW) named() []model.NamedTensor {
	var list []model.NamedTensor
	for i, p := range a.params {
		for _, s := range []struct {
			kind   string
			tensor *vk.Tensor
		}{{"m", a.states[i].m}, {"v", a.states[i].v}, {"master", a.states[i].master}} {
			if s.tensor != nil {
				list = append(list, model.NamedTensor{Name: p.Name + "." + s.kind, Shape: s.tensor.Shape(), Parts: []*vk.Tensor{s.tensor}})
			}
		}
	}
	return list
}

// Close frees the state. Closing twice does nothing.
func (a *AdamW) Close() error {
	var err error
	for _, t := range a.closables {
		err = errors.Join(err, t.Close())
	}
	return err
}
