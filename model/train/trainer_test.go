package train

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// tiny is a decoder of one layer with experts and one without.
func tiny(t *testing.T, dtype vk.DType) *model.Decoder {
	t.Helper()
	gputest.Need(t, dev)
	mixture := &attention.MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 8, Mode: moe.TopKSoftmax, OutputBias: true, Causal: true}
	rope := &attention.RoPEConfig{Width: 8}
	d, err := model.NewDecoder(t.Context(), dev, model.DecoderConfig{
		Type: "jetmoe", Vocabulary: 11, Width: 16, Epsilon: 1e-6, Tied: true, Positions: 8, DType: dtype,
		Layers: []model.LayerConfig{
			{Mixture: mixture, RoPE: rope, MLP: &moe.MLPConfig{Experts: 4, TopK: 2, Hidden: 8, Activation: moe.SwiGLU, Mode: moe.TopKSoftmax}},
			{Mixture: mixture, RoPE: rope, Dense: &model.DenseConfig{Hidden: 16, Activation: moe.SwiGLU}},
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	require.NoError(t, d.Initialize(t.Context(), 3, 0.1))
	return d
}

// cycle is a text that a model can learn: it repeats every 11 tokens.
func cycle() Windows {
	tokens := make([]int32, 200)
	for i := range tokens {
		tokens[i] = int32(i * 3 % 11)
	}
	return Windows{Tokens: tokens, Seed: 5}
}

func newTrainer(t *testing.T, d *model.Decoder, cfg Config) *Trainer {
	t.Helper()
	tr, err := New(t.Context(), d, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()) })
	return tr
}

func config(dtype vk.DType) Config {
	return Config{Batch: 2, Length: 8, Micro: 2, Adam: AdamWConfig{Decay: 0.01, ClipNorm: 1}, Schedule: Schedule{Peak: 0.01, Warmup: 2},
		Router: moe.LossConfig{Balance: 0.01, Z: 0.001}, GradDType: dtype}
}

func steps(t *testing.T, tr *Trainer, n int) []Stats {
	t.Helper()
	var list []Stats
	for range n {
		ids, targets, err := cycle().Batch(tr.Steps()+1, tr.Config.Micro*tr.Config.Batch, tr.Config.Length)
		require.NoError(t, err)
		s, err := tr.Step(t.Context(), ids, targets)
		require.NoError(t, err)
		list = append(list, s)
	}
	return list
}

func bits(t *testing.T, d *model.Decoder) [][]uint32 {
	var all [][]uint32
	for _, p := range d.Parameters() {
		all = append(all, gputest.Words(t, p.Value))
	}
	return all
}

func TestTrainingLearnsAndResumesBitForBit(t *testing.T) {
	for _, dtype := range gputest.Storages {
		t.Run(dtype.String(), func(t *testing.T) {
			cfg := config(vk.F32)
			cfg.Recompute = dtype == vk.F16
			d := tiny(t, dtype)
			tr := newTrainer(t, d, cfg)
			first := steps(t, tr, 10)
			require.InDelta(t, math.Log(11), first[0].Loss, 1)
			require.Positive(t, first[0].GradNorm)
			require.InDelta(t, 2, first[0].Balance, 1)
			dir := filepath.Join(t.TempDir(), "checkpoint")
			require.NoError(t, tr.Save(t.Context(), dir))
			later := steps(t, tr, 30)
			require.Less(t, later[29].Loss, 1.0, "of ln 11 = 2.4")
			want := bits(t, d)

			other := tiny(t, dtype)
			resumed := newTrainer(t, other, cfg)
			steps(t, resumed, 3) // what Load has to undo
			require.NoError(t, resumed.Load(t.Context(), dir))
			require.Equal(t, 10, resumed.Steps())
			require.Equal(t, later, steps(t, resumed, 30))
			require.Equal(t, want, bits(t, other))
		})
	}
}

func TestGradientsIn16BitsLearnToo(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		cfg := config(dtype)
		cfg.LossScale = 256
		tr := newTrainer(t, tiny(t, dtype), cfg)
		list := steps(t, tr, 40)
		require.Less(t, list[39].Loss, 1.2, dtype)
		require.InDelta(t, 2, list[0].GradNorm, 2, "the loss scale is taken out again")
		require.Less(t, tr.StateBytes(), dev.Memory().LiveBytes)
	}
}

