package moe

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// TestMemoryIsWhatTheFormulasSay compares the device's count of live and peak bytes with WeightBytes and PassBytes.
func TestMemoryIsWhatTheFormulasSay(t *testing.T) {
	gputest.Need(t, dev)
	for _, cfg := range []MLPConfig{
		{Experts: 8, TopK: 2, Width: 64, Hidden: 48, Bias: true, RouterBias: true},
		{Experts: 16, TopK: 4, Width: 100, Hidden: 60, Activation: GELU},
		{Experts: 4, TopK: 2, Width: 24, Hidden: 96, Activation: ReLU},
		{Experts: 64, TopK: 8, Width: 36, Hidden: 40},
		{Experts: 8, TopK: 2, Width: 64, Hidden: 48, DType: vk.BF16, OutputBias: true},
		{Experts: 12, TopK: 12, Width: 4000, Hidden: 48, Activation: GELU},                              // slots in two parts, and more
		{Experts: 16, TopK: 2, Width: 200, Hidden: 300, Activation: GELU, DType: vk.BF16},               // H fits beside Z, and does not
		{Experts: 12, TopK: 3, Width: 400, Hidden: 300, Activation: SwiGLU, InOut: true, DType: vk.F16}, // Z fits alone, and does not
		{Experts: 8, TopK: 2, Width: 64, Hidden: 48, SharedHidden: 96},                                  // as wide as the routed ones
		{Experts: 4, TopK: 1, Width: 40, Hidden: 64, SharedHidden: 24, Activation: GELU, DType: vk.F16}, // narrower
		{Experts: 8, TopK: 4, Width: 32, Hidden: 16, SharedHidden: 300, SharedGate: true, DType: vk.BF16},
		{Experts: 8, TopK: 2, Width: 100, Hidden: 36, SharedHidden: 50, SharedGate: true, Activation: ReLU},
		{Experts: 5, TopK: 2, Width: 100, Hidden: 36, SharedHidden: 50, SharedGate: true, DType: vk.F16, Bias: true, Weights: WeightsInt8},
		{Experts: 5, TopK: 2, Width: 100, Hidden: 36, SharedHidden: 50, SharedGate: true, DType: vk.F16, InOut: true, Weights: WeightsQ4},
	} {
		before := dev.Memory().LiveBytes
		m, err := NewMLP(dev, cfg)
		require.NoError(t, err)
		require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		if cfg.Weights != WeightsFull { // no gradients
			requirePassBytes(t, m, &MLPGrads{}, 100, Pass{Save: SaveNothing})
			require.NoError(t, m.Close())
			continue
		}
		before = dev.Memory().LiveBytes
		g, err := m.NewGrads()
		require.NoError(t, err)
		require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		for _, tokens := range []int{700, 1300} {
			for flags := range 24 {
				p := Pass{Save: Save(flags % 3), Backward: flags/3%2 == 1 && flags%3 < 2, Workspace: flags/6%2 == 1, Routed: flags >= 12}
				p.SaveIn = p.Save == RecomputeActivation && (p.Workspace == p.Routed || cfg.Hidden > slotColumns)
				if p.Routed && tokens > 1000 {
					continue
				}
				t.Run(fmt.Sprintf("%+v T=%d %+v", cfg, tokens, p), func(t *testing.T) { requirePassBytes(t, m, g, tokens, p) })
			}
		}
		require.NoError(t, g.Close())
		require.NoError(t, m.Close())
	}
}

// requirePassBytes records a pass and asks that it takes PassBytes exactly, in memory that stays and at the peak.
func requirePassBytes(t *testing.T, m *MLP, weights *MLPGrads, tokens int, p Pass) {
	t.Helper()
	tensor := func(dtype vk.DType, width int) *vk.Tensor {
		x, err := dev.NewTensor(dtype, tokens, width)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, x.Close()) })
		return x
	}
	c := m.Config
	x, y, dy := tensor(c.DType, c.Width), tensor(c.DType, c.Width), tensor(c.DType, c.Width)
	ids, gates := tensor(vk.I32, c.TopK), tensor(vk.F32, c.TopK)
	g := *weights
	g.X = y // y is not needed any more when X is written
	g.AccumulateWeights = !p.Workspace && !p.SaveIn
	o := ForwardOptions{Save: p.Save}
	if p.Workspace {
		o.Workspace = g.Up.Weight.parts[0]
	}
	if p.SaveIn {
		o.SaveIn = g.Down.Weight.parts[0]
	}
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	before := dev.Memory().LiveBytes
	dev.ResetPeak()
	if p.Routed {
		o.Routing, err = RouteIDs(rec, ids, gates, c.Experts)
		require.NoError(t, err)
		g.Router = WeightGrads{}
	}
	saved, err := m.ForwardWith(rec, x, y, o)
	require.NoError(t, err)
	if p.Backward {
		require.NoError(t, m.Backward(rec, saved, x, dy, g))
	}
	want := c.PassBytes(tokens, saved.Routing.BlockM, p)
	require.Equal(t, want, dev.Memory().LiveBytes-before)
	require.Equal(t, want, dev.Memory().PeakBytes-before)
	require.NoError(t, rec.Close())
	require.Equal(t, before, dev.Memory().LiveBytes)
}

