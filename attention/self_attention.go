package attention

import (
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A QKNorm says what of queries and keys is normalized (RMSNorm) before they turn.
type QKNorm uint8

// The norms of queries and keys.
const (
	NoNorm   QKNorm = iota
	NormHead        // each head by itself, all with one weight [HeadWidth] (Qwen3)
	NormRow         // all heads of a token as one row, with a weight [Heads·HeadWidth] or [KVHeads·HeadWidth] (OLMoE)
)

// A SelfAttentionConfig describes a self-attention layer with grouped heads.
type SelfAttentionConfig struct {
	Width          int // D
	Heads, KVHeads int // Hq, a multiple of Hkv
	HeadWidth      int // d, of queries, keys and values

	Bias       bool    // of the projections of queries, keys and values
	OutputBias bool    // of the output projection
	QKNorm     QKNorm  // between the projections of queries and keys and the RoPE
	Eps        float32 // of the norm

	// Causal, Window, SoftCap and Scale are those of FlashConfig. Sinks gives the layer a sink for each query head.
	Causal         bool
	Window         int
	Sinks          bool
	SoftCap, Scale float32

	// DType is the storage of weights, biases, input, output and intermediates: F32, F16 or BF16. The softmax's statistics,
	// sinks and sums are F32 always.
	DType vk.DType
}

// Validate reports the first field that makes no sense as a *ConfigError, or as a *moe.ConfigError of a projection.
func (c SelfAttentionConfig) Validate() error {
	const name = "SelfAttentionConfig"
	err := check.First(
		c.flash().Validate(),
		check.InRange(name, "QKNorm", int(c.QKNorm), 0, int(NormRow)),
	)
	if err == nil && !(c.Eps >= 0) {
		err = check.Config(name, "Eps", "a number that is not negative", fmt.Sprint(c.Eps))
	}
	l := SelfAttention{Config: c}
	for _, part := range l.parts() {
		err = check.First(err, part.cfg.Validate())
	}
	return err
}

func (c SelfAttentionConfig) flash() FlashConfig {
	return FlashConfig{Heads: c.Heads, KVHeads: c.KVHeads, Width: c.HeadWidth, ValueWidth: c.HeadWidth, Causal: c.Causal,
		Window: c.Window, SoftCap: c.SoftCap, Scale: c.Scale, DType: c.DType}
}

// queryWidth and keyWidth are the widths of a token's queries and of its keys or values.
func (c SelfAttentionConfig) queryWidth() int { return c.Heads * c.HeadWidth }
func (c SelfAttentionConfig) keyWidth() int   { return c.KVHeads * c.HeadWidth }

// normWidths are the lengths of the norms' weights, 0 without.
func (c SelfAttentionConfig) normWidths() (query, key int) {
	switch c.QKNorm {
	case NormHead:
		return c.HeadWidth, c.HeadWidth
	case NormRow:
		return c.queryWidth(), c.keyWidth()
	}
	return 0, 0
}

// A SelfAttention is multi-head self-attention whose query heads share key and value heads in groups (arXiv 2305.13245):
//
//	q = turn(norm(Query·x)),  k = turn(norm(Key·x)),  v = Value·x
//	y = Output·attention(q, k, v)
//
// turn is the RoPE. The projections are ParallelLinear with one expert. The attention of Mixtral, Qwen, OLMoE, Granite and
// gpt-oss is this layer.
type SelfAttention struct {
	Config                    SelfAttentionConfig
	Query, Key, Value, Output *moe.ParallelLinear // D → Hq·d, D → Hkv·d twice, Hq·d → D

	RoPE               *RoPE      // the caller's; nil for none
	QueryNorm, KeyNorm *vk.Tensor // of the layer's dtype, nil without
	Sinks              *vk.Tensor // F32 [Hq], nil without
}

// NewSelfAttention allocates the layer's weights, WeightBytes of them; they are undefined until uploaded. rope turns queries
// and keys and is nil for a layer without; it stays the caller's and may serve any number of layers. It fails with a
// *ConfigError, a *moe.ConfigError or vk.ErrOutOfMemory.
func NewSelfAttention(dev *vk.Device, cfg SelfAttentionConfig, rope *RoPE) (*SelfAttention, error) {
	err := cfg.Validate()
	if err == nil && rope != nil && rope.Config.Width > cfg.HeadWidth {
		err = check.Config("RoPEConfig", "Width", fmt.Sprintf("at most HeadWidth %d", cfg.HeadWidth), fmt.Sprint(rope.Config.Width))
	}
	if err != nil {
		return nil, err
	}
	l := &SelfAttention{Config: cfg, RoPE: rope}
	if err := newWeights(dev, l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// rows are the width and the dtype of x and y.
func (l *SelfAttention) rows() (int, vk.DType) { return l.Config.Width, l.Config.DType }

// parts are the layer's linear maps.
func (l *SelfAttention) parts() []linearPart {
	c := l.Config
	return []linearPart{
		denseMap(&l.Query, "query", c.Width, c.queryWidth(), c.Bias, c.DType),
		denseMap(&l.Key, "key", c.Width, c.keyWidth(), c.Bias, c.DType),
		denseMap(&l.Value, "value", c.Width, c.keyWidth(), c.Bias, c.DType),
		denseMap(&l.Output, "output", c.queryWidth(), c.Width, c.OutputBias, c.DType),
	}
}

// vectors are the layer's norms and sinks.
func (l *SelfAttention) vectors() []vectorPart {
	var list []vectorPart
	if query, key := l.Config.normWidths(); query > 0 {
		list = append(list, vectorPart{"QueryNorm", &l.QueryNorm, l.Config.DType, query},
			vectorPart{"KeyNorm", &l.KeyNorm, l.Config.DType, key})
	}
	if l.Config.Sinks {
		list = append(list, vectorPart{"Sinks", &l.Sinks, vk.F32, l.Config.Heads})
	}
	return list
}

// Close frees the weights. Closing twice does nothing.
func (l *SelfAttention) Close() error { return closeWeights(l) }

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's bytes,
// w·(2·D·Hq·d + 2·D·Hkv·d), biases, norms and sinks. Their gradients (NewGrads) take as much.
func (c SelfAttentionConfig) WeightBytes() uint64 {
	return weightBytes(&SelfAttention{Config: c})
}
