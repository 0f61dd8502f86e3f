package golden

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// copyModel copies a golden folder to a place where a test may damage it.
func copyModel(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(dataDir, name))))
	return dir
}

// neverOpen fails a test that should find its input unusable before it asks for a device.
func neverOpen(t *testing.T) Options {
	return Options{Open: func() (Runner, *DeviceInfo, error) {
		t.Error("a device was opened")
		return nil, nil, errors.New("no device")
	}}
}

func TestRunOfAParentFolder(t *testing.T) {
	opened := 0
	report := Run(t.Context(), dataDir, Options{Open: func() (Runner, *DeviceInfo, error) {
		opened++
		return oracleRunner{}.open()
	}})
	require.Equal(t, 1, opened)
	require.Len(t, report.Models, 8)
	passed, failed := report.Counts()
	require.Equal(t, 32, passed)
	require.Zero(t, failed)
	require.Equal(t, ExitPass, report.Exit(), "what nobody named and nobody supports does not count")

	report = Run(t.Context(), dataDir, Options{Only: []Part{MLP}, Open: oracleRunner{}.open})
	require.Equal(t, ExitPass, report.Exit())
}

func TestRunOfUnsupportedParts(t *testing.T) {
	mixtral := filepath.Join(dataDir, "mixtral")
	for _, only := range [][]Part{{Logits}, {Grads}, {Logits, Grads}} { // the oracle's runner runs blocks only
		report := Run(t.Context(), mixtral, Options{Only: only, Open: oracleRunner{}.open})
		require.Equal(t, ExitUnusable, report.Exit())
		require.Len(t, report.Models[0].Unsupported, len(only))
	}
	report := Run(t.Context(), mixtral, Options{Only: []Part{MLP, Logits}, Open: oracleRunner{}.open})
	require.Equal(t, ExitUnusable, report.Exit())
	passed, _ := report.Counts()
	require.Equal(t, 2, passed, "what can run still runs")
}

func TestRunOfDamagedFolders(t *testing.T) {
	var format *safetensors.FormatError
	var tensor *model.TensorError
	var unsupported *model.UnsupportedModelError
	var config *model.ConfigError
	var missing *safetensors.MissingTensorError
	for name, c := range map[string]struct {
		damage func(dir string) error
		want   any // an error to match, or a pointer for errors.As
		opens  bool
	}{
		"no config":   {func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }, fs.ErrNotExist, false},
		"no weights":  {func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) }, fs.ErrNotExist, false},
		"no expected": {func(dir string) error { return os.Remove(filepath.Join(dir, expectedFile)) }, fs.ErrNotExist, false},
		"weights cut short": {func(dir string) error {
			return os.Truncate(filepath.Join(dir, "model.safetensors"), 200_000)
		}, &format, false},
		"expected cut short": {func(dir string) error { return os.Truncate(filepath.Join(dir, expectedFile), 5) }, &format, false},
		"config not JSON": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644)
		}, &config, false},
		"another architecture": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type":"llama"}`), 0o644)
		}, &unsupported, false},
		"other weights": {func(dir string) error {
			return os.Rename(filepath.Join(dir, expectedFile), filepath.Join(dir, "model.safetensors"))
		}, fs.ErrNotExist, false},
		"another model's weights": {func(dir string) error {
			return os.CopyFS(filepath.Join(dir, "x"), os.DirFS(filepath.Join(dataDir, "olmoe")))
		}, nil, true},
		"expected without the layer": {func(dir string) error {
			return safetensors.WriteFile(filepath.Join(dir, expectedFile), nil, nil)
		}, &tensor, true},
		"expected of another width": {func(dir string) error {
			return safetensors.WriteFile(filepath.Join(dir, expectedFile), []safetensors.Entry{
				safetensors.Float32("model.layers.0.mlp.input", []int{1, 2, 3}, make([]float32, 6)),
			}, nil)
		}, &tensor, true},
		"expected of another shape": {func(dir string) error {
			return safetensors.WriteFile(filepath.Join(dir, expectedFile), []safetensors.Entry{
				safetensors.Float32("model.layers.0.mlp.input", []int{1, 1, 32}, make([]float32, 32)),
				safetensors.Float32("model.layers.0.mlp.output", []int{1, 2, 32}, make([]float32, 64)),
			}, nil)
		}, &tensor, true},
		"expected without output": {func(dir string) error {
			return safetensors.WriteFile(filepath.Join(dir, expectedFile), []safetensors.Entry{
				safetensors.Float32("model.layers.0.mlp.input", []int{1, 1, 32}, make([]float32, 32)),
			}, nil)
		}, &missing, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyModel(t, "mixtral")
			require.NoError(t, c.damage(dir))
			opts := neverOpen(t)
			if c.opens {
				opts.Open = oracleRunner{}.open
			}
			report := Run(t.Context(), dir, opts)
			switch want := c.want.(type) {
			case nil: // a stray folder inside a model folder is not a model of its own
				require.Equal(t, ExitPass, report.Exit())
				return
			case error:
				require.ErrorIs(t, report.Models[0].Unusable, want)
			default:
				require.ErrorAs(t, report.Models[0].Unusable, want)
			}
			require.Equal(t, ExitUnusable, report.Exit())
		})
	}
}

