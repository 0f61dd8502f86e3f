package main

import (
	"context"
	"encoding/json"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/tests/golden"
	"github.com/vkmoe/vkmoe/vk"
)

// requireDevice skips a test where there is no Vulkan device, unless VKMOE_REQUIRE_GPU=1.
func requireDevice(t *testing.T) {
	t.Helper()
	dev, err := vk.Open(vk.Options{})
	if (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skipf("needs a Vulkan device: %v", err)
	}
	require.NoError(t, err)
	require.NoError(t, dev.Close())
}

// command runs the command line in process.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut strings.Builder
	code = run(t.Context(), args, &out, &errOut)
	return code, out.String(), errOut.String()
}

// fileNames lists a folder.
func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestReportAndPicture(t *testing.T) {
	requireDevice(t)
	dir := filepath.Join(t.TempDir(), "new", "folder")
	code, stdout, stderr := command(t, "--headless", "--out", dir, "--steps", "2")
	require.Equal(t, exitPass, code, stderr)
	for _, want := range []string{
		"Vulkan 1.", "olmoe, layer 0 of 2: 16 experts, 4 per token, width 32, hidden width 24",
		"3,755 characters", "tokens/s", "MiB live", "E15", "busiest", "experts equal for 3,755 of 3,755 tokens",
		filepath.Join(dir, pictureFile),
	} {
		require.Contains(t, stdout, want)
	}
	require.Contains(t, stderr, "routing: 8 of 8 submits (100 %)", "progress in plain lines")
	require.Equal(t, []string{pictureFile}, fileNames(t, dir))

	f, err := os.Open(filepath.Join(dir, pictureFile))
	require.NoError(t, err)
	defer f.Close()
	img, err := png.DecodeConfig(f)
	require.NoError(t, err)
	require.Equal(t, 2000, img.Width)
	if runtime.GOOS != "windows" {
		info, err := f.Stat()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	}
}

// The load of every built-in model and layer is what the oracle alone computes from the same text.
func TestJSONOfEveryModelEqualsTheOracle(t *testing.T) {
	requireDevice(t)
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte(opticks[:500]), 0o600))
	doc, err := loadText(text)
	require.NoError(t, err)
	for _, name := range builtIn() {
		for number := range 2 {
			code, stdout, stderr := command(t, "--model", name, "--layer", strconv.Itoa(number), "--text", text, "--steps", "1", "--batch", "150",
				"--json", "--out", t.TempDir())
			require.Equal(t, exitPass, code, stderr)
			var j jsonReport
			require.NoError(t, json.Unmarshal([]byte(stdout), &j), stdout)

			l, err := loadLayer(name, number)
			require.NoError(t, err)
			m, err := golden.Oracle(l.MLPWeights)
			require.NoError(t, err)
			x := make([]float32, len(doc.Characters)*l.Config.Width)
			newInput(l, doc.Characters, 0.5).rows(x)
			want := measureLoad(ref.Forward(m, x, len(doc.Characters)).IDs, l.Config.Experts)
			if j.Agreement.NearTies == 0 {
				require.Equal(t, want.Counts, j.Load.Counts, "%s layer %d", name, number)
				require.Equal(t, want.Entropy, j.Load.Entropy)
				require.Equal(t, want.Idle, j.Load.Idle)
			}
			require.True(t, j.Agreement.Pass)
			require.Equal(t, len(doc.Characters), j.Agreement.Tokens)
			require.Equal(t, 4, j.Run.SubmitsPerPass)
			require.Greater(t, j.Run.PeakBytes, uint64(4*len(l.Up)), "the weights alone are larger")
			require.GreaterOrEqual(t, j.Run.PeakBytes, j.Run.LiveBytes)
			require.Positive(t, j.Run.WallPerPass)
			t.Logf("%s layer %d: %.2g", name, number, j.Agreement.Error)
		}
	}
}

// Neither the size of a batch nor the number of passes changes what is computed.
func TestBatchesDoNotChangeTheResult(t *testing.T) {
	requireDevice(t)
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte(opticks[:65]), 0o600))
	var first string
	for _, args := range [][]string{{"--batch", "1000", "--steps", "1"}, {"--batch", "65", "--steps", "3"},
		{"--batch", "16", "--steps", "2"}, {"--batch", "1", "--steps", "1"}} {
		dir := t.TempDir()
		code, stdout, stderr := command(t, append(args, "--text", text, "--json", "--out", dir)...)
		require.Equal(t, exitPass, code, stderr)
		var j jsonReport
		require.NoError(t, json.Unmarshal([]byte(stdout), &j))
		result, err := json.Marshal([]any{j.Load, j.Agreement})
		require.NoError(t, err)
		if first == "" {
			first = string(result)
		}
		require.Equal(t, first, string(result), "%v", args)
	}
}

