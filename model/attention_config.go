package model

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
)

// attentionParser reads the attention of one layer from a configuration.
type attentionParser struct {
	*fields
	c     *Config
	layer int
	w     *AttentionWeights
}

// parseAttention reads what the configuration says of a layer's attention; the arrays are empty. It is read when it is asked
// for: a checkpoint whose attention the library does not run may have MLPs that it runs.
func (c *Config) parseAttention(layer int) (*AttentionWeights, error) {
	f := *c.fields
	f.part = "attention"
	p := &attentionParser{&f, c, layer, &AttentionWeights{}}
	architectures[c.Type].parseAttention(p)
	if p.has("quantization_config") {
		p.unsupported(c.Type, "its weights are quantized")
	}
	if p.err == nil {
		p.validate()
	}
	return p.w, p.err
}

// validate asks the library whether it runs the configuration.
func (p *attentionParser) validate() {
	w := p.w
	err := w.RoPE.Validate()
	switch {
	case err != nil:
	case w.SelfAttention != nil:
		err = w.SelfAttention.Validate()
	case w.MLA != nil:
		err = w.MLA.Validate()
	case w.Mixture != nil:
		err = w.Mixture.Validate()
	}
	if err != nil {
		p.unsupported(p.c.Type, err.Error())
	}
}

// keyValueHeads reads num_key_value_heads, which divides heads. absent is its value where it is absent; 0 makes that a fault.
func (p *attentionParser) keyValueHeads(heads, absent int) int {
	const field = "num_key_value_heads"
	if !p.has(field) && absent > 0 {
		return absent
	}
	n := p.size(field, 1, max(heads, 1))
	if n > 0 && heads%n != 0 {
		p.fail(field, "%d does not divide %d heads", n, heads)
	}
	return n
}

// headWidth reads head_dim, or divides the model's width by the heads.
func (p *attentionParser) headWidth(heads int) int {
	if p.has("head_dim") {
		return p.size("head_dim", 1, math.MaxInt32)
	}
	if heads > 0 && p.c.Width%heads != 0 {
		p.fail("num_attention_heads", "%d does not divide hidden_size %d, and there is no head_dim", heads, p.c.Width)
	}
	return p.c.Width / max(heads, 1)
}

// window reads how many positions a layer sees back, 0 for all. slides says whether this one slides where layer_types do not.
func (p *attentionParser) window(slides bool) int {
	if types := p.texts("layer_types"); p.has("layer_types") {
		if len(types) != p.c.Layers {
			p.fail("layer_types", "has %d entries for %d layers", len(types), p.c.Layers)
			return 0
		}
		switch types[p.layer] {
		case "full_attention":
			return 0
		case "sliding_attention":
			return p.size("sliding_window", 1, math.MaxInt32)
		}
		p.unsupported(p.c.Type, fmt.Sprintf("layer type %q", types[p.layer]))
		return 0
	}
	if !slides {
		return 0
	}
	return p.sizeOr("sliding_window", 0, 1, math.MaxInt32)
}

// selfAttention reads what blocks of grouped-query attention have in common.
func (p *attentionParser) selfAttention(keyValueHeads int, slides bool, base float64) *attention.SelfAttentionConfig {
	heads := p.size("num_attention_heads", 1, math.MaxInt32)
	p.w.SelfAttention = &attention.SelfAttentionConfig{
		Width: p.c.Width, Heads: heads, KVHeads: p.keyValueHeads(heads, min(keyValueHeads, heads)), HeadWidth: p.headWidth(heads),
		Causal: true, Window: p.window(slides),
	}
	p.rope(p.w.SelfAttention.HeadWidth, base)
	return p.w.SelfAttention
}

// everyHead is the keyValueHeads of architectures where absence means one for each head.
const everyHead = math.MaxInt32

func attendMixtral(p *attentionParser) {
	p.selfAttention(0, true, 1_000_000)
}

