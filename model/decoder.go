package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Decoder is a language model on a device: embedding, layers of attention and MLP, norm and head. Whoever makes it closes it.
// It may be recorded into several recorders at once as long as none of them computes gradients.
type Decoder struct {
	Config DecoderConfig

	dev       *vk.Device
	embedding *vk.Tensor // [V,D]
	norm      *vk.Tensor // [D]
	table     *vk.Tensor // the head's weight [V,D]: its own or the embedding
	head      *moe.ParallelLinear
	layers    []*layer
	ropes     []*attention.RoPE
	config    []byte // the config.json of the checkpoint that it was loaded from, or nil

	embeddingGrad, normGrad, headGrad *vk.Tensor
}

// layer is one layer with its norms.
type layer struct {
	mixNorm, mlpNorm         *vk.Tensor // [D]
	mixNormGrad, mlpNormGrad *vk.Tensor
	mix, mlp                 block
}

// NewDecoder allocates a decoder, WeightBytes of it; its weights are undefined until they are loaded or initialized. It fails
// with a *moe.ConfigError or an *UnsupportedModelError, and with a *MemoryError before anything is allocated where the
// weights exceed what the driver says is left.
func NewDecoder(ctx context.Context, dev *vk.Device, cfg DecoderConfig) (*Decoder, error) {
	cfg, err := cfg.normalized()
	if err != nil {
		return nil, err
	}
	if err := fits(dev, cfg); err != nil {
		return nil, err
	}
	d := &Decoder{Config: cfg, dev: dev}
	if err := d.allocate(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// A MemoryError is a model whose weights do not fit a device's memory.
type MemoryError struct {
	Weights uint64 // bytes
	Budget  uint64 // bytes that the driver lets this process still allocate
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("model: the weights take %d MiB, the device has %d MiB left", e.Weights>>20, e.Budget>>20)
}

// Is matches vk.ErrOutOfMemory.
func (e *MemoryError) Is(target error) bool { return target == vk.ErrOutOfMemory }

// fits compares the weights with the driver's budget, where it tells one.
func fits(dev *vk.Device, cfg DecoderConfig) error {
	need, err := cfg.WeightBytes()
	if err != nil {
		return err
	}
	m := dev.Memory()
	if m.BudgetBytes == 0 {
		return nil
	}
	if left := m.BudgetBytes - min(m.UsedBytes, m.BudgetBytes); need > left {
		return &MemoryError{need, left}
	}
	return nil
}

func (d *Decoder) allocate(ctx context.Context) error {
	c := d.Config
	var err error
	tensor := func(shape ...int) *vk.Tensor {
		var t *vk.Tensor
		if err == nil {
			t, err = d.dev.NewTensor(c.DType, shape...)
		}
		return t
	}
	d.embedding, d.norm = tensor(c.Vocabulary, c.Width), tensor(c.Width)
	d.table = d.embedding
	if !c.Tied {
		d.table = tensor(c.Vocabulary, c.Width)
	}
	if err != nil {
		return err
	}
	d.head, err = moe.NewParallelLinearFromExperts(d.dev, moe.ParallelLinearConfig{Experts: 1, In: c.Width, Out: c.Vocabulary,
		DType: c.DType, Label: "head"}, []*vk.Tensor{d.table}, nil)
	if err != nil {
		return err
	}
	ropes := map[attention.RoPEConfig]*attention.RoPE{}
	for i, cfg := range c.Layers {
		l := &layer{mixNorm: tensor(c.Width), mlpNorm: tensor(c.Width)}
		d.layers = append(d.layers, l)
		if err != nil {
			return err
		}
		if err = d.allocateLayer(ctx, i, cfg, l, ropes); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

func (d *Decoder) allocateLayer(ctx context.Context, i int, cfg LayerConfig, l *layer, ropes map[attention.RoPEConfig]*attention.RoPE) error {
	var rope *attention.RoPE
	if cfg.RoPE != nil {
		if rope = ropes[*cfg.RoPE]; rope == nil {
			var err error
			if rope, err = attention.NewRoPE(ctx, d.dev, *cfg.RoPE, d.Config.Positions); err != nil {
				return err
			}
			ropes[*cfg.RoPE] = rope
			d.ropes = append(d.ropes, rope)
		}
	}
	var err error
	if l.mix, err = newAttentionBlock(d.dev, cfg, rope); err != nil {
		return err
	}
	arch := architectures[d.Config.Type]
	if cfg.Dense != nil {
		l.mlp, err = newDenseBlock(d.dev, *cfg.Dense, func(prefix string) []part[MLPWeights] {
			return denseParts(prefix, d.Config.Width, cfg.Dense.Hidden)
		})
		return err
	}
	l.mlp, err = newMLPBlock(d.dev, *cfg.MLP, func(prefix string) []part[MLPWeights] { return arch.mlpParts(prefix, *cfg.MLP) })
	return err
}

// blocks lists the blocks that exist with the prefixes of their tensors.
func (d *Decoder) blocks(use func(layer int, prefix string, b block)) {
	arch := architectures[d.Config.Type]
	for i, l := range d.layers {
		if l.mix != nil {
			use(i, arch.attentionPrefix(i), l.mix)
		}
		if l.mlp != nil {
			use(i, arch.prefix(i), l.mlp)
		}
	}
}

// Close frees weights, gradients and tables. Closing twice does nothing.
func (d *Decoder) Close() error {
	err := d.CloseGrads()
	d.blocks(func(_ int, _ string, b block) { err = errors.Join(err, b.close()) })
	for _, l := range d.layers {
		err = errors.Join(err, l.mixNorm.Close(), l.mlpNorm.Close())
	}
	for _, r := range d.ropes {
		err = errors.Join(err, r.Close())
	}
	return errors.Join(err, d.head.Close(), d.table.Close(), d.norm.Close(), d.embedding.Close())
}

// Device is the device that the decoder lives on.
func (d *Decoder) Device() *vk.Device { return d.dev }

// plain are the weights outside of blocks with their gradients, by their names in checkpoints.
func (d *Decoder) plain() []namedWeight {
	list := []namedWeight{{"model.embed_tokens.weight", &weight{tensor: d.embedding, gradTensor: &d.embeddingGrad}},
		{"model.norm.weight", &weight{tensor: d.norm, gradTensor: &d.normGrad, noDecay: true}}}
	if !d.Config.Tied {
		list = append(list, namedWeight{"lm_head.weight", &weight{tensor: d.table, gradTensor: &d.headGrad}})
	}
	for i, l := range d.layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		list = append(list,
			namedWeight{prefix + "input_layernorm.weight", &weight{tensor: l.mixNorm, gradTensor: &l.mixNormGrad, noDecay: true}},
			namedWeight{prefix + "post_attention_layernorm.weight", &weight{tensor: l.mlpNorm, gradTensor: &l.mlpNormGrad, noDecay: true}})
	}
	return list
}

type namedWeight struct {
	name string
	*weight
}

// all are the weights of the whole decoder by names that tell them apart.
func (d *Decoder) all() []namedWeight {
	list := d.plain()
	d.blocks(func(_ int, prefix string, b block) {
		for _, w := range b.weights() {
			list = append(list, namedWeight{prefix + w.name, w})
		}
	})
	return list
}

// NewGrads allocates a gradient for every parameter, in dtype or in F32 where the parameter is that: dtype is the decoder's
// or F32. It fails with vk.ErrOutOfMemory, and with a *moe.ConfigError where weights are quantized.
func (d *Decoder) NewGrads(dtype vk.DType) error {
	if err := d.Config.checkTrainable(); err != nil {
		return err
	}
	if dtype != d.Config.DType && dtype != vk.F32 {
		return &vk.ShapeError{Op: "Decoder.NewGrads", Arg: "dtype", Want: d.Config.DType.String() + " or f32", Got: dtype.String()}
	}
	if d.normGrad != nil {
		return nil
	}
	for _, w := range d.all() {
		if err := w.newGrad(d.dev, dtype); err != nil {
			return errors.Join(err, d.CloseGrads())
		}
	}
	return nil
}

// CloseGrads frees the gradients.
func (d *Decoder) CloseGrads() error {
	var err error
	for _, w := range d.all() {
		err = errors.Join(err, w.closeGrad())
	}
	return err
}

// A Parameter is one tensor of trained values with its gradient, nil before NewGrads.
type Parameter struct {
	Name        string // tells it from the others; not always that of a checkpoint, where experts may be apart
	Value, Grad *vk.Tensor
	NoDecay     bool // a gain or a bias
}

// Parameters lists everything that has a gradient, for an optimizer.
func (d *Decoder) Parameters() []Parameter {
	var list []Parameter
	for _, w := range d.all() {
		if w.gradBank == nil && w.gradTensor == nil {
			continue
		}
		grads := w.grads()
		for i, v := range w.values() {
			p := Parameter{Name: fmt.Sprintf("%s#%d", w.name, i), Value: v, NoDecay: w.noDecay}
			if grads != nil {
				p.Grad = grads[i]
			}
			list = append(list, p)
		}
	}
	return list
}

// Tensors lists the tensors of a checkpoint of this decoder, by the names that Config.Type gives them, and where they are.
func (d *Decoder) Tensors() []NamedTensor {
	var list []NamedTensor
	for _, w := range d.plain() {
		list = append(list, NamedTensor{Name: w.name, Shape: w.tensor.Shape(), Parts: cut(w.values(), 0, w.tensor.Elements()),
			Grads: cut(w.grads(), 0, w.tensor.Elements())})
	}
	d.blocks(func(_ int, prefix string, b block) { list = append(list, b.tensors(prefix)...) })
	return list
}
