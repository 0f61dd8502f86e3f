package moe

import (
	"errors"

	"github.com/vkmoe/vkmoe/vk"
)

// An MLPConfig describes a sparse mixture of two-layer experts.
type MLPConfig struct {
	Experts    int // E
	TopK       int // K
	Width      int // D
	Hidden     int // H, of one expert
	Activation Activation
	Mode       RouterMode
	RouterBias bool // the router has a bias
	Bias       bool // the experts have biases
	InOut      bool // expert weights are stored [E,In,Out] instead of [E,Out,In]

	// DType is the storage of weights, biases, input, output and intermediates: F32, F16 or BF16. Router logits, gates and
	// sums are F32 always.
	DType vk.DType
	// Interleaved says that Up's gate outputs are the even ones and its up outputs the odd ones, as gpt-oss stores them,
	// instead of all gate outputs first. The activation must be gated.
	Interleaved bool

	// Discard gives the memory of each intermediate back to the recorder as soon as it has been used, so that the next
	// layer of the recording takes it over. MLPSaved then has neither Z nor H nor Slots.
	Discard bool
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c MLPConfig) Validate() error {
	return firstError(
		inRange("MLPConfig", "Experts", c.Experts, 1, MaxExperts),
		inRange("MLPConfig", "TopK", c.TopK, 1, min(c.Experts, MaxTopK)),
		inRange("MLPConfig", "Width", c.Width, 1, maxWidth),
		inRange("MLPConfig", "Hidden", c.Hidden, 1, maxWidth/2),
		inRange("MLPConfig", "Activation", int(c.Activation), 0, len(activations)-1),
		inRange("MLPConfig", "Mode", int(c.Mode), 0, int(TopKSoftmax)),
		storageDType("MLPConfig", c.DType),
		c.checkInterleaved(),
	)
}

func (c MLPConfig) checkInterleaved() error {
	if c.Interleaved && !c.Activation.Gated() {
		return &ConfigError{"MLPConfig", "Interleaved", "false for the activation " + c.Activation.String(), "true"}
	}
	return nil
}

// An MLP is a sparse mixture of two-layer experts with its router:
//
//	out[t] = Σ_j gate[t,j] · (Down[e]·f(Up[e]·x[t])),  e = ids[t,j]
//
// (arXiv 2403.08245, section 3.1). Up maps D to H values, or to 2H for a gated activation, gate rows first or Interleaved.
type MLP struct {
	Config MLPConfig
	Router *ParallelLinear // one expert, D → E
	Up     *ParallelLinear // D → H or 2H
	Down   *ParallelLinear // H → D
}

// NewMLP allocates the layer's weights, WeightBytes of them; they are undefined until uploaded. It fails with a
// *ConfigError or vk.ErrOutOfMemory.
func NewMLP(dev *vk.Device, cfg MLPConfig) (*MLP, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &MLP{Config: cfg}
	up := cfg.Activation.columns(cfg.Hidden)
	for _, part := range []struct {
		layer **ParallelLinear
		cfg   ParallelLinearConfig
	}{
		{&m.Router, ParallelLinearConfig{Experts: 1, In: cfg.Width, Out: cfg.Experts, Bias: cfg.RouterBias, Label: "router"}},
		{&m.Up, ParallelLinearConfig{Experts: cfg.Experts, In: cfg.Width, Out: up, Bias: cfg.Bias, InOut: cfg.InOut, Label: "up"}},
		{&m.Down, ParallelLinearConfig{Experts: cfg.Experts, In: cfg.Hidden, Out: cfg.Width, Bias: cfg.Bias, InOut: cfg.InOut,
			Label: "down"}},
	} {
		part.cfg.DType = cfg.DType
		layer, err := NewParallelLinear(dev, part.cfg)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		*part.layer = layer
	}
	return m, nil
}

// Close frees the weights. Closing twice does nothing.
func (m *MLP) Close() error { return errors.Join(m.Router.Close(), m.Up.Close(), m.Down.Close()) }

// MLPSaved is what a forward pass leaves in the recorder's scratch, for a backward pass or for display.
type MLPSaved struct {
	Logits  *vk.Tensor // F32 [T,E], nil when the caller gave the routing
	Routing *Routing
	Z       *vk.Tensor // [T·K, H or 2H] grouped: the activation's input
	H       *vk.Tensor // [T·K,H] grouped: its output
	Slots   *vk.Tensor // [T·K,D] scattered: the experts' results before the gates
}

