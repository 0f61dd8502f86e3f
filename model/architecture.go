package model

import (
	"fmt"
	"slices"
	"strings"
)

// An architecture is how one model_type is configured and how its checkpoints name things.
type architecture struct {
	parse func(*Config, *fields) // nil while the MLP cannot run
	lacks string                 // what the library lacks for it, when parse is nil

	block  string // the MLP block within a layer: tensors are model.layers.N.<block>.…
	router string // router weight [E,D] within the block

	// Experts stored one by one: format strings of the expert's number, within the block.
	gate, up, down string // [H,D], [H,D], [D,H]

	// Experts stored fused, within the block, when gate is "".
	fusedUp, fusedDown string // [E,2H,D] with the H gate rows first, [E,D,H]
}

var qwenNames = architecture{
	block: "mlp", router: "gate.weight",
	gate: "experts.%d.gate_proj.weight", up: "experts.%d.up_proj.weight", down: "experts.%d.down_proj.weight",
}

// architectures by model_type.
var architectures = map[string]architecture{
	"mixtral": {
		parse: parseMixtral,
		block: "block_sparse_moe", router: "gate.weight",
		gate: "experts.%d.w1.weight", up: "experts.%d.w3.weight", down: "experts.%d.w2.weight",
	},
	"granitemoe": {
		parse: parseGraniteMoE,
		block: "block_sparse_moe", router: "router.layer.weight",
		fusedUp: "input_linear.weight", fusedDown: "output_linear.weight",
	},
	"olmoe":       qwenNames.parsedBy(parseOLMoE),
	"qwen3_moe":   qwenNames.parsedBy(parseQwen3MoE),
	"jetmoe":      {lacks: "it adds a bias after the gate-weighted sum"},
	"qwen2_moe":   {lacks: "it has a shared expert with a gate of its own"},
	"gpt_oss":     {lacks: "it has a clamped SwiGLU over interleaved columns"},
	"deepseek_v3": {lacks: "it has a sigmoid router with correction bias and expert groups, and shared experts"},
}

func (a architecture) parsedBy(parse func(*Config, *fields)) architecture {
	a.parse = parse
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

// prefix is what the names of a layer's MLP tensors start with.
func (a *architecture) prefix(layer int) string {
	return fmt.Sprintf("model.layers.%d.%s.", layer, a.block)
}
