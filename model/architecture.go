package model

import (
	"fmt"
	"slices"
	"strings"
)

// An architecture is how one model_type is configured and how its checkpoints name things.
type architecture struct {
	parse func(*Config, *fields)

	attention      string // the attention block within a layer
	parseAttention func(*attentionParser)

	block  string // the MLP block within a layer: tensors are model.layers.N.<block>.…; the names below are within it
	router string // router weight [E,D]

	// Experts stored one by one: format strings of the expert's number.
	gate, up, down string // [H,D], [H,D], [D,H]

	// Experts stored fused, when gate is "": [E,2H,D] with the H gate rows first and [E,D,H], or [E,D,2H] with interleaved
	// columns and [E,H,D].
	fusedUp, fusedDown string

	// What not every architecture has; a configuration that asks for one of these has its name here.
	routerBias, correctionBias string // [E]
	upBias, downBias           string // [E,2H], [E,D]
	shared                     string // what the names of the shared experts' matrices start with
	sharedGate                 string // [1,D]
	outputBias                 string // [D]
}

// qwenNames are the names of most decoders.
var qwenNames = architecture{
	attention: "self_attn", block: "mlp", router: "gate.weight",
	gate: "experts.%d.gate_proj.weight", up: "experts.%d.up_proj.weight", down: "experts.%d.down_proj.weight",
}

// architectures by model_type.
var architectures = map[string]architecture{
	"mixtral": {
		parse: parseMixtral, attention: "self_attn", parseAttention: attendMixtral,
		block: "block_sparse_moe", router: "gate.weight",
		gate: "experts.%d.w1.weight", up: "experts.%d.w3.weight", down: "experts.%d.w2.weight",
	},
	"granitemoe": {
		parse: parseGraniteMoE, attention: "self_attn", parseAttention: attendGraniteMoE,
		block: "block_sparse_moe", router: "router.layer.weight",
		fusedUp: "input_linear.weight", fusedDown: "output_linear.weight",
	},
	"jetmoe": {
		parse: parseJetMoE, attention: "self_attention", parseAttention: attendJetMoE,
		block: "mlp", router: "router.layer.weight",
		fusedUp: "input_linear.weight", fusedDown: "output_linear.weight", outputBias: "bias",
	},
	"olmoe":     qwenNames.with(func(a *architecture) { a.parse, a.parseAttention = parseOLMoE, attendOLMoE }),
	"qwen3_moe": qwenNames.with(func(a *architecture) { a.parse, a.parseAttention = parseQwen3MoE, attendQwen3MoE }),
	"qwen2_moe": qwenNames.with(func(a *architecture) {
		a.parse, a.parseAttention = parseQwen2MoE, attendQwen2MoE
		a.shared, a.sharedGate = "shared_expert.", "shared_expert_gate.weight"
	}),
	"deepseek_v3": qwenNames.with(func(a *architecture) {
		a.parse, a.parseAttention = parseDeepSeekV3, attendDeepSeekV3
		a.shared, a.correctionBias = "shared_experts.", "gate.e_score_correction_bias"
	}),
	"gpt_oss": {
		parse: parseGPTOSS, attention: "self_attn", parseAttention: attendGPTOSS,
		block: "mlp", router: "router.weight", routerBias: "router.bias",
		fusedUp: "experts.gate_up_proj", fusedDown: "experts.down_proj",
		upBias: "experts.gate_up_proj_bias", downBias: "experts.down_proj_bias",
	},
}

func (a architecture) with(change func(*architecture)) architecture {
	change(&a)
	return a
}

func knownTypes() string {
	var names []string
	for name := range architectures {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// attentionPrefix is what the names of a layer's attention tensors start with.
func (a *architecture) attentionPrefix(layer int) string {
	return fmt.Sprintf("model.layers.%d.%s.", layer, a.attention)
}

// prefix is what the names of a layer's MLP tensors start with.
func (a *architecture) prefix(layer int) string {
	return fmt.Sprintf("model.layers.%d.%s.", layer, a.block)
}
