// Package model runs whole decoders, and reads and writes their public checkpoints.
//
// # Checkpoints
//
// A checkpoint folder holds config.json and model.safetensors, or shards listed by model.safetensors.index.json. Open reads
// the configuration and the tensors' headers. LoadDecoder builds the whole model on a device and fills it piece by piece;
// LoadDecoderWith quantizes the experts on the way; LoadMLP and LoadAttention read one block into host memory, and NewMLP and NewAttention upload it. Decoder.Save writes the
// same names back. Package tokenizer reads tokenizer.json.
//
// # Running
//
//	checkpoint, err := model.Open(folder)
//	decoder, err := model.LoadDecoder(ctx, dev, checkpoint, vk.BF16, 0)
//	generator, err := model.NewGenerator(ctx, decoder, model.GeneratorConfig{Sequences: 1, Capacity: 512})
//	tokens, err := generator.Generate(ctx, model.Request{Prompts: prompts, Tokens: 100, Token: print})
//
// Decoder.Logits records a forward pass, Decoder.Loss a loss and the gradients of all parameters; package train makes
// training steps of it.
//
// # Shapes
//
// T tokens of all sequences of a batch, B sequences, V vocabulary, D model width, E experts, K choices per token, H hidden
// width of one expert.
//
// # Errors
//
// Checkpoints come from strangers: a field that is absent, out of range or of the wrong type is a *ConfigError, a tensor
// that is missing, unexpected or mis-shaped a *TensorError, and an architecture or a part of one that the library does
// not run a *UnsupportedModelError. A model that does not fit the device is a *MemoryError before anything is allocated. What
// is recorded is checked as package moe does.
//
// # Concurrency and ownership
//
// A Checkpoint may be read from several goroutines. Whoever opens or makes something closes it.
package model

import (
	"fmt"
	"strings"
)

// A ConfigError is a defect of a config.json.
type ConfigError struct {
	Path   string // of the file
	Field  string // "" when the file as a whole is at fault
	Detail string // what is wrong, in words
}

func (e *ConfigError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("model: %s: %s", e.Path, e.Detail)
	}
	return fmt.Sprintf("model: %s: %s: %s", e.Path, e.Field, e.Detail)
}

// An UnsupportedModelError is a model, or a part of one, that the library does not run.
type UnsupportedModelError struct {
	Model  string // model_type of config.json
	Part   string // for example "mlp"; "" when the architecture as a whole is unknown
	Reason string
}

func (e *UnsupportedModelError) Error() string {
	if e.Part == "" {
		return fmt.Sprintf("model: architecture %q is not supported: %s", e.Model, e.Reason)
	}
	return fmt.Sprintf("model: %s of %s is not supported yet: %s", e.Part, e.Model, e.Reason)
}

// A TensorFault is what is wrong with a tensor of a checkpoint.
type TensorFault string

// The faults.
const (
	Missing    TensorFault = "missing"
	Unexpected TensorFault = "unexpected"
	MisShaped  TensorFault = "mis-shaped"
)

// A TensorError is a tensor that a checkpoint lacks, holds beyond its configuration, or holds in another shape.
type TensorError struct {
	Path      string // of the checkpoint's folder or file
	Tensor    string // its name
	Fault     TensorFault
	Want, Got []int // shapes, for MisShaped
}

func (e *TensorError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "model: %s: tensor %q is %s", e.Path, e.Tensor, e.Fault)
	if e.Fault == MisShaped {
		fmt.Fprintf(&b, ": shape %v, the configuration asks for %v", e.Got, e.Want)
	}
	return b.String()
}
