package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/gif"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// needDevice skips where there is none.
func needDevice(t *testing.T) {
	t.Helper()
	dev, err := vk.Open(vk.Options{})
	gputest.Require(t, err)
	require.NoError(t, dev.Close())
}

// demoRun runs the command line without a display.
func demoRun(t *testing.T, ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("DISPLAY", "")
	t.Setenv("WAYLAND_DISPLAY", "")
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

func readLog(t *testing.T, path string) (lines []map[string]any) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		line := map[string]any{}
		require.NoError(t, json.Unmarshal(scan.Bytes(), &line))
		lines = append(lines, line)
	}
	return lines
}

// Three steps without a display: a picture, a log, an animation, a saved run that goes on, and a text that was written.
func TestThreeStepsAndThreeMore(t *testing.T) {
	needDevice(t)
	dir := filepath.Join(t.TempDir(), "made")
	film := filepath.Join(t.TempDir(), "film.gif")
	code, stdout, stderr := demoRun(t, t.Context(), "--steps", "3", "--out", dir, "--animate", film)
	require.Equal(t, exitPass, code, stderr)
	require.Contains(t, stdout, "3 steps")
	require.Contains(t, stdout, "The Rays of Light ")
	require.Contains(t, stdout, "--resume goes on with it")
	require.Contains(t, stderr, "step 3 of 3")

	f, err := os.Open(filepath.Join(dir, pictureFile))
	require.NoError(t, err)
	img, err := png.Decode(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, pictureWidth*pictureScale, img.Bounds().Dx())

	lines := readLog(t, filepath.Join(dir, logFile))
	require.Len(t, lines, 3)
	for i, line := range lines {
		require.EqualValues(t, i+1, line["step"])
		require.EqualValues(t, 2, line["k"])
		require.Greater(t, line["loss"], 0.0)
		require.GreaterOrEqual(t, line["busiest_over_even"], 1.0)
		require.Greater(t, line["memory_peak_if_padded"], line["memory_peak"])
	}
	require.Less(t, lines[2]["loss"], lines[0]["loss"])

	text, err := os.ReadFile(film)
	require.NoError(t, err)
	moving, err := gif.DecodeAll(bytes.NewReader(text))
	require.NoError(t, err)
	require.Greater(t, len(moving.Image), 3)
	require.Equal(t, filmWidth, moving.Config.Width)

	code, stdout, stderr = demoRun(t, t.Context(), "--steps", "4", "--out", dir, "--resume", filepath.Join(dir, "vkmoe-demo.safetensors"))
	require.Equal(t, exitPass, code, stderr)
	require.Contains(t, stdout, "4 steps")
	require.Len(t, readLog(t, filepath.Join(dir, logFile)), 4, "the resumed run's log has what came before")
}

func TestWhatCannotBeUsed(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, args := range map[string][]string{
		"there is no display":                 {"--window"},
		"exclude each other":                  {"--window", "--headless"},
		"--dtype f64: want f32, f16 or bf16":  {"--dtype", "f64"},
		"--k 0: want at least 1":              {"--k", "0"},
		"are at least 0":                      {"--steps", "-1"},
		"choose one":                          {"--model", "x", "--resume", "y"},
		"cannot read the text: open missing:": {"--text", "missing"},
		"is empty":                            {"--text", empty},
		"unknown flag: --bogus":               {"--bogus"},
		"unknown command":                     {"argument"},
		"cannot make the output folder":       {"--out", filepath.Join(empty, "below")},
	} {
		if !hasWindow && args[0] == "--window" && len(args) == 1 {
			want = "built without the window"
		}
		code, _, stderr := demoRun(t, t.Context(), args...)
		require.Equal(t, exitUnusable, code, args)
		require.Contains(t, stderr, want)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}

func TestWhatTheDeviceOrFilesRefuse(t *testing.T) {
	needDevice(t)
	short := filepath.Join(t.TempDir(), "short")
	require.NoError(t, os.WriteFile(short, []byte("A few words."), 0o600))
	for want, args := range map[string][]string{
		"no such thing":                       {"--device", "no such thing"},
		"cannot resume":                       {"--resume", "missing"},
		"Text is 12 bytes":                    {"--text", short},
		"K is 99":                             {"--k", "99"},
		"cannot open the checkpoint's tokeni": {"--model", t.TempDir()},
	} {
		code, _, stderr := demoRun(t, t.Context(), append(args, "--out", t.TempDir())...)
		require.Equal(t, exitUnusable, code, stderr)
		require.Contains(t, stderr, want)
	}
}

func TestInterruptedRunIsSaved(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if info, err := os.Stat(filepath.Join(dir, logFile)); err == nil && info.Size() > 0 {
				return
			}
		}
	}()
	code, stdout, stderr := demoRun(t, ctx, "--steps", "0", "--out", dir)
	require.Equal(t, exitInterrupted, code, stderr)
	require.Contains(t, stderr, "interrupted")
	require.Contains(t, stdout, "--resume goes on with it")
	require.FileExists(t, filepath.Join(dir, "vkmoe-demo.safetensors"))
	require.FileExists(t, filepath.Join(dir, pictureFile))
}

