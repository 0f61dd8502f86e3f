package attention

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

func TestLayerConfigsAreValidated(t *testing.T) {
	self := SelfAttentionConfig{Width: 8, Heads: 2, KVHeads: 1, HeadWidth: 4}
	require.NoError(t, self.Validate())
	for field, change := range map[string]func(c *SelfAttentionConfig){
		"Width":   func(c *SelfAttentionConfig) { c.Width = 0 },
		"Heads":   func(c *SelfAttentionConfig) { c.Heads = 0 },
		"KVHeads": func(c *SelfAttentionConfig) { c.Heads, c.KVHeads = 3, 2 },
		"head":    func(c *SelfAttentionConfig) { c.HeadWidth = MaxHeadWidth + 1 },
		"QKNorm":  func(c *SelfAttentionConfig) { c.QKNorm = NormRow + 1 },
		"Eps":     func(c *SelfAttentionConfig) { c.Eps = float32(math.NaN()) },
		"Window":  func(c *SelfAttentionConfig) { c.Window = -1 },
		"SoftCap": func(c *SelfAttentionConfig) { c.SoftCap = -1 },
		"DType":   func(c *SelfAttentionConfig) { c.DType = vk.I32 },
	} {
		c := self
		change(&c)
		requireConfigError(t, c.Validate(), field)
	}
	mla := MLAConfig{Width: 8, Heads: 2, QueryRank: 3, KVRank: 4, PlainWidth: 4, TurnedWidth: 2, ValueWidth: 4}
	require.NoError(t, mla.Validate())
	for field, change := range map[string]func(c *MLAConfig){
		"Width":       func(c *MLAConfig) { c.Width = 0 },
		"Heads":       func(c *MLAConfig) { c.Heads = 0 },
		"QueryRank":   func(c *MLAConfig) { c.QueryRank = -1 },
		"KVRank":      func(c *MLAConfig) { c.KVRank = 0 },
		"PlainWidth":  func(c *MLAConfig) { c.PlainWidth = 0 },
		"TurnedWidth": func(c *MLAConfig) { c.TurnedWidth = MaxHeadWidth - 2 },
		"ValueWidth":  func(c *MLAConfig) { c.ValueWidth = 0 },
		"Eps":         func(c *MLAConfig) { c.Eps = -1 },
		"DType":       func(c *MLAConfig) { c.DType = vk.U32 },
	} {
		c := mla
		change(&c)
		requireConfigError(t, c.Validate(), field)
	}
	rope := newRoPE(t, RoPEConfig{Width: 6}, 1)
	_, err := NewSelfAttention(dev, self, rope)
	requireConfigError(t, err, "a RoPE wider than the heads")
	_, err = NewMLA(dev, mla, rope)
	requireConfigError(t, err, "a RoPE of another width")
	_, err = NewMLA(dev, mla, nil)
	requireConfigError(t, err, "no RoPE")
}

// requireConfigError asks for a ConfigError of this package or of moe.
func requireConfigError(t *testing.T, err error, what string) {
	t.Helper()
	switch err.(type) {
	case *ConfigError:
	default:
		require.Fail(t, "no ConfigError", "%s: %v", what, err)
	}
}

// refusal is a call of a pass with arguments that it must refuse, and a recorder that must then refuse to run.
type refusal struct {
	x, y, dy *vk.Tensor
	seq      Sequences
	saved    *SelfAttentionSaved
	grads    SelfAttentionGrads
}

