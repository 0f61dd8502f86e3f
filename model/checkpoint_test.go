package model

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
)

// writeModel writes a checkpoint folder.
func writeModel(t *testing.T, config string, entries []safetensors.Entry) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ConfigFile), []byte(config), 0o644))
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), entries, nil))
	return dir
}

// counted is a tensor whose values count up from first.
func counted(name string, first float32, shape ...int) safetensors.Entry {
	n := 1
	for _, d := range shape {
		n *= d
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = first + float32(i)
	}
	return safetensors.Float32(name, shape, values)
}

const tinyMixtral = `{"model_type":"mixtral","hidden_size":2,"num_hidden_layers":1,"num_local_experts":2,"num_experts_per_tok":1,"intermediate_size":3}`

func tinyMixtralTensors() []safetensors.Entry {
	const p = "model.layers.0.block_sparse_moe."
	entries := []safetensors.Entry{counted(p+"gate.weight", 1, 2, 2), counted("model.norm.weight", 0, 2)}
	for e := range 2 {
		base := float32(100 * (e + 1))
		entries = append(entries,
			counted(fmt.Sprintf("%sexperts.%d.w1.weight", p, e), base, 3, 2),
			counted(fmt.Sprintf("%sexperts.%d.w3.weight", p, e), base+10, 3, 2),
			counted(fmt.Sprintf("%sexperts.%d.w2.weight", p, e), base+20, 2, 3))
	}
	return entries
}

func TestLoadMLPFusesSeparateExperts(t *testing.T) {
	c, err := Open(writeModel(t, tinyMixtral, tinyMixtralTensors()))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(0)
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2, 3, 4}, w.RouterWeight)
	require.Equal(t, []float32{
		100, 101, 102, 103, 104, 105, 110, 111, 112, 113, 114, 115, // expert 0: w1, then w3
		200, 201, 202, 203, 204, 205, 210, 211, 212, 213, 214, 215,
	}, w.Up)
	require.Equal(t, []float32{120, 121, 122, 123, 124, 125, 220, 221, 222, 223, 224, 225}, w.Down)

	_, err = c.LoadMLP(1)
	require.ErrorContains(t, err, "layer 1 of a model with 1 layers")
	_, err = c.LoadMLP(-1)
	require.Error(t, err)
}

func TestLoadMLPNamesTheTensorAtFault(t *testing.T) {
	const p = "model.layers.0.block_sparse_moe."
	replace := func(name string, with ...safetensors.Entry) []safetensors.Entry {
		entries := slices.DeleteFunc(tinyMixtralTensors(), func(e safetensors.Entry) bool { return e.Name == name })
		return append(entries, with...)
	}
	for name, c := range map[string]struct {
		entries []safetensors.Entry
		tensor  string
		fault   TensorFault
	}{
		"no router":            {replace(p + "gate.weight"), p + "gate.weight", Missing},
		"an expert too few":    {replace(p + "experts.1.w2.weight"), p + "experts.1.w2.weight", Missing},
		"an expert too many":   {replace("", counted(p+"experts.2.w1.weight", 0, 3, 2)), p + "experts.2.w1.weight", Unexpected},
		"a bias":               {replace("", counted(p+"experts.0.w1.bias", 0, 3)), p + "experts.0.w1.bias", Unexpected},
		"transposed":           {replace(p+"experts.0.w1.weight", counted(p+"experts.0.w1.weight", 0, 2, 3)), p + "experts.0.w1.weight", MisShaped},
		"router of more":       {replace(p+"gate.weight", counted(p+"gate.weight", 0, 3, 2)), p + "gate.weight", MisShaped},
		"flat":                 {replace(p+"experts.0.w2.weight", counted(p+"experts.0.w2.weight", 0, 6)), p + "experts.0.w2.weight", MisShaped},
		"a layer too many":     {replace("", counted("model.layers.1.norm.weight", 0, 1)), "model.layers.1.norm.weight", Unexpected},
		"a layer without name": {replace("", counted("model.layers.x", 0, 1)), "model.layers.x", Unexpected},
	} {
		t.Run(name, func(t *testing.T) {
			checkpoint, err := Open(writeModel(t, tinyMixtral, c.entries))
			if err == nil {
				defer checkpoint.Close()
				_, err = checkpoint.LoadMLP(0)
			}
			var fault *TensorError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, c.fault, fault.Fault)
			require.Equal(t, c.tensor, fault.Tensor)
			if c.fault == MisShaped {
				require.ErrorContains(t, err, fmt.Sprint(fault.Want))
				require.ErrorContains(t, err, fmt.Sprint(fault.Got))
			}
		})
	}
}

