// Package model reads public checkpoints of sparse Mixture-of-Experts decoders and builds their layers on a device.
//
// A checkpoint folder holds config.json and model.safetensors, or shards listed by model.safetensors.index.json. Open
// reads the configuration and the tensors' headers; LoadMLP reads one layer's MoE block into host memory, experts fused
// into one array per projection; NewMLP uploads it. LoadAttention and NewAttention do so with a layer's attention:
// grouped-query, latent, or a mixture.
//
// Shapes: T tokens, E experts, K choices per token, D model width, H hidden width of one expert.
//
// Checkpoints come from strangers: a field that is absent, out of range or of the wrong type is a *ConfigError, a tensor
// that is missing, unexpected or mis-shaped a *TensorError, and an architecture or a part of one that the library does
// not run a *UnsupportedModelError. A Checkpoint may be read from several goroutines; whoever opened it closes it.
package model

import (
	"fmt"
	"strings"
)

// A ConfigError is a defect of a config.json.
type ConfigError struct {
	Path   string
	Field  string // "" when the file as a whole is at fault
	Detail string
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
	Path      string
	Tensor    string
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