func TestSelfAttentionRefuses(t *testing.T) {
	c := selfCases[0]
	c.lengths = []int{3, 2}
	s := newSelfTest(t, c, vk.F32)
	k := newKit(t)
	offsets, sink, short := s.offsets(k), k.F32("sink", make([]float32, 4), 4), k.I32("short", []int32{0}, 1)
	grads, err := s.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, grads.Close()) }()
	wide := k.F32("wide", make([]float32, 5*33), 5, 33)
	half := k.Floats("half", vk.F16, make([]float32, 5*32), 5, 32)
	x, y, dy := s.matrix(k, "x", s.x), k.PartialOutput("y", vk.F32, 5, 32), s.matrix(k, "dy", s.dy)
	for name, change := range map[string]func(r *refusal){
		"x nil":                 func(r *refusal) { r.x = nil },
		"x too wide":            func(r *refusal) { r.x = wide },
		"x in another dtype":    func(r *refusal) { r.x = half },
		"y is x":                func(r *refusal) { r.y = r.x },
		"y nil":                 func(r *refusal) { r.y = nil },
		"y is a weight":         func(r *refusal) { r.y = view(k.Rec, s.layer.Query.Weight.Parts()[0], 0, 5, 32) },
		"no offsets":            func(r *refusal) { r.seq.Offsets = nil },
		"positions":             func(r *refusal) { r.seq.Positions = short },
		"dy too wide":           func(r *refusal) { r.dy = wide },
		"nothing saved":         func(r *refusal) { r.saved = &SelfAttentionSaved{} },
		"dx is x":               func(r *refusal) { r.grads.X = r.x },
		"a gradient of no bias": func(r *refusal) { r.grads.Query.Bias = grads.Query.Weight },
		"a gradient of no sink": func(r *refusal) { r.grads.Sinks = sink },
		"a gradient twice":      func(r *refusal) { r.grads.Key.Weight = r.grads.Value.Weight },
		"a gradient's shape":    func(r *refusal) { r.grads.Query.Weight = grads.Key.Weight; r.grads.Key.Weight = nil },
		"a gradient of a norm":  func(r *refusal) { r.grads.QueryNorm = sink },
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		r := refusal{x: x, y: y, dy: dy, seq: Sequences{Offsets: offsets}, grads: *grads}
		change(&r)
		saved, err := s.layer.Forward(rec, r.x, r.y, r.seq)
		if err == nil {
			if r.saved == nil {
				r.saved = saved
			}
			err = s.layer.Backward(rec, r.saved, r.x, r.dy, r.grads)
		}
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, name)
		require.ErrorAs(t, rec.Run(k.Ctx), &shape, "%s: the recorder runs nothing", name)
		require.NoError(t, rec.Close())
	}
	k.Verify()
}

func TestMLARefuses(t *testing.T) {
	c := mlaCases[2] // without QueryDown
	c.lengths = []int{5}
	m := newMLATest(t, c, vk.F32)
	k := newKit(t)
	grads, err := m.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, grads.Close()) }()
	seq := m.sequences(k)
	x, y, dy := m.matrix(k, "x", m.x), k.PartialOutput("y", vk.F32, 5, 16), m.matrix(k, "dy", m.dy)
	for name, change := range map[string]func(g *MLAGrads){
		"a gradient of no weight": func(g *MLAGrads) { g.QueryDown.Weight = grads.QueryUp.Weight },
		"a gradient of no norm":   func(g *MLAGrads) { g.QueryNorm = y },
		"a gradient of no bias":   func(g *MLAGrads) { g.Output.Bias = grads.KVUp.Weight },
		"dx is x":                 func(g *MLAGrads) { g.X = x },
		"a gradient is x":         func(g *MLAGrads) { g.KVNorm = x },
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		saved, err := m.layer.Forward(rec, x, y, seq)
		require.NoError(t, err)
		g := *grads
		change(&g)
		var shape *vk.ShapeError
		require.ErrorAs(t, m.layer.Backward(rec, saved, x, dy, g), &shape, name)
		require.ErrorAs(t, rec.Run(k.Ctx), &shape, name)
		require.NoError(t, rec.Close())
	}
	k.Verify()
}

// TestLayersComputeOnlyWhatIsAsked leaves out gradients in turn: the others must not change.
func TestLayersComputeOnlyWhatIsAsked(t *testing.T) {
	c := selfCases[2] // with norms
	c.lengths = []int{9, 4}
	s := newSelfTest(t, c, vk.F32)
	grads, err := s.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, grads.Close()) }()
	run := func(g SelfAttentionGrads) {
		k := newKit(t)
		if g.X != nil {
			g.X = k.Output("dx", vk.F32, s.tokens, c.cfg.Width)
		}
		x, y := s.matrix(k, "x", s.x), k.Output("y", vk.F32, s.tokens, c.cfg.Width)
		saved, err := s.layer.Forward(k.Rec, x, y, Sequences{Offsets: s.offsets(k)})
		require.NoError(t, err)
		require.NoError(t, s.layer.Backward(k.Rec, saved, x, s.matrix(k, "dy", s.dy), g))
		k.Run()
	}
	all := func() (out [][]float32) {
		for _, p := range s.layer.gradParts(grads) {
			out = append(out, bankValues(t, p.grads.Weight))
		}
		return append(out, gputest.Download[float32](t, grads.QueryNorm), gputest.Download[float32](t, grads.KeyNorm))
	}
	run(*grads)
	want := all()
	for _, only := range []SelfAttentionGrads{
		{Output: grads.Output}, {Query: grads.Query}, {Key: grads.Key}, {Value: grads.Value}, {QueryNorm: grads.QueryNorm},
		{KeyNorm: grads.KeyNorm}, {X: grads.QueryNorm},
	} {
		fillGrads(t, s.layer.gradParts(grads), s.layer.gradVectors(grads))
		run(only)
		changed := 0
		for i, got := range all() {
			if got[0] != 1 {
				require.Equal(t, want[i], got)
				changed++
			}
		}
		if only.X == nil {
			require.Equal(t, 1, changed)
		} else {
			require.Zero(t, changed)
		}
	}
}
