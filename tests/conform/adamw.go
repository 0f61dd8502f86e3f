package conform

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/vk"
)

// adamCase is steps of the optimizer on tensors of some sizes.
type adamCase struct {
	param, grad vk.DType
	sizes       []int
	clip        float32
	odd         bool
}

func adamCases(add func(Case)) {
	types := [][2]vk.DType{{vk.F32, vk.F32}, {vk.F16, vk.F16}, {vk.F16, vk.F32}, {vk.BF16, vk.BF16}, {vk.BF16, vk.F32}}
	sizes := []struct {
		name  string
		sizes []int
	}{{"small", []int{1, 2, 0, 131}}, {"large", []int{20000, 8192, 3}}, {"none", []int{0}}}
	for i, t := range types {
		name := t[0].String()
		if t[1] != t[0] {
			name += "_" + t[1].String()
		}
		for j, s := range sizes {
			for m, clip := range []float32{0, 0.5} {
				for n, option := range []string{"plain", "odd"} {
					c := adamCase{t[0], t[1], s.sizes, clip, n == 1}
					add(Case{Name: fmt.Sprintf("adamw.step.%s.%s.clip%d.%s", name, s.name, m, option), Required: j == 0 && m == 1 && n == i%2,
						Record: c.step})
				}
			}
		}
	}
	add(Case{Name: "adamw.unusual.f32", Required: true, Record: unusualAdam})
}

const (
	adamRate  = 0.01
	adamScale = 4 // what gradients hold too much of
)

// optimizer makes an optimizer whose first step is to come, with params that are outputs.
func (k *Kit) optimizer(cfg train.AdamWConfig, params []train.Param) *train.AdamW {
	a, err := train.NewAdamW(k.Ctx, k.Dev, cfg, params)
	k.must(err)
	k.closes = append(k.closes, a.Close)
	k.must(a.SetStep(k.Ctx, 1, adamRate))
	return a
}

// adamSteps is how many steps a case makes, all of them with the corrections of the first.
const adamSteps = 3

// step records the steps. The optimizer keeps the means, so that another submission would go on from there: the case is not
// submitted again, but recorded again with another optimizer.
func (c adamCase) step(k *Kit) func() {
	k.oddIf(c.odd)
	const decay = float32(0.1)
	var params []train.Param
	var values, grads [][]float32
	for i, n := range c.sizes {
		v, g := k.Normal(c.param, n), k.Normal(c.grad, n)
		values, grads = append(values, v), append(grads, g)
		params = append(params, train.Param{Name: fmt.Sprint("p", i), NoDecay: i%2 == 1,
			Value: k.InOut(fmt.Sprint("p", i), c.param, v, n), Grad: k.Floats(fmt.Sprint("g", i), c.grad, g, n)})
	}
	a := k.optimizer(train.AdamWConfig{Decay: decay, ClipNorm: c.clip, GradScale: adamScale}, params)
	for range adamSteps {
		k.must(a.Step(k.Rec))
	}
	k.Once()
	k.Scratch("norm", a.Norm())
	return func() {
		norm := ref.GlobalNorm(grads, 1/float64(adamScale))
		factor := ref.ClipFactor(norm, float64(c.clip)) / adamScale
		total := 0
		for _, n := range c.sizes {
			total += n
		}
		relative := ref.Gamma(total+4)/2 + 8*ref.UnitF32
		k.Close("norm", a.Norm(), []float64{norm, factor}, []float64{relative * norm, relative * factor})
		for i, p := range params {
			c.judge(k, p, values[i], grads[i], factor, float64(decay), relative)
		}
	}
}

// judge compares a param after its steps; the factor has a relative error.
func (c adamCase) judge(k *Kit, p train.Param, value, grad []float32, factor, decay, relative float64) {
	o := ref.AdamW{Beta1: float64(float32(0.9)), Beta2: float64(float32(0.999)), Epsilon: float64(float32(1e-8)), Decay: decay,
		P: ref.Widen(value), M: make([]float64, len(value)), V: make([]float64, len(value))}
	if p.NoDecay {
		o.Decay = 0
	}
	g := ref.Widen(grad)
	for i := range g {
		g[i] *= factor
	}
	for range adamSteps {
		o.Steps = 0
		o.Step(g, float64(float32(adamRate)))
	}
	bound := make([]float64, len(o.P))
	for i, v := range o.P {
		// With the same gradient each time a step is at most adamSteps^½ rates, a quotient of a mean and a root: some products, a
		// root and two divisions, and the error of the factor above and below.
		step := adamRate * math.Sqrt(adamSteps)
		bound[i] = adamSteps*step*(32*ref.UnitF32+2*relative) + (4*adamSteps*ref.UnitF32+refTypes[c.param].Storage())*(math.Abs(v)+adamSteps*step)
	}
	k.Close(p.Name, p.Value, o.P, bound)
}

// unusualAdam is a step on gradients that are not finite: it must change nothing and say so in the norm.
func unusualAdam(k *Kit) func() {
	values, grads := k.Normal(vk.F32, 100), k.Normal(vk.F32, 100)
	grads[50] = float32(math.Inf(1))
	p := train.Param{Name: "p", Value: k.InOut("p", vk.F32, values, 100), Grad: k.F32("g", grads, 100)}
	a := k.optimizer(train.AdamWConfig{ClipNorm: 1}, []train.Param{p})
	k.must(a.Step(k.Rec))
	k.Scratch("norm", a.Norm())
	return func() {
		k.Close("p", p.Value, ref.Widen(values), nil)
		k.Close("norm", a.Norm(), []float64{math.NaN(), math.NaN()}, nil)
	}
}
