package golden

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// openDevice opens the device for Options.Open and checks at the end of the test that nothing leaked. Without a device
// the test is skipped, unless VKMOE_REQUIRE_GPU=1.
func openDevice(t *testing.T) Options {
	t.Helper()
	dev, err := vk.Open(vk.Options{})
	if (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skipf("needs a Vulkan device: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	runner := Device{dev}
	return Options{Open: func() (Runner, *DeviceInfo, error) { return runner, runner.Info(), nil }}
}

func TestDeviceReproducesTheRecordedOutputs(t *testing.T) {
	opts := openDevice(t)
	for _, name := range supported {
		report := Run(t.Context(), filepath.Join(dataDir, name), opts)
		require.Equal(t, ExitPass, report.Exit(), "%+v", report.Models[0])
		require.Len(t, report.Models[0].Tensors, 2)
		for _, tensor := range report.Models[0].Tensors {
			t.Logf("%s %s: %.3g", name, tensor.Name, tensor.Error)
			require.Empty(t, tensor.NearTies)
		}
	}
}

// TestDeviceReproducesTheRecordedOutputsIn16Bits asks for the wider bound and that the oracle's own error stays apart from
// it: every token whose experts differ from the recorded ones is a near tie.
func TestDeviceReproducesTheRecordedOutputsIn16Bits(t *testing.T) {
	opts := openDevice(t)
	for _, opts.DType = range []vk.DType{vk.F16, vk.BF16} {
		for _, name := range supported {
			report := Run(t.Context(), filepath.Join(dataDir, name), opts)
			require.Equal(t, ExitPass, report.Exit(), "%+v", report.Models[0])
			for _, tensor := range report.Models[0].Tensors {
				t.Logf("%v %s %s: %.3g, limit %.3g, %d of %d tokens are near ties", opts.DType, name, tensor.Name, tensor.Error,
					tensor.Tolerance, len(tensor.NearTies), tensor.Tokens)
				require.Greater(t, tensor.Error, Tolerance, "16 bits cannot be this close")
				require.Less(t, 2*len(tensor.NearTies), tensor.Tokens)
			}
		}
	}
}

// A shape is a model that the recorded ones are not: odd widths, one expert, every expert, no tokens.
type shape struct {
	modelType, extra                  string
	experts, k, width, hidden, tokens int
}

// TestDeviceOnOtherShapes writes model folders with random weights whose expected values the oracle computes.
func TestDeviceOnOtherShapes(t *testing.T) {
	opts := openDevice(t)
	for _, s := range []shape{
		{"mixtral", ``, 1, 1, 1, 1, 1},
		{"mixtral", `,"hidden_act":"gelu"`, 3, 3, 5, 7, 17},
		{"mixtral", `,"hidden_act":"gelu_pytorch_tanh"`, 7, 2, 33, 31, 65},
		{"granitemoe", ``, 40, 8, 100, 17, 130},
		{"granitemoe", ``, 5, 1, 12, 3, 0},
		{"olmoe", ``, 64, 8, 63, 65, 40},
		{"olmoe", `,"norm_topk_prob":true`, 128, 64, 20, 9, 11},
		{"qwen3_moe", `,"mlp_only_layers":[0],"intermediate_size":29`, 9, 4, 18, 11, 23},
	} {
		t.Run(fmt.Sprintf("%s E=%d k=%d D=%d H=%d T=%d", s.modelType, s.experts, s.k, s.width, s.hidden, s.tokens), func(t *testing.T) {
			report := Run(t.Context(), s.write(t), opts)
			require.Equal(t, ExitPass, report.Exit(), "%+v", report.Models[0])
			require.Len(t, report.Models[0].Tensors, 2)
		})
	}
}

// write makes the folder of a model with two layers.
func (s shape) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`{"model_type":%q,"hidden_size":%d,"num_hidden_layers":2,"num_experts":%d,"num_local_experts":%d,`+
		`"num_experts_per_tok":%d,"intermediate_size":%d,"moe_intermediate_size":%d%s}`,
		s.modelType, s.width, s.experts, s.experts, s.k, s.hidden, s.hidden, s.extra)
	if s.modelType == "qwen3_moe" {
		config = fmt.Sprintf(`{"model_type":%q,"hidden_size":%d,"num_hidden_layers":2,"num_experts":%d,"num_experts_per_tok":%d,`+
			`"moe_intermediate_size":%d%s}`, s.modelType, s.width, s.experts, s.k, s.hidden, s.extra)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, model.ConfigFile), []byte(config), 0o644))
	rng := rand.New(rand.NewPCG(uint64(s.experts), uint64(s.width)))
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), s.weights(rng), nil))

	checkpoint, err := model.Open(dir)
	require.NoError(t, err)
	defer checkpoint.Close()
	var expected []safetensors.Entry
	for layer := range 2 {
		w, err := checkpoint.LoadMLP(layer)
		require.NoError(t, err)
		m, err := Oracle(w)
		require.NoError(t, err)
		x := normals(rng, 1, s.tokens*s.width)
		out := make([]float32, len(x))
		for i, v := range ref.Forward(m, x, s.tokens).Out.Y {
			out[i] = float32(v)
		}
		name := fmt.Sprintf("model.layers.%d.mlp.", layer)
		expected = append(expected, safetensors.Float32(name+"input", []int{1, s.tokens, s.width}, x),
			safetensors.Float32(name+"output", []int{1, s.tokens, s.width}, out))
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, expectedFile), expected, nil))
	return dir
}

// weights draws the tensors under the names of the model's public checkpoints.
func (s shape) weights(rng *rand.Rand) []safetensors.Entry {
	var entries []safetensors.Entry
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		entries = append(entries, safetensors.Float32(name, shape, normals(rng, 0.3, n)))
	}
	for layer := range 2 {
		p := fmt.Sprintf("model.layers.%d.", layer)
		switch {
		case s.modelType == "granitemoe":
			add(p+"block_sparse_moe.router.layer.weight", s.experts, s.width)
			add(p+"block_sparse_moe.input_linear.weight", s.experts, 2*s.hidden, s.width)
			add(p+"block_sparse_moe.output_linear.weight", s.experts, s.width, s.hidden)
			continue
		case s.modelType == "qwen3_moe" && layer == 0: // the dense layer of the test's configuration
			add(p+"mlp.gate_proj.weight", 29, s.width)
			add(p+"mlp.up_proj.weight", 29, s.width)
			add(p+"mlp.down_proj.weight", s.width, 29)
			continue
		}
		block, names := "mlp.", [3]string{"gate_proj", "up_proj", "down_proj"}
		if s.modelType == "mixtral" {
			block, names = "block_sparse_moe.", [3]string{"w1", "w3", "w2"}
		}
		add(p+block+"gate.weight", s.experts, s.width)
		for e := range s.experts {
			expert := fmt.Sprintf("%s%sexperts.%d.", p, block, e)
			add(expert+names[0]+".weight", s.hidden, s.width)
			add(expert+names[1]+".weight", s.hidden, s.width)
			add(expert+names[2]+".weight", s.width, s.hidden)
		}
	}
	return entries
}

func normals(rng *rand.Rand, scale float64, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(scale * rng.NormFloat64())
	}
	return x
}
