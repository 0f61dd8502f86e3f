package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/tests/conform"
	"github.com/vkmoe/vkmoe/tests/conform/report"
)

func TestList(t *testing.T) {
	code, stdout, _ := runCommand(t, nil, "list")
	require.Equal(t, 0, code)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Greater(t, len(lines), 3000)
	require.NotContains(t, stdout, "selftest")
	code, stdout, _ = runCommand(t, nil, "list", "routing.group", "--exclude", "*.invalid", "--shard", "2/3", "--required")
	require.Equal(t, 0, code)
	require.NotContains(t, stdout, "invalid")
	require.Contains(t, stdout, "routing.group.")
	for _, args := range [][]string{{"list", "no.such.case"}, {"list", "--shard", "5/3"}, {"run", "--plant", "gremlins"},
		{"run", "--validation=maybe", "selftest.pass"}, {"run", "selftest.pass", "--waivers", "absent.json"}, {"report"},
		{"diff", "absent.json", "absent.json"}} {
		code, stdout, stderr := runCommand(t, nil, args...)
		require.Equal(t, 2, code, "%v %s", args, stdout)
		require.NotEmpty(t, stderr)
	}
}

// TestARunGoesOn runs cases that crash, hang, end their process and lose their device between others that pass.
func TestARunGoesOn(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	code, stdout, stderr := runCommand(t, nil, "run", "selftest", "routing.group.e8_k2_t5", "--retries", "1", "--jobs", "1",
		"--json", path("r.json"), "--junit", path("r.xml"), "--html", path("r.html"), "--evidence", path("evidence"))
	require.Equal(t, report.ExitFail, code, stdout+stderr)
	r, err := report.Read(path("r.json"))
	require.NoError(t, err)
	got := map[string]conform.Result{}
	for _, c := range r.Cases {
		got[c.Name] = c
	}
	for name, want := range map[string]conform.Status{
		"selftest.pass": conform.Pass, "selftest.fail": conform.Fail, "selftest.unwritten": conform.Fail, "selftest.flaky": conform.Fail,
		"selftest.unsupported": conform.Unsupported, "selftest.crash": conform.Crash, "selftest.exit": conform.Crash,
		"selftest.hang": conform.Timeout, "selftest.lost": conform.Lost, "routing.group.e8_k2_t5.one": conform.Pass,
	} {
		require.Equal(t, want, got[name].Status, "%s: %+v", name, got[name])
	}
	require.True(t, got["selftest.wild"].Status.Bad(), "%+v", got["selftest.wild"])
	if wild := got["selftest.wild"]; wild.Status == conform.Crash {
		require.FileExists(t, filepath.Join(wild.Evidence, "convert.f16_f32.spv"), "what is known of a case that crashes")
	}
	require.True(t, got["selftest.flaky"].Flaky)
	require.Equal(t, []conform.Status{conform.Fail, conform.Pass}, got["selftest.flaky"].Attempts)
	require.False(t, got["selftest.fail"].Flaky)
	require.Contains(t, got["selftest.crash"].Output, "selftest.crash: about to end the process")
	require.Contains(t, got["selftest.unsupported"].Reason, "antigravity")
	require.Contains(t, stdout, "antigravity")
	require.Contains(t, got["selftest.fail"].Repro, "vkmoe-conform run selftest.fail --seed 1")
	require.Empty(t, r.Problems, "workers that are stopped end cleanly")
	requireEvidence(t, got["selftest.fail"])
	requireJUnit(t, path("r.xml"))
	page, err := os.ReadFile(path("r.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), r.Device.DriverUUID)

	code, stdout, _ = runCommand(t, nil, "run", "selftest.hang", "--timeout", "10ms", "--retries", "0")
	require.Equal(t, report.ExitFail, code)
	require.Contains(t, stdout, "no result within 10ms")
	code, stdout, _ = runCommand(t, nil, "report", path("r.json"))
	require.Equal(t, report.ExitPass, code, "printing a report is no verdict")
	require.Contains(t, stdout, "CRASH  selftest.crash")
}

// requireEvidence looks at what a failing case left.
func requireEvidence(t *testing.T, r conform.Result) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(r.Evidence, "result.json"))
	require.NoError(t, err)
	var kept struct {
		Seed     uint64
		Failures []conform.Failure
	}
	require.NoError(t, json.Unmarshal(text, &kept))
	require.EqualValues(t, 1, kept.Seed)
	require.Equal(t, conform.CheckOracle, kept.Failures[0].Check)
	require.Equal(t, conform.Element{Index: 2, Got: 3, Want: 4, Bound: 0.1}, *kept.Failures[0].Worst)
	require.Len(t, kept.Failures[0].Histogram, len(conform.HistogramEdges)+2)
	f, err := safetensors.Open(filepath.Join(r.Evidence, "tensors.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	y, err := f.Float32s("y")
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2, 3}, y)
	_, err = f.Float32s("x")
	require.NoError(t, err)
}

