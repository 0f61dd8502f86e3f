// Package golden embeds the reference models that the demo offers, so that it finds them wherever it is started.
// They are tiny decoders with random weights; README.md says how they were made.
package golden

import "embed"

// Models holds one folder per model, in the layout of public checkpoints: config.json and model.safetensors. The
// recorded activations beside them are for tests and are not embedded.
//
//go:embed granitemoe/config.json mixtral/config.json olmoe/config.json qwen3moe/config.json
//go:embed granitemoe/model.safetensors mixtral/model.safetensors olmoe/model.safetensors qwen3moe/model.safetensors
var Models embed.FS
