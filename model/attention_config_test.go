package model

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
)

func TestReadAttentionOfGoldenModels(t *testing.T) {
	grouped := func(c attention.SelfAttentionConfig) *attention.SelfAttentionConfig {
		c.Width, c.Heads, c.Causal = 32, 4, true
		return &c
	}
	for name, want := range map[string]AttentionWeights{
		"mixtral": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 2, HeadWidth: 16}),
			RoPE: attention.RoPEConfig{Width: 16, Base: 1e6}},
		"granitemoe": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 2, HeadWidth: 8, Scale: 0.2}),
			RoPE: attention.RoPEConfig{Width: 8, Base: 10000}},
		"olmoe": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 4, HeadWidth: 8, QKNorm: attention.NormRow, Eps: 1e-5}),
			RoPE: attention.RoPEConfig{Width: 8, Base: 10000}},
		"qwen2moe": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 2, HeadWidth: 8, Bias: true}),
			RoPE: attention.RoPEConfig{Width: 8, Base: 10000}},
		"qwen3moe": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 2, HeadWidth: 16, QKNorm: attention.NormHead, Eps: 1e-6}),
			RoPE: attention.RoPEConfig{Width: 16, Base: 10000}},
		"gptoss": {SelfAttention: grouped(attention.SelfAttentionConfig{KVHeads: 2, HeadWidth: 16, Bias: true, OutputBias: true, Sinks: true, Window: 8}),
			RoPE: attention.RoPEConfig{Width: 16, Base: 150000, Scaling: attention.ScaleYaRN, Factor: 32, OriginalPositions: 4096,
				BetaFast: 32, BetaSlow: 1, NoTruncate: true}},
		"jetmoe": {Mixture: &attention.MixtureConfig{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 32,
			Mode: moe.TopKSoftmax, OutputBias: true, Causal: true}, RoPE: attention.RoPEConfig{Width: 16, Base: 10000}},
		"deepseekv3": {MLA: &attention.MLAConfig{Width: 32, Heads: 4, QueryRank: 24, KVRank: 32, PlainWidth: 16, TurnedWidth: 8, ValueWidth: 16,
			Eps: 1e-6, Causal: true}, RoPE: attention.RoPEConfig{Width: 8, Base: 10000, Interleaved: true}},
	} {
		c, err := ReadConfig(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		got, err := c.parseAttention(0)
		require.NoError(t, err, name)
		require.Equal(t, &want, got, name)
		got, err = c.parseAttention(1)
		require.NoError(t, err)
		if name == "gptoss" {
			want.SelfAttention.Window = 0
		}
		require.Equal(t, &want, got, "%s, layer 1", name)
	}
}

// attentionOf parses the attention of a layer of a configuration with what every architecture needs, and extra.
func attentionOf(t *testing.T, modelType, extra string, layer int) (*AttentionWeights, error) {
	t.Helper()
	c, err := ParseConfig("config.json", []byte(`{"model_type":"`+modelType+`","hidden_size":64,"num_hidden_layers":4,`+
		`"num_experts":8,"num_local_experts":8,"n_routed_experts":8,"n_group":1,"topk_group":1,"first_k_dense_replace":0,`+
		`"num_experts_per_tok":2,"intermediate_size":8,"moe_intermediate_size":8,"shared_expert_intermediate_size":8`+extra+`}`))
	require.NoError(t, err)
	return c.parseAttention(layer)
}

const fourHeads = `,"num_attention_heads":4,"num_key_value_heads":2`

func TestParseRoPE(t *testing.T) {
	for extra, want := range map[string]attention.RoPEConfig{
		``:                                    {Width: 16, Base: 10000},
		`,"rope_theta":5,"rope_scaling":null`: {Width: 16, Base: 5},
		`,"partial_rotary_factor":0.5`:        {Width: 8, Base: 10000},
		`,"rope_parameters":{"rope_type":"default"}`:                  {Width: 16, Base: 10000},
		`,"rope_scaling":{"type":"linear","factor":4},"rope_theta":7`: {Width: 16, Base: 7, Scaling: attention.ScaleLinear, Factor: 4},
		`,"rope_parameters":{"rope_type":"yarn","rope_theta":9,"factor":40,"mscale":1.0,"mscale_all_dim":0.5,"attention_factor":2.0},` +
			`"max_position_embeddings":77`: {Width: 16, Base: 9, Scaling: attention.ScaleYaRN, Factor: 40, OriginalPositions: 77,
			BetaFast: 32, BetaSlow: 1, MScale: 1, MScaleAllDim: 0.5, AttentionFactor: 2},
		`,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,` +
			`"original_max_position_embeddings":8192}`: {Width: 16, Base: 10000, Scaling: attention.ScaleLlama3, Factor: 8,
			OriginalPositions: 8192, LowFreqFactor: 1, HighFreqFactor: 4},
	} {
		w, err := attentionOf(t, "qwen3_moe", fourHeads+extra, 0)
		require.NoError(t, err, extra)
		require.Equal(t, want, w.RoPE, extra)
	}
}

