package report

import (
	"bytes"
	"encoding/xml"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// sample has a case of every kind.
func sample() *Report {
	return &Report{Suite: "abc", Started: time.Unix(0, 0).UTC(), Host: Host{OS: "Testix 1", Kernel: "6.0", Arch: "z80"},
		Device: conform.Device{Name: "Quartz <9>", Driver: "stone", DriverInfo: "1.2", DriverUUID: "00ff", API: "1.3.0",
			Limits: map[string]string{"shared memory, bytes": "32768"}, Features: []string{"f16"}},
		Run: Run{Seed: 42},
		Cases: []conform.Result{
			{Name: "combine.forward.f16.a", Status: conform.Pass, Worst: 0.25, Seconds: 0.5},
			{Name: "combine.forward.bf16.a", Status: conform.Fail, Reason: "oracle out: </script><b>&", Worst: conform.Number(math.Inf(1)),
				Attempts: []conform.Status{conform.Fail, conform.Pass}, Flaky: true, Repro: "vkmoe-conform run combine",
				Failures: []conform.Failure{{Check: "oracle", Tensor: "out", Message: "wrong", Histogram: []int{1, 0, 0, 0, 5, 0, 0, 0, 0, 1, 2},
					Worst: &conform.Element{Index: 3, Got: conform.Number(math.NaN()), Want: 2, Bound: 0.5}}}},
			{Name: "mlp.forward.f32.b", Status: conform.Crash, Reason: "signal: killed", Output: "last words"},
			{Name: "parallel_linear.forward.f16.coopmat.c", Status: conform.Unsupported, Reason: "needs coopmat"},
			{Name: "router.topk.d", Status: conform.Waived, Reason: "fail, waived: known (link)"},
		},
		Faults: []Fault{{Name: "skip.x", Kernel: "x", Description: "skips", Cases: 3, Failed: 2, Checks: []string{"oracle"}}}}
}

func TestReportsSurviveTheirFiles(t *testing.T) {
	for _, name := range []string{"r.json", "r.json.gz"} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, sample().WriteFile(path))
		got, err := Read(path)
		require.NoError(t, err)
		want := sample()
		require.True(t, math.IsNaN(float64(got.Cases[1].Failures[0].Worst.Got)))
		got.Cases[1].Failures[0].Worst.Got, want.Cases[1].Failures[0].Worst.Got = 0, 0
		require.Equal(t, want, got)
	}
	path := filepath.Join(t.TempDir(), "other.json")
	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o644))
	_, err := Read(path)
	require.ErrorContains(t, err, "no conformance report")
}

func TestOnlyPassesPass(t *testing.T) {
	for _, s := range conform.Statuses {
		r := &Report{Cases: []conform.Result{{Name: "a.b", Status: conform.Pass}, {Name: "a.c", Status: s}}}
		require.Equal(t, s.Bad(), r.Exit() == ExitFail, s)
		r.Cases = r.Cases[1:]
		require.Equal(t, s == conform.Pass, r.Exit() == ExitPass, "nothing but %s is no pass", s)
	}
	r := &Report{Cases: []conform.Result{{Name: "a.b", Status: conform.Pass}}, Faults: []Fault{{Name: "x", Cases: 3}}}
	require.Equal(t, ExitFail, r.Exit(), "a fault that nothing found")
	r.Faults[0].Unsupported = true
	require.Equal(t, ExitPass, r.Exit())
	r.Problems = []string{"a leak"}
	require.Equal(t, ExitFail, r.Exit())
}

func TestFaultsAreJudgedByTheirCases(t *testing.T) {
	f := conform.FaultDef{Name: "x.y", Kernel: "y"}
	got := JudgeFault(f, []conform.Result{{Name: "a", Status: conform.Pass}, {Name: "b", Status: conform.Unsupported},
		{Name: "c", Status: conform.Fail, Failures: []conform.Failure{{Check: "repeat"}}}, {Name: "d", Status: conform.Crash}})
	require.Equal(t, Fault{Name: "x.y", Kernel: "y", Cases: 3, Failed: 2, Checks: []string{"crash", "repeat"}, First: "c"}, got)
	require.True(t, JudgeFault(f, []conform.Result{{Status: conform.Unsupported}}).Unsupported)
	require.False(t, JudgeFault(f, []conform.Result{{Status: conform.Pass}}).Caught())
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, sample().WriteText(&b))
	for _, want := range []string{"Quartz <9>", "seed 42", "FAIL  combine.forward.bf16.a", "flaky: its runs gave [fail pass]",
		"CRASH  mlp.forward.f32.b", "last words", "unsupported  1 cases: needs coopmat", "WAIVED  router.topk.d", "caught by oracle in 2 of 3"} {
		require.Contains(t, b.String(), want)
	}
}

