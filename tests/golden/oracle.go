package golden

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
)

// oracleModes and oracleActivations are the oracle's names of the library's.
var (
	oracleModes = map[moe.RouterMode]ref.RouterMode{
		moe.SoftmaxTopK: ref.SoftmaxTopK, moe.SoftmaxTopKNorm: ref.SoftmaxTopKNorm, moe.TopKSoftmax: ref.TopKSoftmax,
		moe.SigmoidTopK: ref.SigmoidTopK, moe.SigmoidTopKNorm: ref.SigmoidTopKNorm,
	}
	oracleActivations = map[moe.Activation]ref.Activation{
		moe.SwiGLU: ref.SiLU, moe.GEGLU: ref.GELU, moe.GEGLUTanh: ref.GELUTanh,
	}
)

// Oracle returns the float64 oracle of an MLP block, which computes from the weights as they are, whatever their dtype.
func Oracle(w *model.MLPWeights) (ref.MLP[float32], error) {
	cfg := w.Config
	experts := func(in, out int, weight, bias []float32) ref.Linear[float32] {
		return ref.Linear[float32]{Experts: cfg.Experts, In: in, Out: out, Weight: weight, Bias: bias, InOut: cfg.InOut}
	}
	m := ref.MLP[float32]{
		K: cfg.TopK, Gated: true,
		Router: ref.Linear[float32]{Experts: 1, In: cfg.Width, Out: cfg.Experts, Weight: w.RouterWeight, Bias: w.RouterBias},
		Up:     experts(cfg.Width, 2*cfg.Hidden, w.Up, w.UpBias),
		Down:   experts(cfg.Hidden, cfg.Width, w.Down, w.DownBias),
		Gating: ref.Router{Scale: float64(cfg.GateScale), Bias: w.CorrectionBias, Groups: cfg.Groups, TopGroups: cfg.TopGroups},

		OutputBias: w.OutputBias,
	}
	var known bool
	if m.Mode, known = oracleModes[cfg.Mode]; !known {
		return m, fmt.Errorf("golden: the oracle has no router mode %v", cfg.Mode)
	}
	switch m.Activation, known = oracleActivations[cfg.Activation]; {
	case cfg.Activation == moe.ClampedSwiGLU:
		m.Clamp = &ref.Clamp{Alpha: orElse(cfg.Alpha, 1.702), Limit: orElse(cfg.Limit, 7)}
	case !known:
		return m, fmt.Errorf("golden: the oracle has no activation %v", cfg.Activation)
	}
	if cfg.Interleaved {
		m.Up = gateFirst(m.Up)
	}
	if cfg.SharedHidden > 0 {
		m.Shared = &ref.Shared[float32]{
			Up:   ref.Linear[float32]{Experts: 1, In: cfg.Width, Out: 2 * cfg.SharedHidden, Weight: w.SharedUp, InOut: cfg.InOut},
			Down: ref.Linear[float32]{Experts: 1, In: cfg.SharedHidden, Out: cfg.Width, Weight: w.SharedDown, InOut: cfg.InOut},
		}
	}
	if cfg.SharedGate {
		m.Shared.Gate = &ref.Linear[float32]{Experts: 1, In: cfg.Width, Out: 1, Weight: w.SharedGate}
	}
	return m, nil
}

// orElse is v, or a default for 0. The constants are decimal: the float32 nearest to 1.702 is not what others compute with.
func orElse(v float32, zero float64) float64 {
	if v == 0 {
		return zero
	}
	return float64(v)
}

// gateFirst returns a map whose outputs are gate and up in turns as one [E,2H,in] whose H gate rows come first, which is
// the oracle's order.
func gateFirst(l ref.Linear[float32]) ref.Linear[float32] {
	out := ref.Linear[float32]{Experts: l.Experts, In: l.In, Out: l.Out, Weight: make([]float32, len(l.Weight))}
	if l.Bias != nil {
		out.Bias = make([]float32, len(l.Bias))
	}
	for row := range l.Experts * l.Out {
		e, o := row/l.Out, row%l.Out
		to := e*l.Out + o%2*l.Out/2 + o/2
		if l.Bias != nil {
			out.Bias[to] = l.Bias[row]
		}
		for i := range l.In {
			out.Weight[to*l.In+i] = float32(l.At(e, o, i))
		}
	}
	return out
}

// Gradients are those of an oracle's block, by the names of its parameters.
type Gradients map[string]Gradient

// A Gradient is that of one parameter, whose values the oracle computes from.
type Gradient struct {
	Value []float32
	Grad  []float64
}

// linear adds the gradients of a map.
func (g Gradients) linear(name string, l ref.Linear[float32], grads ref.LinearGrads) {
	g[name+".weight"] = Gradient{l.Weight, grads.Weight.Y}
	if l.Bias != nil {
		g[name+".bias"] = Gradient{l.Bias, grads.Bias.Y}
	}
}

// vector adds the gradient of a vector, if there is one.
func (g Gradients) vector(name string, value []float32, grad []float64) {
	if grad != nil {
		g[name] = Gradient{value, grad}
	}
}
