package golden

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

const dataDir = "../testdata/golden"

// recorded are the folders in dataDir.
var recorded = []string{"deepseekv3", "gptoss", "granitemoe", "jetmoe", "mixtral", "olmoe", "qwen2moe", "qwen3moe"}

// oracleRunner runs blocks on the oracle, rounds weights, input and output, and lets a test spoil the result.
type oracleRunner struct {
	spoil func(w *model.MLPWeights, out []float32, ids []int32)
	err   error

	spoilAttention func(w *model.AttentionWeights, out []float32, ids []int32)
}

func (r oracleRunner) RunMLP(_ context.Context, w *model.MLPWeights, x []float32, tokens int) ([]float32, []int32, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	dtype := w.Config.DType
	m, err := Oracle(w.Rounded(dtype))
	if err != nil {
		return nil, nil, err
	}
	res := ref.Forward(m, vk.Round(dtype, x), tokens)
	out, ids := vk.Round(dtype, narrow(res.Out.Y)), append([]int32{}, res.IDs...)
	if r.spoil != nil {
		r.spoil(w, out, ids)
	}
	return out, ids, nil
}

func (r oracleRunner) RunAttention(_ context.Context, w *model.AttentionWeights, dtype vk.DType, x []float32, offsets []int32) ([]float32, []int32, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	o, err := OracleAttention(w.Rounded(dtype), offsets)
	if err != nil {
		return nil, nil, err
	}
	y, ids := o.Forward(ref.Widen(vk.Round(dtype, x)))
	out := vk.Round(dtype, narrow(y))
	if r.spoilAttention != nil {
		r.spoilAttention(w, out, ids)
	}
	return out, ids, nil
}

func (r oracleRunner) open() (Runner, *DeviceInfo, error) { return r, &DeviceInfo{Name: "oracle"}, nil }

// TestOracleReproducesTheRecordedOutputs holds the oracle itself to data it did not make. The recorded values are rounded
// to float32, and transformers evaluates its router's softmax in float32 even when all else is float64.
func TestOracleReproducesTheRecordedOutputs(t *testing.T) {
	for _, name := range recorded {
		report := Run(t.Context(), filepath.Join(dataDir, name), Options{Open: oracleRunner{}.open})
		require.Equal(t, ExitPass, report.Exit())
		require.Len(t, report.Models[0].Tensors, 4)
		for _, tensor := range report.Models[0].Tensors {
			t.Logf("%s %s: %.3g", name, tensor.Name, tensor.Error)
			require.True(t, tensor.Error <= 1e-6, "%s %s: %g", name, tensor.Name, tensor.Error)
			require.Empty(t, tensor.NearTies)
			require.Equal(t, 48, tensor.Tokens)
		}
	}
}

func runSpoiled(t *testing.T, spoil func(w *model.MLPWeights, out []float32, ids []int32)) TensorReport {
	t.Helper()
	report := Run(t.Context(), filepath.Join(dataDir, "mixtral"), Options{Open: oracleRunner{spoil: spoil}.open})
	require.Equal(t, ExitFail, report.Exit())
	require.False(t, report.Models[0].Tensors[0].Pass)
	return report.Models[0].Tensors[0]
}

func TestJudgeFailsWrongResults(t *testing.T) {
	r := runSpoiled(t, func(_ *model.MLPWeights, out []float32, _ []int32) { out[7] *= 1.01 })
	require.Greater(t, r.Error, r.Tolerance)

	r = runSpoiled(t, func(_ *model.MLPWeights, out []float32, _ []int32) { out[7] = float32(math.NaN()) })
	require.True(t, math.IsNaN(r.Error))

	r = runSpoiled(t, func(_ *model.MLPWeights, out []float32, _ []int32) { out[7] = float32(math.Inf(1)) })
	require.True(t, math.IsNaN(r.Error))

	r = runSpoiled(t, func(_ *model.MLPWeights, out []float32, _ []int32) { clear(out) })
	require.InDelta(t, 1, r.Error, 1e-12)
}

func TestJudgeFailsWrongChoicesEvenWithRightValues(t *testing.T) {
	r := runSpoiled(t, func(w *model.MLPWeights, _ []float32, ids []int32) {
		ids[2*w.Config.TopK] = 7 - ids[2*w.Config.TopK+1] // another expert than the second one, of eight
	})
	require.LessOrEqual(t, r.Error, r.Tolerance)
	require.Len(t, r.WrongChoices, 1)
	require.Equal(t, 2, r.WrongChoices[0].Token)
	require.Greater(t, r.WrongChoices[0].Margin, 1e-4)
}

func TestJudgeFailsImpossibleChoices(t *testing.T) {
	for _, id := range []int32{-1, 8, math.MaxInt32} {
		r := runSpoiled(t, func(_ *model.MLPWeights, _ []float32, ids []int32) { ids[3] = id })
		require.Error(t, r.Err)
	}
	r := runSpoiled(t, func(_ *model.MLPWeights, _ []float32, ids []int32) { ids[3] = ids[2] })
	require.ErrorContains(t, r.Err, "twice")
}

func TestJudgeReportsARunnerThatFails(t *testing.T) {
	boom := errors.New("boom")
	report := Run(t.Context(), filepath.Join(dataDir, "mixtral"), Options{Open: oracleRunner{err: boom}.open})
	require.Equal(t, ExitFail, report.Exit())
	require.ErrorIs(t, report.Models[0].Tensors[0].Err, boom)
}

