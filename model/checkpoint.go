package model

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
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

// checkLayerCount refuses a supported model that holds tensors of layers its configuration does not have.
func (c *Checkpoint) checkLayerCount() error {
	if c.Config.Unsupported != nil {
		return nil
	}
	for _, name := range c.tensors.Names() {
		rest, ok := strings.CutPrefix(name, "model.layers.")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		if layer, err := strconv.Atoi(number); err != nil || layer < 0 || layer >= c.Config.Layers {
			return &TensorError{Path: c.tensors.Path(), Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}

// Close closes the files. It is idempotent.
func (c *Checkpoint) Close() error { return c.tensors.Close() }

// MLPWeights are the host weights of one layer's MLP block. A layer without experts is one expert that is always chosen:
// Experts and TopK are 1, RouterWeight is zero, and the softmax over its one logit is exactly 1.
type MLPWeights struct {
	Config moe.MLPConfig

	RouterWeight []float32 // [E,D]
	Up           []float32 // [E,2H,D], the H gate rows first
	Down         []float32 // [E,D,H]
}

// LoadMLP reads the MLP block of one layer, converting to float32. Every tensor of the block must be there in the shape the
// configuration asks for, and nothing else may be: a checkpoint with weights that would be ignored is refused with a
// *TensorError.
func (c *Checkpoint) LoadMLP(layer int) (*MLPWeights, error) {
	if c.Config.Unsupported != nil {
		return nil, c.Config.Unsupported
	}
	if layer < 0 || layer >= c.Config.Layers {
		return nil, fmt.Errorf("model: layer %d of a model with %d layers", layer, c.Config.Layers)
	}
	parts := c.mlpParts(layer)
	if err := c.checkParts(layer, parts); err != nil {
		return nil, err
	}
	// Only now are the sizes of the configuration known to be those of real tensors, and safe to allocate.
	cfg := c.mlpConfig(layer)
	expert := cfg.Hidden * cfg.Width
	w := &MLPWeights{
		Config:       cfg,
		RouterWeight: make([]float32, cfg.Experts*cfg.Width),
		Up:           make([]float32, cfg.Experts*2*expert),
		Down:         make([]float32, cfg.Experts*expert),
	}
	for _, p := range parts {
		dst := p.array(w)
		if p.count > 0 {
			dst = dst[p.at*expert : (p.at+p.count)*expert]
		}
		if err := c.tensors.ReadFloat32(p.name, dst); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (c *Checkpoint) mlpConfig(layer int) moe.MLPConfig {
	cfg := moe.MLPConfig{
		Experts: c.Config.Experts, TopK: c.Config.TopK, Width: c.Config.Width, Hidden: c.Config.Hidden,
		Activation: c.Config.Activation, Mode: c.Config.Router,
	}
	if c.Config.Dense(layer) {
		cfg.Experts, cfg.TopK, cfg.Hidden = 1, 1, c.Config.DenseHidden
	}
	return cfg
}

// A part is one tensor of an MLP block and the place of its values in the fused weights.
type part struct {
	name  string
	shape []int
	array func(*MLPWeights) []float32

	// at and count place the part within the array in units of H·D elements; count 0 is the whole array.
	at, count int
}

func routerArray(w *MLPWeights) []float32 { return w.RouterWeight }
func upArray(w *MLPWeights) []float32     { return w.Up }
func downArray(w *MLPWeights) []float32   { return w.Down }

// mlpParts lists the tensors of a layer's MLP block.
func (c *Checkpoint) mlpParts(layer int) []part {
	cfg, prefix := c.mlpConfig(layer), c.arch.prefix(layer)
	inner, outer := []int{cfg.Hidden, cfg.Width}, []int{cfg.Width, cfg.Hidden}
	expert := func(gate, up, down string, e int) []part {
		return []part{
			{prefix + gate, inner, upArray, 2 * e, 1},
			{prefix + up, inner, upArray, 2*e + 1, 1},
			{prefix + down, outer, downArray, e, 1},
		}
	}
	if c.Config.Dense(layer) {
		return expert("gate_proj.weight", "up_proj.weight", "down_proj.weight", 0)
	}
	parts := []part{{name: prefix + c.arch.router, shape: []int{cfg.Experts, cfg.Width}, array: routerArray}}
	if c.arch.gate == "" {
		return append(parts,
			part{name: prefix + c.arch.fusedUp, shape: []int{cfg.Experts, 2 * cfg.Hidden, cfg.Width}, array: upArray},
			part{name: prefix + c.arch.fusedDown, shape: []int{cfg.Experts, cfg.Width, cfg.Hidden}, array: downArray})
	}
	for e := range cfg.Experts {
		parts = append(parts, expert(
			fmt.Sprintf(c.arch.gate, e), fmt.Sprintf(c.arch.up, e), fmt.Sprintf(c.arch.down, e), e)...)
	}
	return parts
}

// checkParts asks that the block holds exactly the tensors listed, in their shapes.
func (c *Checkpoint) checkParts(layer int, parts []part) error {
	path, listed := c.tensors.Path(), map[string]bool{}
	for _, p := range parts {
		listed[p.name] = true
		info, err := c.tensors.Info(p.name)
		var missing *safetensors.MissingTensorError
		switch {
		case errors.As(err, &missing):
			return &TensorError{Path: path, Tensor: p.name, Fault: Missing}
		case err != nil:
			return err
		case !slices.Equal(info.Shape, p.shape):
			return &TensorError{path, p.name, MisShaped, p.shape, info.Shape}
		}
	}
	for _, name := range c.tensors.Names() {
		if strings.HasPrefix(name, c.arch.prefix(layer)) && !listed[name] {
			return &TensorError{Path: path, Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}