func TestParseAttentionVariants(t *testing.T) {
	window := func(modelType, extra string, layer int) int {
		w, err := attentionOf(t, modelType, fourHeads+extra, layer)
		require.NoError(t, err, extra)
		return w.SelfAttention.Window
	}
	require.Equal(t, 5, window("mixtral", `,"sliding_window":5`, 1))
	require.Equal(t, 0, window("qwen3_moe", `,"sliding_window":5`, 1))
	require.Equal(t, 5, window("qwen3_moe", `,"sliding_window":5,"use_sliding_window":true`, 1))
	require.Equal(t, 0, window("qwen2_moe", `,"sliding_window":5,"use_sliding_window":true,"max_window_layers":2`, 1))
	require.Equal(t, 5, window("qwen2_moe", `,"sliding_window":5,"use_sliding_window":true,"max_window_layers":2`, 2))
	require.Equal(t, 5, window("gpt_oss", `,"sliding_window":5`, 2))
	require.Equal(t, 0, window("gpt_oss", `,"sliding_window":5`, 3))
	types := `,"sliding_window":5,"layer_types":["full_attention","sliding_attention","full_attention","full_attention"]`
	require.Equal(t, 0, window("gpt_oss", types, 0))
	require.Equal(t, 5, window("mixtral", types, 1))

	w, err := attentionOf(t, "granitemoe", `,"num_attention_heads":4,"attention_bias":true`, 0)
	require.NoError(t, err)
	require.Equal(t, &attention.SelfAttentionConfig{Width: 64, Heads: 4, KVHeads: 4, HeadWidth: 16, Bias: true, OutputBias: true, Scale: 1,
		Causal: true}, w.SelfAttention, "no key/value heads are as many as heads, and no multiplier is 1")

	latent := `,"num_attention_heads":4,"kv_lora_rank":8,"qk_nope_head_dim":12,"qk_rope_head_dim":4,"v_head_dim":6,"q_lora_rank":null`
	w, err = attentionOf(t, "deepseek_v3", latent+`,"rope_interleave":false,"rope_scaling":{"type":"yarn","factor":40,"mscale":1.0,`+
		`"mscale_all_dim":1.0,"original_max_position_embeddings":4096}`, 0)
	require.NoError(t, err)
	require.Zero(t, w.MLA.QueryRank)
	require.Zero(t, w.MLA.Scale)
	require.InDelta(t, 1.3688879*1.3688879, w.RoPE.SoftmaxFactor(), 1e-6, "the softmax is sharpened by (0.1·ln 40 + 1)²")
	require.False(t, w.RoPE.Interleaved)
	require.Equal(t, 1.0, w.RoPE.RotationFactor())
}

func TestParseAttentionRefuses(t *testing.T) {
	for extra, field := range map[string]string{
		``: "num_attention_heads",
		`,"num_attention_heads":0,"num_key_value_heads":1`:       "num_attention_heads",
		`,"num_attention_heads":4,"num_key_value_heads":3`:       "num_key_value_heads",
		`,"num_attention_heads":4,"num_key_value_heads":8`:       "num_key_value_heads",
		`,"num_attention_heads":4`:                               "num_key_value_heads",
		`,"num_attention_heads":5,"num_key_value_heads":1`:       "num_attention_heads",
		fourHeads + `,"head_dim":-1`:                             "head_dim",
		fourHeads + `,"rope_theta":-1`:                           "rope_theta",
		fourHeads + `,"rope_theta":"many"`:                       "rope_theta",
		fourHeads + `,"rope_scaling":3`:                          "rope_scaling",
		fourHeads + `,"rope_scaling":{"type":"linear"}`:          "rope_scaling.factor",
		fourHeads + `,"rope_scaling":{"type":"yarn","factor":2}`: "max_position_embeddings",
		fourHeads + `,"rope_parameters":{"rope_type":4}`:         "rope_parameters.rope_type",
		fourHeads + `,"rope_parameters":{"rope_type":"llama3","factor":2,"original_max_position_embeddings":9,"low_freq_factor":1}`: "rope_parameters.high_freq_factor",
		fourHeads + `,"partial_rotary_factor":1.5`:                     "partial_rotary_factor",
		fourHeads + `,"partial_rotary_factor":0.1`:                     "partial_rotary_factor",
		fourHeads + `,"layer_types":["full_attention"]`:                "layer_types",
		fourHeads + `,"layer_types":7`:                                 "layer_types",
		fourHeads + `,"sliding_window":-5`:                             "sliding_window",
		fourHeads + `,"layer_types":["sliding_attention","a","b","c"]`: "sliding_window",
	} {
		_, err := attentionOf(t, "mixtral", extra, 0)
		var fault *ConfigError
		require.ErrorAs(t, err, &fault, extra)
		require.True(t, strings.HasSuffix(fault.Field, field), "%s: %v", extra, err)
	}
	for extra, model := range map[string]string{
		fourHeads + `,"rope_scaling":{"type":"dynamic","factor":2}`:                 "mixtral",
		fourHeads + `,"rope_scaling":{"type":"longrope","factor":2}`:                "qwen3_moe",
		fourHeads + `,"layer_types":["chunked_attention","a","b","c"]`:              "gpt_oss",
		fourHeads + `,"clip_qkv":8.0`:                                               "olmoe",
		fourHeads + `,"rope_parameters":{"full_attention":{"rope_type":"default"}}`: "qwen3_moe",
		fourHeads + `,"head_dim":100000`:                                            "mixtral",
	} {
		_, err := attentionOf(t, model, extra, 0)
		var unsupported *UnsupportedModelError
		require.ErrorAs(t, err, &unsupported, extra)
		require.Equal(t, "attention", unsupported.Part)
	}
	_, err := attentionOf(t, "jetmoe", `,"num_attention_heads":8,"num_key_value_heads":2,"kv_channels":16`, 0)
	var fault *ConfigError
	require.ErrorAs(t, err, &fault, "two experts of two heads are not eight heads")
}
