package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/tests/golden"
	"github.com/vkmoe/vkmoe/vk"
)

const dataDir = "../../tests/testdata/golden"

// asCommand makes the test binary behave as the command, so that tests see real exit codes, output and environment.
const asCommand = "VKMOE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) == "1" {
		main()
	}
	os.Exit(m.Run())
}

// runCommand runs the command in a process of its own.
func runCommand(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1", "VKMOE_QUIET=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode(), out.String(), errs.String()
	}
	require.NoError(t, err)
	return 0, out.String(), errs.String()
}

// needDevice skips a test where the command finds no device, unless VKMOE_REQUIRE_GPU=1.
func needDevice(t *testing.T) {
	t.Helper()
	code, stdout, stderr := runCommand(t, nil, "golden", filepath.Join(dataDir, "mixtral"))
	if code == golden.ExitUnusable && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skipf("needs a Vulkan device: %s%s", stdout, stderr)
	}
	require.Equal(t, golden.ExitPass, code, stdout+stderr)
}

func TestGoldenPassesOnTheRecordedModels(t *testing.T) {
	needDevice(t)
	code, stdout, stderr := runCommand(t, nil, "golden", dataDir, "--only", "mlp", "--json")
	require.Equal(t, 0, code, stdout+stderr)
	var report struct {
		Device         struct{ Name, Driver string }
		Passed, Failed int
		Models         []struct {
			Name    string
			Tensors []struct {
				Name  string
				Pass  bool
				Error float64 `json:"relative_error"`
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	require.NotEmpty(t, report.Device.Name)
	require.NotEmpty(t, report.Device.Driver)
	require.Equal(t, 16, report.Passed)
	require.Len(t, report.Models, 8)

	code, stdout, _ = runCommand(t, nil, "golden", filepath.Join(dataDir, "olmoe"), "--only", "mlp")
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "device: ")
	require.Contains(t, stdout, "pass  olmoe model.layers.0.mlp.output  relative error ")
	require.Contains(t, stdout, "pass  olmoe model.layers.1.mlp.output  relative error ")
	require.NotContains(t, stdout, "not supported", "nothing but the mlp was asked for")
	require.Contains(t, stdout, "storage: f32\n")
}

func TestGoldenPassesOnTheRecordedAttention(t *testing.T) {
	needDevice(t)
	for dtype, limit := range map[string]string{"f32": "1e-05", "bf16": "0.0156", "f16": "0.00195"} {
		code, stdout, stderr := runCommand(t, nil, "golden", dataDir, "--only", "attention", "--dtype", dtype)
		require.Equal(t, 0, code, stdout+stderr)
		require.Equal(t, 16, strings.Count(stdout, "limit "+limit), stdout)
		require.Contains(t, stdout, "pass  jetmoe model.layers.1.self_attention.output")
		require.Contains(t, stdout, "pass  deepseekv3 model.layers.0.self_attn.output")
		require.Contains(t, stdout, "16 passed, 0 failed")
	}
}

func TestGoldenPassesIn16Bits(t *testing.T) {
	needDevice(t)
	for dtype, limit := range map[string]string{"bf16": "0.0156", "f16": "0.00195"} {
		code, stdout, stderr := runCommand(t, nil, "golden", dataDir, "--only", "mlp", "--dtype", dtype)
		require.Equal(t, 0, code, stdout+stderr)
		require.Contains(t, stdout, "storage: "+dtype+"\n")
		require.Equal(t, 16, strings.Count(stdout, "limit "+limit), stdout)
		require.Contains(t, stdout, "16 passed, 0 failed")
		_, help, _ := runCommand(t, nil, "golden", "--help")
		require.Contains(t, help, limit)
	}
}

func TestGoldenFailsOnOtherValues(t *testing.T) {
	needDevice(t)
	dir := filepath.Join(t.TempDir(), "mixtral")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(dataDir, "mixtral"))))
	path := filepath.Join(dir, "expected.safetensors")
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	var entries []safetensors.Entry
	for _, info := range f.Tensors() {
		if info.DType != safetensors.F32 {
			continue
		}
		values, err := f.Float32s(info.Name)
		require.NoError(t, err)
		if info.Name == "model.layers.1.mlp.output" {
			values[100] += 0.01
		}
		entries = append(entries, safetensors.Float32(info.Name, info.Shape, values))
	}
	require.NoError(t, f.Close())
	require.NoError(t, safetensors.WriteFile(path, entries, nil))

	code, stdout, _ := runCommand(t, nil, "golden", dir)
	require.Equal(t, 1, code, stdout)
	require.Contains(t, stdout, "pass  mixtral model.layers.0.mlp.output")
	require.Contains(t, stdout, "FAIL  mixtral model.layers.1.mlp.output")
}

