package model

import (
	"errors"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
)

// A part is one tensor of a block and the place of its values in the block's weights W.
type part[W any] struct {
	name  string
	shape []int
	array func(*W) *[]float32
	at    int // the first element within the array
}

func (p part[W]) elements() int {
	n := 1
	for _, s := range p.shape {
		n *= s
	}
	return n
}

// readParts reads the tensors of a block, whose names start with prefix, into w.
func readParts[W any](c *Checkpoint, prefix string, parts []part[W], w *W) error {
	if err := checkParts(c, prefix, parts); err != nil {
		return err
	}
	// Only now are the sizes of the configuration known to be those of real tensors, and safe to allocate.
	lengths := map[*[]float32]int{}
	for _, p := range parts {
		a := p.array(w)
		lengths[a] = max(lengths[a], p.at+p.elements())
	}
	for a, n := range lengths {
		*a = make([]float32, n)
	}
	for _, p := range parts {
		if err := c.tensors.ReadFloat32(p.name, (*p.array(w))[p.at:][:p.elements()]); err != nil {
			return err
		}
	}
	return nil
}

// checkParts asks that the block holds exactly the tensors listed, in their shapes.
func checkParts[W any](c *Checkpoint, prefix string, parts []part[W]) error {
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
		if strings.HasPrefix(name, prefix) && !listed[name] {
			return &TensorError{Path: path, Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}
