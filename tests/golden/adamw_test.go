package golden

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/vk"
)

const (
	adamSteps = 10
	adamDecay = 0.1
	adamClip  = 1

	// adamChange bounds the relative Frobenius error of what the steps added to a parameter. It is far above the gradients' 1e-6:
	// AdamW divides by √v, so an element whose gradient nearly cancels moves as far as any other, by a quotient whose relative
	// error is that of the little that is left; and a gain near 1 is rounded to 6e-8 while a step adds 1e-3.
	adamChange = 1e-3
)

// trainedOracle trains a recorded model in float64.
type trainedOracle struct {
	*wholeModel
	states map[string]*ref.AdamW
	starts map[string][]float64
}

// step makes one step and returns the loss before it. The blocks compute from their parameters rounded to float32, of which the
// optimizer keeps the float64 ones.
func (o *trainedOracle) step(rate float64) float64 {
	res := ref.RunDecoder(o.Decoder, o.ids)
	plain := o.plain(res)
	var grads [][]float64
	for _, p := range plain {
		grads = append(grads, p.grad)
	}
	for _, p := range o.all {
		grads = append(grads, p.Grad)
	}
	factor := ref.ClipFactor(ref.GlobalNorm(grads, 1), adamClip)
	update := func(name string, start, grad []float64) []float64 {
		s := o.states[name]
		if s == nil {
			s = &ref.AdamW{Beta1: float64(float32(0.9)), Beta2: float64(float32(0.999)), Epsilon: float64(float32(1e-8)),
				P: append([]float64(nil), start...), M: make([]float64, len(start)), V: make([]float64, len(start))}
			if !strings.HasSuffix(name, "norm.weight") && !strings.HasSuffix(name, "bias") && !strings.HasSuffix(name, "sinks") {
				s.Decay = float64(float32(adamDecay))
			}
			o.states[name], o.starts[name] = s, start
		}
		clipped := make([]float64, len(grad))
		for i, g := range grad {
			clipped[i] = factor * g
		}
		s.Step(clipped, rate)
		return s.P
	}
	for name, p := range plain {
		copy(p.value, update(name, append([]float64(nil), p.value...), p.grad))
	}
	for name, p := range o.all {
		for i, v := range update(name, ref.Widen(p.Value), p.Grad) {
			p.Value[i] = float32(v)
		}
	}
	return res.Loss
}

// values are a whole model's parameters by the oracle's names.
func (m *wholeModel) values() map[string][]float64 {
	all := map[string][]float64{}
	for name, p := range m.plain(ref.RunDecoder(m.Decoder, m.ids)) {
		all[name] = p.value
	}
	for name, p := range m.all {
		all[name] = ref.Widen(p.Value)
	}
	return all
}

// TestTenAdamWStepsOfWholeModelsFollowTheOracle trains every recorded model for ten steps, with warm-up, decay, weight decay and
// a clipped norm, and compares losses and what became of every parameter with the same steps in float64.
func TestTenAdamWStepsOfWholeModelsFollowTheOracle(t *testing.T) {
	opts := openDevice(t)
	runner, _, err := opts.Open()
	require.NoError(t, err)
	for _, name := range recorded {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(dataDir, name)
			oracle := &trainedOracle{wholeModel: openWhole(t, name), states: map[string]*ref.AdamW{}, starts: map[string][]float64{}}
			checkpoint, err := model.Open(dir)
			require.NoError(t, err)
			defer checkpoint.Close()
			decoder, err := model.LoadDecoder(t.Context(), runner.(Device).Device, checkpoint, vk.F32, 0)
			require.NoError(t, err)
			defer func() { require.NoError(t, decoder.Close()) }()
			schedule := train.Schedule{Peak: 1e-3, Warmup: 3, Steps: adamSteps, Floor: 0.1}
			sequences := len(oracle.Offsets) - 1
			trainer, err := train.New(t.Context(), decoder, train.Config{Batch: sequences, Length: len(oracle.ids) / sequences,
				Adam: train.AdamWConfig{Decay: adamDecay, ClipNorm: adamClip}, Schedule: schedule})
			require.NoError(t, err)
			defer func() { require.NoError(t, trainer.Close()) }()
			targets := Targets(oracle.ids, oracle.Offsets)
			for i := range adamSteps {
				stats, err := trainer.Step(t.Context(), oracle.ids, targets)
				require.NoError(t, err)
				require.InEpsilon(t, oracle.step(schedule.Rate(i+1)), stats.Loss, 1e-5, "step %d", i+1)
			}
			saved := t.TempDir()
			require.NoError(t, decoder.Save(t.Context(), saved))
			got, worst := openWeights(t, name, saved).values(), 0.0
			require.Len(t, got, len(oracle.states))
			for name, want := range oracle.states {
				diff := ref.RelativeFrobenius(minus(got[name], oracle.starts[name]), minus(want.P, oracle.starts[name]))
				require.True(t, diff <= adamChange, "%s: %g", name, diff)
				worst = max(worst, diff)
			}
			t.Logf("%d parameters, the worst change off by %.3g", len(got), worst)
		})
	}
}

// minus is a − b.
func minus(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] - b[i]
	}
	return out
}