func TestGoldenRefusesWhatItCannotUse(t *testing.T) {
	mixtral := filepath.Join(dataDir, "mixtral")
	truncated := filepath.Join(t.TempDir(), "mixtral")
	require.NoError(t, os.CopyFS(truncated, os.DirFS(mixtral)))
	require.NoError(t, os.Truncate(filepath.Join(truncated, "model.safetensors"), 100_000))
	unknown := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(unknown, "config.json"), []byte(`{"model_type":"llama"}`), 0o644))
	quantized := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(quantized, "config.json"), []byte(`{"model_type":"gpt_oss","hidden_size":32,`+
		`"num_hidden_layers":1,"num_local_experts":8,"num_experts_per_tok":2,"intermediate_size":40,"quantization_config":{}}`), 0o644))
	noLoader := []string{"VKMOE_LOADER=" + filepath.Join(t.TempDir(), "absent.so")}

	for name, c := range map[string]struct {
		args   []string
		env    []string
		reason string
	}{
		"no command":           {nil, nil, "a command is needed"},
		"unknown command":      {[]string{"silver"}, nil, `unknown command "silver"`},
		"no folder named":      {[]string{"golden"}, nil, "accepts 1 arg"},
		"two folders":          {[]string{"golden", mixtral, mixtral}, nil, "accepts 1 arg"},
		"unknown flag":         {[]string{"golden", mixtral, "--fast"}, nil, "unknown flag"},
		"unknown part":         {[]string{"golden", mixtral, "--only", "mpl"}, nil, `unknown part "mpl"`},
		"no part":              {[]string{"golden", mixtral, "--only", ""}, nil, "--only names no part"},
		"absent folder":        {[]string{"golden", filepath.Join(unknown, "absent")}, nil, "no such file"},
		"folder of nothing":    {[]string{"golden", t.TempDir()}, nil, "config.json"},
		"a file":               {[]string{"golden", filepath.Join(mixtral, "config.json")}, nil, "config.json"},
		"truncated weights":    {[]string{"golden", truncated}, nil, "truncated file"},
		"unknown architecture": {[]string{"golden", unknown}, nil, `architecture "llama" is not supported`},
		"unknown dtype":        {[]string{"golden", mixtral, "--dtype", "f8"}, nil, `unknown dtype "f8"`},
		"quantized weights":    {[]string{"golden", quantized}, nil, "its weights are quantized"},
		"unsupported part":     {[]string{"golden", mixtral, "--only", "grads", "--dtype", "bf16"}, nil, "not supported yet  mixtral grads"},
		"no loader":            {[]string{"golden", mixtral}, noLoader, "no Vulkan loader"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runCommand(t, c.env, c.args...)
			require.Equal(t, 2, code, stdout+stderr)
			require.Contains(t, stdout+stderr, c.reason)
			require.NotContains(t, stdout, "pass  ")
		})
	}
}

func TestGoldenChoosesTheDevice(t *testing.T) {
	needDevice(t)
	mixtral := filepath.Join(dataDir, "mixtral")
	code, stdout, _ := runCommand(t, nil, "golden", mixtral, "--device", "a device of no such name")
	require.Equal(t, 2, code)
	require.Contains(t, stdout, `there is no device "a device of no such name"`)

	adapters, err := vk.Adapters()
	require.NoError(t, err)
	for i, a := range adapters {
		if a.Unusable != nil {
			continue
		}
		code, stdout, stderr := runCommand(t, nil, "golden", mixtral, "--device", strconv.Itoa(i))
		require.Equal(t, 0, code, stdout+stderr)
		require.Contains(t, stdout, a.Name)
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	code, stdout, _ := runCommand(t, nil, "golden", "--help")
	require.Equal(t, 0, code)
	require.Contains(t, stdout, "--only")
}