func attendGraniteMoE(p *attentionParser) {
	s := p.selfAttention(everyHead, false, 10_000)
	s.Bias = p.boolean("attention_bias", false)
	s.OutputBias = s.Bias
	s.Scale = p.positive("attention_multiplier", 1)
}

func attendOLMoE(p *attentionParser) {
	s := p.selfAttention(everyHead, false, 10_000)
	s.Bias = p.boolean("attention_bias", false)
	s.OutputBias = s.Bias
	s.QKNorm, s.Eps = attention.NormRow, p.positive("rms_norm_eps", 1e-5)
	if p.has("clip_qkv") {
		p.unsupported(p.c.Type, "clip_qkv")
	}
}

// attendQwen2MoE: layers from max_window_layers on slide where use_sliding_window is true.
func attendQwen2MoE(p *attentionParser) {
	slides := p.boolean("use_sliding_window", false) && p.layer >= p.sizeOr("max_window_layers", 28, 0, math.MaxInt32)
	p.selfAttention(0, slides, 10_000).Bias = p.boolean("qkv_bias", true)
}

func attendQwen3MoE(p *attentionParser) {
	s := p.selfAttention(0, p.boolean("use_sliding_window", false), 10_000)
	s.Bias = p.boolean("attention_bias", false)
	s.OutputBias = s.Bias
	s.QKNorm, s.Eps = attention.NormHead, p.positive("rms_norm_eps", 1e-6)
}

// attendGPTOSS: without layer_types every second layer slides, beginning with the first.
func attendGPTOSS(p *attentionParser) {
	s := p.selfAttention(0, p.layer%2 == 0, 150_000)
	s.Bias = p.boolean("attention_bias", true)
	s.OutputBias, s.Sinks = s.Bias, true
}

func attendJetMoE(p *attentionParser) {
	h := p.size("num_key_value_heads", 1, math.MaxInt32/moe.MaxTopK)
	m := &attention.MixtureConfig{
		Experts: p.c.MLP.Experts, TopK: p.c.MLP.TopK, HeadsPerExpert: h, HeadWidth: p.size("kv_channels", 1, math.MaxInt32),
		Width: p.c.Width, Mode: moe.TopKSoftmax, OutputBias: true, Causal: true,
	}
	if heads := p.sizeOr("num_attention_heads", h*m.TopK, 1, math.MaxInt32); heads != h*m.TopK {
		p.fail("num_attention_heads", "%d is not the product of %d experts a token and %d heads of one", heads, m.TopK, h)
	}
	p.w.Mixture = m
	p.rope(m.HeadWidth, 10_000)
}

// attendDeepSeekV3 reads what arXiv 2412.19437, section 2.1.1, describes. The norms' epsilon is not the configuration's, and
// the softmax's scale is the library's default: the rotary embedding's factor over the root of the head's width.
func attendDeepSeekV3(p *attentionParser) {
	const epsilon = 1e-6
	m := &attention.MLAConfig{
		Width: p.c.Width, Heads: p.size("num_attention_heads", 1, math.MaxInt32), Causal: true,
		QueryRank: p.sizeOr("q_lora_rank", 0, 1, math.MaxInt32), KVRank: p.size("kv_lora_rank", 1, math.MaxInt32),
		PlainWidth: p.size("qk_nope_head_dim", 1, math.MaxInt32), TurnedWidth: p.size("qk_rope_head_dim", 1, math.MaxInt32),
		ValueWidth: p.size("v_head_dim", 1, math.MaxInt32),
		Bias:       p.boolean("attention_bias", false), Eps: epsilon,
	}
	p.w.MLA = m
	p.rope(m.TurnedWidth, 10_000)
	if p.w.RoPE.Width != m.TurnedWidth {
		p.unsupported(p.c.Type, "a rotary embedding of a part of qk_rope_head_dim")
	}
	p.w.RoPE.Interleaved = p.boolean("rope_interleave", true)
}
