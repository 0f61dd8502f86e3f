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
		"mixtral":    {Type: "mixtral", MLP: moe.MLPConfig{Experts: 8, TopK: 2, Hidden: 40, Mode: moe.SoftmaxTopKNorm}},
		"olmoe":      {Type: "olmoe", MLP: moe.MLPConfig{Experts: 16, TopK: 4, Hidden: 24, Mode: moe.SoftmaxTopK}},
		"granitemoe": {Type: "granitemoe", MLP: moe.MLPConfig{Experts: 8, TopK: 4, Hidden: 40, Mode: moe.TopKSoftmax}},
		"qwen3moe":   {Type: "qwen3_moe", MLP: moe.MLPConfig{Experts: 16, TopK: 4, Hidden: 24, Mode: moe.SoftmaxTopKNorm}},
		"jetmoe":     {Type: "jetmoe", MLP: moe.MLPConfig{Experts: 8, TopK: 2, Hidden: 40, Mode: moe.TopKSoftmax, OutputBias: true}},
		"qwen2moe": {Type: "qwen2_moe", MLP: moe.MLPConfig{Experts: 8, TopK: 3, Hidden: 24, Mode: moe.SoftmaxTopK,
			SharedHidden: 40, SharedGate: true}},
		"gptoss": {Type: "gpt_oss", MLP: moe.MLPConfig{Experts: 8, TopK: 2, Hidden: 40, Mode: moe.TopKSoftmax, Bias: true, RouterBias: true,
			InOut: true, Interleaved: true, Activation: moe.ClampedSwiGLU, Limit: 7}},
		"deepseekv3": {Type: "deepseek_v3", DenseHidden: 48, furtherLayers: 1, MLP: moe.MLPConfig{Experts: 16, TopK: 4, Hidden: 24,
			Mode: moe.SigmoidTopKNorm, GateScale: 2.5, Groups: 4, TopGroups: 2, CorrectionBias: true, SharedHidden: 24}},
	} {
		got, err := ReadConfig(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		require.Equal(t, name == "deepseekv3", got.Dense(0), name)
		require.False(t, got.Dense(1), name)
		require.NotEmpty(t, got.text, name)
		got.denseLayers, got.fields, got.text = nil, nil, nil
		want.Width, want.Layers, want.MLP.Width = 32, 2, 32
		require.Equal(t, want, *got)
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

	_, err = ParseConfig("config.json", []byte(mixtralConfig(`"silu"`, `"silu","quantization_config":{"quant_method":"mxfp4"}`)))
	require.ErrorAs(t, err, &unsupported)
	require.ErrorContains(t, err, "quantized")
	for _, extra := range []string{`,"scoring_func":"softmax"`, `,"topk_method":"greedy"`} {
		_, err = ParseConfig("config.json", []byte(deepSeekConfig(extra)))
		require.ErrorAs(t, err, &unsupported, extra)
	}
}

func deepSeekConfig(extra string) string {
	return fmt.Sprintf(`{"model_type":"deepseek_v3","hidden_size":4,"num_hidden_layers":6,"n_routed_experts":8,"num_experts_per_tok":3,`+
		`"moe_intermediate_size":3,"intermediate_size":5,"n_group":4,"topk_group":2,"first_k_dense_replace":2%s}`, extra)
}

func TestParseConfigOfDeepSeekV3(t *testing.T) {
	dense := func(c *Config) (list []int) {
		for layer := range c.Layers {
			if c.Dense(layer) {
				list = append(list, layer)
			}
		}
		return list
	}
	c, err := ParseConfig("config.json", []byte(deepSeekConfig("")))
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, dense(c))
	require.Equal(t, moe.MLPConfig{Experts: 8, TopK: 3, Width: 4, Hidden: 3, Mode: moe.SigmoidTopKNorm, GateScale: 2.5, Groups: 4,
		TopGroups: 2, CorrectionBias: true}, c.MLP, "transformers' defaults, and no shared expert where none is named")

	c, err = ParseConfig("config.json", []byte(deepSeekConfig(`,"moe_layer_freq":2,"norm_topk_prob":false,"n_shared_experts":2,`+
		`"routed_scaling_factor":1,"scoring_func":"sigmoid","topk_method":"noaux_tc","num_nextn_predict_layers":1`)))
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 3, 5}, dense(c))
	require.Equal(t, moe.SigmoidTopK, c.MLP.Mode)
	require.Equal(t, float32(1), c.MLP.GateScale)
	require.Equal(t, 6, c.MLP.SharedHidden)
	require.Equal(t, 1, c.furtherLayers)

	var config *ConfigError
	for field, edit := range map[string][2]string{
		"n_group":               {`"n_group":4`, `"n_group":3`},       // does not divide 8
		"topk_group":            {`"topk_group":2`, `"topk_group":5`}, // of 4
		"routed_scaling_factor": {`{"model_type"`, `{"routed_scaling_factor":0,"model_type"`},
		"norm_topk_prob":        {`{"model_type"`, `{"norm_topk_prob":"yes","model_type"`},
		"n_shared_experts":      {`{"model_type"`, `{"n_shared_experts":-1,"model_type"`},
		"first_k_dense_replace": {`_replace":2`, `_replace":-1`},
	} {
		_, err := ParseConfig("config.json", []byte(strings.Replace(deepSeekConfig(""), edit[0], edit[1], 1)))
		require.ErrorAs(t, err, &config, field)
		require.Equal(t, field, config.Field, err.Error())
	}
	// Two groups of two experts hold three choices, one group does not.
	_, err = ParseConfig("config.json", []byte(strings.Replace(deepSeekConfig(""), `"topk_group":2`, `"topk_group":1`, 1)))
	require.ErrorAs(t, err, &config)
	require.Equal(t, "n_group", config.Field)
}

