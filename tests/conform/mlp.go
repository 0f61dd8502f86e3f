package conform

import (
	"fmt"
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlpCase is one use of an MLP.
type mlpCase struct {
	cfg    moe.MLPConfig
	tokens int
	save   moe.Save
	jitter float32
	routed bool // the caller chooses the experts

	accumulate, workspace bool
	saveIn                bool // in the gradient of Down's weights
}

// mlpRun is an MLP with banded weights and the oracle's equal.
type mlpRun struct {
	mlpCase
	k      *Kit
	layer  *moe.MLP
	oracle ref.MLP[float32]
	xs     []float32
	x, y   *vk.Tensor
	saved  *moe.MLPSaved
	opts   moe.ForwardOptions
	ids    []int32 // of a routed case
}

// linear makes one linear map with weights scaled so that values neither grow nor vanish.
func (r *mlpRun) linear(name string, experts, in, out int, bias, inOut bool) (*moe.ParallelLinear, ref.Linear[float32]) {
	k, dtype := r.k, r.cfg.DType
	c := linearCase{shape: shape{experts: experts, in: in, out: out}, inOut: inOut}
	l := &moe.ParallelLinear{Config: moe.ParallelLinearConfig{Experts: experts, In: in, Out: out, Bias: bias, InOut: inOut, DType: dtype}}
	data := k.Normal(vk.F32, experts*in*out)
	for i := range data {
		data[i] /= float32(in) / 4
	}
	o := ref.Linear[float32]{Experts: experts, In: in, Out: out, InOut: inOut, Weight: vk.Round(dtype, data)}
	l.Weight = c.bank(k, name, dtype, o.Weight, c.weightShape()...)
	if bias {
		o.Bias = k.Normal(dtype, experts*out)
		l.Bias = c.bank(k, name+"_bias", dtype, o.Bias, experts, out)
	}
	return l, o
}

func (c mlpCase) columns(hidden int) int {
	if c.cfg.Activation.Gated() {
		return 2 * hidden
	}
	return hidden
}

// function is the oracle's form of the activation.
func (c mlpCase) function() ref.Activation {
	for _, f := range functions {
		if f.Activation == c.cfg.Activation {
			return f.ref
		}
	}
	panic("conform: no activation " + c.cfg.Activation.String())
}

// setUp makes weights and input and records the forward pass.
func (c mlpCase) setUp(k *Kit) *mlpRun {
	cfg := c.cfg
	k.must(cfg.Validate())
	r := &mlpRun{mlpCase: c, k: k, layer: &moe.MLP{Config: cfg}}
	m := r.layer
	o := &r.oracle
	*o = ref.MLP[float32]{Mode: ref.RouterMode(cfg.Mode), K: cfg.TopK, Activation: c.function(), Gated: cfg.Activation.Gated(),
		Gating: ref.Router{Scale: float64(cfg.GateScale), Groups: cfg.Groups, TopGroups: cfg.TopGroups}}
	m.Router, o.Router = r.linear("router", 1, cfg.Width, cfg.Experts, cfg.RouterBias, false)
	m.Up, o.Up = r.linear("up", cfg.Experts, cfg.Width, c.columns(cfg.Hidden), cfg.Bias, cfg.InOut)
	m.Down, o.Down = r.linear("down", cfg.Experts, cfg.Hidden, cfg.Width, cfg.Bias, cfg.InOut)
	if cfg.Interleaved {
		o.Up = apartUp(o.Up)
	}
	if cfg.Activation == moe.ClampedSwiGLU {
		o.Clamp = &ref.Clamp{Alpha: float64(float32(1.702)), Limit: 7}
	}
	if cfg.SharedHidden > 0 {
		o.Shared = &ref.Shared[float32]{}
		m.SharedUp, o.Shared.Up = r.linear("shared_up", 1, cfg.Width, c.columns(cfg.SharedHidden), false, cfg.InOut)
		m.SharedDown, o.Shared.Down = r.linear("shared_down", 1, cfg.SharedHidden, cfg.Width, false, cfg.InOut)
	}
	if cfg.SharedGate {
		gate := ref.Linear[float32]{}
		m.SharedGate, gate = r.linear("shared_gate", 1, cfg.Width, 1, false, false)
		o.Shared.Gate = &gate
	}
	if cfg.CorrectionBias {
		o.Gating.Bias = k.Normal(vk.F32, cfg.Experts)
		m.CorrectionBias = k.F32("correction_bias", o.Gating.Bias, cfg.Experts)
	}
	if cfg.OutputBias {
		o.OutputBias = k.Normal(cfg.DType, cfg.Width)
		m.OutputBias = k.bankOf(k.Floats("output_bias", cfg.DType, o.OutputBias, 1, cfg.Width))
	}
	r.xs = k.Normal(cfg.DType, c.tokens*cfg.Width)
	r.x = k.Floats("x", cfg.DType, r.xs, c.tokens, cfg.Width)
	r.y = k.Output("y", cfg.DType, c.tokens, cfg.Width)
	r.opts = moe.ForwardOptions{Save: c.save, Jitter: moe.JitterConfig{Eps: c.jitter, Seed: 7}}
	if c.routed {
		r.ids = spreadOf("random").ids(k.Rand, c.tokens*cfg.TopK, cfg.Experts)
		r.opts.Routing, _ = k.route(r.ids, shape{experts: cfg.Experts, k: cfg.TopK, tokens: c.tokens})
		r.opts.Routing.Gates = k.F32("gates", k.Normal(vk.F32, len(r.ids)), c.tokens, cfg.TopK)
	}
	return r
}

// apartUp moves gate outputs, which are in turn with the up outputs, before them, as the oracle has them.
func apartUp(l ref.Linear[float32]) ref.Linear[float32] {
	l.Weight = moveOutputs(l.Weight, l, false)
	if l.Bias != nil {
		l.Bias = ref.Separate(l.Bias, l.Experts, l.Out/2, false)
	}
	return l
}

// moveOutputs is separate for the outputs of weights in the storage order of l.
func moveOutputs[E any](w []E, l ref.Linear[float32], back bool) []E {
	if l.InOut {
		return ref.Separate(w, l.Experts*l.In, l.Out/2, back)
	}
	out := make([]E, len(w))
	size := l.Out * l.In
	rows := make([]int, l.Out)
	for i := range rows {
		rows[i] = i
	}
	for e := range l.Experts {
		for to, from := range ref.Separate(rows, 1, l.Out/2, back) {
			copy(out[e*size+to*l.In:e*size+(to+1)*l.In], w[e*size+from*l.In:e*size+(from+1)*l.In])
		}
	}
	return out
}

// record records the forward pass.
func (r *mlpRun) record() {
	var err error
	r.saved, err = r.layer.ForwardWith(r.k.Rec, r.x, r.y, r.opts)
	r.k.must(err)
}

// result is the oracle's, for the experts that the device chose, which are judged.
func (r *mlpRun) result() ref.MLPResult {
	k, cfg := r.k, r.cfg
	in := r.xs
	if r.jitter > 0 {
		in = vk.Round(cfg.DType, ref.Jitter(r.xs, r.jitter, 7, 0, 0))
	}
	logits := ref.DenseLinear(r.oracle.Router, in, r.tokens)
	if r.routed {
		res := ref.ForwardChosen(r.oracle, r.xs, r.tokens, logits, r.ids)
		return r.withGates(res, ref.Widen(k.Values(r.opts.Routing.Gates)))
	}
	got, ids := k.Values(r.saved.Logits), k.Ints(r.saved.Routing.IDs)
	bound := logits.Bound(ref.F32, cfg.Width)
	if r.jitter > 0 { // a device may round the noise's products otherwise
		bound = logits.BoundBy(ref.Tolerance(ref.F32, cfg.Width)+2*ref.UnitF32+2*refTypes[cfg.DType].Storage(), 1e-30)
	}
	k.compare("logits", got, logits.Y, bound)
	k.judgeChoice(r.oracle.Rules(), got, ids, r.tokens)
	return ref.ForwardChosen(r.oracle, r.xs, r.tokens, logits, ids)
}

// withGates puts the caller's gates in place of the router's.
func (r *mlpRun) withGates(res ref.MLPResult, gates []float64) ref.MLPResult {
	res.Gates = gates
	res.Out = ref.Combine(res.Slots.Y, gates, res.Routing, r.cfg.Width, false)
	if r.oracle.Shared != nil {
		for i, v := range res.Shared.Out.Y {
			res.Out.Y[i] += v
		}
	}
	return res
}

// tolerance is the largest relative error (Frobenius norm) of an output or gradient: 1e-5 in f32, and for 16-bit storage eight
// roundings, those of z, h, the slots and y on the way there, and as many on the way back.
func (c mlpCase) tolerance() float64 { return 1e-5 + 8*refTypes[c.cfg.DType].Storage() }

func (c mlpCase) forward(k *Kit) func() {
	r := c.setUp(k)
	r.record()
	return func() {
		res := r.result()
		k.Frobenius("y", r.y, res.Out.Y, c.tolerance())
		if c.save != moe.SaveAll || c.cfg.Interleaved {
			return
		}
		// Stage by stage from what the device had before each, so that each bound is that of one operation.
		t, none := refTypes[c.cfg.DType], []float32(nil)
		z := ref.Scatter2scatter(r.oracle.Up, r.xs, res.Routing, ref.Layout{GroupedOut: true}, none)
		k.Close("z", r.saved.Z, z.Y, z.Bound(t, c.cfg.Width))
		h := k.Values(r.saved.H)
		slots := ref.Scatter2scatter(r.oracle.Down, h, res.Routing, ref.Layout{GroupedIn: true}, none)
		k.Close("slots", r.saved.Slots, slots.Y, slots.Bound(t, c.cfg.Hidden))
	}
}

// Frobenius compares a tensor as a whole: ‖got − want‖ / ‖want‖ ≤ tolerance.
func (k *Kit) Frobenius(name string, t *vk.Tensor, want []float64, tolerance float64) {
	k.relative(name, k.Values(t), want, tolerance, 0)
}

// relative compares arrays as a whole, in units of the norm of want, or of as many values of least where that is larger.
func (k *Kit) relative(name string, got []float32, want []float64, tolerance, least float64) {
	if len(got) != len(want) {
		k.Fail(CheckError, name, "%d values, the oracle has %d", len(got), len(want))
		return
	}
	k.found.wants[name] = want
	square := float64(len(want)) * least * least
	for _, w := range want {
		square -= w * w
	}
	if square > 0 { // one more element on which both agree fills the norm up
		fill := float32(math.Sqrt(square))
		got, want = append(slices.Clone(got), fill), append(slices.Clone(want), float64(fill))
	}
	c := ref.Compare(got, want, nil)
	if c.Frobenius <= tolerance || len(want) == 0 {
		k.found.worst = max(k.found.worst, c.Frobenius/tolerance)
		return
	}
	w := ref.Compare(got, want, []float64{tolerance}).Worst
	k.found.add(Failure{Check: CheckOracle, Tensor: name,
		Message: fmt.Sprintf("relative error %.3g (Frobenius norm), the tolerance is %.3g", c.Frobenius, tolerance),
		Worst:   &Element{w.Index, Number(w.Got), Number(w.Want), Number(tolerance)}, Histogram: histogram(got, want, []float64{tolerance})})
}

// backward records both passes with every gradient asked for.
func (c mlpCase) backward(k *Kit) func() {
	r := c.setUp(k)
	cfg := c.cfg
	dys := k.Normal(cfg.DType, c.tokens*cfg.Width)
	dy := k.Floats("dy", cfg.DType, dys, c.tokens, cfg.Width)
	lin := linearCase{accumulate: c.accumulate}
	targets := map[string]target{}
	grad := func(name string, dtype vk.DType, shape ...int) *vk.Tensor {
		targets[name] = lin.target(k, "d"+name, dtype, false, shape...)
		return targets[name].t
	}
	g := moe.MLPGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate}
	g.X = grad("x", cfg.DType, c.tokens, cfg.Width)
	targets["gates"] = target{t: k.Output("dgates", vk.F32, c.tokens, cfg.TopK)}
	g.Gates = targets["gates"].t
	part := func(name string, l *moe.ParallelLinear, w *moe.WeightGrads) {
		if l == nil {
			return
		}
		w.Weight = k.bankOf(grad(name, cfg.DType, l.Weight.Shape()...))
		if l.Bias != nil {
			w.Bias = k.bankOf(grad(name+"_bias", cfg.DType, l.Bias.Shape()...))
		}
	}
	m := r.layer
	if !c.routed {
		part("router", m.Router, &g.Router)
	}
	part("up", m.Up, &g.Up)
	part("down", m.Down, &g.Down)
	part("shared_up", m.SharedUp, &g.SharedUp)
	part("shared_down", m.SharedDown, &g.SharedDown)
	part("shared_gate", m.SharedGate, &g.SharedGate)
	if m.OutputBias != nil {
		g.OutputBias = k.bankOf(grad("output_bias", vk.F32, 1, cfg.Width))
	}
	if c.workspace {
		r.opts.Workspace = g.Up.Weight.Parts()[0]
	}
	if c.saveIn {
		r.opts.SaveIn = g.Down.Weight.Parts()[0]
	}
	r.record()
	k.must(m.Backward(k.Rec, r.saved, r.x, dy, g))
	return func() { r.judgeGradients(targets, dys) }
}

