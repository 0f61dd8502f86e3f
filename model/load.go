package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// loadPiece is how much of a tensor is in host memory at a time while a model is loaded or saved, in elements.
const loadPiece = 1 << 22

// LoadDecoder makes the checkpoint's decoder on a device, storing weights as dtype, and fills it tensor by tensor, a few MiB
// in host memory at a time. positions is the longest sequence that it will see, 0 for what the configuration says. Every
// tensor that the configuration asks for must be there in its shape, and no other: what is missing, unexpected or mis-shaped
// is a *TensorError. What the library does not run is an *UnsupportedModelError, a model that does not fit a *MemoryError.
func LoadDecoder(ctx context.Context, dev *vk.Device, c *Checkpoint, dtype vk.DType, positions int) (*Decoder, error) {
	return LoadDecoderWith(ctx, dev, c, LoadOptions{DType: dtype, Positions: positions})
}

// LoadOptions say how a checkpoint becomes a decoder.
type LoadOptions struct {
	DType     vk.DType // of weights and activations: F32, F16 or BF16
	Positions int      // the longest sequence, 0 for what the configuration says

	// Weights quantizes the matrices of experts, shared experts and dense MLPs on the device while they are read; the decoder is
	// then for inference. Routers, attention, embedding and head stay of DType. A weight without a code is a *moe.QuantizeError.
	// Beside the weights, loading takes some MiB of device memory, or for experts stored [E,in,out] the matrix of one.
	Weights moe.WeightFormat
}

