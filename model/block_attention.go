package model

import (
	"errors"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// newAttentionBlock makes the attention of a layer.
func newAttentionBlock(dev *vk.Device, cfg LayerConfig, rope *attention.RoPE) (block, error) {
	switch {
	case cfg.SelfAttention != nil:
		return newSelfBlock(dev, *cfg.SelfAttention, rope)
	case cfg.MLA != nil:
		return newMLABlock(dev, *cfg.MLA, rope)
	case cfg.Mixture != nil:
		return newMixtureBlock(dev, *cfg.Mixture, rope)
	}
	return nil, errors.New("model: a layer without attention") // normalized asks for one
}

// attentionHost locates the tensors of a checkpoint's attention.
type attentionHost struct {
	host AttentionWeights // its configuration, and fields whose addresses name the arrays
	list []*weight
}

func (h *attentionHost) weights() []*weight { return h.list }

func (h *attentionHost) tensors(prefix string) []NamedTensor {
	return namedParts(h.host.parts(prefix), &h.host, h.list)
}

// vector adds a weight that is no matrix, unless the layer has none.
func (h *attentionHost) vector(name string, array *[]float32, t *vk.Tensor, grad **vk.Tensor) {
	if t != nil {
		h.list = append(h.list, &weight{name: name, array: array, tensor: t, gradTensor: grad, noDecay: true})
	}
}

func (h *attentionHost) linear(name string, l *moe.ParallelLinear, array, bias *[]float32, g *moe.WeightGrads) {
	h.list = append(h.list, linearWeights(name, l, array, bias, g)...)
}

// selfBlock is self-attention with grouped heads.
type selfBlock struct {
	attentionHost
	layer *attention.SelfAttention
	grads attention.SelfAttentionGrads
}

func newSelfBlock(dev *vk.Device, cfg attention.SelfAttentionConfig, rope *attention.RoPE) (block, error) {
	layer, err := attention.NewSelfAttention(dev, cfg, rope)
	if err != nil {
		return nil, err
	}
	b := &selfBlock{layer: layer}
	b.host.SelfAttention = &cfg
	h, g := &b.host, &b.grads
	b.linear("query", layer.Query, &h.Query, &h.QueryBias, &g.Query)
	b.linear("key", layer.Key, &h.Key, &h.KeyBias, &g.Key)
	b.linear("value", layer.Value, &h.Value, &h.ValueBias, &g.Value)
	b.linear("output", layer.Output, &h.Output, &h.OutputBias, &g.Output)
	b.vector("query_norm", &h.QueryNorm, layer.QueryNorm, &g.QueryNorm)
	b.vector("key_norm", &h.KeyNorm, layer.KeyNorm, &g.KeyNorm)
	b.vector("sinks", &h.Sinks, layer.Sinks, &g.Sinks)
	return b, nil
}

func (b *selfBlock) close() error { return b.layer.Close() }

type selfSaved struct{ *attention.SelfAttentionSaved }

func (selfSaved) router() (*moe.Routing, *vk.Tensor) { return nil, nil }

func (s selfSaved) release(rec *vk.Recorder) {
	scratchSet{s.Projected[0], s.Projected[1], s.Turned[0], s.Turned[1], s.Value, s.Heads, s.LSE}.release(rec)
}

func (b *selfBlock) forward(rec *vk.Recorder, x, y *vk.Tensor, seq attention.Sequences, save moe.Save) (blockSaved, error) {
	s, err := b.layer.ForwardWith(rec, x, y, seq, attention.SelfAttentionOptions{Save: save})
	if err != nil {
		return nil, err
	}
	return selfSaved{s}, nil
}

func (b *selfBlock) backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, _ *vk.Tensor, accumulate bool) error {
	g := b.grads
	g.X, g.AccumulateWeights = dx, accumulate
	return b.layer.Backward(rec, saved.(selfSaved).SelfAttentionSaved, x, dy, g)
}

// mixtureBlock is a mixture of attention.
type mixtureBlock struct {
	attentionHost
	layer *attention.Mixture
	grads attention.MixtureGrads
}