// Forward records y = MLP(x) for x and y [T,D] of the layer's dtype: router, choice, grouping, scattered to grouped linear,
// activation, grouped to scattered linear, and the weighted sum; nine dispatches in one submission.
//
// It takes ScratchBytes of scratch, or less with Discard. Errors: see the package.
func (m *MLP) Forward(rec *vk.Recorder, x, y *vk.Tensor) (*MLPSaved, error) {
	tokens, err := m.check(rec.Device(), x, y)
	if err != nil {
		return nil, rec.Fail(err)
	}
	logits := rec.Scratch(vk.F32, tokens, m.Config.Experts)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	if err := m.Router.Dense(rec, x, logits); err != nil {
		return nil, err
	}
	r, err := Route(rec, logits, RouterConfig{TopK: m.Config.TopK, Mode: m.Config.Mode})
	if err != nil {
		return nil, err
	}
	saved, err := m.ForwardRouted(rec, r, x, y)
	if err == nil {
		saved.Logits = logits
	}
	return saved, err
}

// WeightBytes is the device memory of the layer's weights: 4·(E·D + E·D·(H or 2H) + E·H·D) bytes and the biases.
func (c MLPConfig) WeightBytes() uint64 {
	experts, width, hidden := uint64(c.Experts), uint64(c.Width), uint64(c.Hidden)
	up := uint64(c.Activation.columns(c.Hidden))
	n := experts*width + experts*width*up + experts*hidden*width
	if c.RouterBias {
		n += experts
	}
	if c.Bias {
		n += experts * (up + width)
	}
	return 4 * n
}

// ScratchBytes is the device memory that Forward takes from the recorder for this many tokens, without Discard:
// 4·(T·E + T·K·(H or 2H) + T·K·H + T·K·D) bytes and the routing's (see Route), each tensor rounded up to 256 bytes.
// Comparing it with vk.MemoryStats tells beforehand whether a batch fits.
func (m *MLP) ScratchBytes(tokens int) uint64 {
	c := m.Config
	slots := tokens * c.TopK
	perSlot := uint64(c.Activation.columns(c.Hidden) + c.Hidden + c.Width)
	return 4*(uint64(tokens)*uint64(c.Experts)+uint64(slots)*perSlot) +
		routingBytes(slots, c.Experts, chooseBlockM(m.Up.Weight.device(), slots, c.Experts))
}

// ForwardRouted is Forward with the experts chosen by the caller, for example by RouteIDs; the router's weights are not
// used. The routing's gates weight the sum; without gates the choices are added up.
func (m *MLP) ForwardRouted(rec *vk.Recorder, r *Routing, x, y *vk.Tensor) (*MLPSaved, error) {
	if _, err := m.check(rec.Device(), x, y); err != nil {
		return nil, rec.Fail(err)
	}
	if r == nil || r.Tokens != x.Dim(0) {
		return nil, rec.Fail(&vk.ShapeError{Op: "MLP.ForwardRouted", Arg: "routing", Want: "a routing of x's tokens", Got: "another"})
	}
	hidden := m.Config.Hidden
	s := &MLPSaved{Routing: r}
	s.Z = rec.Scratch(m.Config.DType, r.Slots(), m.Config.Activation.columns(hidden))
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	if err := m.Up.Forward(rec, r, x, s.Z, LinearOptions{Out: Grouped}); err != nil {
		return nil, err
	}
	s.H = rec.Scratch(m.Config.DType, r.Slots(), hidden)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	if err := activate(rec, "MLP.Forward", m.Config.Activation, m.Config.Interleaved, s.Z, s.H); err != nil {
		return nil, err
	}
	m.discard(rec, &s.Z)
	s.Slots = rec.Scratch(m.Config.DType, r.Slots(), m.Config.Width)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	if err := m.Down.Forward(rec, r, s.H, s.Slots, LinearOptions{In: Grouped}); err != nil {
		return nil, err
	}
	m.discard(rec, &s.H)
	if err := Combine(rec, r, s.Slots, r.Gates, y, Scattered); err != nil {
		return nil, err
	}
	m.discard(rec, &s.Slots)
	return s, nil
}

// discard releases an intermediate when the configuration says so.
func (m *MLP) discard(rec *vk.Recorder, t **vk.Tensor) {
	if m.Config.Discard {
		rec.Release(*t)
		*t = nil
	}
}

// check checks input and output and returns T.
func (m *MLP) check(dev *vk.Device, x, y *vk.Tensor) (tokens int, err error) {
	const op = "MLP.Forward"
	tokens, _, err = matrix(op, "x", x)
	if err != nil {
		return 0, err
	}
	err = firstError(
		checkTensor(dev, op, "x", x, m.Config.DType, tokens, m.Config.Width),
		checkTensor(dev, op, "y", y, m.Config.DType, tokens, m.Config.Width),
	)
	if err == nil {
		err = checkApart(op, "y", y, map[string]*vk.Tensor{"x": x})
	}
	return tokens, err
}
