package session

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// tinySizes are those of a model whose steps take a moment.
var tinySizes = Sizes{Layers: 2, Width: 32, Experts: 4, Heads: 1, HeadWidth: 8, Hidden: 16, Batch: 2, Length: 32, Every: 4, Rate: 1e-2}

func config(t *testing.T) Config {
	t.Helper()
	return Config{Text: []byte(strings.Repeat("All Bodies emit Light. ", 60)), TextName: "a line of Opticks", Steps: 12, Sizes: tinySizes,
		Written: 20, File: filepath.Join(t.TempDir(), FileName)}
}

func open(t *testing.T, cfg Config) *Session {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	gputest.Require(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// until waits for a snapshot that holds.
func until(t *testing.T, s *Session, what string, holds func(*dashboard.Snapshot) bool) *dashboard.Snapshot {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if n := s.Snapshot(); holds(n) {
			return n
		}
	}
	t.Fatalf("%s: still %+v", what, s.Snapshot().State)
	return nil
}

func finished(n *dashboard.Snapshot) bool { return n.State == dashboard.Finished }

func TestRunLearnsAndTellsEverything(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	n := until(t, s, "finished", finished)
	require.Equal(t, 12, n.Step)
	curve := n.Curves[0]
	require.Len(t, curve.Train, 12)
	require.Less(t, curve.Train[11].Value, curve.Train[0].Value-1, "it learns")
	require.Equal(t, []int{0, 4, 8, 12}, stepsOf(curve.HeldOut))
	require.Less(t, curve.HeldOut[3].Value, curve.HeldOut[0].Value-1)
	require.InDelta(t, math.Log(256), curve.HeldOut[0].Value, 0.8, "before the first step all bytes are about equal")
	require.Len(t, n.Spread, 12)
	require.Len(t, n.Routers, 4)
	require.Equal(t, []string{"attention", "MLP", "attention", "MLP"}, []string{n.Routers[0].Block, n.Routers[1].Block, n.Routers[2].Block, n.Routers[3].Block})
	require.Len(t, n.Text, 128)
	for _, r := range n.Routers {
		sum := 0
		for _, c := range r.Load {
			sum += c
		}
		require.Equal(t, 2*32*2, sum, "each of a step's tokens goes to two experts")
		require.Len(t, r.IDs, 128*2)
		for slot := 0; slot < len(r.IDs); slot += 2 {
			require.NotEqual(t, r.IDs[slot], r.IDs[slot+1])
			require.InDelta(t, 1, r.Gates[slot]+r.Gates[slot+1], 1e-5)
		}
	}
	require.Greater(t, n.TokensPerSecond, 0.0)
	require.Greater(t, n.FLOPS, 0.0)
	require.Greater(t, n.Memory.Peak, n.Memory.Live/2)
	require.Greater(t, n.Memory.Extra, uint64(0))
	if n.Times != nil {
		require.Len(t, n.Times, 11, "the first step is left out")
		for g, seconds := range n.Times[10].Seconds {
			require.Greater(t, seconds, 0.0, dashboard.GroupNames[g])
		}
	}

	s.Do(dashboard.Action{Kind: dashboard.Write, Text: "All Bod"})
	n = until(t, s, "written", func(n *dashboard.Snapshot) bool { return n.Written != "" && n.State != dashboard.Writing })
	require.Equal(t, "All Bod", n.Prompt)
	require.LessOrEqual(t, len(n.Written), 60)
	s.Do(dashboard.Action{Kind: dashboard.Write, Text: "Light"})
	first := dashboard.Text{Step: 12, Prompt: n.Prompt, Written: n.Written}
	n = until(t, s, "written again", func(n *dashboard.Snapshot) bool { return n.Answers == 2 })
	require.Equal(t, []dashboard.Text{first}, n.Earlier)
	report := s.Report()
	for _, part := range []string{n.Device, "k = 2", "f32", "kernels of a training step", "adamw", "go1."} {
		require.Contains(t, report, part)
	}
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.NoError(t, s.Err())
	select {
	case <-s.Done():
	default:
		t.Fatal("a closed session is done")
	}
	require.FileExists(t, cfg.File)
}

func stepsOf(points []dashboard.Point) (list []int) {
	for _, p := range points {
		list = append(list, p.Step)
	}
	return list
}

// Changing k changes what the layers compute, and leaves parameters and steps alone.
func TestChangesWhileRunning(t *testing.T) {
	s := open(t, config(t))
	first := until(t, s, "finished", finished)
	do := func(a dashboard.Action, what string, holds func(*dashboard.Snapshot) bool) *dashboard.Snapshot {
		t.Helper()
		s.Do(a)
		return until(t, s, what, holds)
	}
	before := first.Curves[0].HeldOut[3].Value
	n := do(dashboard.Action{Kind: dashboard.SetK, N: 1}, "k = 1", func(n *dashboard.Snapshot) bool { return n.K == 1 })
	require.Equal(t, 12, n.Step, "the step stays")
	require.Len(t, n.Routers[0].IDs, 128)
	require.NotEqual(t, before, n.Curves[0].HeldOut[3].Value, "the loss on held-out text moves")
	require.Equal(t, []dashboard.Mark{{Step: 12, Label: "k = 1"}}, n.Marks)
	require.Equal(t, before, first.Curves[0].HeldOut[3].Value, "old snapshots do not change")
	n = do(dashboard.Action{Kind: dashboard.SetK, N: 2}, "k = 2", func(n *dashboard.Snapshot) bool { return n.K == 2 })
	require.Equal(t, before, n.Curves[0].HeldOut[3].Value, "and back, to the last bit")

	n = do(dashboard.Action{Kind: dashboard.ToggleDense}, "dense", func(n *dashboard.Snapshot) bool { return n.Dense })
	require.Equal(t, 0, n.Step, "the dense model starts at its own beginning")
	require.Len(t, n.Routers, 2)
	require.Len(t, n.Curves, 2)
	n = until(t, s, "dense steps", finished)
	require.Less(t, n.Curves[0].Train[11].Value, n.Curves[0].Train[0].Value-1)
	n = do(dashboard.Action{Kind: dashboard.ToggleDense}, "experts", func(n *dashboard.Snapshot) bool { return !n.Dense })
	require.Equal(t, 12, n.Step)
	require.Equal(t, before, n.Curves[0].HeldOut[3].Value, "the experts are as they were")

	n = do(dashboard.Action{Kind: dashboard.NextDType}, "bf16", func(n *dashboard.Snapshot) bool { return n.DType == "bf16" })
	require.InDelta(t, before, n.Curves[0].HeldOut[3].Value, 0.05)
	n = do(dashboard.Action{Kind: dashboard.Step}, "a step", func(n *dashboard.Snapshot) bool { return n.Step == 13 })
	require.Equal(t, dashboard.Paused, until(t, s, "pause", func(n *dashboard.Snapshot) bool { return n.State == dashboard.Paused }).State)
	n = do(dashboard.Action{Kind: dashboard.SetSpeed, N: 1}, "speed", func(n *dashboard.Snapshot) bool { return n.Speed == 5 })
	require.Equal(t, 13, n.Step)
}

func TestSavedRunGoesOnBitForBit(t *testing.T) {
	whole := open(t, config(t))
	want := until(t, whole, "finished", finished)

	cfg := config(t)
	half := cfg
	half.fail = func(step int) error {
		if step == 7 {
			return fmt.Errorf("testing: %w", vk.ErrDeviceLost)
		}
		return nil
	}
	half.Autosave = time.Nanosecond
	s := open(t, half)
	<-s.Done()
	require.ErrorIs(t, s.Err(), vk.ErrDeviceLost)
	require.ErrorContains(t, s.Err(), "the device was lost at step 7")
	require.ErrorContains(t, s.Err(), "the run as of step 6 is in "+cfg.File)
	n := s.Snapshot()
	require.Equal(t, dashboard.Failed, n.State)
	require.Equal(t, s.Err().Error(), n.Problem)
	require.NoError(t, s.Close())

	cfg.Resume = cfg.File
	again := open(t, cfg)
	got := until(t, again, "finished", finished)
	require.Equal(t, want.Curves[0].Train, got.Curves[0].Train)
	require.Equal(t, want.Curves[0].HeldOut[2:], got.Curves[0].HeldOut[len(got.Curves[0].HeldOut)-2:])
	require.NoError(t, again.Close())
}

func TestLoadGoesBack(t *testing.T) {
	s := open(t, config(t))
	n := until(t, s, "finished", finished)
	s.Do(dashboard.Action{Kind: dashboard.Save})
	until(t, s, "saved", func(n *dashboard.Snapshot) bool { return strings.HasPrefix(n.Notice, "saved to") })
	s.Do(dashboard.Action{Kind: dashboard.Step})
	until(t, s, "a step", func(n *dashboard.Snapshot) bool { return n.Step == 13 })
	s.Do(dashboard.Action{Kind: dashboard.Load})
	back := until(t, s, "loaded", func(n *dashboard.Snapshot) bool { return n.Step == 12 })
	require.Equal(t, n.Curves[0].HeldOut[3], back.Curves[0].HeldOut[3])
}

func TestWhatCannotBeDoneIsToldAndSurvived(t *testing.T) {
	cfg := config(t)
	cfg.File = filepath.Join(t.TempDir(), "missing", FileName)
	cfg.Autosave = time.Nanosecond
	s := open(t, cfg)
	n := until(t, s, "finished", finished)
	require.Contains(t, n.Notice, "cannot save the run")
	s.Do(dashboard.Action{Kind: dashboard.Load})
	until(t, s, "told", func(n *dashboard.Snapshot) bool { return strings.HasPrefix(n.Notice, "cannot resume") })
	s.Do(dashboard.Action{Kind: dashboard.Write})
	until(t, s, "told", func(n *dashboard.Snapshot) bool { return strings.HasPrefix(n.Notice, "a prompt needs") })
	require.NoError(t, s.Err())
	require.ErrorContains(t, s.Close(), "cannot save the run", "at the end a run that is not saved is an error")
}

func TestOpenRefuses(t *testing.T) {
	good := config(t)
	open(t, good).Close()
	notOurs := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.WriteFile(notOurs, []byte("no safetensors"), 0o600))
	for want, spoil := range map[string]func(*Config){
		"Steps is -1":                 func(c *Config) { c.Steps = -1 },
		"K is 9, want 1 to 4":         func(c *Config) { c.K = 9 },
		"Text is 5 bytes, want about": func(c *Config) { c.Text = []byte("short") },
		"Written is 9999":             func(c *Config) { c.Written = 9999 },
		"a batch":                     func(c *Config) { c.Sizes.Batch = 0 },
		"no such device":              func(c *Config) { c.Device = "no such device" },
		"no such file":                func(c *Config) { c.Resume = "missing" },
		notOurs:                       func(c *Config) { c.Resume = notOurs },
		"checkpoint's tokenizer":      func(c *Config) { c.Model = t.TempDir() },
	} {
		cfg := good
		spoil(&cfg)
		_, err := Open(t.Context(), cfg)
		require.ErrorContains(t, err, want)
	}
}
