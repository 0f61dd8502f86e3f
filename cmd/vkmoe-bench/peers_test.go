package main

import (
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakePeer writes a command that prints a report and keeps its arguments, and returns it and the file they are in.
func fakePeer(t *testing.T, body string) (command, arguments string) {
	dir := t.TempDir()
	command, arguments = filepath.Join(dir, "peer"), filepath.Join(dir, "arguments")
	script := "#!/bin/sh\necho \"$@\" >" + arguments + "\n" + body
	require.NoError(t, os.WriteFile(command, []byte(script), 0o755))
	return command, arguments
}

// TestPeersAreTimedOnTheSameCases runs a peer beside a case and compares.
func TestPeersAreTimedOnTheSameCases(t *testing.T) {
	require.NoError(t, openDevice(t).Close())
	command, arguments := fakePeer(t, `echo '{"peer": "Other", "version": "1", "dtype": "f32", "results": [
		{"operation": "forward", "case": "small/64", "median_us": 1e9}]}'`)
	file := filepath.Join(t.TempDir(), "bench.json")
	args := []string{"--dtype", "f32", "--reps", "1", "--json", file, "--rounds", "2", "--peer", command, "small/64", "route:small/512"}
	require.NoError(t, run(t.Context(), args))
	asked, err := os.ReadFile(arguments)
	require.NoError(t, err)
	require.Equal(t, "--dtype f32 --reps 1 --op forward small/64 8 2 512 1024 64 GELU --op route small/512 8 2 512 1024 512 GELU\n", string(asked))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var r report
	require.NoError(t, json.Unmarshal(data, &r))
	require.Equal(t, 1e9, r.Peers[0].find("forward", "small/64").Median)
	require.Nil(t, r.Peers[0].find("dw", "small/64"))
	require.Contains(t, r.ratios(), "Other 1")
	require.NotContains(t, r.ratios(), "MB", "neither says how much memory")
	withMemory := report{Results: results("mlp", "paper/64"), Peers: []peerReport{{Results: []peerResult{{Operation: "mlp", Case: "paper/64",
		Median: 150, Memory: 14}}}}}
	require.Regexp(t, `150.0 µs +1.50 +7.0 MB +14.0 MB +2.00`, withMemory.ratios())
	require.Positive(t, r.Ceilings.Copy)
	require.Positive(t, r.Results[0].ShareOfPeak)
	require.NotEmpty(t, r.Tuning)
	r.keep([]peerReport{{Results: []peerResult{{Operation: "forward", Case: "small/64", Median: 5}, {Operation: "dw", Case: "small/64", Median: 6}}}})
	r.keep([]peerReport{{Results: []peerResult{{Operation: "forward", Case: "small/64", Median: 7}}}})
	require.Equal(t, 5.0, r.Peers[0].find("forward", "small/64").Median, "the least of the rounds")
	require.Equal(t, 6.0, r.Peers[0].find("dw", "small/64").Median)

	broken, _ := fakePeer(t, "echo no JSON")
	require.ErrorContains(t, run(t.Context(), append(args[:9], broken, "small/64")), "no report")
	failing, _ := fakePeer(t, "exit 3")
	require.ErrorContains(t, run(t.Context(), append(args[:9], failing, "small/64")), "exit status 3")
	require.Error(t, run(t.Context(), append(args[:9], " ", "small/64")))
}

// results are a report's of operations on cases, all with the same time, rate and memory.
func results(operation string, cases ...string) []result {
	var list []result
	for i, c := range cases {
		list = append(list, result{Operation: operation, Case: c, Median: 100 * float64(i+1), TFLOPs: 50, Memory: 7})
	}
	return list
}

func TestPlotDrawsWhatThereIs(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content any) string {
		file := filepath.Join(dir, name)
		require.NoError(t, writeJSON(file, content))
		return file
	}
	ours := report{Device: "D", Driver: "R", Date: "2026-01-02", DType: "bf16"}
	ours.Results = append(results("forward", "paper/512", "paper/8", "mixtral/8", "granularity1/8192", "granularity16/8192"),
		results("mlp", "qwen3/64", "paper/64")...)
	for k, name := range map[float64]string{1: "momha/1", 8: "momha/8"} {
		ours.Mixtures = append(ours.Mixtures, momhaResult{Case: name, Layer: "momha", Forward: momhaTime{Median: 1e3 * k}})
	}
	peer := peerReport{Peer: "P", Version: "2", DType: "f16", Results: []peerResult{{Operation: "forward", Case: "paper/8", Median: 50}}}
	files := []string{write("ours.json", ours), write("peer.json", peer)}
	m, err := readMeasurements(files)
	require.NoError(t, err)
	found := map[string]*figure{}
	for _, f := range m.figures() {
		found[f.file] = f
	}
	require.Len(t, found, 6, "a single case of mixtral is no curve")
	paper := found["paper-forward-bf16-time"]
	require.Equal(t, []line{{"vkmoe", [][2]float64{{8, 200}, {512, 100}}}, {"P (f16)", [][2]float64{{8, 50}}}}, paper.lines)
	require.Equal(t, [][2]float64{{8, 200}}, found["paper-forward-bf16-rate"].lines[1].points, "the same work in a quarter of the time")
	require.Equal(t, [][2]float64{{1, 50}, {16, 50}}, found["granularity-forward-bf16"].lines[0].points)
	require.Equal(t, []string{"qwen3/64", "paper/64"}, found["memory-mlp-bf16"].labels)
	require.Equal(t, [][2]float64{{1, 1}, {8, 8}}, found["momha-forward-bf16"].lines[0].points)

	out := filepath.Join(dir, "plots")
	require.NoError(t, run(t.Context(), append([]string{"plot", "-o", out}, files...)))
	for name := range found {
		picture, err := os.Open(filepath.Join(out, name+".png"))
		require.NoError(t, err)
		_, err = png.Decode(picture)
		require.NoError(t, err)
		require.NoError(t, picture.Close())
		text, err := os.ReadFile(filepath.Join(out, name+".svg"))
		require.NoError(t, err)
		require.Contains(t, string(text), "</svg>")
	}
	for _, args := range [][]string{{}, {filepath.Join(dir, "nothing.json")}, {write("empty.json", report{})}, {files[1]}} {
		require.Error(t, run(t.Context(), append([]string{"plot", "-o", out}, args...)), args)
	}
}

// TestCommittedResultsAreReadable holds the files of bench/results to what plot reads, and to naming device, driver and date.
func TestCommittedResultsAreReadable(t *testing.T) {
	files, err := filepath.Glob("../../bench/results/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var header struct{ Device, Driver, Date string }
		require.NoError(t, json.Unmarshal(data, &header), file)
		require.NotEmpty(t, header.Device, file)
		require.NotEmpty(t, header.Date, file)
		require.NotEmpty(t, header.Driver, file)
	}
}
