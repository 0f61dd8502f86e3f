package golden

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// openDevice opens the device for Options.Open and checks at the end of the test that nothing leaked. Without a device
// the test is skipped, unless VKMOE_REQUIRE_GPU=1.
func openDevice(t *testing.T) Options {
	t.Helper()
	runner := Device{gputest.Open(t, vk.Options{})}
	return Options{Open: func() (Runner, *DeviceInfo, error) { return runner, runner.Info(), nil }}
}

func TestDeviceReproducesTheRecordedOutputs(t *testing.T) {
	opts := openDevice(t)
	opts.Only = []Part{MLP, Attention}
	for _, opts.DType = range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for _, name := range recorded {
			report := Run(t.Context(), filepath.Join(dataDir, name), opts)
			require.Equal(t, ExitPass, report.Exit(), "%+v", report.Models[0])
			require.Len(t, report.Models[0].Tensors, 4)
			for _, tensor := range report.Models[0].Tensors {
				t.Logf("%v %s %s: %.3g", opts.DType, name, tensor.Name, tensor.Error)
				require.True(t, opts.DType != vk.F32 || len(tensor.NearTies) == 0)
			}
		}
	}
}

// emptied runs blocks on a device without some of their weights.
type emptied struct {
	Device
	array func(*model.MLPWeights) *[]float32
}

func (e emptied) RunMLP(ctx context.Context, w *model.MLPWeights, x []float32, tokens int) ([]float32, []int32, error) {
	without := *w
	a := e.array(&without)
	*a = make([]float32, len(*a))
	return e.Device.RunMLP(ctx, &without, x, tokens)
}

// TestEveryWeightMatters zeroes one array at a time and asks that the judge sees it, so that a pass says that all were used.
func TestEveryWeightMatters(t *testing.T) {
	opts := openDevice(t)
	runner, info, err := opts.Open()
	require.NoError(t, err)
	arrays := map[string]func(*model.MLPWeights) *[]float32{
		"RouterWeight": func(w *model.MLPWeights) *[]float32 { return &w.RouterWeight },
		"Up":           func(w *model.MLPWeights) *[]float32 { return &w.Up },
		"Down":         func(w *model.MLPWeights) *[]float32 { return &w.Down },
		"RouterBias":   func(w *model.MLPWeights) *[]float32 { return &w.RouterBias },
		"UpBias":       func(w *model.MLPWeights) *[]float32 { return &w.UpBias },
		"DownBias":     func(w *model.MLPWeights) *[]float32 { return &w.DownBias },
		"Correction":   func(w *model.MLPWeights) *[]float32 { return &w.CorrectionBias },
		"SharedUp":     func(w *model.MLPWeights) *[]float32 { return &w.SharedUp },
		"SharedDown":   func(w *model.MLPWeights) *[]float32 { return &w.SharedDown },
		"SharedGate":   func(w *model.MLPWeights) *[]float32 { return &w.SharedGate },
		"OutputBias":   func(w *model.MLPWeights) *[]float32 { return &w.OutputBias },
	}
	for _, name := range []string{"jetmoe", "qwen2moe", "gptoss", "deepseekv3"} {
		dir := filepath.Join(dataDir, name)
		checkpoint, err := model.Open(dir)
		require.NoError(t, err)
		w, err := checkpoint.LoadMLP(1)
		require.NoError(t, err)
		require.NoError(t, checkpoint.Close())
		for what, array := range arrays {
			if *array(w) == nil {
				continue
			}
			opts.Open = func() (Runner, *DeviceInfo, error) { return emptied{runner.(Device), array}, info, nil }
			report := Run(t.Context(), dir, opts)
			require.Empty(t, report.Models[0].Unusable)
			require.False(t, report.Models[0].Tensors[1].Pass, "%s without %s", name, what)
		}
	}
}