func TestParseConfigOfGPTOSS(t *testing.T) {
	text := `{"model_type":"gpt_oss","hidden_size":4,"num_hidden_layers":1,"num_local_experts":8,"num_experts_per_tok":2,` +
		`"intermediate_size":3,"swiglu_limit":%s}`
	c, err := ParseConfig("config.json", fmt.Appendf(nil, text, "5.5"))
	require.NoError(t, err)
	require.Equal(t, float32(5.5), c.MLP.Limit)
	c, err = ParseConfig("config.json", fmt.Appendf(nil, text, "null"))
	require.NoError(t, err)
	require.Equal(t, float32(7), c.MLP.Limit)
	var config *ConfigError
	for _, bad := range []string{"0", "-7", "1e60", "1e-60", `"7"`, "[]"} {
		_, err := ParseConfig("config.json", fmt.Appendf(nil, text, bad))
		require.ErrorAs(t, err, &config, bad)
		require.Equal(t, "swiglu_limit", config.Field)
	}
}

func TestParseConfigActivations(t *testing.T) {
	for act, want := range map[string]moe.Activation{
		"silu": moe.SwiGLU, "swish": moe.SwiGLU, "gelu": moe.GEGLU, "gelu_new": moe.GEGLUTanh, "gelu_pytorch_tanh": moe.GEGLUTanh,
	} {
		c, err := ParseConfig("config.json", []byte(mixtralConfig("silu", act)))
		require.NoError(t, err)
		require.Equal(t, want, c.MLP.Activation, act)
	}
	c, err := ParseConfig("config.json", []byte(mixtralConfig(`"silu"`, "null")))
	require.NoError(t, err)
	require.Equal(t, moe.SwiGLU, c.MLP.Activation, "silu is every supported architecture's default")
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
	require.Equal(t, moe.SoftmaxTopK, c.MLP.Mode, "transformers' default does not divide by the sum")
	c, err = ParseConfig("config.json", []byte(qwenConfig(`,"norm_topk_prob":true`)))
	require.NoError(t, err)
	require.Equal(t, moe.SoftmaxTopKNorm, c.MLP.Mode)

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
	f.Add([]byte(deepSeekConfig(`,"n_shared_experts":2,"routed_scaling_factor":1e30`)))
	for _, name := range []string{"olmoe", "granitemoe", "jetmoe", "qwen2moe", "gptoss", "deepseekv3"} {
		text, err := os.ReadFile(filepath.Join(goldenDir, name, ConfigFile))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig("config.json", text)
		if err != nil {
			return
		}
		// Only the sizes of real tensors say whether the widths are too large for the library.
		m := c.MLP
		if m.Width < 1 || m.Hidden < 1 || m.SharedHidden < 0 || c.Layers < 1 || c.Layers > maxLayers {
			t.Fatalf("%+v", c)
		}
		m.Width, m.Hidden, m.SharedHidden = 1, 1, min(m.SharedHidden, 1)
		if err := m.Validate(); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		for layer := range c.Layers {
			if c.Dense(layer) && c.DenseHidden < 1 {
				t.Fatalf("dense layer %d of %+v", layer, c)
			}
		}
		for layer := range min(c.Layers, 3) {
			w, err := c.parseAttention(layer)
			if err != nil {
				continue
			}
			for _, p := range w.parts("") {
				if p.elements() < 1 {
					t.Fatalf("%s of %+v has shape %v", p.name, c, p.shape)
				}
			}
		}
	})
}
