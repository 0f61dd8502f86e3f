package model

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

const tinyDeepSeek = `{"model_type":"deepseek_v3","hidden_size":2,"num_hidden_layers":2,"n_routed_experts":2,"num_experts_per_tok":1,` +
	`"moe_intermediate_size":1,"intermediate_size":3,"n_shared_experts":2,"n_group":1,"topk_group":1,"first_k_dense_replace":1,` +
	`"num_nextn_predict_layers":1}`

func tinyDeepSeekTensors() []safetensors.Entry {
	const p = "model.layers.1.mlp."
	entries := []safetensors.Entry{
		counted("model.layers.0.mlp.gate_proj.weight", 1, 3, 2), counted("model.layers.0.mlp.up_proj.weight", 7, 3, 2),
		counted("model.layers.0.mlp.down_proj.weight", 13, 2, 3),
		counted(p+"gate.weight", 20, 2, 2), counted(p+"gate.e_score_correction_bias", 30, 2),
		counted(p+"shared_experts.gate_proj.weight", 40, 2, 2), counted(p+"shared_experts.up_proj.weight", 50, 2, 2),
		counted(p+"shared_experts.down_proj.weight", 60, 2, 2),
		counted("model.layers.2.mlp.gate.weight", 0, 2, 2), // a layer that predicts a further token
	}
	for e := range 2 {
		base, expert := float32(100*(e+1)), fmt.Sprintf("%sexperts.%d.", p, e)
		entries = append(entries, counted(expert+"gate_proj.weight", base, 1, 2), counted(expert+"up_proj.weight", base+10, 1, 2),
			counted(expert+"down_proj.weight", base+20, 2, 1))
	}
	return entries
}

func TestLoadMLPOfDeepSeekV3(t *testing.T) {
	c, err := Open(writeModel(t, tinyDeepSeek, tinyDeepSeekTensors()))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(0)
	require.NoError(t, err)
	require.Equal(t, &MLPWeights{
		Config:       moe.MLPConfig{Experts: 1, TopK: 1, Width: 2, Hidden: 3}, // nothing of the sparse layers' router
		RouterWeight: []float32{0, 0},
		Up:           []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		Down:         []float32{13, 14, 15, 16, 17, 18},
	}, w)
	w, err = c.LoadMLP(1)
	require.NoError(t, err)
	require.Equal(t, &MLPWeights{
		Config:         c.Config.MLP,
		RouterWeight:   []float32{20, 21, 22, 23},
		CorrectionBias: []float32{30, 31},
		Up:             []float32{100, 101, 110, 111, 200, 201, 210, 211},
		Down:           []float32{120, 121, 220, 221},
		SharedUp:       []float32{40, 41, 42, 43, 50, 51, 52, 53},
		SharedDown:     []float32{60, 61, 62, 63},
	}, w)
	_, err = c.LoadMLP(2)
	require.ErrorContains(t, err, "layer 2 of a model with 2 layers")

	entries := append(tinyDeepSeekTensors(), counted("model.layers.3.mlp.gate.weight", 0, 2, 2))
	_, err = Open(writeModel(t, tinyDeepSeek, entries))
	var fault *TensorError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, Unexpected, fault.Fault)
}

func TestLoadMLPOfGPTOSS(t *testing.T) {
	const p = "model.layers.0.mlp."
	config := `{"model_type":"gpt_oss","hidden_size":2,"num_hidden_layers":1,"num_local_experts":2,"num_experts_per_tok":1,"intermediate_size":3}`
	entries := []safetensors.Entry{
		counted(p+"router.weight", 1, 2, 2), counted(p+"router.bias", 5, 2),
		counted(p+"experts.gate_up_proj", 10, 2, 2, 6), counted(p+"experts.gate_up_proj_bias", 40, 2, 6),
		counted(p+"experts.down_proj", 60, 2, 3, 2), counted(p+"experts.down_proj_bias", 80, 2, 2),
	}
	c, err := Open(writeModel(t, config, entries))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(0)
	require.NoError(t, err)
	require.True(t, w.Config.InOut && w.Config.Interleaved)
	require.Equal(t, []float32{5, 6}, w.RouterBias)
	require.Len(t, w.Up, 24)
	require.Equal(t, float32(10+23), w.Up[23], "as stored")
	require.Equal(t, float32(40+11), w.UpBias[11])
	require.Equal(t, float32(60+11), w.Down[11])
	require.Equal(t, []float32{80, 81, 82, 83}, w.DownBias)

	without := slices.DeleteFunc(entries, func(e safetensors.Entry) bool { return e.Name == p+"experts.down_proj_bias" })
	other, err := Open(writeModel(t, config, without))
	require.NoError(t, err)
	defer other.Close()
	_, err = other.LoadMLP(0)
	var fault *TensorError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, TensorError{Path: fault.Path, Tensor: p + "experts.down_proj_bias", Fault: Missing}, *fault)
}