// judgeGradients compares y and every gradient, to which what it held before is added.
func (r *mlpRun) judgeGradients(targets map[string]target, dys []float32) {
	k := r.k
	res := r.result()
	k.Frobenius("y", r.y, res.Out.Y, r.tolerance())
	g := ref.MLPBackward(r.oracle, r.xs, res, dys)
	if r.routed { // the caller's gates: no gradient flows through a router
		for i, v := range g.Router.X.Y {
			g.X[i] -= v
		}
	}
	want := map[string][]float64{"x": g.X, "gates": g.Gates.Y, "router": g.Router.Weight.Y, "router_bias": g.Router.Bias.Y,
		"up": g.Up.Weight.Y, "up_bias": g.Up.Bias.Y, "down": g.Down.Weight.Y, "down_bias": g.Down.Bias.Y, "output_bias": g.OutputBias,
		"shared_up": g.Shared.Up.Weight.Y, "shared_down": g.Shared.Down.Weight.Y, "shared_gate": g.Shared.Gate.Weight.Y}
	if r.cfg.Interleaved {
		want["up"] = moveOutputs(want["up"], r.oracle.Up, true)
		want["up_bias"] = ref.Separate(want["up_bias"], r.cfg.Experts, r.cfg.Hidden, true)
	}
	for name, t := range targets {
		w := slices.Clone(want[name])
		for i, s := range t.start {
			w[i] += float64(s)
		}
		k.Frobenius("d"+name, t.t, w, r.tolerance())
	}
}