func TestJUnit(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, sample().WriteJUnit(&b))
	var got junitSuites
	require.NoError(t, xml.Unmarshal(b.Bytes(), &got))
	s := got.Suites[0]
	require.Equal(t, []int{5, 1, 1, 2}, []int{s.Tests, s.Failures, s.Errors, s.Skipped})
	require.Equal(t, "combine.forward", s.Cases[1].Class)
	require.Contains(t, s.Cases[1].Failure.Message, "</script><b>&")
}

func TestDiff(t *testing.T) {
	a, b := sample(), sample()
	b.Cases[0].Status = conform.Lost
	b.Cases[1].Status = conform.Pass
	b.Cases = append(b.Cases[:4:4], conform.Result{Name: "z.z", Status: conform.Pass})
	b.Device.Limits = map[string]string{"shared memory, bytes": "16384"}
	var text bytes.Buffer
	worse, err := WriteDiff(&text, a, b)
	require.NoError(t, err)
	require.Equal(t, 1, worse)
	for _, want := range []string{"shared memory, bytes: 32768 → 16384", "! pass        → lost         combine.forward.f16.a",
		"fail        → pass         combine.forward.bf16.a", "waived      → (not run)    router.topk.d", "(not run)   → pass         z.z"} {
		require.Contains(t, text.String(), want)
	}
	require.Empty(t, Diff(a, a))
}

func TestMatrix(t *testing.T) {
	m := Matrix([]*Report{sample()})
	require.Contains(t, m, "| stone 1.2 | 1.3.0, Testix 1 | 1 of 2 fail | 1 pass | 1 of 1 fail | not there | not there |")
	require.Contains(t, m, "1 of 1 caught")
	out, ok := Insert("a\n"+MatrixBegin+"\nold\n"+MatrixEnd+"\nb\n", "new\n")
	require.True(t, ok)
	require.Equal(t, "a\n"+MatrixBegin+"\nnew\n"+MatrixEnd+"\nb\n", out)
	_, ok = Insert("nothing", "new")
	require.False(t, ok)
}

// TestTheCommittedMatrixIsThatOfTheReports holds the README to the committed reports.
func TestTheCommittedMatrixIsThatOfTheReports(t *testing.T) {
	const doc = "../../../doc"
	paths, err := filepath.Glob(filepath.Join(doc, "conformance", "*.json.gz"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var reports []*Report
	for _, p := range paths {
		r, err := Read(p)
		require.NoError(t, err)
		for _, c := range r.Cases {
			require.False(t, c.Status.Bad(), "%s: %s", p, c.Name)
		}
		reports = append(reports, r)
	}
	text, err := os.ReadFile(filepath.Join(doc, "..", "README.md"))
	require.NoError(t, err)
	want, ok := Insert(string(text), Matrix(reports))
	require.True(t, ok, "the README's marks are gone")
	require.Equal(t, want, string(text), "run make matrix")
}

// TestPageInABrowser loads the page in headless Chromium, which has to run its script.
func TestPageInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{os.Getenv("VKMOE_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("needs Chromium: apt install chromium, or name it in VKMOE_CHROMIUM")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "page.html")
	var b bytes.Buffer
	require.NoError(t, sample().WriteHTML(&b))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	for fragment, c := range map[string]struct{ has, hasNot []string }{
		"": {[]string{"5 cases", "does not pass", `<td class="fail">fail</td>`, "last words", "not finite", "skips",
			"&lt;/script&gt;&lt;b&gt;&amp;", "worst element [3]: got NaN, want 2, bound 0.5"}, nil},
		"#status=crash":      {[]string{"1 cases", "mlp.forward.f32.b"}, []string{">router.topk.d<"}},
		"#filter=topk":       {[]string{"1 cases", ">router.topk.d<"}, []string{">mlp.forward.f32.b<"}},
		"#filter=no%20match": {[]string{"0 cases"}, []string{">router.topk.d<"}},
	} {
		cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+filepath.Join(dir, "profile"),
			"--virtual-time-budget=5000", "--dump-dom", "file://"+path+fragment)
		out, err := cmd.Output()
		require.NoError(t, err)
		for _, want := range c.has {
			require.Contains(t, string(out), want, fragment)
		}
		for _, not := range c.hasNot {
			require.NotContains(t, string(out), not, fragment)
		}
	}
}

// TestThePageNeedsNothingElse: no address but its own.
func TestThePageNeedsNothingElse(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, sample().WriteHTML(&b))
	text := strings.ReplaceAll(b.String(), "http://www.w3.org", "")
	for _, foreign := range []string{"http://", "https://", "src=", "<link", "@import"} {
		require.NotContains(t, text, foreign)
	}
	require.NotContains(t, b.String(), `</script><b>`, "what a driver says must not end the script")
}
