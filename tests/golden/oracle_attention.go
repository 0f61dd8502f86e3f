package golden

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
)

// An AttentionOracle is the float64 oracle of one layer's attention. One of the three is set.
type AttentionOracle struct {
	SelfAttention *ref.SelfAttention[float32]
	MLA           *ref.MLA[float32]
	Mixture       *ref.MixtureOfAttention[float32]
}

// OracleAttention returns the oracle of an attention block over sequences with offsets [B+1], which computes from the weights
// as they are, whatever their dtype.
func OracleAttention(w *model.AttentionWeights, offsets []int32) (AttentionOracle, error) {
	rope, err := oracleRoPE(w.RoPE)
	if err != nil {
		return AttentionOracle{}, err
	}
	one := func(in, out int, weight, bias []float32) ref.Linear[float32] {
		return ref.Linear[float32]{Experts: 1, In: in, Out: out, Weight: weight, Bias: bias}
	}
	switch {
	case w.SelfAttention != nil:
		c := w.SelfAttention
		queries, keys := c.Heads*c.HeadWidth, c.KVHeads*c.HeadWidth
		return AttentionOracle{SelfAttention: &ref.SelfAttention[float32]{
			Attention: ref.Attention{Heads: c.Heads, KVHeads: c.KVHeads, Width: c.HeadWidth, ValueWidth: c.HeadWidth, Causal: c.Causal,
				Window: c.Window, SoftCap: float64(c.SoftCap), Scale: float64(c.Scale), Sinks: w.Sinks, QueryOffsets: offsets},
			RoPE: rope, Epsilon: float64(c.Eps), QueryNorm: w.QueryNorm, KeyNorm: w.KeyNorm,
			Query: one(c.Width, queries, w.Query, w.QueryBias), Key: one(c.Width, keys, w.Key, w.KeyBias),
			Value: one(c.Width, keys, w.Value, w.ValueBias), Output: one(queries, c.Width, w.Output, w.OutputBias),
		}}, nil
	case w.MLA != nil:
		return AttentionOracle{MLA: oracleMLA(w, rope, offsets)}, nil
	}
	c := w.Mixture
	columns := c.HeadsPerExpert * c.HeadWidth
	m := &ref.MixtureOfAttention[float32]{
		Attention: ref.Attention{Heads: c.TopK * c.HeadsPerExpert, KVHeads: c.HeadsPerExpert, Width: c.HeadWidth, ValueWidth: c.HeadWidth,
			Tiled: true, Causal: c.Causal, Window: c.Window, SoftCap: float64(c.SoftCap), Scale: float64(c.Scale), Sinks: w.Sinks,
			QueryOffsets: offsets},
		RoPE: rope, Gating: ref.Router{Scale: float64(c.GateScale), Experts: c.Experts, K: c.TopK},
		Router:   one(c.Width, c.Experts, w.RouterWeight, nil),
		Query:    ref.Linear[float32]{Experts: c.Experts, In: c.Width, Out: columns, Weight: w.Query},
		Output:   ref.Linear[float32]{Experts: c.Experts, In: columns, Out: c.Width, Weight: w.Output},
		KeyValue: one(c.Width, 2*columns, w.KeyValue, nil), Bias: w.OutputBias,
	}
	var known bool
	if m.Gating.Mode, known = oracleModes[c.Mode]; !known {
		return AttentionOracle{}, fmt.Errorf("golden: the oracle has no router mode %v", c.Mode)
	}
	return AttentionOracle{Mixture: m}, nil
}

func oracleMLA(w *model.AttentionWeights, rope ref.RoPE, offsets []int32) *ref.MLA[float32] {
	c := w.MLA
	one := func(in, out int, weight, bias []float32) ref.Linear[float32] {
		return ref.Linear[float32]{Experts: 1, In: in, Out: out, Weight: weight, Bias: bias}
	}
	rope.First = c.PlainWidth
	scale := float64(c.Scale)
	if scale == 0 {
		scale = w.RoPE.SoftmaxFactor() / math.Sqrt(float64(c.PlainWidth+c.TurnedWidth))
	}
	m := &ref.MLA[float32]{
		Attention: ref.Attention{Heads: c.Heads, KVHeads: c.Heads, Width: c.PlainWidth + c.TurnedWidth, ValueWidth: c.ValueWidth,
			Causal: c.Causal, Window: c.Window, Scale: scale, QueryOffsets: offsets},
		RoPE: rope, Epsilon: float64(c.Eps),
		QueryUp: one(c.Width, c.Heads*(c.PlainWidth+c.TurnedWidth), w.QueryUp, nil),
		KVDown:  one(c.Width, c.KVRank+c.TurnedWidth, w.KVDown, w.KVDownBias), KVNorm: w.KVNorm,
		KVUp:   one(c.KVRank, c.Heads*(c.PlainWidth+c.ValueWidth), w.KVUp, nil),
		Output: one(c.Heads*c.ValueWidth, c.Width, w.Output, w.OutputBias),
	}
	if c.QueryRank > 0 {
		down := one(c.Width, c.QueryRank, w.QueryDown, w.QueryDownBias)
		m.QueryDown, m.QueryNorm, m.QueryUp.In = &down, w.QueryNorm, c.QueryRank
	}
	return m
}

