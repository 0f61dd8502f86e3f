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
)

const dataDir = "../testdata/golden"

// supported are the folders whose MLP blocks the library runs.
var supported = []string{"granitemoe", "mixtral", "olmoe", "qwen3moe"}

// oracleRunner runs blocks on the oracle, rounds to float32, and lets a test spoil the result.
type oracleRunner struct {
	spoil func(w *model.MLPWeights, out []float32, ids []int32)
	err   error
}

func (r oracleRunner) RunMLP(_ context.Context, w *model.MLPWeights, x []float32, tokens int) ([]float32, []int32, error) {
	if r.err != nil {
		return nil, nil, r.err
	}
	m, err := Oracle(w)
	if err != nil {
		return nil, nil, err
	}
	res := ref.Forward(m, x, tokens)
	out := make([]float32, len(res.Out.Y))
	for i, v := range res.Out.Y {
		out[i] = float32(v)
	}
	ids := append([]int32{}, res.IDs...)
	if r.spoil != nil {
		r.spoil(w, out, ids)
	}
	return out, ids, nil
}

func (r oracleRunner) open() (Runner, *DeviceInfo, error) { return r, &DeviceInfo{Name: "oracle"}, nil }

// TestOracleReproducesTheRecordedOutputs holds the oracle itself to data it did not make. The recorded values are rounded
// to float32, and transformers evaluates its router's softmax in float32 even when all else is float64.
func TestOracleReproducesTheRecordedOutputs(t *testing.T) {
	for _, name := range supported {
		report := Run(t.Context(), filepath.Join(dataDir, name), Options{Open: oracleRunner{}.open})
		require.Equal(t, ExitPass, report.Exit())
		require.Len(t, report.Models[0].Tensors, 2)
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
	require.Greater(t, r.Error, Tolerance)

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
	require.LessOrEqual(t, r.Error, Tolerance)
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
	for _, v := range ref.Forward(m, b.in, 2).Out.Y {
		b.out = append(b.out, float32(v))
	}
	return w, m, b
}

func TestJudgeGrantsANearTie(t *testing.T) {
	w, m, b := nearTieBlock(t)
	logits := ref.DenseLinear(m.Router, b.in, 2)
	flipped := ref.ForwardChosen(m, b.in, 2, logits, []int32{1, 0})
	got := make([]float32, len(b.out))
	for i, v := range flipped.Out.Y {
		got[i] = float32(v)
	}
	require.Greater(t, ref.RelativeFrobenius(got, ref.Widen(b.out)), 0.1, "the choice matters")

	r := judgeMLP(w, b, got, []int32{1, 0})
	require.True(t, r.Pass, "%+v", r)
	require.Len(t, r.NearTies, 1)
	require.Equal(t, Choice{0, []int32{1}, []int32{0}, r.NearTies[0].Margin}, r.NearTies[0])

	// The recorded implementation may be the one that broke the tie differently.
	recorded := b
	recorded.out = got
	r = judgeMLP(w, recorded, b.out, []int32{0, 0})
	require.True(t, r.Pass)
	require.Len(t, r.NearTies, 1)

	// A near tie excuses the choice, not the values.
	wrong := append([]float32{}, got...)
	wrong[0] *= 1.001
	r = judgeMLP(w, b, wrong, []int32{1, 0})
	require.False(t, r.Pass)
	// Nor does one token's near tie excuse another token.
	r = judgeMLP(w, b, got, []int32{1, 1})
	require.False(t, r.Pass)
	require.Len(t, r.WrongChoices, 1)
}
