package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
)

func TestChooseMomha(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  []int
	}{{nil, nil}, {[]string{"paper/8"}, nil}, {[]string{"momha"}, []int{1, 2, 4, 8}}, {[]string{"momha/8", "momha/1"}, []int{8, 1}}} {
		got, err := chooseMomha(c.names)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	for _, names := range [][]string{{"momha/3"}, {"momha", "paper"}, {"paper", "momha/2"}} {
		_, err := chooseMomha(names)
		require.Error(t, err, names)
	}
}

// TestMomhaIsCheckedAndTimed fails where an output or a gradient of the input is wrong.
func TestMomhaIsCheckedAndTimed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	for dtype, name := range map[string]string{"f32": "momha/2", "bf16": "momha/8"} {
		other, arguments := fakePeer(t, `echo '{"peer": "Other", "dtype": "f32", "results": [
			{"operation": "training", "case": "`+name+`", "median_us": 1e9, "extra_mb": 7}]}'`)
		gputest.Require(t, run(t.Context(), []string{"--parts", "--dtype", dtype, "--reps", "1", "--json", file, "--peer", other, name}))
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var r report
		require.NoError(t, json.Unmarshal(data, &r))
		require.Empty(t, r.Results)
		require.Len(t, r.Mixtures, 2)
		require.Equal(t, 1e9, r.Peers[0].find("training", name).Median)
		require.Equal(t, 2, strings.Count(r.ratios(), name), "forward, which this peer leaves out, and training")
		asked, err := os.ReadFile(arguments)
		require.NoError(t, err)
		words := map[string]string{"momha/2": "16 2 256 128", "momha/8": "64 8 256 32"}[name]
		require.Equal(t, "--dtype "+dtype+" --reps 1 --op momha "+name+" "+words+" 256 64x32\n", string(asked))
		mixture, peer := r.Mixtures[0], r.Mixtures[1]
		require.Equal(t, [2]string{"momha", "gqa"}, [2]string{mixture.Layer, peer.Layer})
		require.Equal(t, mixture.Cache, peer.Cache)
		require.InDelta(t, peer.Active, mixture.Active, 0.13*peer.Active, "but for the router")
		require.Less(t, peer.Total, mixture.Total)
		for _, m := range r.Mixtures {
			for _, pass := range []momhaTime{m.Forward, m.Training} {
				require.Positive(t, pass.Median)
				require.Positive(t, pass.Memory)
				require.NotEmpty(t, pass.Parts)
			}
			require.Less(t, m.Error, map[string]float64{"f32": 1e-4, "bf16": 1.6e-2}[dtype])
		}
	}
}
