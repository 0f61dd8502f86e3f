package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeHoldsTheTablesOfTheResults holds the README to the committed results: vkmoe-bench report --into README.md bench/results/*.json
// makes it so.
func TestReadmeHoldsTheTablesOfTheResults(t *testing.T) {
	files, err := filepath.Glob("../../bench/results/*.json")
	require.NoError(t, err)
	m, err := readMeasurements(files)
	require.NoError(t, err)
	require.NoError(t, m.sound())
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	want, found := insertTables(string(text), &m)
	require.Len(t, resultTables, found, "every table has its place")
	require.Equal(t, want, string(text))
	require.NotContains(t, want, "Not measured.")
}

func TestReportMakesTables(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content any) string {
		file := filepath.Join(dir, name)
		require.NoError(t, writeJSON(file, content))
		return file
	}
	ours := report{Device: "An H100", DType: "bf16", Results: append(results("forward", "paper/1", "paper/8192"), results("mlp", "paper/2048")...)}
	ours.Results[0].Median, ours.Results[0].ShareOfPeak = 31.04, 0.25
	ours.Peers = []peerReport{{Peer: "ScatterMoE", Results: []peerResult{{Operation: "forward", Case: "paper/8192", Median: 1344.4}}}}
	alone := peerReport{Peer: "MegaBlocks", Device: "An H100", DType: "bf16", Results: []peerResult{{Operation: "mlp", Case: "paper/2048", Median: 250,
		Memory: 14}}}
	cold := coldReport{Device: "An H100", Case: "paper/512", DType: "bf16", Runs: []coldResult{{Fresh: true, Process: 1243, First: 900}}}
	decoder := decoderReport{Device: "An H100", Results: []decoderResult{{Work: "train", Batch: 8, Length: 2048, TokensPerSecond: 54437,
		StateBytes: 24e9, PeakBytes: 42e9}}, Peers: []decoderPeer{{Peer: "P", Work: "train", Batch: 8, Length: 2048, TokensPerSecond: 70000,
		PeakBytes: 30e9}}}
	other := decoderReport{Device: "An H100", Results: []decoderResult{{Work: "generate", Batch: 1, Length: 128, TokensPerSecond: 100}}}
	elsewhere := decoderReport{Device: "An H100", Peers: []decoderPeer{{Peer: "P", Work: "generate", Batch: 1, Length: 128, TokensPerSecond: 50}}}
	files := []string{write("a.json", ours), write("b.json", alone), write("c.json", cold), write("d.json", decoder), write("e.json", other), write("f.json", elsewhere)}
	readme := filepath.Join(dir, "README.md")
	text := "before\n"
	for _, table := range resultTables {
		begin, end := table.marks()
		text += begin + "old\n" + end + "\nafter\n"
	}
	require.NoError(t, os.WriteFile(readme, []byte(text), 0o644))
	require.NoError(t, run(t.Context(), append([]string{"report", "--into", readme}, files...)))
	data, err := os.ReadFile(readme)
	require.NoError(t, err)
	for _, want := range []string{
		"| ScatterMoE’s unit, 32/4, 4096→2048 | 1 | 31.0 | 50 | 25 % | – | – | – | – | – |\n",
		"|  | 8,192 | 200 | 50 | – | – | – | – | 1,344 (6.72) | – |\n",
		"| ScatterMoE’s unit, 32/4, 4096→2048, GELU | 2,048 | 0.10 | – | 0.25* (2.50) | – | – | – |\n",
		"| 2,048 | 7.00 | – | 14.0* (2.00) | – | – | – |\n",
		"| 54,437 | 42.0 (18.0) | P: 70,000 (1.29), 30.0 (30.0) |\n", "P: 50.0* (0.50), ",
		"1,243 ms, of which the first pass 900 |\n", "Not measured.\n", "before\n",
	} {
		require.Contains(t, string(data), want)
	}
	require.NotContains(t, string(data), "old")
	require.NoError(t, run(t.Context(), append([]string{"report"}, files...)))

	twice := append(files, write("again.json", ours))
	require.ErrorContains(t, run(t.Context(), append([]string{"report"}, twice...)), "both hold")
	ours.Results[0].LowClocks = 0.48
	low := write("low.json", ours)
	require.ErrorContains(t, run(t.Context(), []string{"report", low}), "forward paper/1 was timed at 48 % of the device's clocks")
	plain := write("plain.md", "no marks")
	for _, args := range [][]string{{}, {filepath.Join(dir, "nothing.json")}, {"--into", plain, files[0]}} {
		require.Error(t, run(t.Context(), append([]string{"report"}, args...)), args)
	}
}

func TestAmountsHaveThreeDigits(t *testing.T) {
	for want, v := range map[string]float64{"0.05": 0.049, "1.00": 0.996, "9.99": 9.99, "10.0": 9.996, "99.9": 99.94, "100": 99.96, "1,000": 999.7,
		"1,234,568": 1234567.8} {
		require.Equal(t, want, amount(v))
	}
}

func TestAboutNamesADeviceOnce(t *testing.T) {
	m := measurements{reports: []report{{Device: "A", Driver: "1", Date: "2026-11-24"}, {Device: "B", Driver: "2", Date: "2026-11-24"},
		{Device: "A", Driver: "1", Date: "2026-11-23"}, {Device: "A", Driver: "1", Date: "2026-11-24"}}}
	require.Equal(t, "A, 1, 2026-11-23 and 2026-11-24; B, 2, 2026-11-24", m.about())
}