func TestOwnCheckpointAndText(t *testing.T) {
	requireDevice(t)
	dir, err := unpack("mixtral")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	text := filepath.Join(t.TempDir(), "note.txt")
	require.NoError(t, os.WriteFile(text, []byte("\ufeffÀ la carte?\r\nOui."), 0o600))
	code, stdout, stderr := command(t, "--model", dir, "--layer", "1", "--text", text, "--context", "0", "--check", "3", "--out", t.TempDir())
	require.Equal(t, exitPass, code, stderr)
	require.Contains(t, stdout, "note.txt: 16 characters")
	require.Contains(t, stdout, "experts equal for 3 of 3 tokens compared, spread evenly over the text")
}

func TestListDevices(t *testing.T) {
	requireDevice(t)
	code, stdout, stderr := command(t, "--list-devices")
	require.Equal(t, exitPass, code, stderr)
	require.True(t, strings.HasPrefix(stdout, "0: "), stdout)
	require.Contains(t, stdout, "Vulkan 1.")
}

// What cannot be used is refused with exit code 2, a message that names it, and nothing written.
func TestUnusableInput(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.txt")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	llama := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(llama, model.ConfigFile), []byte(`{"model_type":"llama"}`), 0o600))
	require.NoError(t, safetensors.WriteFile(filepath.Join(llama, safetensors.SingleFile), nil, nil))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"model":             {[]string{"--model", "gpt-9"}, `no model "gpt-9": it is neither built in (granitemoe, mixtral, olmoe, qwen3moe) nor a folder`},
		"empty folder":      {[]string{"--model", t.TempDir()}, model.ConfigFile},
		"unsupported model": {[]string{"--model", llama}, `architecture "llama" is not supported`},
		"layer":             {[]string{"--layer", "2"}, "olmoe has layers 0 to 1, not 2"},
		"negative layer":    {[]string{"--layer", "-1"}, "layers are numbered from 0"},
		"no text":           {[]string{"--text", filepath.Join(t.TempDir(), "none.txt")}, "none.txt"},
		"text is a folder":  {[]string{"--text", t.TempDir()}, "cannot read the text"},
		"empty text":        {[]string{"--text", empty}, "is empty"},
		"device":            {[]string{"--device", "no such device"}, "no such device"},
		"steps":             {[]string{"--steps", "0"}, "--steps 0"},
		"batch":             {[]string{"--batch", "-5"}, "--batch -5"},
		"check":             {[]string{"--check", "0"}, "--check 0"},
		"context of 1":      {[]string{"--context", "1"}, "--context 1"},
		"context NaN":       {[]string{"--context", "nan"}, "--context NaN"},
		"flag":              {[]string{"--speed", "11"}, "--speed"},
		"value":             {[]string{"--layer", "first"}, "first"},
		"argument":          {[]string{"olmoe"}, "olmoe"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "device" {
				requireDevice(t)
			}
			dir := t.TempDir()
			code, stdout, stderr := command(t, append(c.args, "--out", dir)...)
			require.Equal(t, exitUnusable, code, stderr)
			require.Contains(t, stderr, c.want)
			require.Empty(t, stdout)
			require.Empty(t, fileNames(t, dir))
		})
	}
}

func TestOutputFolderThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600))
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		code, stdout, stderr := command(t, "--out", dir)
		require.Equal(t, exitUnusable, code, stderr)
		require.Contains(t, stderr, "output folder")
		require.Empty(t, stdout)
	}
	if os.Geteuid() == 0 {
		return // root may write where the mode forbids it
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o500))
	code, _, stderr := command(t, "--out", dir)
	require.Equal(t, exitUnusable, code, stderr)
}

// A run that is interrupted fails, says so and leaves the picture of the run before.
func TestInterrupted(t *testing.T) {
	requireDevice(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, pictureFile), []byte("the old picture"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	require.Equal(t, exitFail, run(ctx, []string{"--out", dir}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "cancel")
	require.Equal(t, []string{pictureFile}, fileNames(t, dir))
	old, err := os.ReadFile(filepath.Join(dir, pictureFile))
	require.NoError(t, err)
	require.Equal(t, "the old picture", string(old))
}

func TestHelpNamesThePunctuation(t *testing.T) {
	code, stdout, _ := command(t, "--help")
	require.Equal(t, exitPass, code)
	require.Contains(t, stdout, punctuation)
	require.Contains(t, stdout, "--list-devices")
}