func TestRunKeepsGoingPastADamagedFolder(t *testing.T) {
	parent := filepath.Dir(copyModel(t, "mixtral"))
	require.NoError(t, os.CopyFS(filepath.Join(parent, "aaa"), os.DirFS(filepath.Join(dataDir, "olmoe"))))
	require.NoError(t, os.Remove(filepath.Join(parent, "aaa", "config.json")))
	report := Run(t.Context(), parent, Options{Open: oracleRunner{}.open})
	require.Len(t, report.Models, 2)
	require.ErrorIs(t, report.Models[0].Unusable, fs.ErrNotExist)
	passed, _ := report.Counts()
	require.Equal(t, 4, passed)
	require.Equal(t, ExitUnusable, report.Exit())
}

func TestRunOfNoFolder(t *testing.T) {
	report := Run(t.Context(), filepath.Join(t.TempDir(), "absent"), neverOpen(t))
	require.ErrorIs(t, report.Unusable, fs.ErrNotExist)
	require.Equal(t, ExitUnusable, report.Exit())
	report = Run(t.Context(), t.TempDir(), neverOpen(t))
	require.ErrorContains(t, report.Unusable, "config.json")
	require.Equal(t, ExitUnusable, report.Exit())
}

func TestRunWithoutADevice(t *testing.T) {
	none := errors.New("no device")
	report := Run(t.Context(), dataDir, Options{Open: func() (Runner, *DeviceInfo, error) { return nil, nil, none }})
	require.ErrorIs(t, report.Unusable, none)
	require.Equal(t, ExitUnusable, report.Exit())
}

func TestRunInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	report := Run(ctx, dataDir, Options{Open: oracleRunner{spoil: func(*model.MLPWeights, []float32, []int32) { cancel() }}.open})
	require.ErrorIs(t, report.Unusable, context.Canceled)
	require.Equal(t, ExitUnusable, report.Exit(), "what passed until then is not all that was asked for")
}

func TestRunOfAModelBeyondTheDevice(t *testing.T) {
	for _, err := range []error{fmt.Errorf("upload: %w", vk.ErrOutOfMemory), &moe.ConfigError{Config: "MLPConfig", Field: "Width"}} {
		report := Run(t.Context(), filepath.Join(dataDir, "mixtral"), Options{Open: oracleRunner{err: err}.open})
		require.ErrorIs(t, report.Models[0].Unusable, err)
		require.Equal(t, ExitUnusable, report.Exit())
	}
}

func TestParseParts(t *testing.T) {
	parts, err := ParseParts("mlp, grads,mlp")
	require.NoError(t, err)
	require.Equal(t, []Part{MLP, Grads}, parts)
	parts, err = ParseParts("")
	require.NoError(t, err)
	require.Empty(t, parts)
	for _, bad := range []string{"mpl", "mlp,", ",", "MLP"} {
		_, err := ParseParts(bad)
		require.Error(t, err, bad)
	}
}