// A shape is a model that the recorded ones are not: odd widths, one expert, every expert, no tokens. Layer 0 of qwen3_moe,
// qwen2_moe and deepseek_v3 has no experts.
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
		{"qwen3_moe", `,"mlp_only_layers":[0]`, 9, 4, 18, 11, 23},
		{"qwen2_moe", `,"mlp_only_layers":[0],"shared_expert_intermediate_size":13`, 10, 3, 22, 9, 19},
		{"jetmoe", `,"activation_function":"gelu"`, 6, 6, 15, 21, 70},
		{"gpt_oss", ``, 12, 4, 27, 14, 50},
		{"gpt_oss", `,"swiglu_limit":0.25`, 4, 1, 8, 5, 30},
		{"deepseek_v3", `,"n_group":6,"topk_group":3,"first_k_dense_replace":1,"n_shared_experts":2`, 24, 5, 19, 7, 60},
		{"deepseek_v3", `,"n_group":1,"topk_group":1,"first_k_dense_replace":1,"norm_topk_prob":false`, 32, 8, 36, 12, 33},
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
	expert, dense := "intermediate_size", "unused"
	if s.sparseFrom() > 0 {
		expert, dense = "moe_intermediate_size", "intermediate_size"
	}
	config := fmt.Sprintf(`{"model_type":%q,"hidden_size":%d,"num_hidden_layers":2,"num_experts":%d,"num_local_experts":%d,`+
		`"n_routed_experts":%d,"num_experts_per_tok":%d,%q:%d,%q:%d%s}`,
		s.modelType, s.width, s.experts, s.experts, s.experts, s.k, expert, s.hidden, dense, denseHidden, s.extra)
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
		out := narrow(ref.Forward(m, x, s.tokens).Out.Y)
		name := fmt.Sprintf("model.layers.%d.mlp.", layer)
		expected = append(expected, safetensors.Float32(name+"input", []int{1, s.tokens, s.width}, x),
			safetensors.Float32(name+"output", []int{1, s.tokens, s.width}, out))
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, expectedFile), expected, nil))
	return dir
}

// denseHidden is the hidden width of layers without experts.
const denseHidden = 29

// sparseFrom is the first layer with experts.
func (s shape) sparseFrom() int {
	switch s.modelType {
	case "qwen2_moe", "qwen3_moe", "deepseek_v3":
		return 1
	}
	return 0
}

// weights draws the tensors under the names of the model's public checkpoints.
func (s shape) weights(rng *rand.Rand) []safetensors.Entry {
	var entries []safetensors.Entry
	prefix := ""
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		entries = append(entries, safetensors.Float32(prefix+name, shape, normals(rng, 0.3, n)))
	}
	gated := func(gate, up, down string, hidden int) {
		add(gate+".weight", hidden, s.width)
		add(up+".weight", hidden, s.width)
		add(down+".weight", s.width, hidden)
	}
	names := [3]string{"gate_proj", "up_proj", "down_proj"}
	for layer := range 2 {
		block := "mlp"
		if s.modelType == "mixtral" || s.modelType == "granitemoe" {
			block = "block_sparse_moe"
		}
		prefix = fmt.Sprintf("model.layers.%d.%s.", layer, block)
		if layer < s.sparseFrom() {
			gated(names[0], names[1], names[2], denseHidden)
			continue
		}
		switch s.modelType {
		case "granitemoe", "jetmoe":
			add("router.layer.weight", s.experts, s.width)
			add("input_linear.weight", s.experts, 2*s.hidden, s.width)
			add("output_linear.weight", s.experts, s.width, s.hidden)
			if s.modelType == "jetmoe" {
				add("bias", s.width)
			}
			continue
		case "gpt_oss":
			add("router.weight", s.experts, s.width)
			add("router.bias", s.experts)
			add("experts.gate_up_proj", s.experts, s.width, 2*s.hidden)
			add("experts.gate_up_proj_bias", s.experts, 2*s.hidden)
			add("experts.down_proj", s.experts, s.hidden, s.width)
			add("experts.down_proj_bias", s.experts, s.width)
			continue
		case "mixtral":
			names = [3]string{"w1", "w3", "w2"}
		case "qwen2_moe":
			gated("shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj", 13)
			add("shared_expert_gate.weight", 1, s.width)
		case "deepseek_v3":
			add("gate.e_score_correction_bias", s.experts)
			if strings.Contains(s.extra, "n_shared_experts") { // the test's models have two or none
				gated("shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj", 2*s.hidden)
			}
		}
		add("gate.weight", s.experts, s.width)
		for e := range s.experts {
			expert := fmt.Sprintf("experts.%d.", e)
			gated(expert+names[0], expert+names[1], expert+names[2], s.hidden)
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