func newMixtureBlock(dev *vk.Device, cfg attention.MixtureConfig, rope *attention.RoPE) (block, error) {
	layer, err := attention.NewMixture(dev, cfg, rope)
	if err != nil {
		return nil, err
	}
	b := &mixtureBlock{layer: layer}
	b.host.Mixture = &cfg
	h, g := &b.host, &b.grads
	b.linear("router", layer.Router, &h.RouterWeight, nil, &g.Router)
	b.linear("query", layer.Query, &h.Query, &h.QueryBias, &g.Query)
	b.linear("key_value", layer.KeyValue, &h.KeyValue, nil, &g.KeyValue)
	b.linear("output", layer.Output, &h.Output, nil, &g.Output)
	if layer.OutputBias != nil {
		b.list = append(b.list, &weight{name: "output_bias", array: &h.OutputBias, bank: layer.OutputBias, gradBank: &g.OutputBias,
			noDecay: true})
	}
	b.vector("sinks", &h.Sinks, layer.Sinks, &g.Sinks)
	return b, nil
}

func (b *mixtureBlock) close() error { return b.layer.Close() }

type mixtureSaved struct{ *attention.MixtureSaved }

func (s mixtureSaved) router() (*moe.Routing, *vk.Tensor) { return s.Routing, s.Logits }

func (s mixtureSaved) release(rec *vk.Recorder) {
	scratchSet{s.Logits, s.Query, s.KeyValue, s.Heads, s.LSE}.release(rec)
	ofRouting(s.Routing).release(rec)
}

func (b *mixtureBlock) forward(rec *vk.Recorder, x, y *vk.Tensor, seq attention.Sequences, save moe.Save) (blockSaved, error) {
	s, err := b.layer.ForwardWith(rec, x, y, seq, attention.MixtureOptions{Save: save})
	if err != nil {
		return nil, err
	}
	return mixtureSaved{s}, nil
}

func (b *mixtureBlock) backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, dLogits *vk.Tensor, accumulate bool) error {
	g := b.grads
	g.X, g.Logits, g.AccumulateLogits, g.AccumulateWeights = dx, dLogits, dLogits != nil, accumulate
	return b.layer.Backward(rec, saved.(mixtureSaved).MixtureSaved, x, dy, g)
}

// mlaBlock is multi-head latent attention.
type mlaBlock struct {
	attentionHost
	layer *attention.MLA
	grads attention.MLAGrads
}

func newMLABlock(dev *vk.Device, cfg attention.MLAConfig, rope *attention.RoPE) (block, error) {
	layer, err := attention.NewMLA(dev, cfg, rope)
	if err != nil {
		return nil, err
	}
	b := &mlaBlock{layer: layer}
	b.host.MLA = &cfg
	h, g := &b.host, &b.grads
	b.linear("query_down", layer.QueryDown, &h.QueryDown, &h.QueryDownBias, &g.QueryDown)
	b.linear("query_up", layer.QueryUp, &h.QueryUp, nil, &g.QueryUp)
	b.linear("kv_down", layer.KVDown, &h.KVDown, &h.KVDownBias, &g.KVDown)
	b.linear("kv_up", layer.KVUp, &h.KVUp, nil, &g.KVUp)
	b.linear("output", layer.Output, &h.Output, &h.OutputBias, &g.Output)
	b.vector("query_norm", &h.QueryNorm, layer.QueryNorm, &g.QueryNorm)
	b.vector("kv_norm", &h.KVNorm, layer.KVNorm, &g.KVNorm)
	return b, nil
}

func (b *mlaBlock) close() error { return b.layer.Close() }

type mlaSaved struct{ *attention.MLASaved }

func (mlaSaved) router() (*moe.Routing, *vk.Tensor) { return nil, nil }

func (s mlaSaved) release(rec *vk.Recorder) {
	scratchSet{s.QueryLatent, s.QueryNormed, s.Query, s.Down, s.Latent, s.Up, s.Key, s.Heads, s.LSE}.release(rec)
}

func (b *mlaBlock) forward(rec *vk.Recorder, x, y *vk.Tensor, seq attention.Sequences, save moe.Save) (blockSaved, error) {
	s, err := b.layer.ForwardWith(rec, x, y, seq, attention.MLAOptions{Save: save})
	if err != nil {
		return nil, err
	}
	return mlaSaved{s}, nil
}

func (b *mlaBlock) backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, _ *vk.Tensor, accumulate bool) error {
	g := b.grads
	g.X, g.AccumulateWeights = dx, accumulate
	return b.layer.Backward(rec, saved.(mlaSaved).MLASaved, x, dy, g)
}
