package golden

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// runSpoiledAttention judges a model's attention after spoil, and asks that its first layer fails.
func runSpoiledAttention(t *testing.T, name string, spoil func(w *model.AttentionWeights, out []float32, ids []int32)) TensorReport {
	t.Helper()
	report := Run(t.Context(), filepath.Join(dataDir, name), Options{Only: []Part{Attention}, Open: oracleRunner{spoilAttention: spoil}.open})
	require.Equal(t, ExitFail, report.Exit())
	require.Len(t, report.Models[0].Tensors, 2)
	require.False(t, report.Models[0].Tensors[0].Pass)
	return report.Models[0].Tensors[0]
}

func TestJudgeFailsWrongAttention(t *testing.T) {
	for _, name := range recorded {
		r := runSpoiledAttention(t, name, func(_ *model.AttentionWeights, out []float32, _ []int32) { out[7] *= 1.01 })
		require.Greater(t, r.Error, r.Tolerance, name)
		require.Equal(t, Attention, r.Part)
		r = runSpoiledAttention(t, name, func(_ *model.AttentionWeights, out []float32, _ []int32) { out[7] = float32(math.NaN()) })
		require.True(t, math.IsNaN(r.Error), name)
	}
	r := runSpoiledAttention(t, "jetmoe", func(w *model.AttentionWeights, _ []float32, ids []int32) {
		ids[2*w.Mixture.TopK] = 7 - ids[2*w.Mixture.TopK+1] // another expert than the second one, of eight
	})
	require.LessOrEqual(t, r.Error, r.Tolerance)
	require.Len(t, r.WrongChoices, 1)
	require.Equal(t, 2, r.WrongChoices[0].Token)
	r = runSpoiledAttention(t, "jetmoe", func(_ *model.AttentionWeights, _ []float32, ids []int32) { ids[3] = 8 })
	require.ErrorContains(t, r.Err, "expert 8 of 8")
}

// TestJudgeOfAnotherChoiceWithinRounding: two experts whose router rows agree are a tie, which a device may break as it likes;
// its output is then that of the experts it chose.
func TestJudgeOfAnotherChoiceWithinRounding(t *testing.T) {
	c, err := openCase(filepath.Join(dataDir, "jetmoe"))
	require.NoError(t, err)
	defer c.close()
	b, err := c.block(0, attentionModules)
	require.NoError(t, err)
	w, err := c.checkpoint.LoadAttention(0)
	require.NoError(t, err)
	width := w.Mixture.Width
	copy(w.RouterWeight[7*width:8*width], w.RouterWeight[:width]) // experts 0 and 7
	o, err := OracleAttention(w, b.offsets)
	require.NoError(t, err)
	exact := ref.MixtureOfAttentionForward(*o.Mixture, b.in)
	b.out = narrow(exact.Out.Y)
	ids, swapped := append([]int32(nil), exact.IDs...), 0
	for tok := range b.tokens {
		has := map[int32]bool{ids[2*tok]: true, ids[2*tok+1]: true}
		for i := 2 * tok; i < 2*tok+2; i++ {
			if ids[i] == 0 && !has[7] {
				ids[i] = 7
				swapped++
			}
		}
	}
	require.Positive(t, swapped)
	got := narrow(ref.MixtureOfAttentionChosen(*o.Mixture, b.in, exact.Logits, ids).Out.Y)
	r := judgeAttention(w, vk.F32, b, got, ids)
	require.NoError(t, r.Err)
	require.True(t, r.Pass, "%+v", r)
	require.Len(t, r.NearTies, swapped)
	require.Empty(t, r.WrongChoices)
	require.False(t, judgeAttention(w, vk.F32, b, b.out, ids).Pass, "the values belong to the chosen experts")
}

// TestRunOfAttentionThatIsNotThere: a folder without records is passed over unless attention was asked for by name.
func TestRunOfAttentionThatIsNotThere(t *testing.T) {
	dir := copyModel(t, "olmoe")
	removeRecords(t, dir, "self_attn")
	report := Run(t.Context(), dir, Options{Open: oracleRunner{}.open})
	require.Equal(t, ExitPass, report.Exit())
	require.Len(t, report.Models[0].Tensors, 2)
	report = Run(t.Context(), dir, Options{Only: []Part{Attention}, Open: oracleRunner{}.open})
	require.Equal(t, ExitUnusable, report.Exit())
	var missing *model.TensorError
	require.ErrorAs(t, report.Models[0].Unusable, &missing)

	dir = copyModel(t, "olmoe")
	replaceInConfig(t, dir, `"clip_qkv": null`, `"clip_qkv": 8.0`)
	report = Run(t.Context(), dir, Options{Open: oracleRunner{}.open})
	require.Equal(t, ExitPass, report.Exit(), "what nobody named and the library does not run does not count")
	report = Run(t.Context(), dir, Options{Only: []Part{Attention}, Open: oracleRunner{}.open})
	require.Equal(t, ExitUnusable, report.Exit())
	require.Contains(t, report.Models[0].Unsupported[0].Reason, "clip_qkv")
}
