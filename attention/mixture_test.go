package attention

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mixtureLayer is a Mixture on the device with the same weights for the oracle.
type mixtureLayer struct {
	*Mixture
	oracle ref.MixtureOfAttention[float32]
}

// newMixture makes a layer of random weights, scaled so that values neither grow nor vanish. turning is the width that a RoPE
// turns, 0 for none.
func newMixture(t testing.TB, cfg MixtureConfig, turning int) mixtureLayer {
	t.Helper()
	gputest.Need(t, dev)
	ctx := context.Background()
	var rope *RoPE
	if turning > 0 {
		var err error
		rope, err = NewRoPE(ctx, dev, RoPEConfig{Width: turning, Base: 100}, 1024)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, rope.Close()) })
	}
	m, err := NewMixture(dev, cfg, rope)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	r := rand.New(rand.NewSource(11))
	linear := func(l *moe.ParallelLinear, scale float64) ref.Linear[float32] {
		c := l.Config
		out := ref.Linear[float32]{Experts: c.Experts, In: c.In, Out: c.Out, InOut: c.InOut, Weight: gputest.Normal(r, c.Experts*c.In*c.Out)}
		for i := range out.Weight {
			out.Weight[i] *= float32(scale / math.Sqrt(float64(c.In)))
		}
		out.Weight = vk.Round(cfg.DType, out.Weight)
		require.NoError(t, moe.UploadBank(ctx, l.Weight, out.Weight))
		if c.Bias {
			out.Bias = vk.Round(cfg.DType, gputest.Normal(r, c.Experts*c.Out))
			require.NoError(t, moe.UploadBank(ctx, l.Bias, out.Bias))
		}
		return out
	}
	f := cfg.flash()
	oracle := ref.MixtureOfAttention[float32]{
		Attention: ref.Attention{Heads: f.Heads, KVHeads: f.KVHeads, Width: f.Width, ValueWidth: f.ValueWidth, Tiled: true,
			Causal: f.Causal, Window: f.Window, SoftCap: float64(f.SoftCap), Scale: float64(f.Scale)},
		RoPE:   ref.RoPE{Width: turning, Base: 100},
		Gating: ref.Router{Mode: ref.RouterMode(cfg.Mode), Scale: float64(cfg.GateScale)},
		Router: linear(m.Router, 2), Query: linear(m.Query, 1), KeyValue: linear(m.KeyValue, 1), Output: linear(m.Output, 1)}
	if cfg.OutputBias {
		oracle.Bias = vk.Round(cfg.DType, gputest.Normal(r, cfg.Width))
		require.NoError(t, moe.UploadBank(ctx, m.OutputBias, oracle.Bias))
	}
	if cfg.Sinks {
		oracle.Attention.Sinks = gputest.Normal(r, f.Heads)
		require.NoError(t, vk.Upload(ctx, m.Sinks, oracle.Attention.Sinks))
	}
	return mixtureLayer{Mixture: m, oracle: oracle}
}

// mixtureRun is a forward and a backward pass in one recorder, with every gradient asked for.
type mixtureRun struct {
	layer   mixtureLayer
	tokens  int
	offsets []int32
	x, dy   []float32

	saved *MixtureSaved
	y     *vk.Tensor
	grads MixtureGrads
	named map[string]*vk.Tensor
	start map[string][]float32 // what accumulated gradients held before
}

// mixtureCase says how a mixtureRun is made.
type mixtureCase struct {
	lengths    []int
	save       moe.Save
	accumulate bool
	routing    func(k *kit, tokens int) *moe.Routing // nil: the router's
}

// record records both passes; accumulated gradients begin with random values.
func (l mixtureLayer) record(k *kit, c mixtureCase) *mixtureRun {
	k.T.Helper()
	cfg := l.Config
	run := &mixtureRun{layer: l, offsets: offsetsOf(c.lengths), named: map[string]*vk.Tensor{}, start: map[string][]float32{}}
	run.tokens = int(run.offsets[len(c.lengths)])
	r := rand.New(rand.NewSource(int64(run.tokens)))
	run.x, run.dy = vk.Round(cfg.DType, gputest.Normal(r, run.tokens*cfg.Width)), vk.Round(cfg.DType, gputest.Normal(r, run.tokens*cfg.Width))
	x, dy := k.Floats("x", cfg.DType, run.x, run.tokens, cfg.Width), k.Floats("dy", cfg.DType, run.dy, run.tokens, cfg.Width)
	run.y = k.Output("y", cfg.DType, run.tokens, cfg.Width)
	run.makeGrads(k, r, c.accumulate)
	o := MixtureOptions{Save: c.save}
	if c.routing != nil {
		o.Routing = c.routing(k, run.tokens)
		run.grads.Router, run.grads.Logits = moe.WeightGrads{}, nil
	}
	var err error
	seq := Sequences{Offsets: k.I32("offsets", run.offsets, len(run.offsets))}
	run.saved, err = l.ForwardWith(k.Rec, x, run.y, seq, o)
	require.NoError(k.T, err)
	require.NoError(k.T, l.Backward(k.Rec, run.saved, x, dy, run.grads))
	return run
}

