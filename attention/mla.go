package attention

import (
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// An MLAConfig describes multi-head latent attention.
type MLAConfig struct {
	Width, Heads int // D, H

	QueryRank int // of the queries' latent; 0: queries are projected from x
	KVRank    int // of the keys' and values' latent

	PlainWidth  int // N: elements of a query and key head that do not turn (qk_nope_head_dim)
	TurnedWidth int // R: those that do, behind them (qk_rope_head_dim); the width of the RoPE
	ValueWidth  int // dv of a value head

	Bias bool    // of QueryDown, KVDown and Output
	Eps  float32 // of the norms

	Causal bool
	Window int     // as FlashConfig's
	Scale  float32 // of q·k; 0 means the RoPE's SoftmaxFactor/√(N + R)

	// DType is the storage of weights, biases, input, output and intermediates: F32, F16 or BF16. The softmax's statistics and
	// sums are F32 always.
	DType vk.DType
}

// Validate reports the first field that makes no sense as a *ConfigError, or as a *moe.ConfigError of a projection.
func (c MLAConfig) Validate() error {
	const name = "MLAConfig"
	err := check.First(
		check.InRange(name, "QueryRank", c.QueryRank, 0, maxRowWidth),
		check.InRange(name, "KVRank", c.KVRank, 1, maxRowWidth),
		check.InRange(name, "PlainWidth", c.PlainWidth, 1, MaxHeadWidth),
		check.InRange(name, "TurnedWidth", c.TurnedWidth, 2, MaxHeadWidth),
		c.flash(nil).Validate(),
	)
	if err == nil && !(c.Eps >= 0) {
		err = check.Config(name, "Eps", "a number that is not negative", fmt.Sprint(c.Eps))
	}
	l := MLA{Config: c}
	for _, part := range l.parts() {
		err = check.First(err, part.cfg.Validate())
	}
	return err
}

// headWidth is the width of a query or key head, N + R.
func (c MLAConfig) headWidth() int { return c.PlainWidth + c.TurnedWidth }

// upWidth is what KVUp makes of a token for each head: N elements of the key, then the value.
func (c MLAConfig) upWidth() int { return c.PlainWidth + c.ValueWidth }

// flash is the attention of the layer; without a RoPE it has no scale.
func (c MLAConfig) flash(rope *RoPE) FlashConfig {
	scale := c.Scale
	if scale == 0 && rope != nil {
		scale = float32(rope.Config.SoftmaxFactor() / math.Sqrt(float64(c.headWidth())))
	}
	return FlashConfig{Heads: c.Heads, KVHeads: c.Heads, Width: c.headWidth(), ValueWidth: c.ValueWidth, Causal: c.Causal,
		Window: c.Window, Scale: scale, DType: c.DType}
}

// An MLA is multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1; transformers' DeepseekV3Attention):
//
//	q = QueryUp·norm(QueryDown·x)       H heads of N + R, or QueryUp·x without QueryDown
//	[c | r] = KVDown·x                  a latent of KVRank elements, and R elements of every head's key
//	[k | v] = KVUp·norm(c)              H heads of N + dv
//	y = Output·attention(q, [k | r], v)
//
// where the last R elements of queries and keys turn by the RoPE. Queries and keys keep the order of elements that the weights
// give them; DeepSeek's RoPE is Interleaved.
//
// Keys and values are expanded for all heads before attention. A KVCache holds them so: H·(N + R + dv) elements per token,
// against KVRank + R of a compressed one (DeepSeek-V3: 40,960 against 576), for which attention would have to multiply
// with KVUp's weights.
type MLA struct {
	Config MLAConfig

	QueryDown *moe.ParallelLinear // D → QueryRank, nil without
	QueryUp   *moe.ParallelLinear // QueryRank or D → H·(N + R)
	KVDown    *moe.ParallelLinear // D → KVRank + R
	KVUp      *moe.ParallelLinear // KVRank → H·(N + dv)
	Output    *moe.ParallelLinear // H·dv → D

	RoPE      *RoPE      // the caller's
	QueryNorm *vk.Tensor // [QueryRank] of the layer's dtype, nil without QueryDown
	KVNorm    *vk.Tensor // [KVRank] of the layer's dtype
}

// NewMLA allocates the layer's weights, WeightBytes of them; they are undefined until uploaded. rope, of Width TurnedWidth,
// stays the caller's and may serve any number of layers. It fails with a *ConfigError, a *moe.ConfigError or vk.ErrOutOfMemory.
func NewMLA(dev *vk.Device, cfg MLAConfig, rope *RoPE) (*MLA, error) {
	err := cfg.Validate()
	switch {
	case err != nil:
		return nil, err
	case rope == nil:
		return nil, check.Config("MLA", "RoPE", "a RoPE", "nil")
	case rope.Config.Width != cfg.TurnedWidth:
		return nil, check.Config("RoPEConfig", "Width", fmt.Sprintf("TurnedWidth %d", cfg.TurnedWidth), fmt.Sprint(rope.Config.Width))
	}
	l := &MLA{Config: cfg, RoPE: rope}
	if err := newWeights(dev, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// rows are the width and the dtype of x and y.
func (l *MLA) rows() (int, vk.DType) { return l.Config.Width, l.Config.DType }

// parts are the layer's linear maps.
func (l *MLA) parts() []linearPart {
	c := l.Config
	queryIn := c.Width
	var list []linearPart
	if c.QueryRank > 0 {
		list = append(list, denseMap(&l.QueryDown, "query down", c.Width, c.QueryRank, c.Bias, c.DType))
		queryIn = c.QueryRank
	}
	return append(list,
		denseMap(&l.QueryUp, "query up", queryIn, c.Heads*c.headWidth(), false, c.DType),
		denseMap(&l.KVDown, "key value down", c.Width, c.KVRank+c.TurnedWidth, c.Bias, c.DType),
		denseMap(&l.KVUp, "key value up", c.KVRank, c.Heads*c.upWidth(), false, c.DType),
		denseMap(&l.Output, "output", c.Heads*c.ValueWidth, c.Width, c.Bias, c.DType),
	)
}

// vectors are the layer's norms.
func (l *MLA) vectors() []vectorPart {
	list := []vectorPart{{"KVNorm", &l.KVNorm, l.Config.DType, l.Config.KVRank}}
	if l.Config.QueryRank > 0 {
		list = append(list, vectorPart{"QueryNorm", &l.QueryNorm, l.Config.DType, l.Config.QueryRank})
	}
	return list
}

// Close frees the weights. Closing twice does nothing.
func (l *MLA) Close() error { return closeWeights(l) }

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256. Their gradients (NewGrads)
// take as much.
func (c MLAConfig) WeightBytes() uint64 {
	return weightBytes(&MLA{Config: c})
}
