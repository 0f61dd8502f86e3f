package conform

import (
	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mixtureConfig is a configuration of a mixture of attention.
type mixtureConfig struct {
	cfg  attention.MixtureConfig
	rope *attention.RoPEConfig
}

// mixtureRun is a layer with banded weights and the oracle's equal.
type mixtureRun struct {
	layerCase
	k      *Kit
	layer  *attention.Mixture
	oracle ref.MixtureOfAttention[float32]
	xs     []float32
}

func (m mixtureConfig) setUp(k *Kit, c layerCase) *mixtureRun {
	if c.odd {
		k.Shift = 1
	}
	cfg := m.cfg
	cfg.DType = c.dtype
	r := &mixtureRun{layerCase: c, k: k}
	l, err := attention.NewMixture(k.Dev, cfg, k.rope(m.rope))
	k.must(err)
	r.layer = l
	r.oracle = ref.MixtureOfAttention[float32]{RoPE: ropeOracle(m.rope, 0),
		Gating: ref.Router{Mode: ref.RouterMode(cfg.Mode), Scale: float64(cfg.GateScale), Experts: cfg.Experts, K: cfg.TopK},
		Router: k.replace("router", l.Router), Query: k.replace("query", l.Query), KeyValue: k.replace("key_value", l.KeyValue),
		Output: k.replace("output", l.Output)}
	r.oracle.Attention = ref.Attention{Heads: cfg.TopK * cfg.HeadsPerExpert, KVHeads: cfg.HeadsPerExpert, Width: cfg.HeadWidth,
		ValueWidth: cfg.HeadWidth, Tiled: true, Causal: cfg.Causal, Window: cfg.Window, SoftCap: float64(cfg.SoftCap),
		Scale: float64(cfg.Scale), Sinks: k.replaceVector("sinks", &l.Sinks), QueryOffsets: offsetsOf(c.lengths)}
	if cfg.OutputBias {
		r.oracle.Bias = k.weights(c.dtype, cfg.Width, 4)
		k.must(l.OutputBias.Close())
		l.OutputBias = k.bankOf(k.Floats("output_bias", c.dtype, r.oracle.Bias, 1, cfg.Width))
	}
	r.xs = c.values(k, cfg.Width)
	return r
}

// terms is the length of all sums on the way to an output, and back to an input.
func (r *mixtureRun) terms() int {
	c := r.layer.Config
	return c.Width + 3*c.HeadWidth + r.tokens() + c.HeadsPerExpert*c.HeadWidth + c.TopK + 96
}

// pass records the forward pass.
func (r *mixtureRun) pass() (x, y *vk.Tensor, saved *attention.MixtureSaved) {
	k, width := r.k, r.layer.Config.Width
	x, y = k.Floats("x", r.dtype, r.xs, r.tokens(), width), k.Output("y", r.dtype, r.tokens(), width)
	saved, err := r.layer.ForwardWith(k.Rec, x, y, r.sequences(k, "offsets", r.lengths), attention.MixtureOptions{Save: r.save})
	k.must(err)
	return x, y, saved
}

// result is the oracle's for the experts that the device chose, which are judged.
func (r *mixtureRun) result(ids []int32) ref.MixtureOfAttentionResult {
	logits := ref.DenseLinear(r.oracle.Router, r.xs, r.tokens())
	rules := r.oracle.Gating
	want, margins := ref.Select(rules, logits.Y, r.tokens()), ref.RouterMargins(rules, logits.Y, r.tokens())
	tolerance := ref.Tolerance(ref.F32, r.layer.Config.Width) * 8 // of logits that are sums of a few products of about 1
	for _, d := range ref.CompareChoices(ids, want, margins, rules.K) {
		if !(d.Margin <= tolerance) {
			r.k.Fail(CheckOracle, "ids", "token %d goes to %v, to the oracle to %v with margin %v", d.Token, d.Got, d.Want, d.Margin)
		}
	}
	return ref.MixtureOfAttentionChosen(r.oracle, r.xs, logits, ids)
}

func (m mixtureConfig) decodes() bool { return m.cfg.Causal }

func (m mixtureConfig) forward(k *Kit, c layerCase) func() {
	r := m.setUp(k, c)
	_, y, saved := r.pass()
	return func() {
		res := r.result(k.Ints(saved.Routing.IDs))
		k.Norm("y", y, res.Out.Y, r.tolerance(r.terms(), 4))
		if c.save != moe.SaveAll {
			return
		}
		// Stage by stage from what the device had before each, so that each bound is that of one operation.
		t := refTypes[c.dtype]
		k.Close("logits", saved.Logits, res.Logits.Y, res.Logits.Bound(ref.F32, m.cfg.Width))
		keys, values := r.halves(k.Values(saved.KeyValue))
		core := ref.AttentionForward(r.oracle.Attention, k.Values(saved.Query), keys, values)
		bound, _ := core.RoundedBounds(t) // as matrices do it, which the device may take
		k.Close("heads", saved.Heads, core.Out.Y, bound)
	}
}

// halves cuts rows of keys and values in two.
func (r *mixtureRun) halves(rows []float32) (keys, values []float32) {
	n := r.layer.Config.HeadsPerExpert * r.layer.Config.HeadWidth
	for ; len(rows) > 0; rows = rows[2*n:] {
		keys, values = append(keys, rows[:n]...), append(values, rows[n:2*n]...)
	}
	return keys, values
}

func (m mixtureConfig) backward(k *Kit, c layerCase) func() {
	r := m.setUp(k, c)
	dys := c.values(k, m.cfg.Width)
	g, l := c.gradients(k), r.layer
	grads := attention.MixtureGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate,
		X: g.of("x", c.dtype, c.tokens(), m.cfg.Width), Router: g.linear("router", l.Router), Query: g.linear("query", l.Query),
		KeyValue: g.linear("key_value", l.KeyValue), Output: g.linear("output", l.Output), Sinks: g.vector("sinks", l.Sinks)}
	if l.OutputBias != nil {
		grads.OutputBias = k.bankOf(g.of("bias", c.dtype, 1, m.cfg.Width))
	}
	grads.Gates, grads.Logits = k.Output("dgates", vk.F32, c.tokens(), m.cfg.TopK), k.Output("dlogits", vk.F32, c.tokens(), m.cfg.Experts)
	dy := k.Floats("dy", c.dtype, dys, c.tokens(), m.cfg.Width)
	x, _, saved := r.pass()
	k.must(l.Backward(k.Rec, saved, x, dy, grads))
	return func() {
		res := r.result(k.Ints(saved.Routing.IDs))
		w := ref.MixtureOfAttentionBackward(r.oracle, r.xs, res, dys)
		tolerance := r.tolerance(2*r.terms()+c.tokens()*m.cfg.TopK, 8)
		k.Norm("dgates", grads.Gates, w.Gates.Y, tolerance)
		k.Norm("dlogits", grads.Logits, w.Logits.Y, tolerance)
		g.judge(map[string][]float64{"x": w.X, "router": w.Router.Weight.Y, "router_bias": w.Router.Bias.Y, "query": w.Query.Weight.Y,
			"query_bias": w.Query.Bias.Y, "key_value": w.KeyValue.Weight.Y, "key_value_bias": w.KeyValue.Bias.Y,
			"output": w.Output.Weight.Y, "output_bias": w.Output.Bias.Y, "bias": w.Bias, "sinks": w.Sinks}, tolerance)
	}
}

func (m mixtureConfig) decode(k *Kit, c layerCase) func() {
	c.lengths = c.whole().lengths
	r := m.setUp(k, c)
	var d decoding
	var routings []*moe.Routing
	d.record(k, c, r.layer.Config.CacheConfig(2, c.capacity(m.cfg.Window)), m.cfg.Width, r.xs, func(x, y *vk.Tensor, seq attention.Sequences) error {
		saved, err := r.layer.Decode(k.Rec, d.cache, x, y, seq)
		if err == nil {
			routings = append(routings, saved.Routing)
		}
		return err
	})
	return func() {
		ids := make([]int32, c.tokens()*m.cfg.TopK)
		for s, routing := range routings {
			got := k.Ints(routing.IDs)
			for i, row := range d.rows[s] {
				copy(ids[row*m.cfg.TopK:], got[i*m.cfg.TopK:(i+1)*m.cfg.TopK])
			}
		}
		d.judge(k, c, m.cfg.Width, r.result(ids).Out.Y, r.tolerance(r.terms(), 4))
	}
}
