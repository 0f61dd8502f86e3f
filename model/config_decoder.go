package model

import (
	"math"

	"github.com/vkmoe/vkmoe/vk"
)

// wholeModel are the members of a configuration that concern no single block, with what transformers takes where they are
// absent.
type wholeModel struct {
	epsilon float32
	tied    bool
}

// wholeModels by model_type; the others have an epsilon of 1e-6 and a head of their own.
var wholeModels = map[string]wholeModel{
	"mixtral": {epsilon: 1e-5}, "olmoe": {epsilon: 1e-5}, "gpt_oss": {epsilon: 1e-5}, "jetmoe": {epsilon: 1e-6, tied: true},
}

// Decoder returns the whole model that the configuration describes, to be stored as dtype. It fails with a *ConfigError, or
// an *UnsupportedModelError where the library does not run a part of it.
func (c *Config) Decoder(dtype vk.DType) (DecoderConfig, error) {
	f := *c.fields
	f.part = "decoder"
	absent := wholeModels[c.Type]
	if absent.epsilon == 0 {
		absent.epsilon = 1e-6
	}
	d := DecoderConfig{
		Type: c.Type, Width: c.Width, DType: dtype,
		Vocabulary: f.size("vocab_size", 1, math.MaxInt32),
		Epsilon:    f.positive("rms_norm_eps", absent.epsilon),
		Tied:       f.boolean("tie_word_embeddings", absent.tied),
		Positions:  f.sizeOr("max_position_embeddings", 4096, 1, 1<<24),
	}
	if c.Type == "granitemoe" {
		d.EmbeddingScale = f.positive("embedding_multiplier", 1)
		d.ResidualScale = f.positive("residual_multiplier", 1)
		d.LogitScale = 1 / f.positive("logits_scaling", 1)
	}
	if f.err != nil {
		return d, f.err
	}
	for layer := range c.Layers {
		l, err := c.layer(layer, dtype)
		if err != nil {
			return d, err
		}
		d.Layers = append(d.Layers, l)
	}
	return d, nil
}

// layer describes one layer.
func (c *Config) layer(layer int, dtype vk.DType) (LayerConfig, error) {
	w, err := c.parseAttention(layer)
	if err != nil {
		return LayerConfig{}, err
	}
	l := LayerConfig{SelfAttention: w.SelfAttention, MLA: w.MLA, Mixture: w.Mixture, RoPE: &w.RoPE}
	if c.Dense(layer) {
		l.Dense = &DenseConfig{Width: c.Width, Hidden: c.DenseHidden, Activation: c.MLP.Activation, DType: dtype}
		return l, nil
	}
	mlp := c.MLP
	l.MLP = &mlp
	return l, nil
}

// tied reports whether the head is the embedding.
func (c *Config) tied() bool {
	f := *c.fields
	return f.boolean("tie_word_embeddings", wholeModels[c.Type].tied)
}
