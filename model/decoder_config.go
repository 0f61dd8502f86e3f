package model

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A LayerConfig describes one layer: one of the three kinds of attention, and an MLP with or without experts. Their Width,
// DType and Weights are the decoder's.
type LayerConfig struct {
	// One of the three is set.
	SelfAttention *attention.SelfAttentionConfig
	MLA           *attention.MLAConfig
	Mixture       *attention.MixtureConfig
	RoPE          *attention.RoPEConfig // nil for none

	// One of the two is set.
	MLP   *moe.MLPConfig
	Dense *DenseConfig
}

// A DecoderConfig describes a decoder of pre-norm layers:
//
//	h = EmbeddingScale·Embedding[id]
//	h += ResidualScale·Attention(norm(h)),  h += ResidualScale·MLP(norm(h))   layer by layer
//	logits = LogitScale·Head·norm(h)
//
// norm is RMSNorm. A scale of 0 means 1.
type DecoderConfig struct {
	Type       string        // model_type by whose names tensors are loaded and saved
	Vocabulary int           // V
	Width      int           // D
	Epsilon    float32       // of the norms
	Tied       bool          // the head is the embedding
	Layers     []LayerConfig // from the embedding to the head

	EmbeddingScale, ResidualScale, LogitScale float32 // 0 means 1

	Positions int      // the longest sequence, in tokens
	DType     vk.DType // storage of weights and rows: F32, F16 or BF16
	// Weights is how the matrices of the MLPs are stored, those of experts, shared experts and dense ones. A decoder with quantized
	// ones is for inference: NewGrads and Initialize fail with a *moe.ConfigError.
	Weights moe.WeightFormat
}

func orOne(scale float32) float32 {
	if scale == 0 {
		return 1
	}
	return scale
}

// normalized returns the configuration with what its layers leave out filled in, or the first fault.
func (c DecoderConfig) normalized() (DecoderConfig, error) {
	bad := func(field, want string, got any) (DecoderConfig, error) {
		return c, &moe.ConfigError{Config: "DecoderConfig", Field: field, Want: want, Got: fmt.Sprint(got)}
	}
	switch {
	case c.Vocabulary < 1 || c.Vocabulary > 1<<19:
		return bad("Vocabulary", "1 to 524288", c.Vocabulary)
	case c.Width < 1 || c.Width > 1<<19:
		return bad("Width", "1 to 524288", c.Width)
	case !(c.Epsilon >= 0 && c.Epsilon < 1):
		return bad("Epsilon", "0 to 1", c.Epsilon)
	case len(c.Layers) < 1 || len(c.Layers) > maxLayers:
		return bad("Layers", fmt.Sprintf("1 to %d", maxLayers), len(c.Layers))
	case c.Positions < 1 || c.Positions > 1<<24:
		return bad("Positions", "1 to 2^24", c.Positions)
	case c.Weights > moe.WeightsQ4:
		return bad("Weights", "full, int8 or q4", c.Weights)
	case c.DType != vk.F32 && c.DType != vk.F16 && c.DType != vk.BF16:
		return bad("DType", "f32, f16 or bf16", c.DType)
	}
	for _, scale := range []float32{c.EmbeddingScale, c.ResidualScale, c.LogitScale} {
		if math.IsNaN(float64(scale)) || math.IsInf(float64(scale), 0) {
			return bad("scales", "finite", scale)
		}
	}
	if _, known := architectures[c.Type]; !known {
		return c, &UnsupportedModelError{c.Type, "", "known are " + knownTypes()}
	}
	layers := make([]LayerConfig, len(c.Layers))
	for i, l := range c.Layers {
		var err error
		if layers[i], err = l.normalized(c); err != nil {
			return c, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	c.Layers = layers
	return c, nil
}

// normalized fills in width and dtype, and checks the layer.
func (l LayerConfig) normalized(c DecoderConfig) (LayerConfig, error) {
	var err error
	kinds, mlps := 0, 0
	if l.SelfAttention != nil {
		s := *l.SelfAttention
		s.Width, s.DType, kinds = c.Width, c.DType, kinds+1
		l.SelfAttention, err = &s, s.Validate()
	}
	if l.MLA != nil && err == nil {
		s := *l.MLA
		s.Width, s.DType, kinds = c.Width, c.DType, kinds+1
		l.MLA, err = &s, s.Validate()
	}
	if l.Mixture != nil && err == nil {
		s := *l.Mixture
		s.Width, s.DType, kinds = c.Width, c.DType, kinds+1
		l.Mixture, err = &s, s.Validate()
	}
	if l.MLP != nil && err == nil {
		s := *l.MLP
		s.Width, s.DType, s.Weights, mlps = c.Width, c.DType, c.Weights, mlps+1
		l.MLP, err = &s, firstError(s.Validate(), gated(s.Activation))
	}
	if l.Dense != nil && err == nil {
		s := *l.Dense
		s.Width, s.DType, s.Weights, mlps = c.Width, c.DType, c.Weights, mlps+1
		up, down := s.linears()
		l.Dense, err = &s, firstError(up.Validate(), down.Validate(), gated(s.Activation))
	}
	switch {
	case err != nil:
	case kinds != 1:
		err = &moe.ConfigError{Config: "LayerConfig", Field: "attention", Want: "one kind", Got: fmt.Sprint(kinds)}
	case mlps != 1:
		err = &moe.ConfigError{Config: "LayerConfig", Field: "MLP or Dense", Want: "one", Got: fmt.Sprint(mlps)}
	}
	return l, err
}

// checkTrainable refuses quantized weights.
func (c DecoderConfig) checkTrainable() error {
	if c.Weights == moe.WeightsFull {
		return nil
	}
	return &moe.ConfigError{Config: "DecoderConfig", Field: "Weights", Want: "full for training", Got: c.Weights.String()}
}

// gated refuses activations that checkpoints have no names for.
func gated(a moe.Activation) error {
	if a.Gated() {
		return nil
	}
	return &moe.ConfigError{Config: "LayerConfig", Field: "Activation", Want: "a gated one", Got: a.String()}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// WeightBytes is the device memory of the decoder's weights, in bytes. A training step takes as much for the gradients (twice
// that for F32 gradients of 16-bit weights), and the optimizer 8 bytes a parameter, 12 with master copies.
func (c DecoderConfig) WeightBytes() (uint64, error) {
	c, err := c.normalized()
	if err != nil {
		return 0, err
	}
	round := func(n int) uint64 { return (uint64(n)*c.DType.Bytes() + 255) / 256 * 256 }
	n := round(c.Vocabulary*c.Width) + round(c.Width)
	if !c.Tied {
		n += round(c.Vocabulary * c.Width)
	}
	for _, l := range c.Layers {
		n += 2 * round(c.Width)
		switch {
		case l.SelfAttention != nil:
			n += l.SelfAttention.WeightBytes()
		case l.MLA != nil:
			n += l.MLA.WeightBytes()
		case l.Mixture != nil:
			n += l.Mixture.WeightBytes()
		}
		if l.MLP != nil {
			n += l.MLP.WeightBytes()
		} else {
			up, down := l.Dense.linears()
			for _, m := range []moe.ParallelLinearConfig{up, down} {
				n += (m.Weights.ExpertBytes(m.DType, m.In, m.Out) + 255) / 256 * 256
			}
		}
	}
	return n, nil
}
