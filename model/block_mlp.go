package model

import (
	"errors"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlpBlock is a sparse mixture of experts.
type mlpBlock struct {
	layer *moe.MLP
	grads moe.MLPGrads
	names func(prefix string) []part[MLPWeights]
	host  MLPWeights // empty: its fields' addresses name the arrays
	list  []*weight
}

func newMLPBlock(dev *vk.Device, cfg moe.MLPConfig, names func(prefix string) []part[MLPWeights]) (*mlpBlock, error) {
	layer, err := moe.NewMLP(dev, cfg)
	if err != nil {
		return nil, err
	}
	b := &mlpBlock{layer: layer, names: names}
	h, g := &b.host, &b.grads
	for _, l := range []struct {
		name        string
		layer       *moe.ParallelLinear
		array, bias *[]float32
		grads       *moe.WeightGrads
	}{
		{"router", layer.Router, &h.RouterWeight, &h.RouterBias, &g.Router},
		{"up", layer.Up, &h.Up, &h.UpBias, &g.Up},
		{"down", layer.Down, &h.Down, &h.DownBias, &g.Down},
		{"shared_up", layer.SharedUp, &h.SharedUp, nil, &g.SharedUp},
		{"shared_down", layer.SharedDown, &h.SharedDown, nil, &g.SharedDown},
		{"shared_gate", layer.SharedGate, &h.SharedGate, nil, &g.SharedGate},
	} {
		b.list = append(b.list, linearWeights(l.name, l.layer, l.array, l.bias, l.grads)...)
	}
	if layer.OutputBias != nil {
		b.list = append(b.list, &weight{name: "output_bias", array: &h.OutputBias, bank: layer.OutputBias, gradBank: &g.OutputBias,
			noDecay: true})
	}
	if layer.CorrectionBias != nil { // the choice has no gradient
		b.list = append(b.list, &weight{name: "correction_bias", array: &h.CorrectionBias, tensor: layer.CorrectionBias})
	}
	return b, nil
}

func (b *mlpBlock) weights() []*weight { return b.list }
func (b *mlpBlock) close() error       { return b.layer.Close() }

func (b *mlpBlock) tensors(prefix string) []NamedTensor {
	return namedParts(b.names(prefix), &b.host, b.list)
}

type mlpSaved struct{ *moe.MLPSaved }

func (s mlpSaved) router() (*moe.Routing, *vk.Tensor) { return s.Routing, s.Logits }

func (s mlpSaved) release(rec *vk.Recorder) {
	scratchSet{s.Logits, s.Z, s.H, s.Slots, s.Shared.Z, s.Shared.H, s.Shared.Logits, s.Shared.Gate}.release(rec)
	ofRouting(s.Routing).release(rec)
}

func (b *mlpBlock) forward(rec *vk.Recorder, x, y *vk.Tensor, _ attention.Sequences, save moe.Save) (blockSaved, error) {
	s, err := b.layer.ForwardWith(rec, x, y, moe.ForwardOptions{Save: save})
	if err != nil {
		return nil, err
	}
	return mlpSaved{s}, nil
}

func (b *mlpBlock) backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, dLogits *vk.Tensor, accumulate bool) error {
	g := b.grads
	g.X, g.Logits, g.AccumulateLogits, g.AccumulateWeights = dx, dLogits, dLogits != nil, accumulate
	return b.layer.Backward(rec, saved.(mlpSaved).MLPSaved, x, dy, g)
}

// A DenseConfig describes an MLP without experts: y = Down·f(Up·x). A gated activation has the gate rows of Up first.
type DenseConfig struct {
	Width, Hidden int              // D, H
	Activation    moe.Activation   // f
	DType         vk.DType         // of weights, x and y: F32, F16 or BF16
	Weights       moe.WeightFormat // of the matrices
}

// columns is the width of Up's output.
func (c DenseConfig) columns() int {
	if c.Activation.Gated() {
		return 2 * c.Hidden
	}
	return c.Hidden
}

func (c DenseConfig) linears() (up, down moe.ParallelLinearConfig) {
	up = moe.ParallelLinearConfig{Experts: 1, In: c.Width, Out: c.columns(), DType: c.DType, Weights: c.Weights, Label: "up"}
	down = moe.ParallelLinearConfig{Experts: 1, In: c.Hidden, Out: c.Width, DType: c.DType, Weights: c.Weights, Label: "down"}
	return up, down
}

// denseBlock is an MLP without experts.
type denseBlock struct {
	cfg            DenseConfig
	up, down       *moe.ParallelLinear
	upGrad, dnGrad moe.WeightGrads
	names          func(prefix string) []part[MLPWeights]
	host           MLPWeights
	list           []*weight
	activation     moe.ActivationConfig
}

func newDenseBlock(dev *vk.Device, cfg DenseConfig, names func(prefix string) []part[MLPWeights]) (*denseBlock, error) {
	b := &denseBlock{cfg: cfg, names: names, activation: moe.ActivationConfig{Function: cfg.Activation}}
	up, down := cfg.linears()
	err := b.activation.Validate()
	if err == nil {
		b.up, err = moe.NewParallelLinear(dev, up)
	}
	if err == nil {
		b.down, err = moe.NewParallelLinear(dev, down)
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.list = append(linearWeights("up", b.up, &b.host.Up, nil, &b.upGrad),
		linearWeights("down", b.down, &b.host.Down, nil, &b.dnGrad)...)
	return b, nil
}

func (b *denseBlock) weights() []*weight { return b.list }
func (b *denseBlock) close() error       { return errors.Join(b.up.Close(), b.down.Close()) }

func (b *denseBlock) tensors(prefix string) []NamedTensor {
	return namedParts(b.names(prefix), &b.host, b.list)
}

// denseSaved are the activation's input, nil where nothing is saved, and its output.
type denseSaved struct{ z, h *vk.Tensor }

func (denseSaved) router() (*moe.Routing, *vk.Tensor) { return nil, nil }
func (s denseSaved) release(rec *vk.Recorder)         { scratchSet{s.z, s.h}.release(rec) }

func (b *denseBlock) forward(rec *vk.Recorder, x, y *vk.Tensor, _ attention.Sequences, save moe.Save) (blockSaved, error) {
	s := denseSaved{h: rec.Scratch(b.cfg.DType, x.Dim(0), b.cfg.Hidden)}
	if save != moe.SaveNothing {
		s.z = rec.Scratch(b.cfg.DType, x.Dim(0), b.cfg.columns())
	}
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	if err := b.up.DenseActivated(rec, x, s.z, s.h, b.activation); err != nil {
		return nil, err
	}
	return s, b.down.Dense(rec, s.h, y)
}

func (b *denseBlock) backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, _ *vk.Tensor, accumulate bool) error {
	s := saved.(denseSaved)
	dh := rec.Scratch(b.cfg.DType, x.Dim(0), b.cfg.Hidden)
	if rec.Err() != nil {
		return rec.Err()
	}
	defer rec.Release(dh)
	down := moe.LinearGrads{X: dh, Weight: b.dnGrad.Weight, AccumulateWeights: accumulate}
	if err := b.down.DenseBackward(rec, s.h, dy, down); err != nil {
		return err
	}
	if err := moe.ActivateBackward(rec, b.activation, s.z, dh, s.z); err != nil {
		return err
	}
	up := moe.LinearGrads{X: dx, Weight: b.upGrad.Weight, AccumulateWeights: accumulate}
	return b.up.DenseBackward(rec, x, s.z, up)
}