func requireJUnit(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var suites struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Errors   int `xml:"errors,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Name string `xml:"name,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	require.NoError(t, xml.Unmarshal(text, &suites))
	s := suites.Suites[0]
	require.Len(t, s.Cases, s.Tests)
	require.GreaterOrEqual(t, s.Failures, 3)
	require.GreaterOrEqual(t, s.Errors, 4)
	require.Equal(t, 1, s.Skipped)
}

// TestAFailureCanBeRepeatedByItsName plants a fault, takes the command that the report prints, and runs it.
func TestAFailureCanBeRepeatedByItsName(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	const name = "combine.forward.f32.scattered.e5_k3_t33_w7.random.gates"
	args := []string{"run", name, "--plant", "wrong_gate.combine", "--json", filepath.Join(dir, "r.json"), "--evidence", dir}
	code, stdout, stderr := runCommand(t, nil, args...)
	require.Equal(t, report.ExitFail, code, stdout+stderr)
	r, err := report.Read(filepath.Join(dir, "r.json"))
	require.NoError(t, err)
	words := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(r.Cases[0].Repro, `"`, ""), "--evidence evidence", "--evidence "+dir))
	require.Equal(t, "vkmoe-conform", words[0])
	code, again, stderr := runCommand(t, nil, words[1:]...)
	require.Equal(t, report.ExitFail, code, again+stderr)
	require.Contains(t, again, r.Cases[0].Reason, "the same failure")
	require.FileExists(t, filepath.Join(r.Cases[0].Evidence, "combine.f32.spv"))
	var pipelines []conform.Pipeline
	text, err := os.ReadFile(filepath.Join(r.Cases[0].Evidence, "pipelines.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &pipelines))
	require.Equal(t, "expert_scatter", pipelines[0].Kernel)
	require.NotEmpty(t, pipelines[0].Constants)

	waivers := filepath.Join(dir, "waivers.json")
	require.NoError(t, os.WriteFile(waivers, []byte(`[{"cases": "combine.*", "reason": "planted", "link": "none"}]`), 0o644))
	code, stdout, _ = runCommand(t, nil, append(args, "--waivers", waivers, "selftest.pass")...)
	require.Equal(t, report.ExitPass, code, stdout)
	require.Contains(t, stdout, "WAIVED")
}

// TestDiff compares a run with and without a fault.
func TestDiff(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.json.gz"), filepath.Join(dir, "bad.json")
	const globs = "combine.forward.f32.scattered.e5_k3_t33_w7.*"
	code, stdout, stderr := runCommand(t, nil, "run", globs, "--json", good)
	require.Equal(t, 0, code, stdout+stderr)
	code, _, _ = runCommand(t, nil, "run", globs, "--json", bad, "--plant", "wrong_gate.combine")
	require.Equal(t, 1, code)
	code, stdout, _ = runCommand(t, nil, "diff", good, bad)
	require.Equal(t, 1, code)
	require.Contains(t, stdout, "! pass        → fail         combine.forward.f32.scattered.e5_k3_t33_w7.random.gates")
	code, stdout, _ = runCommand(t, nil, "diff", bad, good)
	require.Equal(t, 0, code, "what gets better is no failure")
	require.Contains(t, stdout, "fail        → pass")
}

// TestEveryPlantedFaultIsCaught is the suite's own test.
func TestEveryPlantedFaultIsCaught(t *testing.T) {
	needDevice(t)
	path := filepath.Join(t.TempDir(), "r.json")
	code, stdout, stderr := runCommand(t, nil, "run", "selftest.pass", "--faults", "--json", path)
	require.Equal(t, 0, code, stdout+stderr)
	r, err := report.Read(path)
	require.NoError(t, err)
	require.Len(t, r.Faults, len(conform.Faults()))
	for _, f := range r.Faults {
		require.True(t, f.Caught() || f.Unsupported && strings.Contains(f.Kernel, "coopmat"), "%+v", f)
	}
}
