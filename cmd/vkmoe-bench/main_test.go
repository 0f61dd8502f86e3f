package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
)

// init shortens what only clocks need: tests look at what is timed, not how fast it is.
func init() { warmUp = 10 * time.Millisecond }

func TestChooseCases(t *testing.T) {
	for operation, n := range map[string]int{"forward": 20, "dx": 5, "dw": 5, "mlp": 17, "training": 17, "route": 2} {
		all, err := chooseCases(defaultCases[operation])
		require.NoError(t, err)
		require.Len(t, all, n, "the rows that peers were measured on: %s", operation)
	}
	for group, n := range map[string]int{"granularity": 5, "sparsity": 6, "decode": 24, "paper": 11, "token": 4} {
		some, err := chooseCases([]string{group})
		require.NoError(t, err)
		require.Len(t, some, n, group)
	}
	some, err := chooseCases([]string{"dense", "paper/8", "dense/8192", "olmoe/1"})
	require.NoError(t, err)
	var names []string
	for _, c := range some {
		names = append(names, c.Name())
	}
	require.Equal(t, []string{"dense/8192", "paper/8", "olmoe/1"}, names)
	tasks, err := chooseTasks([]string{"dw:paper/8192", "paper/8", "mlp:token"}, "dx")
	require.NoError(t, err)
	require.Len(t, tasks, 6)
	require.Equal(t, [3]string{"dw", "dx", "mlp"}, [3]string{tasks[0].operation, tasks[1].operation, tasks[5].operation})
	_, err = chooseTasks([]string{"sideways:paper/8"}, "dx")
	require.ErrorContains(t, err, "sideways")
	_, err = chooseCases([]string{"nothing"})
	require.ErrorContains(t, err, `"nothing"`)
}

func TestBadFlags(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), []string{"--dtype", "f8"}), "f8")
	require.ErrorContains(t, run(t.Context(), []string{"--op", "sideways"}), "sideways")
	require.ErrorContains(t, run(t.Context(), []string{"--weights", "int3"}), "int3")
	require.ErrorContains(t, run(t.Context(), []string{"--weights", "q4", "--op", "dw"}), "forward")
	require.Error(t, run(t.Context(), []string{"--device", "no such device", "small/64"}))
}

func TestBenchWritesJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	for _, dtype := range []string{"f32", "bf16"} {
		err := run(t.Context(), []string{"--dtype", dtype, "--ceilings=false", "--reps", "1", "--json", file, "small/64"})
		gputest.Require(t, err)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var r report
		require.NoError(t, json.Unmarshal(data, &r))
		require.Len(t, r.Results, 1)
		require.Equal(t, dtype, r.DType)
		require.Positive(t, r.Results[0].Median)
		require.Less(t, r.Results[0].Error, map[string]float64{"f32": 1e-5, "bf16": 1e-2}[dtype])
	}
}

// TestQuantizedWeightsAreCheckedAndTimed fails where a result is not that of the codes.
func TestQuantizedWeightsAreCheckedAndTimed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	for _, format := range []string{"int8", "q4"} {
		err := run(t.Context(), []string{"--weights", format, "--ceilings=false", "--reps", "1", "--json", file, "small/64"})
		gputest.Require(t, err)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var r report
		require.NoError(t, json.Unmarshal(data, &r))
		require.Equal(t, format, r.Weights)
		require.Positive(t, r.Results[0].Median)
	}
}

// TestEveryOperationIsCheckedAndTimed runs them on a small layer, which fails where a result is wrong.
func TestEveryOperationIsCheckedAndTimed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	for operation := range operations {
		for _, dtype := range []string{"f32", "f16"} {
			err := run(t.Context(), []string{"--op", operation, "--ceilings=false", "--parts", "--dtype", dtype, "--reps", "2", "--json", file, "small/64"})
			gputest.Require(t, err, operation)
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			var r report
			require.NoError(t, json.Unmarshal(data, &r))
			require.Equal(t, operation, r.Results[0].Operation)
			require.Positive(t, r.Results[0].Median)
			require.NotEmpty(t, r.Results[0].Parts)
			require.Contains(t, operationNames, operation)
		}
	}
}

func TestQuantile(t *testing.T) {
	times := []float64{5, 1, 4, 2, 3}
	require.Equal(t, 3.0, quantile(times, 0.5))
	require.Equal(t, 1.0, quantile(times, 0))
	require.Equal(t, 5.0, quantile(times, 1))
}

func TestShortJobsAreRepeated(t *testing.T) {
	require.Equal(t, mostRepeats, repeatsOf(10, 0))
	require.Equal(t, 10, repeatsOf(300, 1<<20))
	require.Equal(t, 2, repeatsOf(300, 100<<20), "within the scratch")
	require.Equal(t, 1, repeatsOf(300, 1<<30))
	require.Equal(t, 1, repeatsOf(1e6, 0))
}
