package main

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// momhaMixture is the mixture of a case.
type momhaMixture struct {
	*momhaBench
	layer  *attention.Mixture
	grads  *attention.MixtureGrads
	oracle ref.MixtureOfAttention[float32]
	saved  *attention.MixtureSaved // of the last recording
}

func newMomhaMixture(ctx context.Context, b *momhaBench) (momhaLayer, error) {
	rope, err := b.rope(ctx)
	if err != nil {
		return nil, err
	}
	m := &momhaMixture{momhaBench: b}
	m.layer, err = attention.NewMixture(b.dev, attention.MixtureConfig{Experts: momhaExperts * b.k, TopK: b.k,
		HeadsPerExpert: b.kvHeads(), HeadWidth: b.headWidth, Width: b.width, Mode: moe.TopKSoftmax, Causal: true, DType: b.dtype}, rope)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, m.layer.Close)
	m.oracle = ref.MixtureOfAttention[float32]{RoPE: ref.RoPE{Width: b.headWidth, Base: 10000}, Gating: ref.Router{Mode: ref.TopKSoftmax}}
	err = b.fill(ctx, []momhaWeights{{m.layer.Router, &m.oracle.Router}, {m.layer.Query, &m.oracle.Query},
		{m.layer.KeyValue, &m.oracle.KeyValue}, {m.layer.Output, &m.oracle.Output}})
	if err != nil {
		return nil, err
	}
	if m.grads, err = m.layer.NewGrads(); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, m.grads.Close)
	m.grads.X = b.dx
	return m, nil
}

func (m *momhaMixture) record(rec *vk.Recorder, training bool) (err error) {
	if !training {
		m.saved, err = m.layer.ForwardWith(rec, m.in, m.out, m.seq, attention.MixtureOptions{Save: moe.SaveNothing})
		return err
	}
	if m.saved, err = m.layer.Forward(rec, m.in, m.out, m.seq); err != nil {
		return err
	}
	return m.layer.Backward(rec, m.saved, m.in, m.dOut, *m.grads)
}

func (m *momhaMixture) describe(r *momhaResult) {
	l := m.layer
	r.Layer, r.Shape = "momha", fmt.Sprintf("E=%d k=%d h=%d d=%d", l.Config.Experts, m.k, m.kvHeads(), m.headWidth)
	r.Active = parameters(l.Router, l.KeyValue) + parameters(l.Query, l.Output)/momhaExperts
	r.Total = parameters(l.Router, l.KeyValue, l.Query, l.Output)
}

// check compares the outputs of the first tokens, and of a short run all gradients of x.
func (m *momhaMixture) check(ctx context.Context, training bool, y, dx []float32) (float64, error) {
	ids, err := vk.Download[int32](ctx, m.saved.Routing.IDs)
	if err != nil {
		return 0, err
	}
	tokens, offsets := m.checked()
	m.oracle.Attention = m.attention(true, offsets)
	x := m.x[:tokens*m.width]
	logits := ref.DenseLinear(m.oracle.Router, x, tokens)
	res := ref.MixtureOfAttentionChosen(m.oracle, x, logits, ids[:tokens*m.k])
	relative, err := m.compare(y, res.Out.Y, "outputs")
	if err != nil || !training || tokens < m.tokens() {
		return relative, err
	}
	return m.compare(dx, ref.MixtureOfAttentionBackward(m.oracle, x, res, m.dy).X, "gradients of x")
}

// momhaGQA is its peer: the same number of active query heads, and of key and value heads.
type momhaGQA struct {
	*momhaBench
	layer  *attention.SelfAttention
	grads  *attention.SelfAttentionGrads
	oracle ref.SelfAttention[float32]
}

func newMomhaGQA(ctx context.Context, b *momhaBench) (momhaLayer, error) {
	rope, err := b.rope(ctx)
	if err != nil {
		return nil, err
	}
	g := &momhaGQA{momhaBench: b}
	g.layer, err = attention.NewSelfAttention(b.dev, attention.SelfAttentionConfig{Width: b.width, Heads: b.heads, KVHeads: b.kvHeads(),
		HeadWidth: b.headWidth, Causal: true, DType: b.dtype}, rope)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, g.layer.Close)
	g.oracle = ref.SelfAttention[float32]{RoPE: ref.RoPE{Width: b.headWidth, Base: 10000}}
	err = b.fill(ctx, []momhaWeights{{g.layer.Query, &g.oracle.Query}, {g.layer.Key, &g.oracle.Key}, {g.layer.Value, &g.oracle.Value},
		{g.layer.Output, &g.oracle.Output}})
	if err != nil {
		return nil, err
	}
	if g.grads, err = g.layer.NewGrads(); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, g.grads.Close)
	g.grads.X = b.dx
	return g, nil
}

func (g *momhaGQA) record(rec *vk.Recorder, training bool) error {
	if !training {
		_, err := g.layer.ForwardWith(rec, g.in, g.out, g.seq, attention.SelfAttentionOptions{Save: moe.SaveNothing})
		return err
	}
	saved, err := g.layer.Forward(rec, g.in, g.out, g.seq)
	if err != nil {
		return err
	}
	return g.layer.Backward(rec, saved, g.in, g.dOut, *g.grads)
}

func (g *momhaGQA) describe(r *momhaResult) {
	l := g.layer
	r.Layer, r.Shape = "gqa", fmt.Sprintf("Hq=%d Hkv=%d d=%d", g.heads, g.kvHeads(), g.headWidth)
	r.Total = parameters(l.Query, l.Key, l.Value, l.Output)
	r.Active = r.Total
}

func (g *momhaGQA) check(_ context.Context, training bool, y, dx []float32) (float64, error) {
	tokens, offsets := g.checked()
	g.oracle.Attention = g.attention(false, offsets)
	x := g.x[:tokens*g.width]
	res := ref.SelfAttentionForward(g.oracle, x)
	relative, err := g.compare(y, res.Out.Y, "outputs")
	if err != nil || !training || tokens < g.tokens() {
		return relative, err
	}
	return g.compare(dx, ref.SelfAttentionBackward(g.oracle, x, res, g.dy).X, "gradients of x")
}