// anchor is a row of what ScatterMoE 0.3 takes for one MLP in bf16 on an H100, in MB of 10^6 bytes beside weights and x: the
// output forward; output, gradient of x, of the weights and all that is saved, forward and backward. The router is in
// neither.
type anchor struct {
	name                              string
	experts, k, width, hidden, tokens int
	activation                        Activation
	forward, training                 float64
}

var anchors = []anchor{
	{"paper unit", 32, 4, 4096, 2048, 2048, GELU, 118, 1208},
	{"paper unit", 32, 4, 4096, 2048, 61440, GELU, 3527, 6078},
	{"Mixtral", 8, 2, 4096, 14336, 512, SwiGLU, 117, 2894},
	{"Mixtral", 8, 2, 4096, 14336, 4096, SwiGLU, 940, 3423},
	{"Qwen3-30B-A3B", 128, 8, 2048, 768, 4096, SwiGLU, 303, 1477},
	{"OLMoE", 64, 8, 2048, 1024, 4096, SwiGLU, 353, 1108},
	{"granularity 1", 8, 1, 4096, 8192, 8192, GELU, 269, 1342},
	{"granularity 4", 32, 4, 4096, 2048, 8192, GELU, 470, 1611},
	{"granularity 16", 128, 16, 4096, 512, 8192, GELU, 1277, 2418},
	{"sparsity", 64, 1, 4096, 512, 8192, GELU, 143, 680},
	{"sparsity", 64, 32, 4096, 512, 8192, GELU, 2487, 3293},
}

// passes are what the anchor's passes take of ours, forward and forward with backward, in MB: results, gradients and PassBytes. The
// gradient of the input may be where the output was, and what is saved in the gradients of the weights.
func (a anchor) passes(inPlace bool) (forward, training float64) {
	cfg := MLPConfig{Experts: a.experts, TopK: a.k, Width: a.width, Hidden: a.hidden, Activation: a.activation, DType: vk.BF16}
	rows := check.TensorBytes(2, a.tokens, a.width)
	blockM := classTunings()[classTensor].band(a.tokens*a.k, a.experts).Wide.BM
	up := check.TensorBytes(2, a.experts, a.width, a.activation.columns(a.hidden))
	down := check.TensorBytes(2, a.experts, a.width, a.hidden)
	one := rows + cfg.PassBytes(a.tokens, blockM, Pass{Save: SaveNothing, Routed: true})
	results := 2 * rows
	if inPlace {
		results = rows
	}
	both := results + up + down + check.TensorBytes(4, a.tokens, a.k) + // with the gates' gradient
		cfg.PassBytes(a.tokens, blockM, Pass{Save: RecomputeActivation, Routed: true, Backward: true, Workspace: true,
			SaveIn: inPlace})
	return float64(one) / 1e6, float64(both) / 1e6
}

// TestMemoryIsNoMoreThanScatterMoEs holds the formulas, which the test above holds to the device, to its measured figures.
// They are rounded to whole MB, so ours may exceed them by half of one.
func TestMemoryIsNoMoreThanScatterMoEs(t *testing.T) {
	for _, a := range anchors {
		f, b := a.passes(false)
		t.Logf("%s k=%d T=%d: forward %.1f MB against %.0f, forward and backward %.1f against %.0f", a.name, a.k, a.tokens, f,
			a.forward, b, a.training)
		require.LessOrEqual(t, f, a.forward+0.5, "%s forward", a.name)
		require.LessOrEqual(t, b, a.training+0.5, "%s forward and backward", a.name)
	}
}

// TestMemoryOfFineExpertsIsTwoThirdsOfMegaBlocks does so with the figures of MegaBlocks 0.11, which pads the rows of experts. What
// training takes at granularity 4 are gradients of weights for the most part, which nobody can do without, so it saves in them.
func TestMemoryOfFineExpertsIsTwoThirdsOfMegaBlocks(t *testing.T) {
	for _, a := range []anchor{
		{"granularity 4", 32, 4, 4096, 2048, 8192, GELU, 672, 1813}, {"granularity 16", 128, 16, 4096, 512, 8192, GELU, 2286, 3561},
	} {
		f, b := a.passes(true)
		require.LessOrEqual(t, f, 0.67*a.forward, "%s forward", a.name)
		t.Logf("%s: forward %.1f MB against %.0f, forward and backward %.1f against %.0f", a.name, f, a.forward, b, a.training)
		require.LessOrEqual(t, b, 0.67*a.training, "%s forward and backward", a.name)
	}
}