// oracleRoPE is the oracle's form of a rotary embedding.
func oracleRoPE(c attention.RoPEConfig) (ref.RoPE, error) {
	or := func(v, zero float64) float64 {
		if v == 0 {
			return zero
		}
		return v
	}
	kinds := map[attention.RoPEScaling]ref.RoPEScalingKind{attention.ScaleNone: ref.NoScaling, attention.ScaleLinear: ref.LinearScaling,
		attention.ScaleYaRN: ref.YaRNScaling, attention.ScaleLlama3: ref.Llama3Scaling}
	kind, known := kinds[c.Scaling]
	if !known {
		return ref.RoPE{}, fmt.Errorf("golden: the oracle has no rotary embedding with scaling %v", c.Scaling)
	}
	return ref.RoPE{Width: c.Width, Interleaved: c.Interleaved, Base: or(c.Base, 10000), Scaling: ref.RoPEScaling{
		Kind: kind, Factor: c.Factor, OriginalLength: float64(c.OriginalPositions),
		BetaFast: or(c.BetaFast, 32), BetaSlow: or(c.BetaSlow, 1), KeepFractions: c.NoTruncate,
		MScale: c.MScale, MScaleAllDim: c.MScaleAllDim, AttentionFactor: c.AttentionFactor,
		LowFrequencyFactor: c.LowFreqFactor, HighFrequencyFactor: c.HighFreqFactor,
	}}, nil
}

// Forward runs the block on x [T,D] and returns its output and the experts [T,K] of a mixture.
func (o AttentionOracle) Forward(x []float64) (out []float64, ids []int32) {
	switch {
	case o.SelfAttention != nil:
		return ref.SelfAttentionForward(*o.SelfAttention, x).Out.Y, nil
	case o.MLA != nil:
		return ref.MLAForward(*o.MLA, x).Out.Y, nil
	}
	res := ref.MixtureOfAttentionForward(*o.Mixture, x)
	return res.Out.Y, res.IDs
}

// Backward returns the gradients at x [T,D] from dOut [T,D]: that of x, and those of the parameters under the names that
// public checkpoints give them within the block.
func (o AttentionOracle) Backward(x, dOut []float64) (dX []float64, grads Gradients) {
	grads = Gradients{}
	switch {
	case o.SelfAttention != nil:
		s := *o.SelfAttention
		g := ref.SelfAttentionBackward(s, x, ref.SelfAttentionForward(s, x), dOut)
		grads.linear("q_proj", s.Query, g.Query)
		grads.linear("k_proj", s.Key, g.Key)
		grads.linear("v_proj", s.Value, g.Value)
		grads.linear("o_proj", s.Output, g.Output)
		grads.vector("q_norm.weight", s.QueryNorm, g.QueryNorm)
		grads.vector("k_norm.weight", s.KeyNorm, g.KeyNorm)
		grads.vector("sinks", s.Attention.Sinks, g.Sinks)
		return g.X, grads
	case o.MLA != nil:
		m := *o.MLA
		g := ref.MLABackward(m, x, ref.MLAForward(m, x), dOut)
		query := "q_proj"
		if m.QueryDown != nil {
			query = "q_b_proj"
			grads.linear("q_a_proj", *m.QueryDown, g.QueryDown)
			grads.vector("q_a_layernorm.weight", m.QueryNorm, g.QueryNorm)
		}
		grads.linear(query, m.QueryUp, g.QueryUp)
		grads.linear("kv_a_proj_with_mqa", m.KVDown, g.KVDown)
		grads.vector("kv_a_layernorm.weight", m.KVNorm, g.KVNorm)
		grads.linear("kv_b_proj", m.KVUp, g.KVUp)
		grads.linear("o_proj", m.Output, g.Output)
		return g.X, grads
	}
	m := *o.Mixture
	g := ref.MixtureOfAttentionBackward(m, x, ref.MixtureOfAttentionForward(m, x), dOut)
	grads.linear("experts.router.layer", m.Router, g.Router)
	grads.linear("experts.input_linear", m.Query, g.Query)
	grads.linear("experts.output_linear", m.Output, g.Output)
	grads.linear("kv_proj", m.KeyValue, g.KeyValue)
	grads.vector("experts.bias", m.Bias, g.Bias)
	grads.vector("sinks", m.Attention.Sinks, g.Sinks)
	return g.X, grads
}
