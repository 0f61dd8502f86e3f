package conform

import (
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlaConfig is a configuration of latent attention.
type mlaConfig struct {
	cfg  attention.MLAConfig
	rope attention.RoPEConfig
}

// mlaRun is a layer with banded weights and the oracle's equal.
type mlaRun struct {
	layerCase
	k      *Kit
	layer  *attention.MLA
	oracle ref.MLA[float32]
	xs     []float32
}

func (m mlaConfig) headWidth() int { return m.cfg.PlainWidth + m.cfg.TurnedWidth }

func (m mlaConfig) setUp(k *Kit, c layerCase) *mlaRun {
	if c.odd {
		k.Shift = 1
	}
	cfg := m.cfg
	cfg.DType = c.dtype
	r := &mlaRun{layerCase: c, k: k}
	rope := k.rope(&m.rope)
	l, err := attention.NewMLA(k.Dev, cfg, rope)
	k.must(err)
	r.layer = l
	r.oracle = ref.MLA[float32]{QueryUp: k.replace("query_up", l.QueryUp), KVDown: k.replace("kv_down", l.KVDown),
		KVUp: k.replace("kv_up", l.KVUp), Output: k.replace("output", l.Output), KVNorm: k.replaceVector("kv_norm", &l.KVNorm),
		Epsilon: float64(cfg.Eps), RoPE: ropeOracle(&m.rope, cfg.PlainWidth)}
	if cfg.QueryRank > 0 {
		down := k.replace("query_down", l.QueryDown)
		r.oracle.QueryDown, r.oracle.QueryNorm = &down, k.replaceVector("query_norm", &l.QueryNorm)
	}
	scale := float64(float32(m.rope.SoftmaxFactor() / math.Sqrt(float64(m.headWidth()))))
	r.oracle.Attention = ref.Attention{Heads: cfg.Heads, KVHeads: cfg.Heads, Width: m.headWidth(), ValueWidth: cfg.ValueWidth,
		Causal: cfg.Causal, Window: cfg.Window, Scale: scale, QueryOffsets: offsetsOf(c.lengths)}
	r.xs = c.values(k, cfg.Width)
	return r
}

// terms is the length of all sums on the way to an output, and back to an input.
func (r *mlaRun) terms() int {
	c := r.layer.Config
	return c.Width + 2*c.KVRank + 2*c.QueryRank + 3*(c.PlainWidth+c.TurnedWidth) + r.tokens() + c.Heads*c.ValueWidth + 64
}

// pass records the forward pass.
func (r *mlaRun) pass() (x, y *vk.Tensor, saved *attention.MLASaved) {
	k, width := r.k, r.layer.Config.Width
	x, y = k.Floats("x", r.dtype, r.xs, r.tokens(), width), k.Output("y", r.dtype, r.tokens(), width)
	saved, err := r.layer.ForwardWith(k.Rec, x, y, r.sequences(k, "offsets", r.lengths), attention.MLAOptions{Save: r.save})
	k.must(err)
	return x, y, saved
}

func (m mlaConfig) decodes() bool { return m.cfg.Causal }

func (m mlaConfig) forward(k *Kit, c layerCase) func() {
	r := m.setUp(k, c)
	_, y, saved := r.pass()
	return func() {
		k.Norm("y", y, ref.MLAForward(r.oracle, r.xs).Out.Y, r.tolerance(r.terms(), 4))
		if c.save != moe.SaveAll {
			return
		}
		// Stage by stage from what the device had before each, so that each bound is that of one operation.
		t := refTypes[c.dtype]
		down := ref.DenseLinear(r.oracle.KVDown, r.xs, r.tokens())
		k.Close("down", saved.Down, down.Y, down.Bound(t, m.cfg.Width))
		up := ref.DenseLinear(r.oracle.KVUp, k.Values(saved.Latent), r.tokens())
		k.Close("up", saved.Up, up.Y, up.Bound(t, m.cfg.KVRank))
		core := ref.AttentionForward(r.oracle.Attention, k.Values(saved.Query), k.Values(saved.Key), m.valuesOf(k.Values(saved.Up)))
		bound, _ := core.RoundedBounds(t) // as matrices do it, which the device may take
		k.Close("heads", saved.Heads, core.Out.Y, bound)
		out := ref.DenseLinear(r.oracle.Output, k.Values(saved.Heads), r.tokens())
		k.Close("y", y, out.Y, out.Bound(t, m.cfg.Heads*m.cfg.ValueWidth))
	}
}

// valuesOf cuts the values out of heads of a part of a key and a value each.
func (m mlaConfig) valuesOf(up []float32) []float32 {
	var out []float32
	for head := m.cfg.PlainWidth + m.cfg.ValueWidth; len(up) > 0; up = up[head:] {
		out = append(out, up[m.cfg.PlainWidth:head]...)
	}
	return out
}

func (m mlaConfig) backward(k *Kit, c layerCase) func() {
	r := m.setUp(k, c)
	dys := c.values(k, m.cfg.Width)
	g, l := c.gradients(k), r.layer
	grads := attention.MLAGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate,
		X: g.of("x", c.dtype, c.tokens(), m.cfg.Width), QueryDown: g.linear("query_down", l.QueryDown),
		QueryUp: g.linear("query_up", l.QueryUp), KVDown: g.linear("kv_down", l.KVDown), KVUp: g.linear("kv_up", l.KVUp),
		Output: g.linear("output", l.Output), QueryNorm: g.vector("query_norm", l.QueryNorm), KVNorm: g.vector("kv_norm", l.KVNorm)}
	dy := k.Floats("dy", c.dtype, dys, c.tokens(), m.cfg.Width)
	x, _, saved := r.pass()
	k.must(l.Backward(k.Rec, saved, x, dy, grads))
	return func() {
		w := ref.MLABackward(r.oracle, r.xs, ref.MLAForward(r.oracle, r.xs), dys)
		g.judge(map[string][]float64{"x": w.X, "query_down": w.QueryDown.Weight.Y, "query_down_bias": w.QueryDown.Bias.Y,
			"query_up": w.QueryUp.Weight.Y, "kv_down": w.KVDown.Weight.Y, "kv_down_bias": w.KVDown.Bias.Y, "kv_up": w.KVUp.Weight.Y,
			"output": w.Output.Weight.Y, "output_bias": w.Output.Bias.Y, "query_norm": w.QueryNorm, "kv_norm": w.KVNorm},
			r.tolerance(2*r.terms()+c.tokens(), 8))
	}
}

func (m mlaConfig) decode(k *Kit, c layerCase) func() {
	c.lengths = c.whole().lengths
	r := m.setUp(k, c)
	var d decoding
	d.record(k, c, r.layer.Config.CacheConfig(2, c.capacity(m.cfg.Window)), m.cfg.Width, r.xs, func(x, y *vk.Tensor, seq attention.Sequences) error {
		return r.layer.Decode(k.Rec, d.cache, x, y, seq)
	})
	return func() {
		d.judge(k, c, m.cfg.Width, ref.MLAForward(r.oracle, r.xs).Out.Y, r.tolerance(r.terms(), 4))
	}
}