func TestReportPrints(t *testing.T) {
	report := &Report{
		Device: &DeviceInfo{"GPU", "discrete", "drv", "1.2", "1.3.0"}, DType: vk.BF16,
		Models: []*ModelReport{{
			Folder: "x/m", Name: "m", Type: "mixtral",
			Tensors: []TensorReport{
				{Name: "a", Part: MLP, Error: 1e-7, Tolerance: Tolerance(vk.BF16), Pass: true, NearTies: make([]Choice, 2)},
				{Name: "b", Part: MLP, Error: math.NaN(), Tolerance: Tolerance(vk.F32), WrongChoices: []Choice{{3, []int32{1}, []int32{2}, 0.5}}},
				{Name: "c", Part: MLP, Error: math.NaN(), Err: errors.New("boom")},
			},
			Unsupported: []UnsupportedPart{{MLP, "that"}, {Logits, "because"}, {Grads, "because"}},
		}, {Name: "n", Unusable: errors.New("bad")}},
		Unusable: errors.New("interrupted"),
	}
	var text bytes.Buffer
	require.NoError(t, report.WriteText(&text))
	require.Equal(t, `device: GPU (discrete), driver drv 1.2, Vulkan 1.3.0
storage: bf16
pass  m a  relative error 1e-07, limit 0.0156, 0 tokens; 2 of them with other experts than recorded (near tie or rounding), judged with those
FAIL  m b  relative error NaN, limit 1e-05, 0 tokens; 1 tokens went to wrong experts, first token 3 to [1] instead of [2] with margin 0.5
FAIL  m c  boom
not supported yet  m mlp: that
not supported yet  m logits, grads: because
cannot be used     n: bad
cannot be used     interrupted
1 passed, 2 failed
`, text.String())

	var raw bytes.Buffer
	require.NoError(t, report.WriteJSON(&raw))
	var parsed struct {
		Device DeviceInfo
		DType  string
		Models []struct {
			Name, Unusable string
			Tensors        []struct {
				Name   string
				Pass   bool
				Error  any `json:"relative_error"`
				Reason string
			}
		}
		Passed, Failed, Exit int
		Unusable             string
	}
	require.NoError(t, json.Unmarshal(raw.Bytes(), &parsed))
	require.Equal(t, "GPU", parsed.Device.Name)
	require.Equal(t, "bf16", parsed.DType)
	require.Equal(t, 1e-7, parsed.Models[0].Tensors[0].Error)
	require.Equal(t, "NaN", parsed.Models[0].Tensors[1].Error)
	require.Equal(t, "boom", parsed.Models[0].Tensors[2].Reason)
	require.Equal(t, "bad", parsed.Models[1].Unusable)
	require.Equal(t, "interrupted", parsed.Unusable)
	require.Equal(t, [3]int{1, 2, ExitFail}, [3]int{parsed.Passed, parsed.Failed, parsed.Exit})
}

// removeRecords deletes the recorded tensors whose names hold a text.
func removeRecords(t *testing.T, dir, text string) {
	t.Helper()
	path := filepath.Join(dir, expectedFile)
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	var entries []safetensors.Entry
	for _, info := range f.Tensors() {
		if info.DType == safetensors.F32 && !strings.Contains(info.Name, text) {
			values, err := f.Float32s(info.Name)
			require.NoError(t, err)
			entries = append(entries, safetensors.Float32(info.Name, info.Shape, values))
		}
	}
	require.NoError(t, f.Close())
	require.NoError(t, safetensors.WriteFile(path, entries, nil))
}

// replaceInConfig edits the text of a folder's configuration.
func replaceInConfig(t *testing.T, dir, from, to string) {
	t.Helper()
	path := filepath.Join(dir, model.ConfigFile)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), from)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o644))
}
