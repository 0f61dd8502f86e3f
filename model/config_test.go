package model

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/moe"
)

const goldenDir = "../tests/testdata/golden"

func TestReadConfigOfGoldenModels(t *testing.T) {
	for name, want := range map[string]Config{
		"mixtral":    {Type: "mixtral", Width: 32, Layers: 2, Experts: 8, TopK: 2, Hidden: 40, Router: moe.SoftmaxTopKNorm, Activation: moe.SwiGLU},
		"olmoe":      {Type: "olmoe", Width: 32, Layers: 2, Experts: 16, TopK: 4, Hidden: 24, Router: moe.SoftmaxTopK, Activation: moe.SwiGLU},
		"granitemoe": {Type: "granitemoe", Width: 32, Layers: 2, Experts: 8, TopK: 4, Hidden: 40, Router: moe.TopKSoftmax, Activation: moe.SwiGLU},
		"qwen3moe":   {Type: "qwen3_moe", Width: 32, Layers: 2, Experts: 16, TopK: 4, Hidden: 24, Router: moe.SoftmaxTopKNorm, Activation: moe.SwiGLU},
	} {
		got, err := ReadConfig(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		require.False(t, got.Dense(0) || got.Dense(1))
		got.denseLayers = nil
		require.Equal(t, want, *got)
	}
}

func TestReadConfigRecognisesWhatItCannotRunYet(t *testing.T) {
	for name, modelType := range map[string]string{
		"jetmoe": "jetmoe", "qwen2moe": "qwen2_moe", "gptoss": "gpt_oss", "deepseekv3": "deepseek_v3",
	} {
		got, err := ReadConfig(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		require.Equal(t, 2, got.Layers)
		require.NotNil(t, got.Unsupported)
		require.Equal(t, modelType, got.Unsupported.Model)
		require.Equal(t, "mlp", got.Unsupported.Part)
		require.NotEmpty(t, got.Unsupported.Reason)
	}
}

func mixtralConfig(edits ...string) string {
	text := `{"model_type":"mixtral","hidden_size":32,"num_hidden_layers":2,"num_local_experts":8,"num_experts_per_tok":2,` +
		`"intermediate_size":40,"hidden_act":"silu"}`
	return strings.NewReplacer(edits...).Replace(text)
}

func TestParseConfigRefusesDefects(t *testing.T) {
	_, err := ParseConfig("config.json", []byte(mixtralConfig()))
	require.NoError(t, err)
	for name, c := range map[string]struct{ text, field string }{
		"not JSON":            {`{`, ""},
		"an array":            {`[]`, ""},
		"no model type":       {mixtralConfig("model_type", "type"), "model_type"},
		"model type a number": {mixtralConfig(`"mixtral"`, "1"), "model_type"},
		"no width":            {mixtralConfig("hidden_size", "size"), "hidden_size"},
		"width null":          {mixtralConfig("32", "null"), "hidden_size"},
		"width 0":             {mixtralConfig("32", "0"), "hidden_size"},
		"width negative":      {mixtralConfig("32", "-32"), "hidden_size"},
		"width fractional":    {mixtralConfig("32", "32.5"), "hidden_size"},
		"width text":          {mixtralConfig("32", `"32"`), "hidden_size"},
		"width over 2^31":     {mixtralConfig("32", "2147483648"), "hidden_size"},
		"width over 2^63":     {mixtralConfig("32", "9223372036854775808"), "hidden_size"},
		"too many layers":     {mixtralConfig(`_layers":2`, `_layers":1000000`), "num_hidden_layers"},
		"too many experts":    {mixtralConfig(`experts":8`, `experts":1025`), "num_local_experts"},
		"k over E":            {mixtralConfig(`tok":2`, `tok":9`), "num_experts_per_tok"},
		"k over the limit":    {mixtralConfig(`tok":2`, `tok":65`, `experts":8`, `experts":100`), "num_experts_per_tok"},
		"activation a number": {mixtralConfig(`"silu"`, "3"), "hidden_act"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig("config.json", []byte(c.text))
			var config *ConfigError
			require.ErrorAs(t, err, &config)
			require.Equal(t, c.field, config.Field, err.Error())
			require.ErrorContains(t, err, "config.json")
		})
	}
}

func TestParseConfigNamesWhatIsUnsupported(t *testing.T) {
	var unsupported *UnsupportedModelError
	_, err := ParseConfig("config.json", []byte(`{"model_type":"llama"}`))
	require.ErrorAs(t, err, &unsupported)
	require.Equal(t, "llama", unsupported.Model)
	require.Empty(t, unsupported.Part)

	_, err = ParseConfig("config.json", []byte(mixtralConfig("silu", "xielu")))
	require.ErrorAs(t, err, &unsupported)
	require.Equal(t, "mlp", unsupported.Part)
	require.ErrorContains(t, err, "xielu")
}

func TestParseConfigActivations(t *testing.T) {
	for act, want := range map[string]moe.Activation{
		"silu": moe.SwiGLU, "swish": moe.SwiGLU, "gelu": moe.GEGLU, "gelu_new": moe.GEGLUTanh, "gelu_pytorch_tanh": moe.GEGLUTanh,
	} {
		c, err := ParseConfig("config.json", []byte(mixtralConfig("silu", act)))
		require.NoError(t, err)
		require.Equal(t, want, c.Activation, act)
	}
	c, err := ParseConfig("config.json", []byte(mixtralConfig(`"silu"`, "null")))
	require.NoError(t, err)
	require.Equal(t, moe.SwiGLU, c.Activation, "silu is every supported architecture's default")
}

func qwenConfig(extra string) string {
	return fmt.Sprintf(`{"model_type":"qwen3_moe","hidden_size":4,"num_hidden_layers":6,"num_experts":8,"num_experts_per_tok":2,`+
		`"moe_intermediate_size":3,"intermediate_size":5%s}`, extra)
}

func TestParseConfigOfQwen3(t *testing.T) {
	for extra, dense := range map[string][]int{
		``: nil,
		`,"mlp_only_layers":[1,4],"decoder_sparse_step":1`: {1, 4},
		`,"mlp_only_layers":null,"decoder_sparse_step":2`:  {0, 2, 4},
		`,"mlp_only_layers":[1],"decoder_sparse_step":3`:   {0, 1, 3, 4},
	} {
		c, err := ParseConfig("config.json", []byte(qwenConfig(extra)))
		require.NoError(t, err, extra)
		var got []int
		for layer := range c.Layers {
			if c.Dense(layer) {
				got = append(got, layer)
			}
		}
		require.Equal(t, dense, got, extra)
		require.Equal(t, len(dense) > 0, c.DenseHidden == 5, extra)
	}
	c, err := ParseConfig("config.json", []byte(qwenConfig("")))
	require.NoError(t, err)
	require.Equal(t, moe.SoftmaxTopK, c.Router, "transformers' default does not divide by the sum")
	c, err = ParseConfig("config.json", []byte(qwenConfig(`,"norm_topk_prob":true`)))
	require.NoError(t, err)
	require.Equal(t, moe.SoftmaxTopKNorm, c.Router)

	var config *ConfigError
	for _, extra := range []string{`,"norm_topk_prob":1`, `,"mlp_only_layers":3`, `,"decoder_sparse_step":0`} {
		_, err := ParseConfig("config.json", []byte(qwenConfig(extra)))
		require.ErrorAs(t, err, &config, extra)
	}
}

func TestReadConfigOfNothing(t *testing.T) {
	_, err := ReadConfig(t.TempDir())
	require.True(t, errors.Is(err, fs.ErrNotExist))
	require.ErrorContains(t, err, ConfigFile)
}

// FuzzParseConfig asks that no text makes the parser panic and that what it accepts is within the library's limits.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(mixtralConfig()))
	f.Add([]byte(qwenConfig(`,"mlp_only_layers":[1,-4],"decoder_sparse_step":3`)))
	for _, name := range []string{"olmoe", "granitemoe", "jetmoe"} {
		text, err := os.ReadFile(filepath.Join(goldenDir, name, ConfigFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig("config.json", text)
		if err != nil || c.Unsupported != nil {
			return
		}
		if c.Experts < 1 || c.Experts > moe.MaxExperts || c.TopK < 1 || c.TopK > min(c.Experts, moe.MaxTopK) ||
			c.Width < 1 || c.Hidden < 1 || c.Layers < 1 || c.Layers > maxLayers {
			t.Fatalf("%+v", c)
		}
		for layer := range c.Layers {
			if c.Dense(layer) && c.DenseHidden < 1 {
				t.Fatalf("dense layer %d of %+v", layer, c)
			}
		}
	})
}
