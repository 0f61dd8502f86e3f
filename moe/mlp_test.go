package moe

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// layer is an MLP on the device with the same weights for the oracle.
type layer struct {
	*MLP
	oracle ref.MLP[float32]
	jitter JitterConfig // of recordBackward
	saveIn bool         // recordBackward saves in the gradient of Down's weights
}

// newLayer makes a layer of random weights, scaled so that values neither grow nor vanish.
func newLayer(t testing.TB, cfg MLPConfig) layer {
	t.Helper()
	gputest.Need(t, dev)
	m, err := NewMLP(dev, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	r := rand.New(rand.NewSource(11))
	linear := func(l *ParallelLinear) ref.Linear[float32] {
		c := l.Config
		out := ref.Linear[float32]{Experts: c.Experts, In: c.In, Out: c.Out, InOut: c.InOut, Weight: gputest.Normal(r, c.Experts*c.In*c.Out)}
		for i := range out.Weight {
			out.Weight[i] /= float32(c.In) / 4
		}
		out.Weight = vk.Round(cfg.DType, out.Weight)
		require.NoError(t, UploadBank(context.Background(), l.Weight, out.Weight))
		if c.Weights != WeightsFull {
			out.Weight = dequantizedBank(t, l.Weight)
		}
		if c.Bias {
			out.Bias = vk.Round(cfg.DType, gputest.Normal(r, c.Experts*c.Out))
			require.NoError(t, UploadBank(context.Background(), l.Bias, out.Bias))
		}
		return out
	}
	oracle := ref.MLP[float32]{Mode: ref.RouterMode(cfg.Mode), K: cfg.TopK, Router: linear(m.Router), Up: linear(m.Up),
		Down: linear(m.Down), Activation: refActivations[cfg.Activation], Gated: cfg.Activation.Gated()}
	oracle.Gating = ref.Router{Scale: float64(cfg.GateScale), Groups: cfg.Groups, TopGroups: cfg.TopGroups}
	if cfg.CorrectionBias {
		oracle.Gating.Bias = gputest.Normal(r, cfg.Experts)
		require.NoError(t, vk.Upload(context.Background(), m.CorrectionBias, oracle.Gating.Bias))
	}
	if cfg.Activation == ClampedSwiGLU {
		alpha, limit := cfg.activation().constants()
		oracle.Clamp = &ref.Clamp{Alpha: float64(alpha), Limit: float64(limit)}
	}
	if cfg.SharedHidden > 0 {
		oracle.Shared = &ref.Shared[float32]{Up: linear(m.SharedUp), Down: linear(m.SharedDown)}
	}
	if cfg.SharedGate {
		gate := linear(m.SharedGate)
		oracle.Shared.Gate = &gate
	}
	if cfg.OutputBias {
		oracle.OutputBias = vk.Round(cfg.DType, gputest.Normal(r, cfg.Width))
		require.NoError(t, UploadBank(context.Background(), m.OutputBias, oracle.OutputBias))
	}
	return layer{MLP: m, oracle: oracle}
}

// requireStages compares every stage with the oracle applied to what the device had before that stage, so that each
// bound is that of one operation.
func (l layer) requireStages(t testing.TB, s *MLPSaved, x, y []float32, tokens int) {
	t.Helper()
	c := l.Config
	dtype := gputest.Oracle(c.DType)
	logits := ref.DenseLinear(l.oracle.Router, x, tokens)
	gotLogits := gputest.Download[float32](t, s.Logits)
	gputest.RequireClose(t, gotLogits, logits.Y, logits.Bound(ref.F32, c.Width), "logits")
	ids, gates := gputest.Download[int32](t, s.Routing.IDs), gputest.Download[float32](t, s.Routing.Gates)
	requireTopK(t, c.Mode, gotLogits, ids, gates, tokens, c.Experts, c.TopK)
	routing := ref.Route(ids, tokens, c.Experts, c.TopK)
	requireRouting(t, s.Routing, routing)

	none := []float32(nil)
	z := ref.Scatter2scatter(l.oracle.Up, x, routing, ref.Layout{GroupedOut: true}, none)
	gotZ := gputest.Download[float32](t, s.Z)
	gputest.RequireClose(t, gotZ, z.Y, z.Bound(dtype, c.Width+storage{format: c.Weights}.roundings()), "z")
	if c.Interleaved {
		gotZ = ref.Separate(gotZ, len(gotZ)/(2*c.Hidden), c.Hidden, false)
	}
	h := refActivate(c.Activation, gotZ, tokens*c.TopK, c.Hidden)
	gotH := gputest.Download[float32](t, s.H)
	gputest.RequireClose(t, gotH, h.Y, h.BoundBy(ref.ActivationTolerance(dtype), ref.Underflow(dtype, 1)), "h")
	slots := ref.Scatter2scatter(l.oracle.Down, gotH, routing, ref.Layout{GroupedIn: true}, none)
	gotSlots := gputest.Download[float32](t, s.Slots)
	gputest.RequireClose(t, gotSlots, slots.Y, slots.Bound(dtype, c.Hidden+storage{format: c.Weights}.roundings()), "slots")
	out := ref.Combine(gotSlots, gates, routing, c.Width, false)
	for i := range out.Y {
		if c.OutputBias {
			b := float64(l.oracle.OutputBias[i%c.Width])
			out.Y[i], out.Abs[i] = out.Y[i]+b, out.Abs[i]+math.Abs(b)
		}
	}
	gputest.RequireClose(t, y, out.Y, out.Bound(dtype, c.TopK), "out")
}

func TestMLPEqualsTheOracle(t *testing.T) {
	configs := []MLPConfig{
		{Experts: 1, TopK: 1, Width: 1, Hidden: 1},
		{Experts: 8, TopK: 2, Width: 32, Hidden: 48, Mode: SoftmaxTopKNorm},
		{Experts: 8, TopK: 8, Width: 33, Hidden: 7, Activation: GEGLU, Bias: true, RouterBias: true},
		{Experts: 16, TopK: 4, Width: 20, Hidden: 12, Activation: GELU, Mode: TopKSoftmax, Bias: true, InOut: true},
		{Experts: 60, TopK: 4, Width: 64, Hidden: 30, Activation: ReLU2, InOut: true},
		{Experts: 4, TopK: 3, Width: 16, Hidden: 100, Activation: GEGLUTanh, Bias: true},
		{Experts: 4, TopK: 2, Width: 20, Hidden: 10, Mode: TopKSoftmax, OutputBias: true},
		{Experts: 4, TopK: 2, Width: 21, Hidden: 10, Bias: true, OutputBias: true},
		{Experts: 8, TopK: 2, Width: 40, Hidden: 70, Bias: true, Weights: WeightsInt8},
		{Experts: 8, TopK: 2, Width: 40, Hidden: 70, InOut: true, Weights: WeightsQ4},
	}
	for _, cfg := range configs {
		l := newLayer(t, cfg)
		for _, tokens := range []int{0, 1, 2, 61} {
			t.Run(fmt.Sprintf("%+v T=%d", cfg, tokens), func(t *testing.T) {
				k := newKit(t)
				data := gputest.Normal(rand.New(rand.NewSource(int64(tokens))), tokens*cfg.Width)
				x := k.F32("x", data, tokens, cfg.Width)
				y := k.Output("y", vk.F32, tokens, cfg.Width)
				saved, err := l.Forward(k.Rec, x, y)
				require.NoError(t, err)
				k.Run()
				got := gputest.Download[float32](t, y)
				l.requireStages(t, saved, data, got, tokens)
				whole := ref.ForwardChosen(l.oracle, data, tokens, ref.DenseLinear(l.oracle.Router, data, tokens),
					gputest.Download[int32](t, saved.Routing.IDs))
				relative := ref.RelativeFrobenius(got, whole.Out.Y)
				require.True(t, relative <= 1e-5, "relative error %v", relative)
			})
		}
	}
}

// TestSaveNothingChangesNothingButMemory compares bits and scratch of a layer with SaveAll and SaveNothing.
func TestSaveNothingChangesNothingButMemory(t *testing.T) {
	cfg := MLPConfig{Experts: 4, TopK: 2, Width: 512, Hidden: 512, Activation: GELU}
	l := newLayer(t, cfg)
	data := gputest.Normal(rand.New(rand.NewSource(2)), 64*cfg.Width)
	var results [][]uint32
	var live []uint64
	for _, save := range []Save{SaveAll, SaveNothing} {
		k := newKit(t)
		x, y := k.F32("x", data, 64, cfg.Width), k.Output("y", vk.F32, 64, cfg.Width)
		before := dev.Memory().LiveBytes
		for range 2 { // two layers after each other in one recording
			saved, err := l.ForwardWith(k.Rec, x, y, ForwardOptions{Save: save})
			require.NoError(t, err)
			require.Equal(t, save == SaveNothing, saved.Z == nil && saved.H == nil && saved.Slots == nil)
			require.NotNil(t, saved.Logits)
		}
		live = append(live, dev.Memory().LiveBytes-before)
		k.Run()
		results = append(results, gputest.Words(t, y))
		k.Close()
	}
	require.Equal(t, results[0], results[1])
	slot := uint64(4 * 64 * 2 * 512) // bytes of each of Z, H and Slots
	require.GreaterOrEqual(t, live[0], 6*slot)
	require.Less(t, live[1], 3*slot, "H takes Z's memory, and the second layer all of it again")
}

func TestForwardIsOneSubmission(t *testing.T) {
	l := newLayer(t, MLPConfig{Experts: 8, TopK: 2, Width: 16, Hidden: 16})
	k := newKit(t)
	x, y := k.F32("x", make([]float32, 160), 10, 16), k.Output("y", vk.F32, 10, 16)
	_, err := l.Forward(k.Rec, x, y)
	require.NoError(t, err)
	before := dev.Stats()
	require.NoError(t, k.Rec.Run(k.Ctx))
	after := dev.Stats()
	require.EqualValues(t, 1, after.Submits-before.Submits)
	require.Equal(t, before.Dispatches, after.Dispatches, "all was recorded before")
}

func TestForwardRepeatsItsBits(t *testing.T) {
	l := newLayer(t, MLPConfig{Experts: 16, TopK: 4, Width: 40, Hidden: 24, Mode: SoftmaxTopKNorm, Bias: true})
	data := gputest.Normal(rand.New(rand.NewSource(8)), 100*40)
	var first []uint32
	for range 20 {
		k := newKit(t)
		x, y := k.F32("x", data, 100, 40), k.Output("y", vk.F32, 100, 40)
		_, err := l.Forward(k.Rec, x, y)
		require.NoError(t, err)
		k.Run()
		if first == nil {
			first = gputest.Words(t, y)
		}
		require.Equal(t, first, gputest.Words(t, y))
		k.Close()
	}
}

// TestForwardRouted gives the experts by hand, one of them out of range in the second run.
func TestForwardRouted(t *testing.T) {
	cfg := MLPConfig{Experts: 5, TopK: 2, Width: 12, Hidden: 20}
	l := newLayer(t, cfg)
	const tokens, choices = 9, 3 // not the router's K
	data := gputest.Normal(rand.New(rand.NewSource(4)), tokens*cfg.Width)
	idData := spreads[0].ids(5, tokens*choices, cfg.Experts)
	ids, err := NewIDs(context.Background(), dev, idData, choices, cfg.Experts)
	require.NoError(t, err)
	defer ids.Close()
	k := newKit(t)
	gateData := gputest.Normal(rand.New(rand.NewSource(6)), tokens*choices)
	r, err := RouteIDs(k.Rec, ids, k.F32("gates", gateData, tokens, choices), cfg.Experts)
	require.NoError(t, err)
	y := k.Output("y", vk.F32, tokens, cfg.Width)
	_, err = l.ForwardRouted(k.Rec, r, k.F32("x", data, tokens, cfg.Width), y)
	require.NoError(t, err)
	check := func() {
		routing := ref.Route(idData, tokens, cfg.Experts, choices)
		z := ref.Scatter2scatter(l.oracle.Up, data, routing, ref.Layout{GroupedOut: true}, []float32(nil))
		h := ref.ActivateGated(ref.SiLU, z.Y, tokens*choices, cfg.Hidden)
		s := ref.Scatter2scatter(l.oracle.Down, h.Y, routing, ref.Layout{GroupedIn: true}, []float32(nil))
		want := ref.Combine(s.Y, gateData, routing, cfg.Width, false).Y
		relative := ref.RelativeFrobenius(gputest.Download[float32](t, y), want)
		require.True(t, relative <= 1e-5, "relative error %v", relative)
	}
	k.Run()
	check()
	idData[4], idData[20] = 77, -3
	require.NoError(t, vk.Upload(k.Ctx, ids, idData))
	var bad *ExpertIDError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &bad)
	require.Equal(t, ExpertIDError{Slot: 4, ID: 77, Experts: 5, Count: 2}, *bad)
	check()
}

