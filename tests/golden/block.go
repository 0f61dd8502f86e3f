package golden

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
)

// A block is the recorded input and output of one block.
type block struct {
	name    string // of the output tensor
	tokens  int
	offsets []int32   // [B+1] of the sequences
	in, out []float32 // [tokens,D]
}

// mlpModules and attentionModules are the names of the modules that compute a layer's MLP and its attention.
var (
	mlpModules       = []string{"mlp", "block_sparse_moe"}
	attentionModules = []string{"self_attn", "self_attention"}
)

// block reads what was recorded of a layer's block, which is named after the module that computed it.
func (c *goldenCase) block(layer int, modules []string) (block, error) {
	for _, module := range modules {
		in := fmt.Sprintf("model.layers.%d.%s.input", layer, module)
		out := fmt.Sprintf("model.layers.%d.%s.output", layer, module)
		info, err := c.expected.Info(in)
		var missing *safetensors.MissingTensorError
		if errors.As(err, &missing) {
			continue
		}
		b := block{name: out}
		if b.tokens, err = c.tokensOf(info); err != nil {
			return block{}, err
		}
		b.offsets = offsetsOf(b.tokens, info.Shape[len(info.Shape)-2])
		outInfo, err := c.expected.Info(out)
		if err != nil {
			return block{}, err
		}
		if !slices.Equal(info.Shape, outInfo.Shape) {
			return block{}, &model.TensorError{Path: c.expected.Path(), Tensor: out, Fault: model.MisShaped, Want: info.Shape, Got: outInfo.Shape}
		}
		if b.in, err = c.expected.Float32s(in); err != nil {
			return block{}, err
		}
		b.out, err = c.expected.Float32s(out)
		return b, err
	}
	return block{}, &model.TensorError{Path: c.expected.Path(), Fault: model.Missing,
		Tensor: fmt.Sprintf("model.layers.%d.%s.input", layer, strings.Join(modules, "|"))}
}

// offsetsOf are those of sequences of one length.
func offsetsOf(tokens, length int) []int32 {
	offsets := []int32{0}
	for t := length; t <= tokens && length > 0; t += length {
		offsets = append(offsets, int32(t))
	}
	return offsets
}

// recordsAttention reports whether the attention of the first layer was recorded.
func (c *goldenCase) recordsAttention() bool {
	return slices.ContainsFunc(attentionModules, func(module string) bool {
		_, err := c.expected.Info(fmt.Sprintf("model.layers.0.%s.input", module))
		return err == nil
	})
}

// tokensOf is the number of rows of an activation […,D].
func (c *goldenCase) tokensOf(info *safetensors.Info) (int, error) {
	width := c.checkpoint.Config.Width
	if len(info.Shape) < 2 || info.Shape[len(info.Shape)-1] != width {
		return 0, &model.TensorError{Path: c.expected.Path(), Tensor: info.Name, Fault: model.MisShaped, Want: []int{-1, width}, Got: info.Shape}
	}
	return info.Elements() / width, nil
}
