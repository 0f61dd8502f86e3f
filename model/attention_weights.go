package model

import (
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/vk"
)

// AttentionWeights are the host weights of one layer's attention; what the configuration does not have is nil. One of the
// three configurations is set. Matrices are [out,in]. Hq and Hkv count heads of queries and of keys, d their width.
type AttentionWeights struct {
	SelfAttention *attention.SelfAttentionConfig // grouped-query attention
	MLA           *attention.MLAConfig           // multi-head latent attention
	Mixture       *attention.MixtureConfig       // mixture of attention; h heads of each of E experts
	RoPE          attention.RoPEConfig

	// Grouped-query attention: [Hq·d,D], [Hkv·d,D], [Hkv·d,D] and [D,Hq·d]. A mixture: Query [E,h·d,D] and Output [E,D,h·d].
	// Latent attention: Output [D, Hq·value width].
	Query, Key, Value, Output                 []float32
	QueryBias, KeyBias, ValueBias, OutputBias []float32 // a mixture's OutputBias [D] is added after the weighted sum

	QueryNorm, KeyNorm []float32 // [d], or [Hq·d] and [Hkv·d]; latent attention's QueryNorm [rank] follows QueryDown
	Sinks              []float32 // [Hq]

	// Of latent attention.
	QueryDown, QueryDownBias []float32 // [rank,D], [rank]
	QueryUp                  []float32 // [Hq·(plain width + turned width), rank or D]
	KVDown, KVDownBias       []float32 // [rank + turned width, D]: the latent, then the key's turned part
	KVNorm                   []float32 // [rank]
	KVUp                     []float32 // [Hq·(plain width + value width), rank], head by head

	// Of a mixture.
	RouterWeight []float32 // [E,D]
	KeyValue     []float32 // [2·h·d, D]: keys, then values
}

// Width is the model width D.
func (w *AttentionWeights) Width() int {
	switch {
	case w.SelfAttention != nil:
		return w.SelfAttention.Width
	case w.MLA != nil:
		return w.MLA.Width
	}
	return w.Mixture.Width
}

// Rounded returns the weights as a layer of that dtype stores them, and the configuration with the dtype set; see
// MLPWeights.Rounded. Sinks stay as they are, in F32.
func (w *AttentionWeights) Rounded(dtype vk.DType) *AttentionWeights {
	out := *w
	out.setDType(dtype)
	for name, a := range out.arrays() {
		if name != "Sinks" {
			*a = vk.Round(dtype, *a)
		}
	}
	return &out
}

// arrays are the weights by name.
func (w *AttentionWeights) arrays() map[string]*[]float32 {
	return map[string]*[]float32{
		"Query": &w.Query, "Key": &w.Key, "Value": &w.Value, "Output": &w.Output,
		"QueryBias": &w.QueryBias, "KeyBias": &w.KeyBias, "ValueBias": &w.ValueBias, "OutputBias": &w.OutputBias,
		"QueryNorm": &w.QueryNorm, "KeyNorm": &w.KeyNorm, "Sinks": &w.Sinks,
		"QueryDown": &w.QueryDown, "QueryDownBias": &w.QueryDownBias, "QueryUp": &w.QueryUp, "KVDown": &w.KVDown, "KVDownBias": &w.KVDownBias,
		"KVNorm": &w.KVNorm, "KVUp": &w.KVUp, "RouterWeight": &w.RouterWeight, "KeyValue": &w.KeyValue,
	}
}

// WithDType returns the same weights with the dtype set in a copy of the configuration.
func (w *AttentionWeights) WithDType(dtype vk.DType) *AttentionWeights {
	out := *w
	out.setDType(dtype)
	return &out
}

func (w *AttentionWeights) setDType(dtype vk.DType) {
	switch {
	case w.SelfAttention != nil:
		cfg := *w.SelfAttention
		cfg.DType, w.SelfAttention = dtype, &cfg
	case w.MLA != nil:
		cfg := *w.MLA
		cfg.DType, w.MLA = dtype, &cfg
	case w.Mixture != nil:
		cfg := *w.Mixture
		cfg.DType, w.Mixture = dtype, &cfg
	}
}

// LoadAttention reads the attention of one layer, converting to float32. It refuses tensors as LoadMLP does, and returns the
// configuration's faults: a *ConfigError, or an *UnsupportedModelError for what the library does not compute.
func (c *Checkpoint) LoadAttention(layer int) (*AttentionWeights, error) {
	if layer < 0 || layer >= c.Config.Layers {
		return nil, fmt.Errorf("model: layer %d of a model with %d layers", layer, c.Config.Layers)
	}
	w, err := c.Config.parseAttention(layer)
	if err != nil {
		return nil, err
	}
	prefix := c.arch.attentionPrefix(layer)
	if err := readParts(c, prefix, w.parts(prefix), w); err != nil {
		return nil, err
	}
	return w, nil
}

type attentionPart = part[AttentionWeights]

// parts lists the tensors of the block.
func (w *AttentionWeights) parts(prefix string) []attentionPart {
	switch {
	case w.SelfAttention != nil:
		return selfAttentionParts(prefix, w.SelfAttention)
	case w.MLA != nil:
		return mlaParts(prefix, w.MLA)
	}
	return mixtureParts(prefix, w.Mixture)
}

