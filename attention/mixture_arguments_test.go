package attention

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

func TestMixtureConfigValidate(t *testing.T) {
	good := MixtureConfig{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 32}
	require.NoError(t, good.Validate())
	for field, change := range map[string]func(c *MixtureConfig){
		"Experts":        func(c *MixtureConfig) { c.Experts = 0 },
		"TopK":           func(c *MixtureConfig) { c.TopK = 9 },
		"HeadsPerExpert": func(c *MixtureConfig) { c.HeadsPerExpert = 1 << 16 },
		"Width":          func(c *MixtureConfig) { c.HeadWidth = MaxHeadWidth + 1 },
		"In":             func(c *MixtureConfig) { c.Width = 0 },
		"Mode":           func(c *MixtureConfig) { c.Mode = 99 },
		"DType":          func(c *MixtureConfig) { c.DType = vk.I32 },
		"Window":         func(c *MixtureConfig) { c.Window = -1 },
		"SoftCap":        func(c *MixtureConfig) { c.SoftCap = -1 },
	} {
		c := good
		change(&c)
		var own *ConfigError
		var linear *moe.ConfigError
		switch err := c.Validate(); {
		case errors.As(err, &own):
			require.Equal(t, field, own.Field)
		case errors.As(err, &linear):
			require.Equal(t, field, linear.Field)
		default:
			t.Errorf("%s: %v", field, err)
		}
		_, err := NewMixture(dev, c, nil)
		require.Error(t, err, field)
	}
}

// newRecorder makes a recorder that is closed with the test.
func newRecorder(t *testing.T) *vk.Recorder {
	t.Helper()
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rec.Close()) })
	return rec
}

func TestMixtureArguments(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 4, Width: 8, OutputBias: true, Sinks: true}
	l := newMixture(t, cfg, 4)
	_, err := NewMixture(dev, MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 2, Width: 8}, l.RoPE)
	require.ErrorContains(t, err, "RoPEConfig.Width")
	k := newKit(t)
	x, y, dy := k.F32("x", make([]float32, 24), 3, 8), k.PartialOutput("y", vk.F32, 3, 8), k.F32("dy", make([]float32, 24), 3, 8)
	offsets := k.I32("offsets", []int32{0, 3}, 2)
	seq := Sequences{Offsets: offsets}
	other, err := moe.RouteIDs(k.Rec, k.I32("ids", make([]int32, 3), 3, 1), nil, 4)
	require.NoError(t, err)
	attempt := func(arg string, forward func(rec *vk.Recorder) error) {
		t.Helper()
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var shape *vk.ShapeError
		err = forward(rec)
		require.ErrorAs(t, err, &shape)
		require.Equal(t, arg, shape.Arg)
		require.Equal(t, err, rec.Err(), "a recording with a hole must not run")
		require.NoError(t, rec.Close())
	}
	for _, c := range []struct {
		arg  string
		x, y *vk.Tensor
		seq  Sequences
		o    MixtureOptions
	}{
		{"x", nil, y, seq, MixtureOptions{}},
		{"x", offsets, y, seq, MixtureOptions{}},
		{"y", x, nil, seq, MixtureOptions{}},
		{"y", x, x, seq, MixtureOptions{}},
		{"offsets", x, y, Sequences{}, MixtureOptions{}},
		{"offsets", x, y, Sequences{Offsets: x}, MixtureOptions{}},
		{"positions", x, y, Sequences{Offsets: offsets, Positions: offsets}, MixtureOptions{}},
		{"routing", x, y, seq, MixtureOptions{Routing: other}},
	} {
		attempt(c.arg, func(rec *vk.Recorder) error {
			_, err := l.ForwardWith(rec, c.x, c.y, c.seq, c.o)
			return err
		})
	}
	_, err = l.ForwardWith(k.Rec, x, y, seq, MixtureOptions{Save: 9})
	var config *ConfigError
	require.ErrorAs(t, err, &config)

	weight := moe.WeightGrads{Weight: l.Query.Weight}
	for arg, g := range map[string]MixtureGrads{
		"grads.X":            {X: x},
		"grads.Gates":        {Gates: dy},
		"grads.Sinks":        {Sinks: dy},
		"grads.Query.Weight": {Query: weight},
		"grads.Query.Bias":   {Query: moe.WeightGrads{Bias: l.OutputBias}},
		"grads.Logits":       {Logits: x},
	} {
		attempt(arg, func(rec *vk.Recorder) error {
			saved, err := l.Forward(rec, x, y, seq)
			require.NoError(t, err)
			return l.Backward(rec, saved, x, dy, g)
		})
	}
	attempt("saved", func(rec *vk.Recorder) error { return l.Backward(rec, nil, x, dy, MixtureGrads{}) })
	attempt("dy", func(rec *vk.Recorder) error {
		saved, err := l.Forward(rec, x, y, seq)
		require.NoError(t, err)
		return l.Backward(rec, saved, x, nil, MixtureGrads{})
	})
	given, err := moe.RouteIDs(newRecorder(t), k.I32("ids", make([]int32, 6), 3, 2), nil, 4)
	require.NoError(t, err)
	attempt("grads.Router", func(rec *vk.Recorder) error {
		saved, err := l.ForwardWith(rec, x, y, seq, MixtureOptions{Routing: given})
		require.NoError(t, err)
		return l.Backward(rec, saved, x, dy, MixtureGrads{Router: moe.WeightGrads{Weight: l.Router.Weight}})
	})
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	rec := newRecorder(t)
	_, err = l.Forward(rec, x, y, seq)
	require.ErrorIs(t, err, vk.ErrClosed)
}

