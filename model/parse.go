package model

import (
	"fmt"
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/moe"
)

// experts parses what all architectures have, under names that differ.
func (c *Config) experts(f *fields, expertsField, hiddenField, activationField string) {
	m := &c.MLP
	m.Width = c.Width
	m.Experts = f.size(expertsField, 1, moe.MaxExperts)
	m.TopK = f.size("num_experts_per_tok", 1, min(m.Experts, moe.MaxTopK))
	m.Hidden = f.size(hiddenField, 1, math.MaxInt32/2)
	act := f.text(activationField, "silu")
	switch act {
	case "silu", "swish":
		m.Activation = moe.SwiGLU
	case "gelu":
		m.Activation = moe.GEGLU
	case "gelu_new", "gelu_pytorch_tanh":
		m.Activation = moe.GEGLUTanh
	default:
		f.unsupported(c.Type, fmt.Sprintf("activation %q", act))
	}
	if f.has("quantization_config") {
		f.unsupported(c.Type, "its weights are quantized")
	}
}

func parseMixtral(c *Config, f *fields) {
	c.experts(f, "num_local_experts", "intermediate_size", "hidden_act")
	c.MLP.Mode = moe.SoftmaxTopKNorm
}

func parseOLMoE(c *Config, f *fields) {
	c.experts(f, "num_experts", "intermediate_size", "hidden_act")
	c.MLP.Mode = f.normTopKProb()
}

func parseGraniteMoE(c *Config, f *fields) {
	c.experts(f, "num_local_experts", "intermediate_size", "hidden_act")
	c.MLP.Mode = moe.TopKSoftmax
}

func parseJetMoE(c *Config, f *fields) {
	c.experts(f, "num_local_experts", "intermediate_size", "activation_function")
	c.MLP.Mode, c.MLP.OutputBias = moe.TopKSoftmax, true
}

// parseGPTOSS takes swiglu_limit where it is given; transformers, which does not write it, computes with 7. hidden_act
// says silu and is not what the experts compute.
func parseGPTOSS(c *Config, f *fields) {
	c.experts(f, "num_local_experts", "intermediate_size", "hidden_act")
	m := &c.MLP
	m.Mode, m.RouterBias, m.Bias = moe.TopKSoftmax, true, true
	m.InOut, m.Interleaved = true, true
	m.Activation, m.Limit = moe.ClampedSwiGLU, f.positive("swiglu_limit", 7)
}

func parseQwen3MoE(c *Config, f *fields) {
	// Public checkpoints say num_experts, some saved by transformers 5 say num_local_experts.
	experts := "num_experts"
	if f.has("num_local_experts") && !f.has(experts) {
		experts = "num_local_experts"
	}
	c.experts(f, experts, "moe_intermediate_size", "hidden_act")
	c.MLP.Mode = f.normTopKProb()

	step := f.sizeOr("decoder_sparse_step", 1, 1, math.MaxInt32)
	plain := f.sizes("mlp_only_layers")
	c.dense(f, func(layer int) bool { return slices.Contains(plain, layer) || (layer+1)%max(step, 1) != 0 })
}

func parseQwen2MoE(c *Config, f *fields) {
	parseQwen3MoE(c, f)
	c.MLP.SharedHidden = f.size("shared_expert_intermediate_size", 1, math.MaxInt32/2)
	c.MLP.SharedGate = true
}

// parseDeepSeekV3 reads what arXiv 2412.19437, section 2.1.2, describes.
func parseDeepSeekV3(c *Config, f *fields) {
	c.experts(f, "n_routed_experts", "moe_intermediate_size", "hidden_act")
	for field, only := range map[string]string{"scoring_func": "sigmoid", "topk_method": "noaux_tc"} {
		if got := f.text(field, only); got != only {
			f.unsupported(c.Type, fmt.Sprintf("%s %q", field, got))
		}
	}
	m := &c.MLP
	m.Mode, m.CorrectionBias = moe.SigmoidTopK, true
	if f.boolean("norm_topk_prob", true) {
		m.Mode = moe.SigmoidTopKNorm
	}
	m.GateScale = f.positive("routed_scaling_factor", 2.5)
	m.Groups = f.size("n_group", 1, moe.MaxGroups)
	m.TopGroups = f.size("topk_group", 1, max(m.Groups, 1))
	m.SharedHidden = m.Hidden * f.sizeOr("n_shared_experts", 0, 0, math.MaxInt32/2/max(m.Hidden, 1))
	first := f.size("first_k_dense_replace", 0, maxLayers)
	every := f.sizeOr("moe_layer_freq", 1, 1, math.MaxInt32)
	c.dense(f, func(layer int) bool { return layer < first || layer%max(every, 1) != 0 })
	// Layers that predict further tokens follow the last one; they are no part of the decoder.
	c.furtherLayers = f.sizeOr("num_nextn_predict_layers", 0, 0, maxLayers)
	if f.err != nil {
		return
	}
	router := moe.RouterConfig{TopK: m.TopK, Mode: m.Mode, Scale: m.GateScale, Groups: m.Groups, TopGroups: m.TopGroups}
	if err := router.Validate(m.Experts); err != nil {
		f.fail("n_group", "with %d experts, %d of them chosen, and topk_group %d: %v", m.Experts, m.TopK, m.TopGroups, err)
	}
}

// dense notes the layers without experts and parses their hidden width.
func (c *Config) dense(f *fields, is func(layer int) bool) {
	c.denseLayers = map[int]bool{}
	for layer := range c.Layers {
		if is(layer) {
			c.denseLayers[layer] = true
		}
	}
	if len(c.denseLayers) > 0 {
		c.DenseHidden = f.size("intermediate_size", 1, math.MaxInt32/2)
	}
}