// LoadDecoderWith is LoadDecoder with options.
func LoadDecoderWith(ctx context.Context, dev *vk.Device, c *Checkpoint, o LoadOptions) (*Decoder, error) {
	cfg, err := c.Config.Decoder(o.DType)
	if err != nil {
		return nil, err
	}
	cfg.Weights = o.Weights
	if o.Positions > 0 {
		cfg.Positions = o.Positions
	}
	if cfg, err = cfg.normalized(); err != nil {
		return nil, err
	}
	names := cfg.names()
	if err := checkShapes(c.tensors, c.tensors.Path(), names, c.passOver); err != nil {
		return nil, err
	}
	d, err := NewDecoder(ctx, dev, cfg)
	if err != nil {
		return nil, err
	}
	d.config = c.Config.text
	list := d.Tensors()
	if len(list) != len(names) { // a tensor without a place on the device would leave weights undefined
		panic(fmt.Sprintf("model: %d tensors of %s have a place on the device, its checkpoints hold %d", len(list), cfg.Type, len(names)))
	}
	for _, t := range list {
		if err := LoadTensor(ctx, c.tensors, t); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// Load fills the decoder from the model.safetensors, or the shards, of a folder that Save wrote. What is missing, unexpected
// or mis-shaped is a *TensorError; then nothing has changed.
func (d *Decoder) Load(ctx context.Context, dir string) error {
	tensors, err := safetensors.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer tensors.Close()
	list := d.Tensors()
	if err := CheckTensors(tensors, dir, list); err != nil {
		return err
	}
	for _, t := range list {
		if err := LoadTensor(ctx, tensors, t); err != nil {
			return err
		}
	}
	return nil
}

// A tensorShape is a tensor that a checkpoint should hold.
type tensorShape struct {
	name  string
	shape []int
}

// names lists what a checkpoint of the model holds, before anything is allocated.
func (c DecoderConfig) names() []tensorShape {
	arch := architectures[c.Type]
	list := []tensorShape{{"model.embed_tokens.weight", []int{c.Vocabulary, c.Width}}, {"model.norm.weight", []int{c.Width}}}
	if !c.Tied {
		list = append(list, tensorShape{"lm_head.weight", []int{c.Vocabulary, c.Width}})
	}
	for i, l := range c.Layers {
		for _, norm := range []string{"input_layernorm", "post_attention_layernorm"} {
			list = append(list, tensorShape{fmt.Sprintf("model.layers.%d.%s.weight", i, norm), []int{c.Width}})
		}
		w := AttentionWeights{SelfAttention: l.SelfAttention, MLA: l.MLA, Mixture: l.Mixture}
		for _, p := range w.parts(arch.attentionPrefix(i)) {
			list = append(list, tensorShape{p.name, p.shape})
		}
		parts := []part[MLPWeights]{}
		if l.Dense != nil {
			parts = denseParts(arch.prefix(i), c.Width, l.Dense.Hidden)
		} else {
			parts = arch.mlpParts(arch.prefix(i), *l.MLP)
		}
		for _, p := range parts {
			list = append(list, tensorShape{p.name, p.shape})
		}
	}
	return list
}

// tensorSource is a file or a folder of tensors.
type tensorSource interface {
	Info(name string) (*safetensors.Info, error)
	ReadFloat32At(name string, dst []float32, first int) error
	ReadBytesAt(name string, p []byte, first int) error
}

// namedSource lists its tensors too.
type namedSource interface {
	tensorSource
	Names() []string
}

// CheckTensors asks that a file or folder holds exactly the tensors listed, in their shapes, beside those of other names. The
// fault is a *TensorError with the path given.
func CheckTensors(from namedSource, path string, list []NamedTensor, others ...string) error {
	var shapes []tensorShape
	for _, t := range list {
		shapes = append(shapes, tensorShape{t.Name, t.Shape})
	}
	return checkShapes(from, path, shapes, func(name string) bool { return slices.Contains(others, name) })
}

// checkShapes asks for exactly the tensors listed, but for those that are passed over.
func checkShapes(from namedSource, path string, list []tensorShape, passOver func(name string) bool) error {
	listed := map[string]bool{}
	for _, t := range list {
		listed[t.name] = true
		info, err := from.Info(t.name)
		switch {
		case err != nil:
			return &TensorError{Path: path, Tensor: t.name, Fault: Missing}
		case !slices.Equal(info.Shape, t.shape):
			return &TensorError{path, t.name, MisShaped, t.shape, info.Shape}
		}
	}
	for _, name := range from.Names() {
		if !listed[name] && !passOver(name) {
			return &TensorError{Path: path, Tensor: name, Fault: Unexpected}
		}
	}
	return nil
}

// passOver reports tensors of a checkpoint that are no part of the decoder: a head beside a tied embedding, and layers that
// predict further tokens.
func (c *Checkpoint) passOver(name string) bool {
	return c.Config.tied() && name == "lm_head.weight" || c.beyond(name)
}

// storedAs is a storage dtype's name in a file.
var storedAs = map[vk.DType]safetensors.DType{vk.F32: safetensors.F32, vk.F16: safetensors.F16, vk.BF16: safetensors.BF16}

// LoadTensor fills a tensor from a file or folder, a few MiB at a time: its bytes where the dtype is the same, else through
// float32. Quantized weights are quantized on the device, from values that are not rounded before.
func LoadTensor(ctx context.Context, source tensorSource, t NamedTensor) error {
	if t.Quantized != nil {
		return loadQuantized(ctx, source, t)
	}
	info, err := source.Info(t.Name)
	if err != nil {
		return err
	}
	at := 0
	for _, view := range t.Parts {
		for from := 0; from < view.Elements(); from += loadPiece {
			n := min(loadPiece, view.Elements()-from)
			piece, err := view.View(from, n)
			if err != nil {
				return err
			}
			if info.DType == storedAs[view.DType()] {
				raw := make([]byte, n*int(view.DType().Bytes()))
				if err := source.ReadBytesAt(t.Name, raw, at+from); err != nil {
					return err
				}
				err = vk.Upload(ctx, piece, raw)
			} else {
				values := make([]float32, n)
				if err := source.ReadFloat32At(t.Name, values, at+from); err != nil {
					return err
				}
				err = vk.Upload(ctx, piece, values)
			}
			if err != nil {
				return fmt.Errorf("model: %s: %w", t.Name, err)
			}
		}
		at += view.Elements()
	}
	return nil
}

// Save writes the decoder's weights to model.safetensors in dir, by the names of its Type and in their own dtypes (quantized
// ones as the values they stand for, in the decoder's dtype), a few MiB in host memory at a time, and beside it the config.json of the checkpoint that it was loaded from; that of a decoder of
// NewDecoder is the caller's affair. The folder is made where it is missing.
func (d *Decoder) Save(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var entries []safetensors.Entry
	for _, t := range d.Tensors() {
		entries = append(entries, TensorEntry(ctx, t))
	}
	if err := safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), entries, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if d.config == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, ConfigFile), d.config, 0o644)
}

// TensorEntry is a tensor of a file whose values are on the device, and are read a few MiB at a time when it is written.
func TensorEntry(ctx context.Context, t NamedTensor) safetensors.Entry {
	return safetensors.Entry{Name: t.Name, DType: storedAs[t.DType()], Shape: t.Shape, Data: func(w io.Writer) error {
		if t.Quantized != nil {
			return writeQuantized(ctx, w, t)
		}
		for _, view := range t.Parts {
			for from := 0; from < view.Elements(); from += loadPiece {
				piece, err := view.View(from, min(loadPiece, view.Elements()-from))
				if err != nil {
					return err
				}
				raw, err := vk.Download[byte](ctx, piece)
				if err != nil {
					return fmt.Errorf("model: %s: %w", t.Name, err)
				}
				if _, err := w.Write(raw); err != nil {
					return err
				}
			}
		}
		return nil
	}}
}
