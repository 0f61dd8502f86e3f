package conform

import (
	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// selfConfig is a configuration of grouped-query attention.
type selfConfig struct {
	cfg  attention.SelfAttentionConfig
	rope *attention.RoPEConfig
}

// selfRun is a layer with banded weights and the oracle's equal.
type selfRun struct {
	layerCase
	k      *Kit
	layer  *attention.SelfAttention
	oracle ref.SelfAttention[float32]
	xs     []float32
}

func (s selfConfig) setUp(k *Kit, c layerCase) *selfRun {
	if c.odd {
		k.Shift = 1
	}
	cfg := s.cfg
	cfg.DType = c.dtype
	r := &selfRun{layerCase: c, k: k}
	l, err := attention.NewSelfAttention(k.Dev, cfg, k.rope(s.rope))
	k.must(err)
	r.layer = l
	r.oracle = ref.SelfAttention[float32]{Query: k.replace("query", l.Query), Key: k.replace("key", l.Key),
		Value: k.replace("value", l.Value), Output: k.replace("output", l.Output), QueryNorm: k.replaceVector("query_norm", &l.QueryNorm),
		KeyNorm: k.replaceVector("key_norm", &l.KeyNorm), Epsilon: float64(cfg.Eps), RoPE: ropeOracle(s.rope, 0)}
	r.oracle.Attention = ref.Attention{Heads: cfg.Heads, KVHeads: cfg.KVHeads, Width: cfg.HeadWidth, ValueWidth: cfg.HeadWidth,
		Causal: cfg.Causal, Window: cfg.Window, SoftCap: float64(cfg.SoftCap), Scale: float64(cfg.Scale),
		Sinks: k.replaceVector("sinks", &l.Sinks), QueryOffsets: offsetsOf(c.lengths)}
	r.xs = c.values(k, cfg.Width)
	return r
}

// terms is the length of all sums on the way to an output, and back to an input.
func (r *selfRun) terms() int {
	c := r.layer.Config
	return c.Width + 3*c.HeadWidth + r.tokens() + c.Heads*c.HeadWidth + 64
}

// pass records the forward pass.
func (r *selfRun) pass() (x, y *vk.Tensor, saved *attention.SelfAttentionSaved) {
	k, width := r.k, r.layer.Config.Width
	x, y = k.Floats("x", r.dtype, r.xs, r.tokens(), width), k.Output("y", r.dtype, r.tokens(), width)
	saved, err := r.layer.ForwardWith(k.Rec, x, y, r.sequences(k, "offsets", r.lengths), attention.SelfAttentionOptions{Save: r.save})
	k.must(err)
	return x, y, saved
}

func (s selfConfig) decodes() bool { return s.cfg.Causal }

func (s selfConfig) forward(k *Kit, c layerCase) func() {
	r := s.setUp(k, c)
	_, y, saved := r.pass()
	return func() {
		k.Norm("y", y, ref.SelfAttentionForward(r.oracle, r.xs).Out.Y, r.tolerance(r.terms(), 4))
		if c.save != moe.SaveAll {
			return
		}
		// Stage by stage from what the device had before each, so that each bound is that of one operation.
		t := refTypes[c.dtype]
		value := ref.DenseLinear(r.oracle.Value, r.xs, r.tokens())
		k.Close("value", saved.Value, value.Y, value.Bound(t, s.cfg.Width))
		core := ref.AttentionForward(r.oracle.Attention, k.Values(saved.Turned[0]), k.Values(saved.Turned[1]), k.Values(saved.Value))
		bound, _ := core.RoundedBounds(t) // as matrices do it, which the device may take
		k.Close("heads", saved.Heads, core.Out.Y, bound)
		out := ref.DenseLinear(r.oracle.Output, k.Values(saved.Heads), r.tokens())
		k.Close("y", y, out.Y, out.Bound(t, s.cfg.Heads*s.cfg.HeadWidth))
	}
}

func (s selfConfig) backward(k *Kit, c layerCase) func() {
	r := s.setUp(k, c)
	dys := c.values(k, s.cfg.Width)
	g, l := c.gradients(k), r.layer
	grads := attention.SelfAttentionGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate,
		X: g.of("x", c.dtype, c.tokens(), s.cfg.Width), Query: g.linear("query", l.Query), Key: g.linear("key", l.Key),
		Value: g.linear("value", l.Value), Output: g.linear("output", l.Output), QueryNorm: g.vector("query_norm", l.QueryNorm),
		KeyNorm: g.vector("key_norm", l.KeyNorm), Sinks: g.vector("sinks", l.Sinks)}
	dy := k.Floats("dy", c.dtype, dys, c.tokens(), s.cfg.Width)
	x, _, saved := r.pass()
	k.must(l.Backward(k.Rec, saved, x, dy, grads))
	return func() {
		w := ref.SelfAttentionBackward(r.oracle, r.xs, ref.SelfAttentionForward(r.oracle, r.xs), dys)
		g.judge(map[string][]float64{"x": w.X, "query": w.Query.Weight.Y, "query_bias": w.Query.Bias.Y, "key": w.Key.Weight.Y,
			"key_bias": w.Key.Bias.Y, "value": w.Value.Weight.Y, "value_bias": w.Value.Bias.Y, "output": w.Output.Weight.Y,
			"output_bias": w.Output.Bias.Y, "query_norm": w.QueryNorm, "key_norm": w.KeyNorm, "sinks": w.Sinks},
			r.tolerance(2*r.terms()+c.tokens(), 8))
	}
}

func (s selfConfig) decode(k *Kit, c layerCase) func() {
	c.lengths = c.whole().lengths
	r := s.setUp(k, c)
	var d decoding
	d.record(k, c, r.layer.Config.CacheConfig(2, c.capacity(s.cfg.Window)), s.cfg.Width, r.xs, func(x, y *vk.Tensor, seq attention.Sequences) error {
		return r.layer.Decode(k.Rec, d.cache, x, y, seq)
	})
	return func() {
		d.judge(k, c, s.cfg.Width, ref.SelfAttentionForward(r.oracle, r.xs).Out.Y, r.tolerance(r.terms(), 4))
	}
}
