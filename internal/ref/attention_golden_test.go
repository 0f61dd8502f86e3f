package ref

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// attentionBlock turns a goldenLayer to the layer's attention.
func (g *goldenLayer) attentionBlock(layer int, module string) {
	g.prefix = fmt.Sprintf("model.layers.%d.%s.", layer, module)
}

// dense reads a projection, with its bias if it has one.
func (g *goldenLayer) dense(name string) Linear[float64] {
	info, err := g.weights.Info(g.prefix + name + ".weight")
	require.NoError(g.t, err)
	l := Linear[float64]{Experts: 1, Out: info.Shape[0], In: info.Shape[1], Weight: g.weight(name + ".weight")}
	if _, err := g.weights.Info(g.prefix + name + ".bias"); err == nil {
		l.Bias = g.weight(name + ".bias")
	}
	return l
}

// number reads a field of the configuration or of a member of it.
func (g *goldenLayer) number(path ...string) float64 {
	values := g.config
	for _, name := range path[:len(path)-1] {
		values = values[name].(map[string]any)
	}
	return values[path[len(path)-1]].(float64)
}

const goldenBatch, goldenLength = 2, 24

func goldenOffsets() []int32 { return []int32{0, goldenLength, goldenBatch * goldenLength} }

// selfAttention reads a block of the given head width.
func (g *goldenLayer) selfAttention(d int) SelfAttention[float64] {
	return SelfAttention[float64]{
		Attention: Attention{Heads: g.size("num_attention_heads"), KVHeads: g.size("num_key_value_heads"), Width: d, ValueWidth: d,
			Causal: true, QueryOffsets: goldenOffsets()},
		RoPE:  RoPE{Width: d, Base: g.number("rope_parameters", "rope_theta")},
		Query: g.dense("q_proj"), Key: g.dense("k_proj"), Value: g.dense("v_proj"), Output: g.dense("o_proj"),
		Epsilon: g.number("rms_norm_eps"),
	}
}

func (g *goldenLayer) mla() MLA[float64] {
	heads, plain, rotated := g.size("num_attention_heads"), g.size("qk_nope_head_dim"), g.size("qk_rope_head_dim")
	down := g.dense("q_a_proj")
	return MLA[float64]{
		Attention: Attention{Heads: heads, KVHeads: heads, Width: plain + rotated, ValueWidth: g.size("v_head_dim"), Causal: true,
			QueryOffsets: goldenOffsets()},
		RoPE:      RoPE{First: plain, Width: rotated, Base: g.number("rope_parameters", "rope_theta"), Interleaved: true},
		QueryDown: &down, QueryNorm: g.weight("q_a_layernorm.weight"), QueryUp: g.dense("q_b_proj"),
		KVDown: g.dense("kv_a_proj_with_mqa"), KVNorm: g.weight("kv_a_layernorm.weight"), KVUp: g.dense("kv_b_proj"),
		Output: g.dense("o_proj"), Epsilon: g.number("rms_norm_eps"),
	}
}

func (g *goldenLayer) mixtureOfAttention() MixtureOfAttention[float64] {
	width, experts, h, d := g.size("hidden_size"), g.size("num_local_experts"), g.size("num_key_value_heads"), g.size("kv_channels")
	bank := func(name string, in, out int) Linear[float64] {
		return Linear[float64]{Experts: experts, In: in, Out: out, Weight: g.weight(name)}
	}
	return MixtureOfAttention[float64]{
		Attention: Attention{Heads: g.size("num_experts_per_tok") * h, KVHeads: h, Width: d, ValueWidth: d, Tiled: true, Causal: true,
			QueryOffsets: goldenOffsets()},
		RoPE:   RoPE{Width: d, Base: g.number("rope_parameters", "rope_theta")},
		Gating: Router{Mode: TopKSoftmax}, Router: g.dense("experts.router.layer"),
		Query:  bank("experts.input_linear.weight", width, h*d),
		Output: bank("experts.output_linear.weight", h*d, width), KeyValue: g.dense("kv_proj"), Bias: g.weight("experts.bias"),
	}
}

// TestAttentionReproducesReferenceModels runs the attention blocks of models that transformers evaluated and finds the
// recorded outputs. transformers computes the angles of the rotation in float32.
func TestAttentionReproducesReferenceModels(t *testing.T) {
	self := func(head func(g *goldenLayer) int, change func(g *goldenLayer, layer int, s *SelfAttention[float64])) func(*goldenLayer, int, []float64) []float64 {
		return func(g *goldenLayer, layer int, x []float64) []float64 {
			g.attentionBlock(layer, "self_attn")
			s := g.selfAttention(head(g))
			change(g, layer, &s)
			return SelfAttentionForward(s, x).Out.Y
		}
	}
	headDim := func(g *goldenLayer) int { return g.size("head_dim") }
	shared := func(g *goldenLayer) int { return g.size("hidden_size") / g.size("num_attention_heads") }
	plain := func(*goldenLayer, int, *SelfAttention[float64]) {}
	norms := func(g *goldenLayer, _ int, s *SelfAttention[float64]) {
		s.QueryNorm, s.KeyNorm = g.weight("q_norm.weight"), g.weight("k_norm.weight")
	}
	for name, run := range map[string]func(g *goldenLayer, layer int, x []float64) []float64{
		"mixtral":  self(headDim, plain),
		"qwen2moe": self(shared, plain),
		"qwen3moe": self(headDim, norms),
		"olmoe":    self(shared, norms),
		"granitemoe": self(shared, func(g *goldenLayer, _ int, s *SelfAttention[float64]) {
			s.Attention.Scale = g.number("attention_multiplier")
		}),
		"gptoss": self(headDim, func(g *goldenLayer, layer int, s *SelfAttention[float64]) {
			if g.config["layer_types"].([]any)[layer] == "sliding_attention" {
				s.Attention.Window = g.size("sliding_window")
			}
			for _, v := range g.weight("sinks") {
				s.Attention.Sinks = append(s.Attention.Sinks, float32(v))
			}
			parameter := func(field string) float64 { return g.number("rope_parameters", field) }
			s.RoPE.Scaling = RoPEScaling{Kind: YaRNScaling, Factor: parameter("factor"), KeepFractions: true,
				OriginalLength: parameter("original_max_position_embeddings"), BetaFast: parameter("beta_fast"), BetaSlow: parameter("beta_slow")}
		}),
		"deepseekv3": func(g *goldenLayer, layer int, x []float64) []float64 {
			g.attentionBlock(layer, "self_attn")
			return MLAForward(g.mla(), x).Out.Y
		},
		"jetmoe": func(g *goldenLayer, layer int, x []float64) []float64 {
			g.attentionBlock(layer, "self_attention")
			return MixtureOfAttentionForward(g.mixtureOfAttention(), x).Out.Y
		},
	} {
		for layer := range 2 {
			t.Run(fmt.Sprintf("%s/%d", name, layer), func(t *testing.T) {
				g := openGolden(t, name, layer)
				module := "self_attn"
				if name == "jetmoe" {
					module = "self_attention"
				}
				g.attentionBlock(layer, module)
				in, want := g.block()
				got := run(g, layer, in)
				diff := RelativeFrobenius(got, want)
				t.Logf("relative Frobenius error %.2g", diff)
				require.True(t, diff <= 1e-6 && !math.IsNaN(diff), "%v", diff)
			})
		}
	}
}
