package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// small are the arguments of a run that takes a moment.
func small(t *testing.T, more ...string) []string {
	t.Helper()
	dev, err := vk.Open(vk.Options{})
	gputest.Require(t, err)
	require.NoError(t, dev.Close())
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("All Bodies emit Light. ", 60)), 0o644))
	return append([]string{"--batch", "2", "--length", "16", "--width", "32", "--hidden", "16", "--every", "10"}, append(more, text)...)
}

func TestTrainWritesACurveAndResumes(t *testing.T) {
	dir := t.TempDir()
	curve, first, second, whole := filepath.Join(dir, "curve.csv"), filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "whole")
	for _, kind := range [][]string{nil, {"--dense"}} {
		with := func(more ...string) []string { return small(t, append(more, kind...)...) }
		require.NoError(t, run(t.Context(), with("--steps", "20", "--curve", curve, "--out", whole, "--sample", "8")))
		text, err := os.ReadFile(curve)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		require.Len(t, lines, 4, "steps 1, 10 and 20")
		require.Equal(t, "step,seconds,train,held_out", lines[0])

		require.NoError(t, run(t.Context(), with("--steps", "20", "--limit", "1ns", "--out", first)), "no step at all")
		require.NoError(t, run(t.Context(), with("--steps", "20", "--resume", first, "--out", second)))
		for _, name := range []string{"model.safetensors", "trainer.safetensors"} {
			want, err := os.ReadFile(filepath.Join(whole, name))
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(second, name))
			require.NoError(t, err)
			require.Equal(t, want, got, "%v %s", kind, name)
		}
	}
}

func TestPlotDrawsCurves(t *testing.T) {
	dir := t.TempDir()
	csv, svg := filepath.Join(dir, "a&b.csv"), filepath.Join(dir, "curve.svg")
	require.NoError(t, os.WriteFile(csv, []byte("step,seconds,train,held_out\n1,2,5.5,5.4\n10,20,2.5,2.25\n"), 0o644))
	require.NoError(t, run(t.Context(), []string{"--plot", svg, csv}))
	text, err := os.ReadFile(svg)
	require.NoError(t, err)
	require.Contains(t, string(text), "a&amp;b: 2.250 held out at step 10")
	require.Equal(t, 2, strings.Count(string(text), "<polyline"))
	require.Error(t, run(t.Context(), []string{"--plot", svg}))
	require.NoError(t, os.WriteFile(csv, []byte("step,seconds,train,held_out\n1,2,x,5.4\n"), 0o644))
	require.ErrorContains(t, run(t.Context(), []string{"--plot", svg, csv}), "line 2")
	require.NoError(t, os.WriteFile(csv, []byte("step\n"), 0o644))
	require.ErrorContains(t, run(t.Context(), []string{"--plot", svg, csv}), "no losses")
}

func TestDenseHasAsManyActiveParameters(t *testing.T) {
	s := defaultSizes
	sparse, dense := s.decoder(8, false).Layers[0], s.decoder(8, true).Layers[0]
	require.Equal(t, sparse.MLP.TopK*sparse.MLP.Hidden, dense.Dense.Hidden)
	require.Equal(t, *sparse.Mixture, *dense.Mixture)
}

func TestTrainRefusals(t *testing.T) {
	require.Error(t, run(t.Context(), []string{"a", "b"}))
	require.Error(t, run(t.Context(), []string{"--nothing"}))
	require.ErrorIs(t, run(t.Context(), []string{filepath.Join(t.TempDir(), "absent")}), os.ErrNotExist)
	require.Error(t, run(t.Context(), small(t, "--steps", "1", "--length", "4000")), "a text shorter than a sequence")
}

func TestOpticksIsPartOfGo(t *testing.T) {
	path, err := opticks()
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text[:2000]), "OPTICKS")
}
