package model

import (
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
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
		rest, ok := strings.CutPrefix(name, "model.layers.")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		if layer, err := strconv.Atoi(number); err != nil || layer < 0 || layer >= c.Config.Layers+c.Config.furtherLayers {
			return &TensorError{Path: c.tensors.Path(), Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}

// Close closes the files. It is idempotent.
func (c *Checkpoint) Close() error { return c.tensors.Close() }