// TestGradientsOneByOne: each gradient alone has the bits that it has with all others.
func TestGradientsOneByOne(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 2, HeadWidth: 4, Width: 8, Sinks: true, OutputBias: true,
		ExpertBias: true, Causal: true}
	l := newMixture(t, cfg, 4)
	k := newKit(t)
	whole := l.record(k, mixtureCase{lengths: []int{5, 8}})
	k.Run()
	for name, only := range map[string]func(all MixtureGrads) MixtureGrads{
		"X":        func(all MixtureGrads) MixtureGrads { return MixtureGrads{X: all.X} },
		"Router":   func(all MixtureGrads) MixtureGrads { return MixtureGrads{Router: all.Router} },
		"Query":    func(all MixtureGrads) MixtureGrads { return MixtureGrads{Query: all.Query} },
		"KeyValue": func(all MixtureGrads) MixtureGrads { return MixtureGrads{KeyValue: all.KeyValue} },
		"Output":   func(all MixtureGrads) MixtureGrads { return MixtureGrads{Output: all.Output} },
		"Output bias": func(all MixtureGrads) MixtureGrads {
			return MixtureGrads{Output: moe.WeightGrads{Bias: all.Output.Bias}}
		},
		"OutputBias": func(all MixtureGrads) MixtureGrads { return MixtureGrads{OutputBias: all.OutputBias} },
		"Sinks":      func(all MixtureGrads) MixtureGrads { return MixtureGrads{Sinks: all.Sinks} },
		"Gates":      func(all MixtureGrads) MixtureGrads { return MixtureGrads{Gates: all.Gates} },
		"Logits":     func(all MixtureGrads) MixtureGrads { return MixtureGrads{Logits: all.Logits} },
	} {
		k2 := newKit(t)
		run := &mixtureRun{layer: l, tokens: whole.tokens, named: map[string]*vk.Tensor{}}
		run.makeGrads(k2, nil, false)
		for other := range run.named {
			if other != name && other != name+" bias" {
				k2.Partial(other)
			}
		}
		x, dy := k2.F32("x", whole.x, whole.tokens, cfg.Width), k2.F32("dy", whole.dy, whole.tokens, cfg.Width)
		y := k2.Output("y", vk.F32, whole.tokens, cfg.Width)
		saved, err := l.Forward(k2.Rec, x, y, Sequences{Offsets: k2.I32("offsets", whole.offsets, 3)})
		require.NoError(t, err)
		require.NoError(t, l.Backward(k2.Rec, saved, x, dy, only(run.grads)))
		if name == "Output bias" {
			k2.Partial("Output")
		}
		k2.Run()
		require.Equal(t, gputest.Words(t, whole.named[name]), gputest.Words(t, run.named[name]), name)
		k2.Close()
	}
}
