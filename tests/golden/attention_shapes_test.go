package golden

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// An attentionShape is a model whose attention the recorded ones do not have.
type attentionShape struct {
	modelType, config string
	width             int
	batch, length     int
	tensors           map[string][]int // within the block
}

// grouped are the tensors of grouped-query attention.
func grouped(width, heads, keys int, more map[string][]int) map[string][]int {
	tensors := map[string][]int{"q_proj.weight": {heads, width}, "k_proj.weight": {keys, width}, "v_proj.weight": {keys, width},
		"o_proj.weight": {width, heads}}
	for name, shape := range more {
		tensors[name] = shape
	}
	return tensors
}

var attentionShapes = []attentionShape{
	{"mixtral", `"num_attention_heads":1,"num_key_value_heads":1,"head_dim":2`, 1, 1, 1, grouped(1, 2, 2, nil)},
	{"mixtral", `"num_attention_heads":6,"num_key_value_heads":3,"head_dim":10,"sliding_window":7,"rope_theta":500.0`, 20, 3, 33, grouped(20, 60, 30, nil)},
	{"mixtral", `"num_attention_heads":4,"num_key_value_heads":1,"head_dim":80,"rope_scaling":{"rope_type":"llama3","factor":8.0,` +
		`"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}`, 36, 1, 70, grouped(36, 320, 80, nil)},
	{"granitemoe", `"num_attention_heads":3,"attention_bias":true,"attention_multiplier":0.5,"rope_scaling":{"type":"linear","factor":3.0}`, 18, 2, 17,
		grouped(18, 18, 18, map[string][]int{"q_proj.bias": {18}, "k_proj.bias": {18}, "v_proj.bias": {18}, "o_proj.bias": {18}})},
	{"olmoe", `"num_attention_heads":2,"num_key_value_heads":1,"partial_rotary_factor":0.5`, 24, 2, 65,
		grouped(24, 24, 12, map[string][]int{"q_norm.weight": {24}, "k_norm.weight": {12}})},
	{"qwen3_moe", `"num_attention_heads":5,"num_key_value_heads":5,"head_dim":6,"use_sliding_window":true,"sliding_window":1`, 15, 4, 9,
		grouped(15, 30, 30, map[string][]int{"q_norm.weight": {6}, "k_norm.weight": {6}})},
	{"gpt_oss", `"num_attention_heads":8,"num_key_value_heads":2,"head_dim":64,"sliding_window":5,"rope_scaling":{"rope_type":"yarn",` +
		`"factor":4.0,"beta_fast":32.0,"beta_slow":1.0,"original_max_position_embeddings":32}`, 28, 2, 40,
		grouped(28, 512, 128, map[string][]int{"q_proj.bias": {512}, "k_proj.bias": {128}, "v_proj.bias": {128}, "o_proj.bias": {28}, "sinks": {8}})},
	{"jetmoe", `"num_key_value_heads":3,"kv_channels":8`, 21, 3, 19, map[string][]int{"experts.router.layer.weight": {4, 21},
		"experts.input_linear.weight": {4, 24, 21}, "experts.output_linear.weight": {4, 21, 24}, "experts.bias": {21}, "kv_proj.weight": {48, 21}}},
	{"deepseek_v3", `"num_attention_heads":3,"kv_lora_rank":7,"qk_nope_head_dim":5,"qk_rope_head_dim":4,"v_head_dim":6,"rope_scaling":` +
		`{"type":"yarn","factor":40.0,"mscale":1.0,"mscale_all_dim":0.7,"original_max_position_embeddings":16}`, 22, 2, 31,
		map[string][]int{"q_proj.weight": {27, 22}, "kv_a_proj_with_mqa.weight": {11, 22}, "kv_a_layernorm.weight": {7},
			"kv_b_proj.weight": {33, 7}, "o_proj.weight": {22, 18}}},
	{"deepseek_v3", `"num_attention_heads":2,"kv_lora_rank":9,"qk_nope_head_dim":16,"qk_rope_head_dim":8,"v_head_dim":32,"q_lora_rank":6,` +
		`"attention_bias":true,"rope_interleave":false`, 26, 1, 66,
		map[string][]int{"q_a_proj.weight": {6, 26}, "q_a_proj.bias": {6}, "q_a_layernorm.weight": {6}, "q_b_proj.weight": {48, 6},
			"kv_a_proj_with_mqa.weight": {17, 26}, "kv_a_proj_with_mqa.bias": {17}, "kv_a_layernorm.weight": {9},
			"kv_b_proj.weight": {96, 9}, "o_proj.weight": {26, 64}, "o_proj.bias": {26}}},
}

// TestDeviceOnOtherAttention writes model folders with random weights whose expected values the oracle computes.
func TestDeviceOnOtherAttention(t *testing.T) {
	opts := openDevice(t)
	opts.Only = []Part{Attention}
	for i, s := range attentionShapes {
		t.Run(fmt.Sprintf("%s D=%d B=%d T=%d", s.modelType, s.width, s.batch, s.length), func(t *testing.T) {
			dir := s.write(t)
			// The norm of few values is no mean over many roundings, by which a 16-bit tolerance is reasoned.
			dtypes := []vk.DType{vk.F32, []vk.DType{vk.F16, vk.BF16}[i%2]}
			if s.width == 1 {
				dtypes = dtypes[:1]
			}
			for _, opts.DType = range dtypes {
				report := Run(t.Context(), dir, opts)
				require.Equal(t, ExitPass, report.Exit(), "%v %+v", opts.DType, report.Models[0])
				require.Len(t, report.Models[0].Tensors, 2)
			}
		})
	}
}

// write makes the folder of a model with two layers of that attention.
func (s attentionShape) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`{"model_type":%q,"hidden_size":%d,"num_hidden_layers":2,"num_experts":4,"num_local_experts":4,`+
		`"n_routed_experts":4,"n_group":1,"topk_group":1,"first_k_dense_replace":0,"num_experts_per_tok":2,"intermediate_size":1,`+
		`"moe_intermediate_size":1,%s}`, s.modelType, s.width, s.config)
	require.NoError(t, os.WriteFile(filepath.Join(dir, model.ConfigFile), []byte(config), 0o644))
	rng := rand.New(rand.NewPCG(uint64(s.width), uint64(s.length)))
	module := "self_attn"
	if s.modelType == "jetmoe" {
		module = "self_attention"
	}
	var weights []safetensors.Entry
	for layer := range 2 {
		for _, name := range slices.Sorted(maps.Keys(s.tensors)) { // in one order, so that the draws are the same every time
			n, shape := 1, s.tensors[name]
			for _, d := range shape {
				n *= d
			}
			weights = append(weights, safetensors.Float32(fmt.Sprintf("model.layers.%d.%s.%s", layer, module, name), shape, normals(rng, 0.2, n)))
		}
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), weights, nil))
	checkpoint, err := model.Open(dir)
	require.NoError(t, err)
	defer checkpoint.Close()
	var expected []safetensors.Entry
	for layer := range 2 {
		w, err := checkpoint.LoadAttention(layer)
		require.NoError(t, err)
		o, err := OracleAttention(w, offsetsOf(s.batch*s.length, s.length))
		require.NoError(t, err)
		x := normals(rng, 1, s.batch*s.length*s.width)
		out, _ := o.Forward(ref.Widen(x))
		name, shape := fmt.Sprintf("model.layers.%d.%s.", layer, module), []int{s.batch, s.length, s.width}
		expected = append(expected, safetensors.Float32(name+"input", shape, x), safetensors.Float32(name+"output", shape, narrow(out)))
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, expectedFile), expected, nil))
	return dir
}
