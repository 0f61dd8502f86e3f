package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

func TestDecoderTimesWholeModels(t *testing.T) {
	for _, work := range []string{"train", "generate"} {
		path := filepath.Join(t.TempDir(), "result.json")
		gputest.Require(t, run(t.Context(), []string{"decoder", "--work", work, "--shape", "small", "--batch", "2", "--length", "16", "--reps", "3",
			"--dtype", "bf16", "--json", path}))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var r decoderResult
		require.NoError(t, json.Unmarshal(text, &r))
		require.Positive(t, r.TokensPerSecond)
		require.GreaterOrEqual(t, r.PeakBytes, r.StateBytes)
		require.Greater(t, r.StateBytes, r.WeightBytes)
	}
}

func TestDecoderRefusals(t *testing.T) {
	for _, args := range [][]string{{"--shape", "large"}, {"--work", "sleep"}, {"--reps", "1"}, {"--dtype", "f8"}, {"more"}} {
		require.Error(t, run(t.Context(), append([]string{"decoder"}, args...)))
	}
}

// TestPaperDecoderIsThePapers counts the parameters of the paper's model.
func TestPaperDecoderIsThePapers(t *testing.T) {
	c := decoderShapes["paper"].config(vk.BF16, 2048)
	bytes, err := c.WeightBytes()
	require.NoError(t, err)
	require.InDelta(t, 1.5e9, float64(bytes)/2, 0.1e9)
}
