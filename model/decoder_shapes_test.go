package model

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// oddModels are configurations of all architectures whose sizes fit no tile. Every expert is chosen, so that the loss has a
// derivative everywhere.
var oddModels = map[string]string{
	"mixtral": `{"model_type":"mixtral","hidden_size":18,"num_hidden_layers":2,"num_local_experts":3,"num_experts_per_tok":3,
		"intermediate_size":7,"num_attention_heads":3,"num_key_value_heads":1,"head_dim":6,"vocab_size":37,"sliding_window":5}`,
	"granitemoe": `{"model_type":"granitemoe","hidden_size":15,"num_hidden_layers":2,"num_local_experts":2,"num_experts_per_tok":2,
		"intermediate_size":9,"num_attention_heads":3,"num_key_value_heads":3,"head_dim":4,"vocab_size":29,"embedding_multiplier":3,
		"residual_multiplier":0.5,"logits_scaling":2,"attention_multiplier":0.3,"tie_word_embeddings":true}`,
	"olmoe": `{"model_type":"olmoe","hidden_size":20,"num_hidden_layers":1,"num_experts":4,"num_experts_per_tok":4,
		"intermediate_size":5,"num_attention_heads":5,"num_key_value_heads":5,"vocab_size":31,"norm_topk_prob":true}`,
	"qwen2": `{"model_type":"qwen2_moe","hidden_size":14,"num_hidden_layers":3,"num_experts":3,"num_experts_per_tok":3,
		"moe_intermediate_size":5,"intermediate_size":11,"shared_expert_intermediate_size":7,"mlp_only_layers":[1],"num_attention_heads":7,
		"num_key_value_heads":7,"head_dim":2,"vocab_size":23}`,
	"qwen3": `{"model_type":"qwen3_moe","hidden_size":10,"num_hidden_layers":2,"num_experts":2,"num_experts_per_tok":2,
		"moe_intermediate_size":3,"intermediate_size":11,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,"vocab_size":41}`,
	"gptoss": `{"model_type":"gpt_oss","hidden_size":22,"num_hidden_layers":2,"num_local_experts":3,"num_experts_per_tok":3,
		"intermediate_size":9,"num_attention_heads":6,"num_key_value_heads":3,"head_dim":8,"vocab_size":33,"sliding_window":3}`,
	"jetmoe": `{"model_type":"jetmoe","hidden_size":17,"num_hidden_layers":2,"num_local_experts":3,"num_experts_per_tok":3,
		"intermediate_size":5,"num_attention_heads":6,"num_key_value_heads":2,"kv_channels":6,"vocab_size":26}`,
	"deepseek": `{"model_type":"deepseek_v3","hidden_size":19,"num_hidden_layers":2,"n_routed_experts":4,"num_experts_per_tok":4,"n_group":2,
		"topk_group":2,"moe_intermediate_size":5,"intermediate_size":13,"n_shared_experts":2,"first_k_dense_replace":1,"num_attention_heads":3,
		"q_lora_rank":7,"kv_lora_rank":9,"qk_nope_head_dim":5,"qk_rope_head_dim":4,"v_head_dim":6,"vocab_size":27}`,
}

// TestGradientsOfOddModelsAreDerivatives moves each parameter along its gradient and compares the loss's change with the
// gradient's norm.
func TestGradientsOfOddModelsAreDerivatives(t *testing.T) {
	for name, text := range oddModels {
		if testing.Short() && name != "jetmoe" && name != "deepseek" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			k := gputest.New(t, dev)
			c, err := ParseConfig("config.json", []byte(text))
			require.NoError(t, err)
			cfg, err := c.Decoder(vk.F32)
			require.NoError(t, err)
			d, err := NewDecoder(t.Context(), dev, cfg)
			require.NoError(t, err)
			defer d.Close()
			require.NoError(t, d.Initialize(t.Context(), 3, 0.4))
			require.NoError(t, d.NewGrads(vk.F32))
			const tokens = 13
			ids, targets := make([]int32, tokens), make([]int32, tokens)
			for i := range ids {
				ids[i], targets[i] = int32(i*5%cfg.Vocabulary), int32((i*11+3)%cfg.Vocabulary)
			}
			in := Batch{IDs: k.I32("ids", ids, tokens), Sequences: attention.Sequences{Offsets: k.I32("offsets", []int32{0, 4, 4, tokens}, 4)}}
			_, err = d.Loss(k.Rec, in, k.I32("targets", targets, tokens), LossPass{})
			require.NoError(t, err)
			k.Run()
			judge, err := dev.NewRecorder()
			require.NoError(t, err)
			defer judge.Close()
			losses, err := d.Loss(judge, in, k.I32("targets", targets, tokens), LossPass{NoGrads: true})
			require.NoError(t, err)
			for _, p := range d.Parameters() {
				requireDerivative(t, p, func() float64 {
					require.NoError(t, judge.Run(t.Context()))
					return float64(gputest.Download[float32](t, losses.CrossEntropy)[0])
				})
			}
		})
	}
}

// requireDerivative compares a gradient's norm with the central difference of the loss along it.
func requireDerivative(t *testing.T, p Parameter, loss func() float64) {
	t.Helper()
	value, grad := gputest.Download[float32](t, p.Value), gputest.Download[float32](t, p.Grad)
	norm := ref.GlobalNorm([][]float32{grad}, 1)
	if norm < 1e-3 {
		return // the differences of two losses in f32 say nothing about it
	}
	step := 0.01 / max(1, norm) // so that the loss moves by about a hundredth
	at := func(h float64) float64 {
		moved := make([]float32, len(value))
		for i := range moved {
			moved[i] = value[i] + float32(h*float64(grad[i])/norm)
		}
		require.NoError(t, vk.Upload(t.Context(), p.Value, moved))
		return loss()
	}
	difference := (at(step) - at(-step)) / (2 * step)
	require.NoError(t, vk.Upload(t.Context(), p.Value, value))
	// Rounding of two losses of about 4, and the third derivative.
	require.LessOrEqual(t, math.Abs(difference-norm), 2e-4+0.02*norm, "%s: %v, by differences %v", p.Name, norm, difference)
}