// makeGrads makes tensors for all gradients.
func (run *mixtureRun) makeGrads(k *kit, r *rand.Rand, accumulate bool) {
	k.T.Helper()
	cfg := run.layer.Config
	gradient := func(name string, dtype vk.DType, shape ...int) *vk.Tensor {
		if accumulate {
			run.named[name], run.start[name] = k.Sum(name, dtype, r, shape...)
		} else {
			run.named[name] = k.Output(name, dtype, shape...)
		}
		return run.named[name]
	}
	bank := func(t *vk.Tensor) *moe.ExpertBank {
		b, err := moe.BankOfTensor(t)
		require.NoError(k.T, err)
		return b
	}
	g := &run.grads
	g.AccumulateX, g.AccumulateWeights, g.AccumulateLogits = accumulate, accumulate, accumulate
	g.X, g.Logits = gradient("X", cfg.DType, run.tokens, cfg.Width), gradient("Logits", vk.F32, run.tokens, cfg.Experts)
	run.named["Gates"] = k.Output("Gates", vk.F32, run.tokens, cfg.TopK)
	g.Gates = run.named["Gates"]
	for _, part := range run.layer.gradParts(g) {
		part.grads.Weight = bank(gradient(part.name, cfg.DType, part.layer.Weight.Shape()...))
		if part.layer.Bias != nil {
			part.grads.Bias = bank(gradient(part.name+" bias", vk.F32, part.layer.Bias.Shape()...))
		}
	}
	if cfg.OutputBias {
		g.OutputBias = bank(gradient("OutputBias", cfg.DType, 1, cfg.Width))
	}
	if cfg.Sinks {
		g.Sinks = gradient("Sinks", vk.F32, cfg.heads())
	}
}

// want computes the oracle's results for the experts that the device chose.
func (run *mixtureRun) want(t testing.TB) (ref.MixtureOfAttentionResult, map[string][]float64) {
	t.Helper()
	m := run.layer.oracle
	m.Attention.QueryOffsets = run.offsets
	logits := ref.DenseLinear(m.Router, run.x, run.tokens)
	ids := gputest.Download[int32](t, run.saved.Routing.IDs)
	requireNearChoice(t, m, logits, ids, run.tokens)
	res := ref.MixtureOfAttentionChosen(m, run.x, logits, ids)
	g := ref.MixtureOfAttentionBackward(m, run.x, res, run.dy)
	if start := run.start["Logits"]; start != nil { // as if from a router loss
		dLogits := ref.Widen(start)
		for i, v := range g.Logits.Y {
			dLogits[i] += v
		}
		router := ref.Scatter2scatterBackward(m.Router, run.x, ref.Dense(run.tokens), ref.Layout{}, []float32(nil), dLogits)
		for i, v := range router.X.Y {
			g.X[i] += v - g.Router.X.Y[i]
		}
		g.Router = router
	}
	return res, map[string][]float64{
		"X": g.X, "Logits": g.Logits.Y, "Gates": g.Gates.Y, "Router": g.Router.Weight.Y, "Router bias": g.Router.Bias.Y,
		"Query": g.Query.Weight.Y, "Query bias": g.Query.Bias.Y, "KeyValue": g.KeyValue.Weight.Y,
		"KeyValue bias": g.KeyValue.Bias.Y, "Output": g.Output.Weight.Y, "Output bias": g.Output.Bias.Y,
		"OutputBias": g.Bias, "Sinks": g.Sinks,
	}
}

// requireNearChoice asks that the experts are the oracle's, but where f32 cannot tell two apart.
func requireNearChoice(t testing.TB, m ref.MixtureOfAttention[float32], logits ref.Result, ids []int32, tokens int) {
	t.Helper()
	rules := m.Gating
	rules.Experts, rules.K = m.Query.Experts, m.Attention.Heads/m.Attention.KVHeads
	want := ref.Select(rules, logits.Y, tokens)
	for _, d := range ref.CompareChoices(ids, want, ref.RouterMargins(rules, logits.Y, tokens), rules.K) {
		require.Less(t, d.Margin, 1e-5, "token %d has experts %v, want %v", d.Token, d.Got, d.Want)
	}
}