func TestJudgeIn16Bits(t *testing.T) {
	require.Equal(t, 0x1p-6, Tolerance(vk.BF16))
	require.Equal(t, 0x1p-9, Tolerance(vk.F16))
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		run := func(r oracleRunner) *Report { return Run(t.Context(), dataDir, Options{DType: dtype, Open: r.open}) }
		report := run(oracleRunner{})
		require.Equal(t, ExitPass, report.Exit())
		others := 0
		for _, m := range report.Models {
			for _, tensor := range m.Tensors {
				require.Greater(t, tensor.Error, Tolerance(dtype)/32, "rounding shows")
				require.Less(t, tensor.Error, Tolerance(dtype)/2, "and intermediates add to it")
				others += len(tensor.NearTies)
			}
		}
		require.LessOrEqual(t, others, 4)
		require.Equal(t, dtype == vk.BF16, others > 0, "some token of 1536 is so near a tie that bf16 decides it otherwise")

		scale := func(out []float32) {
			for i := range out {
				out[i] *= 1 + 8*float32(Tolerance(dtype)/4)
			}
		}
		report = run(oracleRunner{spoil: func(_ *model.MLPWeights, out []float32, _ []int32) { scale(out) },
			spoilAttention: func(_ *model.AttentionWeights, out []float32, _ []int32) { scale(out) }})
		passed, failed := report.Counts()
		require.Equal(t, [2]int{0, 32}, [2]int{passed, failed})
	}
}

// Whoever chooses by the recorded weights, not by the rounded ones that the device holds, chooses wrongly.
func TestJudgeHoldsChoicesToTheRoundedWeights(t *testing.T) {
	w, _, b := nearTieBlock(t)
	const down, up = 1 + 3*0x1p-10, 1 + 5*0x1p-10 // the numbers next to 1 in bf16 are 1 and 1 + 8·2^-10
	w.RouterWeight = []float32{down, down, 1, up}
	m, err := Oracle(w)
	require.NoError(t, err)
	b.in, b.out = []float32{1, 1, -1, -1}, nil
	exact := ref.Forward(m, b.in, 2)
	b.out = narrow(exact.Out.Y)
	require.Equal(t, []int32{0, 1}, exact.IDs)
	r := judgeMLP(w, vk.F32, b, b.out, exact.IDs)
	require.True(t, r.Pass, "%+v", r)
	r = judgeMLP(w, vk.BF16, b, b.out, exact.IDs)
	require.False(t, r.Pass)
	require.Len(t, r.WrongChoices, 2)
	require.Equal(t, 0x1p-7, r.WrongChoices[0].Margin)

	rounded := []int32{1, 0}
	r = judgeMLP(w, vk.BF16, b, narrow(ref.ForwardChosen(m, b.in, 2, exact.Logits, rounded).Out.Y), rounded)
	require.True(t, r.Pass, "%+v", r)
	require.Len(t, r.NearTies, 2)
	r = judgeMLP(w, vk.BF16, b, b.out, rounded)
	require.False(t, r.Pass, "the values are those of other experts")
}

func narrow(values []float64) []float32 {
	out := make([]float32, len(values))
	for i, v := range values {
		out[i] = float32(v)
	}
	return out
}

// nearTieBlock is a layer whose first two experts tie for token 0 and are apart for token 1, with K = 1.
func nearTieBlock(t *testing.T) (*model.MLPWeights, ref.MLP[float32], block) {
	w := &model.MLPWeights{
		Config:       moe.MLPConfig{Experts: 2, TopK: 1, Width: 2, Hidden: 1},
		RouterWeight: []float32{1, 1, 1, 0},
		Up:           []float32{1, 0, 1, 0 /* expert 1 */, 2, 0, 2, 0},
		Down:         []float32{1, 1 /* expert 1 */, 3, -1},
	}
	m, err := Oracle(w)
	require.NoError(t, err)
	b := block{name: "out", tokens: 2, in: []float32{1, 1e-9, 1, 1}}
	b.out = narrow(ref.Forward(m, b.in, 2).Out.Y)
	return w, m, b
}

func TestJudgeGrantsANearTie(t *testing.T) {
	w, m, b := nearTieBlock(t)
	logits := ref.DenseLinear(m.Router, b.in, 2)
	flipped := ref.ForwardChosen(m, b.in, 2, logits, []int32{1, 0})
	got := narrow(flipped.Out.Y)
	require.Greater(t, ref.RelativeFrobenius(got, ref.Widen(b.out)), 0.1, "the choice matters")

	r := judgeMLP(w, vk.F32, b, got, []int32{1, 0})
	require.True(t, r.Pass, "%+v", r)
	require.Len(t, r.NearTies, 1)
	require.Equal(t, Choice{0, []int32{1}, []int32{0}, r.NearTies[0].Margin}, r.NearTies[0])

	// The recorded implementation may be the one that broke the tie differently.
	recorded := b
	recorded.out = got
	r = judgeMLP(w, vk.F32, recorded, b.out, []int32{0, 0})
	require.True(t, r.Pass)
	require.Len(t, r.NearTies, 1)

	// A near tie excuses the choice, not the values.
	wrong := append([]float32{}, got...)
	wrong[0] *= 1.001
	r = judgeMLP(w, vk.F32, b, wrong, []int32{1, 0})
	require.False(t, r.Pass)
	// Nor does one token's near tie excuse another token.
	r = judgeMLP(w, vk.F32, b, got, []int32{1, 1})
	require.False(t, r.Pass)
	require.Len(t, r.WrongChoices, 1)
}
