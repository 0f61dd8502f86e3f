package moe

import (
	"errors"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// An MLPConfig describes a sparse mixture of two-layer experts.
type MLPConfig struct {
	Experts    int        // E
	TopK       int        // K
	Width      int        // D
	Hidden     int        // H, of one expert
	Activation Activation // f of the experts, shared ones included
	Mode       RouterMode // how the router's logits become gates
	RouterBias bool       // the router has a bias
	Bias       bool       // the experts have biases
	OutputBias bool       // a bias is added after the weighted sum (JetMoE)
	InOut      bool       // expert weights are stored [E,In,Out] instead of [E,Out,In]

	// DType is the storage of weights, biases, input, output and intermediates: F32, F16 or BF16. Router logits, gates and
	// sums are F32 always.
	DType vk.DType
	// Weights is how the matrices of Up, Down and of the shared experts are stored. Quantized ones are for inference: Backward and
	// NewGrads fail with a *ConfigError. The router and SharedGate, which decide and weigh, stay full.
	Weights WeightFormat
	// Interleaved says that Up's gate outputs are the even ones and its up outputs the odd ones, as gpt-oss stores them,
	// instead of all gate outputs first. The activation must be gated.
	Interleaved bool

	// Alpha and Limit are those of ClampedSwiGLU; 0 means gpt-oss's 1.702 and 7.
	Alpha, Limit float32

	// GateScale, Groups and TopGroups are RouterConfig's Scale, Groups and TopGroups. CorrectionBias gives the layer a bias of
	// that kind.
	GateScale         float32
	Groups, TopGroups int
	CorrectionBias    bool

	// SharedHidden is the hidden width of shared experts, which every token passes and which are one two-layer network of
	// that width, without biases: 0 for none. SharedGate weights its output by σ(SharedGate·x) (Qwen2-MoE); otherwise it is
	// added as it is (DeepSeek).
	SharedHidden int
	SharedGate   bool
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c MLPConfig) Validate() error {
	return check.First(
		check.InRange("MLPConfig", "Experts", c.Experts, 1, MaxExperts),
		check.InRange("MLPConfig", "TopK", c.TopK, 1, min(c.Experts, MaxTopK)),
		check.InRange("MLPConfig", "Width", c.Width, 1, maxWidth),
		check.InRange("MLPConfig", "Hidden", c.Hidden, 1, maxWidth/2),
		check.InRange("MLPConfig", "Activation", int(c.Activation), 0, len(activations)-1),
		c.activation().Validate(),
		check.DType("MLPConfig", c.DType),
		check.InRange("MLPConfig", "Weights", int(c.Weights), 0, int(WeightsQ4)),
		check.InRange("MLPConfig", "SharedHidden", c.SharedHidden, 0, maxWidth/2),
		c.checkRouter(),
	)
}

// activation is the experts' activation with all its parameters.
func (c MLPConfig) activation() ActivationConfig {
	return ActivationConfig{Function: c.Activation, Interleaved: c.Interleaved, Alpha: c.Alpha, Limit: c.Limit}
}

// router is the router's configuration with its correction bias, or nil for none.
func (c MLPConfig) router(bias *vk.Tensor) RouterConfig {
	return RouterConfig{TopK: c.TopK, Mode: c.Mode, Scale: c.GateScale, CorrectionBias: bias, Groups: c.Groups,
		TopGroups: c.TopGroups}
}

func (c MLPConfig) checkRouter() error {
	if c.SharedGate && c.SharedHidden == 0 {
		return check.Config("MLPConfig", "SharedGate", "false without SharedHidden", "true")
	}
	if c.CorrectionBias && !c.Mode.Sigmoid() {
		return check.Config("MLPConfig", "CorrectionBias", "false for "+c.Mode.String(), "true")
	}
	return c.router(nil).Validate(c.Experts)
}

// An MLP is a sparse mixture of two-layer experts with its router, and perhaps shared experts:
//
//	out[t] = Σ_j gate[t,j] · (Down[e]·f(Up[e]·x[t])) + σ(SharedGate·x[t]) · (SharedDown·f(SharedUp·x[t])) + OutputBias,
//	e = ids[t,j]
//
// (arXiv 2403.08245, section 3.1). Up maps D to H values, or to 2H for a gated activation, gate rows first or Interleaved.
type MLP struct {
	Config MLPConfig       // as NewMLP was given it; not to be changed
	Router *ParallelLinear // one expert, D → E
	Up     *ParallelLinear // D → H or 2H
	Down   *ParallelLinear // H → D

	CorrectionBias *vk.Tensor // F32 [E], nil without

	// The shared experts have one matrix each; nil without.
	SharedUp, SharedDown *ParallelLinear // D → SharedHidden (or twice that), SharedHidden → D
	SharedGate           *ParallelLinear // D → 1

	OutputBias *ExpertBank // [1,D] of the layer's dtype, nil without
}

// NewMLP allocates the layer's weights, WeightBytes of them; they are undefined until uploaded. It fails with a
// *ConfigError or vk.ErrOutOfMemory.
func NewMLP(dev *vk.Device, cfg MLPConfig) (*MLP, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &MLP{Config: cfg}
	for _, part := range m.parts() {
		layer, err := NewParallelLinear(dev, part.cfg)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		*part.layer = layer
	}
	if cfg.CorrectionBias {
		var err error
		if m.CorrectionBias, err = dev.NewTensor(vk.F32, cfg.Experts); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	if cfg.OutputBias {
		var err error
		if m.OutputBias, err = NewExpertBank(dev, cfg.DType, 1, cfg.Width); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// mlpPart is one of the layer's linear maps.
type mlpPart struct {
	layer **ParallelLinear
	cfg   ParallelLinearConfig
}

// parts are the linear maps that the configuration asks for.
func (m *MLP) parts() []mlpPart {
	c := m.Config
	experts := ParallelLinearConfig{Experts: c.Experts, Bias: c.Bias, InOut: c.InOut, DType: c.DType, Weights: c.Weights}
	one := ParallelLinearConfig{Experts: 1, DType: c.DType}
	with := func(base ParallelLinearConfig, in, out int, label string) ParallelLinearConfig {
		base.In, base.Out, base.Label = in, out, label
		return base
	}
	router := with(one, c.Width, c.Experts, "router")
	router.Bias = c.RouterBias
	parts := []mlpPart{
		{&m.Router, router},
		{&m.Up, with(experts, c.Width, c.Activation.columns(c.Hidden), "up")},
		{&m.Down, with(experts, c.Hidden, c.Width, "down")},
	}
	if c.SharedHidden > 0 {
		one.InOut, one.Weights = c.InOut, c.Weights
		parts = append(parts, mlpPart{&m.SharedUp, with(one, c.Width, c.Activation.columns(c.SharedHidden), "shared up")},
			mlpPart{&m.SharedDown, with(one, c.SharedHidden, c.Width, "shared down")})
	}
	if c.SharedGate {
		one.InOut, one.Weights = false, WeightsFull
		parts = append(parts, mlpPart{&m.SharedGate, with(one, c.Width, 1, "shared gate")})
	}
	return parts
}

// Close frees the weights. Closing twice does nothing.
func (m *MLP) Close() error {
	err := errors.Join(m.CorrectionBias.Close(), m.OutputBias.Close())
	for _, part := range m.parts() {
		err = errors.Join(err, (*part.layer).Close())
	}
	return err
}

// outputBias is the tensor of OutputBias, or nil.
func (m *MLP) outputBias() *vk.Tensor {
	if m.OutputBias == nil {
		return nil
	}
	return m.OutputBias.parts[0]
}

func (m *MLP) checkOutputBias(dev *vk.Device, op string) error {
	if !m.Config.OutputBias {
		return nil
	}
	return m.OutputBias.check(dev, op, "OutputBias", m.Config.DType, 1, m.Config.Width)
}