func TestLoadMLPRefusesADTypeItCannotConvert(t *testing.T) {
	const name = "model.layers.0.block_sparse_moe.gate.weight"
	entries := slices.DeleteFunc(tinyMixtralTensors(), func(e safetensors.Entry) bool { return e.Name == name })
	entries = append(entries, safetensors.Raw(name, safetensors.F8E4M3, []int{2, 2}, make([]byte, 4)))
	c, err := Open(writeModel(t, tinyMixtral, entries))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.LoadMLP(0)
	var conversion *safetensors.ConversionError
	require.ErrorAs(t, err, &conversion)
	require.Equal(t, name, conversion.Tensor)
}

func TestLoadMLPReadsHalfPrecision(t *testing.T) {
	const name = "model.layers.0.block_sparse_moe.gate.weight"
	for dtype, one := range map[safetensors.DType]uint16{safetensors.F16: 0x3c00, safetensors.BF16: 0x3f80} {
		entries := slices.DeleteFunc(tinyMixtralTensors(), func(e safetensors.Entry) bool { return e.Name == name })
		data := []byte{byte(one), byte(one >> 8), 0, 0, byte(one), byte(one >> 8), 0, 0}
		c, err := Open(writeModel(t, tinyMixtral, append(entries, safetensors.Raw(name, dtype, []int{2, 2}, data))))
		require.NoError(t, err)
		w, err := c.LoadMLP(0)
		require.NoError(t, err)
		require.Equal(t, []float32{1, 0, 1, 0}, w.RouterWeight, string(dtype))
		require.NoError(t, c.Close())
	}
}

func TestLoadMLPOfADenseLayerIsOneExpert(t *testing.T) {
	const p = "model.layers.0.mlp."
	c, err := Open(writeModel(t, `{"model_type":"qwen3_moe","hidden_size":2,"num_hidden_layers":1,"num_experts":8,"num_experts_per_tok":2,`+
		`"moe_intermediate_size":3,"intermediate_size":1,"mlp_only_layers":[0]}`, []safetensors.Entry{
		counted(p+"gate_proj.weight", 1, 1, 2), counted(p+"up_proj.weight", 3, 1, 2), counted(p+"down_proj.weight", 5, 2, 1),
	}))
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(0)
	require.NoError(t, err)
	require.Equal(t, []float32{0, 0}, w.RouterWeight)
	require.Equal(t, []float32{1, 2, 3, 4}, w.Up)
	require.Equal(t, []float32{5, 6}, w.Down)
	require.Equal(t, 1, w.Config.Experts)
	require.Equal(t, 1, w.Config.Hidden)
}

// A configuration that claims absurd sizes meets the tensors before anything of that size is allocated.
func TestLoadMLPChecksShapesBeforeItAllocates(t *testing.T) {
	config := `{"model_type":"mixtral","hidden_size":2147483647,"num_hidden_layers":1,"num_local_experts":1024,` +
		`"num_experts_per_tok":1,"intermediate_size":1073741823}`
	c, err := Open(writeModel(t, config, tinyMixtralTensors()))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.LoadMLP(0)
	var fault *TensorError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, MisShaped, fault.Fault)
}

func TestLoadMLPFromShards(t *testing.T) {
	all := tinyMixtralTensors()
	dir := writeModel(t, tinyMixtral, all)
	require.NoError(t, os.Remove(filepath.Join(dir, safetensors.SingleFile)))
	index := `{"weight_map":{`
	for i, e := range all {
		file := fmt.Sprintf("model-%d.safetensors", i)
		require.NoError(t, safetensors.WriteFile(filepath.Join(dir, file), []safetensors.Entry{e}, nil))
		if i > 0 {
			index += ","
		}
		index += fmt.Sprintf("%q:%q", e.Name, file)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, safetensors.IndexFile), []byte(index+"}}"), 0o644))
	c, err := Open(dir)
	require.NoError(t, err)
	defer c.Close()
	w, err := c.LoadMLP(0)
	require.NoError(t, err)
	require.Equal(t, float32(200), w.Up[12])
}