// A run without an end ends in time, and tells where it is.
func TestLimit(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	code, stdout, stderr := demoRun(t, t.Context(), "--steps", "0", "--limit", "1ns", "--out", dir, "--prompt", "Light ")
	require.Equal(t, exitPass, code, stderr)
	require.Contains(t, stdout, "Light ")
	require.FileExists(t, filepath.Join(dir, pictureFile))
	require.LessOrEqual(t, len(readLog(t, filepath.Join(dir, logFile))), 3)
}

// A disk that is full while a file is written leaves the older file and nothing else, and says so.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, pictureFile)
	require.NoError(t, os.WriteFile(path, []byte("older"), 0o600))
	err := writeFile(path, func(w io.Writer) error {
		_, err := w.Write([]byte("a part"))
		return errors.Join(err, &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC})
	})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "cannot write "+path)
	require.ErrorContains(t, err, "no space left on device")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "older", string(text))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
}

// A picture that cannot be written ends a run before it trains.
func TestPictureThatCannotBeWritten(t *testing.T) {
	needDevice(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, pictureFile), 0o755)) // nothing can be renamed over a folder
	code, _, stderr := demoRun(t, t.Context(), "--steps", "3", "--out", dir)
	require.Equal(t, exitUnusable, code)
	require.Contains(t, stderr, "cannot write "+filepath.Join(dir, pictureFile))
	require.NoFileExists(t, filepath.Join(dir, logFile))
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		exitPass: nil, exitFail: vk.ErrDeviceLost, exitUnusable: unusable(errors.New("no")),
		exitInterrupted: errors.Join(errInterrupted, errors.New("and not saved")),
	} {
		var out bytes.Buffer
		require.Equal(t, want, exitCode(err, true, &out))
		if err != nil {
			require.Contains(t, out.String(), err.Error())
		}
	}
	require.Equal(t, exitUnusable, exitCode(errors.New("bad flag"), false, io.Discard))
	require.NoError(t, unusable(nil))
}

func TestWindowIsChosenByTheDisplay(t *testing.T) {
	for _, c := range []struct {
		display string
		o       options
		want    bool
	}{
		{"", options{}, false}, {":0", options{}, hasWindow}, {":0", options{Headless: true}, false}, {":0", options{Animate: "film.gif"}, false},
	} {
		t.Setenv("WAYLAND_DISPLAY", "")
		t.Setenv("DISPLAY", c.display)
		got, err := c.o.windowed()
		require.NoError(t, err)
		require.Equal(t, c.want, got, fmt.Sprintf("%+v", c))
	}
}

func TestTexts(t *testing.T) {
	text, name, err := loadText("")
	require.NoError(t, err)
	require.Equal(t, "Newton, Opticks (1730)", name)
	require.Greater(t, len(text), 500_000)
	require.NotContains(t, string(text), "\r")
	require.NotContains(t, string(text), "_")
	require.Equal(t, 1, strings.Count(string(text), firstChapter))
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte("\ufeffa\r\nb\rc"), 0o600))
	text, _, err = loadText(path)
	require.NoError(t, err)
	require.Equal(t, "a\nb\nc", string(text))
}

func TestListDevices(t *testing.T) {
	needDevice(t)
	code, stdout, _ := demoRun(t, t.Context(), "--list-devices")
	require.Equal(t, exitPass, code)
	adapters, err := vk.Adapters()
	require.NoError(t, err)
	require.Contains(t, stdout, adapters[0].Name)
}
