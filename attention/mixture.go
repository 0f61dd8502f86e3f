package attention

import (
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A MixtureConfig describes a mixture of multi-head attention.
type MixtureConfig struct {
	Experts        int // E
	TopK           int // K
	HeadsPerExpert int // h: query heads of an expert, and key/value heads of the layer
	HeadWidth      int // d
	Width          int // D

	Mode       moe.RouterMode
	RouterBias bool    // the router has a bias
	GateScale  float32 // RouterConfig's Scale

	QueryBias    bool // the experts' query projections have biases
	KeyValueBias bool // the projection of keys and values has a bias
	ExpertBias   bool // the experts' output projections have biases
	OutputBias   bool // a bias is added after the weighted sum (JetMoE)
	InOut        bool // expert weights are stored [E,In,Out] instead of [E,Out,In]

	// Causal, Window, SoftCap and Scale are those of FlashConfig. Sinks gives the layer a sink for each of the K·h heads that a
	// token has.
	Causal         bool
	Window         int
	Sinks          bool
	SoftCap, Scale float32

	// DType is the storage of weights, biases, input, output and intermediates: F32, F16 or BF16. Router logits, gates, the
	// softmax's statistics, sinks and sums are F32 always.
	DType vk.DType
}

// Validate reports the first field that makes no sense as a *ConfigError, or as a *moe.ConfigError of the router or a linear map.
func (c MixtureConfig) Validate() error {
	const name = "MixtureConfig"
	const most = 1 << 16 // of the heads of a token: those of an expert's choices
	err := check.First(
		check.InRange(name, "Experts", c.Experts, 1, moe.MaxExperts),
		check.InRange(name, "TopK", c.TopK, 1, min(c.Experts, moe.MaxTopK)),
		check.InRange(name, "HeadsPerExpert", c.HeadsPerExpert, 1, most/c.TopK),
		check.InRange(name, "HeadWidth", c.HeadWidth, 1, math.MaxInt32),
		c.router().Validate(c.Experts),
		c.flash().Validate(),
	)
	if err != nil {
		return err
	}
	m := Mixture{Config: c}
	for _, part := range m.parts() { // Width, and products that are too large
		err = check.First(err, part.cfg.Validate())
	}
	return err
}

// columns is the width of an expert's heads, h·d.
func (c MixtureConfig) columns() int { return c.HeadsPerExpert * c.HeadWidth }

// heads is the number of query heads that a token has.
func (c MixtureConfig) heads() int { return c.TopK * c.HeadsPerExpert }

func (c MixtureConfig) router() moe.RouterConfig {
	return moe.RouterConfig{TopK: c.TopK, Mode: c.Mode, Scale: c.GateScale}
}

// flash is the attention of the layer: query head j·h + i, of choice j, reads key/value head i.
func (c MixtureConfig) flash() FlashConfig {
	return FlashConfig{Heads: c.heads(), KVHeads: c.HeadsPerExpert, Width: c.HeadWidth, ValueWidth: c.HeadWidth, Tiled: true,
		Causal: c.Causal, Window: c.Window, SoftCap: c.SoftCap, Scale: c.Scale, DType: c.DType}
}

// A Mixture is a mixture of multi-head attention (arXiv 2403.08245, section 3.3; transformers' JetMoeAttention). An expert is
// h query heads with a projection of their outputs; keys and values are one projection that all experts share. With
// e = ids[t,j] and head i of h,
//
//	q[t,j,i] = Query[e]·x[t],  k[t,i], v[t,i] = KeyValue·x[t],  both q and k turned by the RoPE
//	o[t,j,i] = Σ_u softmax_u(q[t,j,i]·k[u,i]) · v[u,i]
//	out[t]   = Σ_j gate[t,j] · Output[e]·o[t,j] + OutputBias
//
// Both expert projections read and write rows in the order of tokens, so that nothing is grouped, copied or padded, and the
// order in time, which attention and caches need, is never left.
type Mixture struct {
	Config   MixtureConfig
	Router   *moe.ParallelLinear // one expert, D → E
	Query    *moe.ParallelLinear // D → h·d
	KeyValue *moe.ParallelLinear // one expert, D → 2·h·d: keys, then values
	Output   *moe.ParallelLinear // h·d → D

	RoPE       *RoPE           // the caller's; nil for none
	OutputBias *moe.ExpertBank // [1,D] of the layer's dtype, nil without
	Sinks      *vk.Tensor      // F32 [K·h], nil without
}

// NewMixture allocates the layer's weights, WeightBytes of them; they are undefined until uploaded. rope turns queries and keys
// and is nil for a layer without; it stays the caller's and may serve any number of layers. It fails with the errors of
// Validate or vk.ErrOutOfMemory.
func NewMixture(dev *vk.Device, cfg MixtureConfig, rope *RoPE) (*Mixture, error) {
	err := cfg.Validate()
	if err == nil && rope != nil && rope.Config.Width > cfg.HeadWidth {
		err = check.Config("RoPEConfig", "Width", fmt.Sprintf("at most HeadWidth %d", cfg.HeadWidth), fmt.Sprint(rope.Config.Width))
	}
	if err != nil {
		return nil, err
	}
	m := &Mixture{Config: cfg, RoPE: rope}
	for _, part := range m.parts() {
		if *part.layer, err = moe.NewParallelLinear(dev, part.cfg); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	if cfg.OutputBias {
		if m.OutputBias, err = moe.NewExpertBank(dev, cfg.DType, 1, cfg.Width); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	if cfg.Sinks {
		if m.Sinks, err = dev.NewTensor(vk.F32, cfg.heads()); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// mixturePart is one of the layer's linear maps.
type mixturePart struct {
	layer **moe.ParallelLinear
	cfg   moe.ParallelLinearConfig
}

// parts are the layer's linear maps.
func (m *Mixture) parts() []mixturePart {
	c := m.Config
	part := func(layer **moe.ParallelLinear, label string, experts, in, out int, bias bool) mixturePart {
		return mixturePart{layer, moe.ParallelLinearConfig{Experts: experts, In: in, Out: out, Bias: bias, DType: c.DType,
			InOut: c.InOut && label != "router" && label != "key value", Label: label}}
	}
	return []mixturePart{
		part(&m.Router, "router", 1, c.Width, c.Experts, c.RouterBias),
		part(&m.Query, "query", c.Experts, c.Width, c.columns(), c.QueryBias),
		part(&m.KeyValue, "key value", 1, c.Width, 2*c.columns(), c.KeyValueBias),
		part(&m.Output, "output", c.Experts, c.columns(), c.Width, c.ExpertBias),
	}
}

// Close frees the weights. Closing twice does nothing.
func (m *Mixture) Close() error {
	err := errors.Join(m.Sinks.Close(), m.OutputBias.Close())
	for _, part := range m.parts() {
		err = errors.Join(err, (*part.layer).Close())
	}
	return err
}

// outputBias is the tensor of OutputBias, or nil.
func (m *Mixture) outputBias() *vk.Tensor {
	if m.OutputBias == nil {
		return nil
	}
	return m.OutputBias.Parts()[0]
}
