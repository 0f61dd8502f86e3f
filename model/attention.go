package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// An Attention is the attention of one layer; one of the three is set.
type Attention struct {
	// Each is nil but one.
	SelfAttention *attention.SelfAttention
	MLA           *attention.MLA
	Mixture       *attention.Mixture
}

// Close frees the weights; the rotary embedding stays. Closing twice does nothing.
func (a *Attention) Close() error {
	switch {
	case a.SelfAttention != nil:
		return a.SelfAttention.Close()
	case a.MLA != nil:
		return a.MLA.Close()
	case a.Mixture != nil:
		return a.Mixture.Close()
	}
	return nil
}

// NewAttention builds the layer on a device and uploads its weights, rounded to the configuration's dtype. rope is the rotary
// embedding that w.RoPE describes (attention.NewRoPE); it stays the caller's and may serve any number of layers. The caller
// closes the Attention. It fails with the configuration errors of package attention, with a *vk.ShapeError where weights are
// absent or too many for the configuration, and with vk.ErrOutOfMemory.
func NewAttention(ctx context.Context, dev *vk.Device, w *AttentionWeights, rope *attention.RoPE) (*Attention, error) {
	var arrays []attentionArray
	var err error
	a := &Attention{}
	switch {
	case w.SelfAttention != nil:
		if a.SelfAttention, err = attention.NewSelfAttention(dev, *w.SelfAttention, rope); err == nil {
			arrays = selfAttentionArrays(a.SelfAttention, w)
		}
	case w.MLA != nil:
		if a.MLA, err = attention.NewMLA(dev, *w.MLA, rope); err == nil {
			arrays = mlaArrays(a.MLA, w)
		}
	case w.Mixture != nil:
		if a.Mixture, err = attention.NewMixture(dev, *w.Mixture, rope); err == nil {
			arrays = mixtureArrays(a.Mixture, w)
		}
	default:
		err = &vk.ShapeError{Op: "model.NewAttention", Arg: "w", Want: "a configuration of one kind of attention", Got: "none"}
	}
	if err != nil {
		return nil, err
	}
	if err := uploadAttention(ctx, arrays, w); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// An attentionArray is an array of the weights and where it goes: a bank or a tensor.
type attentionArray struct {
	name   string
	from   *[]float32
	bank   *moe.ExpertBank
	tensor *vk.Tensor
}

// linearArrays are the arrays of one linear map, which may be nil or have no bias.
func linearArrays(name string, l *moe.ParallelLinear, weight, bias *[]float32) []attentionArray {
	if l == nil {
		return nil
	}
	list := []attentionArray{{name: name, from: weight, bank: l.Weight}}
	if l.Bias != nil {
		list = append(list, attentionArray{name: name + "Bias", from: bias, bank: l.Bias})
	}
	return list
}

// tensorArray is the array of a tensor, which may be nil.
func tensorArray(name string, t *vk.Tensor, from *[]float32) []attentionArray {
	if t == nil {
		return nil
	}
	return []attentionArray{{name: name, from: from, tensor: t}}
}

func join(lists ...[]attentionArray) []attentionArray {
	var all []attentionArray
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func selfAttentionArrays(l *attention.SelfAttention, w *AttentionWeights) []attentionArray {
	return join(
		linearArrays("Query", l.Query, &w.Query, &w.QueryBias), linearArrays("Key", l.Key, &w.Key, &w.KeyBias),
		linearArrays("Value", l.Value, &w.Value, &w.ValueBias), linearArrays("Output", l.Output, &w.Output, &w.OutputBias),
		tensorArray("QueryNorm", l.QueryNorm, &w.QueryNorm), tensorArray("KeyNorm", l.KeyNorm, &w.KeyNorm),
		tensorArray("Sinks", l.Sinks, &w.Sinks))
}

func mlaArrays(l *attention.MLA, w *AttentionWeights) []attentionArray {
	return join(
		linearArrays("QueryDown", l.QueryDown, &w.QueryDown, &w.QueryDownBias), tensorArray("QueryNorm", l.QueryNorm, &w.QueryNorm),
		linearArrays("QueryUp", l.QueryUp, &w.QueryUp, nil), linearArrays("KVDown", l.KVDown, &w.KVDown, &w.KVDownBias),
		tensorArray("KVNorm", l.KVNorm, &w.KVNorm), linearArrays("KVUp", l.KVUp, &w.KVUp, nil),
		linearArrays("Output", l.Output, &w.Output, &w.OutputBias))
}

func mixtureArrays(l *attention.Mixture, w *AttentionWeights) []attentionArray {
	list := join(
		linearArrays("RouterWeight", l.Router, &w.RouterWeight, nil), linearArrays("Query", l.Query, &w.Query, nil),
		linearArrays("KeyValue", l.KeyValue, &w.KeyValue, nil), linearArrays("Output", l.Output, &w.Output, nil),
		tensorArray("Sinks", l.Sinks, &w.Sinks))
	if l.OutputBias != nil {
		list = append(list, attentionArray{name: "OutputBias", from: &w.OutputBias, bank: l.OutputBias})
	}
	return list
}

// uploadAttention uploads every array and refuses weights that go nowhere, and parts of the layer that the weights have no
// array for.
func uploadAttention(ctx context.Context, arrays []attentionArray, w *AttentionWeights) error {
	taken := map[*[]float32]bool{}
	for _, a := range arrays {
		if a.from == nil {
			return &vk.ShapeError{Op: "model.NewAttention", Arg: a.name, Want: "none: no checkpoint has it", Got: "a configuration with it"}
		}
		taken[a.from] = true
		var err error
		if a.bank != nil {
			err = moe.UploadBank(ctx, a.bank, *a.from)
		} else {
			err = vk.Upload(ctx, a.tensor, *a.from)
		}
		if err != nil {
			return fmt.Errorf("model: %s: %w", a.name, err)
		}
	}
	for name, array := range w.arrays() {
		if len(*array) > 0 && !taken[array] {
			return &vk.ShapeError{Op: "model.NewAttention", Arg: name, Want: "nil: the configuration has none",
				Got: fmt.Sprint(len(*array), " values")}
		}
	}
	return nil
}