func selfAttentionParts(prefix string, cfg *attention.SelfAttentionConfig) []attentionPart {
	heads, kv := cfg.Heads*cfg.HeadWidth, cfg.KVHeads*cfg.HeadWidth
	parts := []attentionPart{
		{prefix + "q_proj.weight", []int{heads, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.Query }, 0},
		{prefix + "k_proj.weight", []int{kv, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.Key }, 0},
		{prefix + "v_proj.weight", []int{kv, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.Value }, 0},
		{prefix + "o_proj.weight", []int{cfg.Width, heads}, func(w *AttentionWeights) *[]float32 { return &w.Output }, 0},
	}
	if cfg.Bias {
		parts = append(parts,
			attentionPart{prefix + "q_proj.bias", []int{heads}, func(w *AttentionWeights) *[]float32 { return &w.QueryBias }, 0},
			attentionPart{prefix + "k_proj.bias", []int{kv}, func(w *AttentionWeights) *[]float32 { return &w.KeyBias }, 0},
			attentionPart{prefix + "v_proj.bias", []int{kv}, func(w *AttentionWeights) *[]float32 { return &w.ValueBias }, 0})
	}
	if cfg.OutputBias {
		parts = append(parts, attentionPart{prefix + "o_proj.bias", []int{cfg.Width}, attentionOutputBias, 0})
	}
	if cfg.QKNorm != attention.NoNorm {
		query, key := cfg.HeadWidth, cfg.HeadWidth
		if cfg.QKNorm == attention.NormRow {
			query, key = heads, kv
		}
		parts = append(parts,
			attentionPart{prefix + "q_norm.weight", []int{query}, func(w *AttentionWeights) *[]float32 { return &w.QueryNorm }, 0},
			attentionPart{prefix + "k_norm.weight", []int{key}, func(w *AttentionWeights) *[]float32 { return &w.KeyNorm }, 0})
	}
	if cfg.Sinks {
		parts = append(parts, attentionPart{prefix + "sinks", []int{cfg.Heads}, func(w *AttentionWeights) *[]float32 { return &w.Sinks }, 0})
	}
	return parts
}

func attentionOutputBias(w *AttentionWeights) *[]float32 { return &w.OutputBias }

func mlaParts(prefix string, cfg *attention.MLAConfig) []attentionPart {
	queries := cfg.Heads * (cfg.PlainWidth + cfg.TurnedWidth)
	parts := []attentionPart{
		{prefix + "kv_a_proj_with_mqa.weight", []int{cfg.KVRank + cfg.TurnedWidth, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.KVDown }, 0},
		{prefix + "kv_a_layernorm.weight", []int{cfg.KVRank}, func(w *AttentionWeights) *[]float32 { return &w.KVNorm }, 0},
		{prefix + "kv_b_proj.weight", []int{cfg.Heads * (cfg.PlainWidth + cfg.ValueWidth), cfg.KVRank}, func(w *AttentionWeights) *[]float32 { return &w.KVUp }, 0},
		{prefix + "o_proj.weight", []int{cfg.Width, cfg.Heads * cfg.ValueWidth}, func(w *AttentionWeights) *[]float32 { return &w.Output }, 0},
	}
	query := func(w *AttentionWeights) *[]float32 { return &w.QueryUp }
	if cfg.QueryRank == 0 {
		parts = append(parts, attentionPart{prefix + "q_proj.weight", []int{queries, cfg.Width}, query, 0})
	} else {
		parts = append(parts,
			attentionPart{prefix + "q_a_proj.weight", []int{cfg.QueryRank, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.QueryDown }, 0},
			attentionPart{prefix + "q_a_layernorm.weight", []int{cfg.QueryRank}, func(w *AttentionWeights) *[]float32 { return &w.QueryNorm }, 0},
			attentionPart{prefix + "q_b_proj.weight", []int{queries, cfg.QueryRank}, query, 0})
	}
	if cfg.Bias {
		if cfg.QueryRank > 0 {
			parts = append(parts, attentionPart{prefix + "q_a_proj.bias", []int{cfg.QueryRank}, func(w *AttentionWeights) *[]float32 { return &w.QueryDownBias }, 0})
		}
		parts = append(parts,
			attentionPart{prefix + "kv_a_proj_with_mqa.bias", []int{cfg.KVRank + cfg.TurnedWidth}, func(w *AttentionWeights) *[]float32 { return &w.KVDownBias }, 0},
			attentionPart{prefix + "o_proj.bias", []int{cfg.Width}, attentionOutputBias, 0})
	}
	return parts
}

func mixtureParts(prefix string, cfg *attention.MixtureConfig) []attentionPart {
	columns := cfg.HeadsPerExpert * cfg.HeadWidth
	parts := []attentionPart{
		{prefix + "experts.router.layer.weight", []int{cfg.Experts, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.RouterWeight }, 0},
		{prefix + "experts.input_linear.weight", []int{cfg.Experts, columns, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.Query }, 0},
		{prefix + "experts.output_linear.weight", []int{cfg.Experts, cfg.Width, columns}, func(w *AttentionWeights) *[]float32 { return &w.Output }, 0},
		{prefix + "kv_proj.weight", []int{2 * columns, cfg.Width}, func(w *AttentionWeights) *[]float32 { return &w.KeyValue }, 0},
	}
	if cfg.OutputBias {
		parts = append(parts, attentionPart{prefix + "experts.bias", []int{cfg.Width}, attentionOutputBias, 0})
	}
	return parts
}