func TestAStepIsOneSubmission(t *testing.T) {
	d := tiny(t, vk.F32)
	tr := newTrainer(t, d, config(vk.F32))
	steps(t, tr, 1)
	before := dev.Stats()
	steps(t, tr, 1)
	after := dev.Stats()
	require.LessOrEqual(t, after.Submits-before.Submits, uint64(4), "the step, and three small uploads where the host cannot write")
	require.Equal(t, before.Dispatches, after.Dispatches, "nothing is recorded again")
}

func TestLossChangesNothing(t *testing.T) {
	d := tiny(t, vk.F32)
	tr := newTrainer(t, d, config(vk.F32))
	before := bits(t, d)
	ids, targets, err := cycle().Batch(1, 4, 8)
	require.NoError(t, err)
	loss, err := tr.Loss(t.Context(), ids, targets)
	require.NoError(t, err)
	require.Equal(t, before, bits(t, d))
	s, err := tr.Step(t.Context(), ids, targets)
	require.NoError(t, err)
	require.Equal(t, loss, s.Loss)
	require.Zero(t, tr.Config.Schedule.Rate(0))
}

func TestTrainerRefusals(t *testing.T) {
	d := tiny(t, vk.F32)
	for _, change := range []func(*Config){
		func(c *Config) { c.Batch = 0 }, func(c *Config) { c.Length = -1 }, func(c *Config) { c.Micro = 33 },
		func(c *Config) { c.Schedule.Peak = -1 }, func(c *Config) { c.Adam.Decay = -1 }, func(c *Config) { c.LossScale = -1 },
		func(c *Config) { c.GradDType = vk.BF16 },
	} {
		cfg := config(vk.F32)
		change(&cfg)
		_, err := New(t.Context(), d, cfg)
		require.Error(t, err)
	}
	tr := newTrainer(t, d, config(vk.F32))
	before := bits(t, d)
	ids := make([]int32, 32)
	ids[3] = 11
	_, err := tr.Step(t.Context(), ids, make([]int32, 32))
	var token *TokenError
	require.ErrorAs(t, err, &token)
	require.Equal(t, 3, token.Index)
	_, err = tr.Step(t.Context(), ids[:5], make([]int32, 5))
	require.Error(t, err)
	require.Equal(t, before, bits(t, d))
	require.Zero(t, tr.Steps())
}

func TestLoadRefusesOtherCheckpoints(t *testing.T) {
	d := tiny(t, vk.F32)
	tr := newTrainer(t, d, config(vk.F32))
	require.ErrorIs(t, tr.Load(t.Context(), t.TempDir()), os.ErrNotExist)
	dir := t.TempDir()
	require.NoError(t, tr.Save(t.Context(), dir))
	path := filepath.Join(dir, StateFile)
	require.NoError(t, safetensors.WriteFile(path, []safetensors.Entry{safetensors.Int32("step", []int{1}, []int32{4})}, nil))
	var tensor *model.TensorError
	require.ErrorAs(t, tr.Load(t.Context(), dir), &tensor)
	require.Equal(t, model.Missing, tensor.Fault)
	require.Zero(t, tr.Steps())
}

func TestWindowsAreThoseOfTheirStep(t *testing.T) {
	w := cycle()
	ids, targets, err := w.Batch(3, 5, 7)
	require.NoError(t, err)
	require.Len(t, ids, 35)
	for i := range 34 {
		if i%7 != 6 {
			require.Equal(t, ids[i+1], targets[i])
		}
	}
	again, _, err := w.Batch(3, 5, 7)
	require.NoError(t, err)
	require.Equal(t, ids, again)
	other, _, err := w.Batch(4, 5, 7)
	require.NoError(t, err)
	require.NotEqual(t, ids, other)
	_, _, err = w.Batch(1, 1, 200)
	var config *moe.ConfigError
	require.True(t, errors.As(err, &config))
	require.Equal(t, []int32{0, 255, 65}, Bytes([]byte{0, 255, 'A'}))
}