// tolerance is the largest relative error (Frobenius norm) of an output or gradient: in f32 that of the sums, and for 16-bit
// storage twelve roundings: those of queries, keys and values before and after their rotation, of heads, slots and y on the way
// there, and as many on the way back.
func (run *mixtureRun) tolerance() float64 {
	return 2e-5 + 12*gputest.Oracle(run.layer.Config.DType).Storage()
}

// relativeError is the Frobenius norm of the difference over that of the reference, or of values of 1/8 where that is less:
// where terms cancel, as they do for a query that sees one key only, a gradient is judged by what it is made of.
func relativeError(got []float32, want []float64) float64 {
	diff, norm := 0.0, 0.0
	for i, w := range want {
		diff += (float64(got[i]) - w) * (float64(got[i]) - w)
		norm += w * w
	}
	if norm = max(norm, float64(len(want))/64); norm == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}

// requireClose compares y and all gradients with the oracle's, to which what they held before is added.
func (run *mixtureRun) requireClose(t testing.TB) {
	t.Helper()
	res, want := run.want(t)
	near := func(name string, got []float32, want []float64) {
		t.Helper()
		relative := relativeError(got, want)
		require.True(t, relative <= run.tolerance(), "%s: relative error %v, tolerance %v", name, relative, run.tolerance())
	}
	near("y", gputest.Download[float32](t, run.y), res.Out.Y)
	for name, tensor := range run.named {
		if run.saved.Logits == nil && (name == "Router" || name == "Router bias" || name == "Logits") {
			continue
		}
		w := slices.Clone(want[name])
		require.Len(t, w, tensor.Elements(), name)
		for i, s := range run.start[name] {
			w[i] += float64(s)
		}
		near(name, gputest.Download[float32](t, tensor), w)
	}
}

// mixtureConfigs are layers of every shape: one choice and all, one head and many, odd widths, every option.
func mixtureConfigs() []MixtureConfig {
	return []MixtureConfig{
		{Experts: 1, TopK: 1, HeadsPerExpert: 1, HeadWidth: 2, Width: 1, Causal: true},
		{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 32, Mode: moe.TopKSoftmax, OutputBias: true, Causal: true},
		{Experts: 5, TopK: 1, HeadsPerExpert: 4, HeadWidth: 8, Width: 33, Mode: moe.SigmoidTopK, Causal: true, RouterBias: true},
		{Experts: 4, TopK: 4, HeadsPerExpert: 1, HeadWidth: 12, Width: 20, Mode: moe.SoftmaxTopKNorm, QueryBias: true, InOut: true},
		{Experts: 6, TopK: 3, HeadsPerExpert: 3, HeadWidth: 6, Width: 27, Mode: moe.SigmoidTopKNorm, GateScale: 2.5, KeyValueBias: true,
			ExpertBias: true, Sinks: true, Causal: true, Window: 7},
		{Experts: 16, TopK: 8, HeadsPerExpert: 1, HeadWidth: 80, Width: 24, SoftCap: 3, Scale: 0.3, Causal: true, OutputBias: true,
			QueryBias: true, KeyValueBias: true, ExpertBias: true, RouterBias: true},
		{Experts: 3, TopK: 1, HeadsPerExpert: 2, HeadWidth: 64, Width: 48, OutputBias: true, Window: 5, Sinks: true},
	}
}

func TestMixtureEqualsTheOracle(t *testing.T) {
	lengths := [][]int{{}, {1}, {2}, {17, 0, 1, 40}, {63, 2}}
	for i, cfg := range mixtureConfigs() {
		for j, dtype := range []vk.DType{vk.F32, []vk.DType{vk.F16, vk.BF16}[i%2]} {
			if testing.Short() && j > 0 {
				continue
			}
			cfg.DType = dtype
			turning := []int{0, cfg.HeadWidth, 2}[(i+j)%3]
			l := newMixture(t, cfg, turning)
			for n, c := range lengths {
				t.Run(fmt.Sprintf("%+v RoPE %d %v", cfg, turning, c), func(t *testing.T) {
					k := newKit(t)
					run := l.record(k, mixtureCase{lengths: c, save: moe.Save((i + n) % 2), accumulate: (j+n)%2 == 1})
					k.Run()
					run.requireClose(t)
					k.Close()
				})
			}
		}
	}
}