func TestMLPArguments(t *testing.T) {
	good := MLPConfig{Experts: 4, TopK: 2, Width: 8, Hidden: 8}
	l := newLayer(t, good)
	var config *ConfigError
	for name, change := range map[string]func(*MLPConfig){
		"Experts": func(c *MLPConfig) { c.Experts = 0 }, "TopK": func(c *MLPConfig) { c.TopK = 5 },
		"Width": func(c *MLPConfig) { c.Width = 0 }, "Hidden": func(c *MLPConfig) { c.Hidden = -1 },
		"Activation": func(c *MLPConfig) { c.Activation = 100 }, "Mode": func(c *MLPConfig) { c.Mode = 100 },
	} {
		bad := good
		change(&bad)
		_, err := NewMLP(dev, bad)
		require.ErrorAs(t, err, &config, name)
		require.Equal(t, name, config.Field)
	}
	_, err := NewParallelLinear(dev, ParallelLinearConfig{Experts: 1, In: 1 << 20, Out: 1 << 20})
	require.ErrorAs(t, err, &config)
	_, err = NewParallelLinear(dev, ParallelLinearConfig{Experts: 1024, In: 1 << 15, Out: 1 << 15})
	require.ErrorIs(t, err, vk.ErrOutOfMemory)

	k := newKit(t)
	x, y := k.F32("x", make([]float32, 24), 3, 8), k.Output("y", vk.F32, 3, 8)
	var shape *vk.ShapeError
	for name, c := range map[string]struct{ x, y *vk.Tensor }{
		"no x": {nil, y}, "no y": {x, nil}, "in place": {x, x}, "width": {k.F32("w", make([]float32, 21), 3, 7), y},
		"tokens": {x, k.Output("t", vk.F32, 4, 8)}, "dtype": {k.I32("i", make([]int32, 24), 3, 8), y},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = l.Forward(rec, c.x, c.y)
		require.ErrorAs(t, err, &shape, name)
		require.NoError(t, rec.Close())
	}
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	_, err = l.ForwardRouted(rec, nil, x, y)
	require.ErrorAs(t, err, &shape)
	require.NoError(t, rec.Close())

	closed, err := NewMLP(dev, good)
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	require.NoError(t, closed.Close())
	_, err = closed.Forward(k.Rec, x, y)
	require.ErrorIs(t, err, vk.ErrClosed)

	biased := good
	biased.OutputBias = true
	partly := newLayer(t, biased)
	require.NoError(t, partly.OutputBias.Close())
	rec, err = dev.NewRecorder()
	require.NoError(t, err)
	_, err = partly.Forward(rec, x, y)
	require.ErrorIs(t, err, vk.ErrClosed)
	require.NoError(t, rec.Close())
}
