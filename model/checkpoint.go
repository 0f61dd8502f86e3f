package model

import (
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/vk"
)

// A Checkpoint is an open checkpoint folder.
type Checkpoint struct {
	Config *Config

	arch    architecture
	tensors *safetensors.Checkpoint
}

// Open opens a checkpoint folder: its configuration and the headers of its tensors. Besides this package's errors it
// returns the file system's and safetensors' own. The caller closes the Checkpoint.
func Open(dir string) (*Checkpoint, error) {
	cfg, err := ReadConfig(dir)
	if err != nil {
		return nil, err
	}
	tensors, err := safetensors.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{cfg, architectures[cfg.Type], tensors}
	if err := c.checkLayerCount(); err != nil {
		tensors.Close()
		return nil, err
	}
	return c, nil
}

// checkLayerCount refuses a model that holds tensors of layers its configuration does not have.
func (c *Checkpoint) checkLayerCount() error {
	for _, name := range c.tensors.Names() {
		if layer, ok := layerOf(name); ok && (layer < 0 || layer >= c.Config.Layers+c.Config.furtherLayers) {
			return &TensorError{Path: c.tensors.Path(), Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}

// layerOf is the number of the layer that a tensor belongs to, −1 where that is none; ok is false for what is in no layer.
func layerOf(name string) (layer int, ok bool) {
	rest, ok := strings.CutPrefix(name, "model.layers.")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	if err != nil {
		return -1, true
	}
	return layer, true
}

// beyond reports whether a tensor belongs to a layer behind the decoder's, which predicts further tokens.
func (c *Checkpoint) beyond(name string) bool {
	layer, ok := layerOf(name)
	return ok && layer >= c.Config.Layers && layer < c.Config.Layers+c.Config.furtherLayers
}

// Close closes the files. It is idempotent.
func (c *Checkpoint) Close() error { return c.tensors.Close() }

// DType is what the checkpoint stores its embedding as, which is that of most models' weights throughout: F32, F16 or BF16. ok
// is false for another or a missing one.
func (c *Checkpoint) DType() (dtype vk.DType, ok bool) {
	info, err := c.tensors.Info("model.embed_tokens.weight")
	if err != nil {
		return 0, false
	}
	for dtype, name := range storedAs {
		if name == info.DType {
			return dtype, true
		}
	}
	return 0, false
}
