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
	peer, arguments := fakePeer(t, `echo '{"Peer": "Other", "Parameters": 107328, "TokensPerSecond": 5}'`)
	wrong, _ := fakePeer(t, `echo '{"Peer": "Other", "Parameters": 7}'`)
	for _, work := range []string{"train", "generate"} {
		path := filepath.Join(t.TempDir(), "result.json")
		args := []string{"decoder", "--work", work, "--shape", "small", "--batch", "2", "--length", "16", "--reps", "3", "--dtype", "bf16"}
		gputest.Require(t, run(t.Context(), append(args, "--peer", peer, "--json", path)))
		asked, err := os.ReadFile(arguments)
		require.NoError(t, err)
		require.Equal(t, work+" --shape small --batch 2 --length 16 --reps 3\n", string(asked))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var report decoderReport
		require.NoError(t, json.Unmarshal(text, &report))
		require.NotEmpty(t, report.Device)
		require.Equal(t, 5.0, report.Peers[0].TokensPerSecond)
		r := report.Results[0]
		require.Positive(t, r.TokensPerSecond)
		require.GreaterOrEqual(t, r.PeakBytes, r.StateBytes)
		require.Greater(t, r.StateBytes, r.WeightBytes)
	}
	args := []string{"decoder", "--shape", "small", "--batch", "1", "--length", "8", "--reps", "2", "--peer", wrong}
	require.ErrorContains(t, run(t.Context(), args), "7 parameters")
}

func TestDecoderRefusals(t *testing.T) {
	for _, args := range [][]string{{"--shape", "large"}, {"--work", "sleep"}, {"--reps", "1"}, {"--dtype", "f8"}, {"more"}, {"--layers", "1", "--peer", "x"}} {
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
