package model

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/vk"
)

const tinyLatent = `{"model_type":"deepseek_v3","hidden_size":2,"num_hidden_layers":1,"n_routed_experts":2,"num_experts_per_tok":1,` +
	`"moe_intermediate_size":1,"n_group":1,"topk_group":1,"first_k_dense_replace":0,"attention_bias":true,` +
	`"num_attention_heads":1,"kv_lora_rank":2,"qk_nope_head_dim":1,"qk_rope_head_dim":2,"v_head_dim":2,"q_lora_rank":1}`

func tinyLatentTensors() []safetensors.Entry {
	const p = "model.layers.0.self_attn."
	return []safetensors.Entry{
		counted(p+"q_a_proj.weight", 1, 1, 2), counted(p+"q_a_proj.bias", 3, 1), counted(p+"q_a_layernorm.weight", 4, 1),
		counted(p+"q_b_proj.weight", 5, 3, 1), counted(p+"kv_a_proj_with_mqa.weight", 10, 4, 2),
		counted(p+"kv_a_proj_with_mqa.bias", 20, 4), counted(p+"kv_a_layernorm.weight", 30, 2),
		counted(p+"kv_b_proj.weight", 40, 3, 2), counted(p+"o_proj.weight", 50, 2, 2), counted(p+"o_proj.bias", 60, 2),
	}
}

func TestLoadAttentionOfDeepSeekV3(t *testing.T) {
	c, err := Open(writeModel(t, tinyLatent, tinyLatentTensors()))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadAttention(0)
	require.NoError(t, err)
	require.Equal(t, 1, w.MLA.QueryRank)
	require.Equal(t, 2, w.Width())
	require.Equal(t, &AttentionWeights{MLA: w.MLA, RoPE: w.RoPE,
		QueryDown: []float32{1, 2}, QueryDownBias: []float32{3}, QueryNorm: []float32{4}, QueryUp: []float32{5, 6, 7},
		KVDown: []float32{10, 11, 12, 13, 14, 15, 16, 17}, KVDownBias: []float32{20, 21, 22, 23}, KVNorm: []float32{30, 31},
		KVUp: []float32{40, 41, 42, 43, 44, 45}, Output: []float32{50, 51, 52, 53}, OutputBias: []float32{60, 61}}, w)
	for _, layer := range []int{-1, 1} {
		_, err = c.LoadAttention(layer)
		require.ErrorContains(t, err, "of a model with 1 layers")
	}
}

func TestLoadAttentionRefusesDamagedBlocks(t *testing.T) {
	const o = "model.layers.0.self_attn.o_proj.weight"
	at := func(name string) int {
		return slices.IndexFunc(tinyLatentTensors(), func(e safetensors.Entry) bool { return e.Name == name })
	}
	for fault, damage := range map[TensorFault]func(e []safetensors.Entry) []safetensors.Entry{
		Missing:   func(e []safetensors.Entry) []safetensors.Entry { return slices.Delete(e, at(o), at(o)+1) },
		MisShaped: func(e []safetensors.Entry) []safetensors.Entry { e[at(o)].Shape = []int{4, 1}; return e },
		Unexpected: func(e []safetensors.Entry) []safetensors.Entry {
			return append(e, counted("model.layers.0.self_attn.sinks", 0, 1))
		},
	} {
		c, err := Open(writeModel(t, tinyLatent, damage(tinyLatentTensors())))
		require.NoError(t, err)
		_, err = c.LoadAttention(0)
		var tensor *TensorError
		require.ErrorAs(t, err, &tensor, fault)
		require.Equal(t, fault, tensor.Fault)
		require.NoError(t, c.Close())
	}
}

func TestAttentionWeightsRounded(t *testing.T) {
	for _, name := range []string{"gptoss", "deepseekv3", "jetmoe"} {
		c, err := Open(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		w, err := c.LoadAttention(0)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		r := w.Rounded(vk.BF16)
		changed := 0
		for name, array := range r.arrays() {
			if name == "Sinks" {
				require.Equal(t, w.Sinks, *array)
				continue
			}
			require.Equal(t, vk.Round(vk.BF16, *w.arrays()[name]), *array, name)
			if len(*array) > 0 && !slices.Equal(*array, *w.arrays()[name]) {
				changed++
			}
		}
		require.Greater(t, changed, 2)
		require.Equal(t, vk.BF16, dtypeOf(r))
		require.Equal(t, vk.F32, dtypeOf(w))
		require.Equal(t, vk.F16, dtypeOf(w.WithDType(vk.F16)))
	}
}

func dtypeOf(w *AttentionWeights) vk.DType {
	switch {
	case w.SelfAttention != nil:
		return w.SelfAttention.DType
	case w.MLA != nil:
		return w.MLA.DType
	}
	return w.Mixture.DType
}

func TestNewAttentionRefusesWrongWeights(t *testing.T) {
	gputest.Need(t, dev)
	for name, damage := range map[string]func(w *AttentionWeights){
		"Query":     func(w *AttentionWeights) { w.Query = w.Query[1:] },
		"Sinks":     func(w *AttentionWeights) { w.Sinks = nil },
		"KeyNorm":   func(w *AttentionWeights) { w.KeyNorm = make([]float32, 16) },
		"KVUp":      func(w *AttentionWeights) { w.KVUp = make([]float32, 1) },
		"ValueBias": func(w *AttentionWeights) { w.ValueBias = append(w.ValueBias, 0) },
		"w":         func(w *AttentionWeights) { w.SelfAttention = nil },
	} {
		c, err := Open(filepath.Join(goldenDir, "gptoss"))
		require.NoError(t, err)
		w, err := c.LoadAttention(0)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		damage(w)
		_, err = NewAttention(t.Context(), dev, w, nil)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, name)
		require.ErrorContains(t, err, name)
	}
}
