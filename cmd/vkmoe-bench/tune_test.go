package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// TestMain lets cold start this program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == coldChild {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestTunerKeepsWhatItMeasured asks every question of a small layer with few candidates; another device finds the answers.
func TestTunerKeepsWhatItMeasured(t *testing.T) {
	require.NoError(t, openDevice(t).Close())
	t.Setenv(moe.TuningVariable, filepath.Join(t.TempDir(), "tuning.json"))
	dev, err := vk.Open(vk.Options{Timestamps: true, NoCache: true})
	require.NoError(t, err)
	defer dev.Close()
	tune := &tuner{dev: dev, shapes: []benchCase{{"tiny", 4, 2, 64, 64, 0, moe.GELU}}, reps: 1, most: 2, verbose: true,
		table: moe.BuiltInTuning(dev)}
	require.NoError(t, tune.run(t.Context(), tune.table.BandRows(), moe.TuningSteps))
	require.Equal(t, tune.table, moe.TuningOf(dev).Table)
	path, err := tune.table.Save(dev)
	require.NoError(t, err)
	other, err := vk.Open(vk.Options{NoCache: true})
	require.NoError(t, err)
	defer other.Close()
	require.Equal(t, path, moe.TuningOf(other).Source)
	require.Equal(t, tune.table.Bands, moe.TuningOf(other).Table.Bands)
}

func TestExplainSaysWhatIsChosen(t *testing.T) {
	dev := openDevice(t)
	text, err := explain(dev, benchCase{"tiny", 4, 2, 64, 64, 96, moe.GELU}, vk.F32, moe.WeightsFull)
	require.NoError(t, err)
	require.Contains(t, text, "48 rows per expert: portable path, scatter2scatter.f32, ")
	require.NoError(t, run(t.Context(), []string{"explain", "--weights", "q4", "mixtral"}), "however much memory it would take")
	require.Error(t, run(t.Context(), []string{"explain", "nothing"}))
	require.NoError(t, run(t.Context(), []string{"list"}))
}

// TestColdTimesNewProcesses: the second process finds what the first compiled.
func TestColdTimesNewProcesses(t *testing.T) {
	require.NoError(t, openDevice(t).Close())
	file := filepath.Join(t.TempDir(), "cold.json")
	require.NoError(t, run(t.Context(), []string{"cold", "--runs", "1", "--dtype", "f32", "--json", file}))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var r coldReport
	require.NoError(t, json.Unmarshal(data, &r))
	require.Len(t, r.Runs, 2)
	require.True(t, r.Runs[0].Fresh)
	for _, c := range r.Runs {
		require.Positive(t, c.First)
		require.Positive(t, c.Second)
		require.Greater(t, c.Process, c.Open+c.Layer+c.First)
		require.Positive(t, c.Pipelines)
	}
}