func TestLoadMLPOfJetMoEAndQwen2(t *testing.T) {
	c, err := Open(filepath.Join(goldenDir, "jetmoe"))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(1)
	require.NoError(t, err)
	require.Len(t, w.OutputBias, 32)
	require.NotZero(t, w.OutputBias[31])

	c, err = Open(filepath.Join(goldenDir, "qwen2moe"))
	require.NoError(t, err)
	defer c.Close()
	w, err = c.LoadMLP(0)
	require.NoError(t, err)
	require.Len(t, w.SharedGate, 32)
	require.Len(t, w.SharedUp, 2*40*32)
	require.Nil(t, w.OutputBias)
}

func TestRoundedIsACopyInTheDType(t *testing.T) {
	fine := float32(1 + 0x1p-10)
	w := &MLPWeights{RouterWeight: []float32{fine}, RouterBias: []float32{fine}, CorrectionBias: []float32{fine},
		Up: []float32{fine}, UpBias: []float32{fine}, Down: []float32{fine}, DownBias: []float32{fine},
		SharedUp: []float32{fine}, SharedDown: []float32{fine}, SharedGate: []float32{fine}, OutputBias: []float32{fine}}
	one := []float32{1}
	require.Equal(t, &MLPWeights{Config: moe.MLPConfig{DType: vk.BF16}, RouterWeight: one, RouterBias: one,
		CorrectionBias: []float32{fine}, Up: one, UpBias: one, Down: one, DownBias: one, SharedUp: one, SharedDown: one,
		SharedGate: one, OutputBias: one}, w.Rounded(vk.BF16))
	require.Equal(t, fine, w.Up[0])
	require.Nil(t, (&MLPWeights{}).Rounded(vk.F16).SharedUp)
}

// TestNewMLPRefusesWeightsThatDoNotFit uses the default device; the golden tests upload what fits.
func TestNewMLPRefusesWeightsThatDoNotFit(t *testing.T) {
	dev, err := vk.Open(vk.Options{})
	gputest.Require(t, err)
	defer func() { require.NoError(t, dev.Close(), "what failed has freed its memory") }()
	whole := MLPWeights{Config: moe.MLPConfig{Experts: 1, TopK: 1, Width: 2, Hidden: 1}, RouterWeight: make([]float32, 2),
		Up: make([]float32, 4), Down: make([]float32, 2)}
	m, err := NewMLP(t.Context(), dev, &whole)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	for name, change := range map[string]func(*MLPWeights){
		"Up":             func(w *MLPWeights) { w.Up = w.Up[:3] },
		"UpBias":         func(w *MLPWeights) { w.UpBias = make([]float32, 2) },
		"SharedUp":       func(w *MLPWeights) { w.SharedUp = make([]float32, 2) },
		"SharedDown":     func(w *MLPWeights) { w.Config.SharedHidden, w.SharedUp = 1, make([]float32, 4) },
		"OutputBias":     func(w *MLPWeights) { w.Config.OutputBias = true },
		"CorrectionBias": func(w *MLPWeights) { w.CorrectionBias = make([]float32, 1) },
	} {
		w := whole
		change(&w)
		_, err := NewMLP(t.Context(), dev, &w)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, name)
		require.ErrorContains(t, err, name)
	}
}
