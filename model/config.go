package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/vkmoe/vkmoe/moe"
)

// ConfigFile is the name of the configuration in a checkpoint folder.
const ConfigFile = "config.json"

// A Config is what the library needs of a config.json. Sizes are in elements.
type Config struct {
	Type   string // model_type, for example "mixtral"
	Width  int    // D
	Layers int

	// Unsupported says why the MLP blocks of a recognised architecture cannot run yet; nil when they can. The fields below
	// are set only then.
	Unsupported *UnsupportedModelError

	Experts     int // E
	TopK        int // K
	Hidden      int // H of one expert
	DenseHidden int // hidden width of layers without experts; 0 where every layer has experts
	Router      moe.RouterMode
	Activation  moe.Activation

	denseLayers map[int]bool
}

// Dense reports whether a layer's MLP is a plain one, without router and experts.
func (c *Config) Dense(layer int) bool { return c.denseLayers[layer] }

// maxLayers keeps a hostile layer count from becoming work; the deepest public decoders have about 130.
const maxLayers = 4096

// ReadConfig reads the config.json of a checkpoint folder. An architecture that is not recognised is an
// *UnsupportedModelError; one that is recognised but cannot run yet is returned with Unsupported set.
func ReadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, ConfigFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(path, text)
}

// ParseConfig parses the text of a config.json; see ReadConfig. path is used in errors only.
func ParseConfig(path string, text []byte) (*Config, error) {
	f := &fields{path: path}
	if err := json.Unmarshal(text, &f.values); err != nil {
		return nil, &ConfigError{path, "", err.Error()}
	}
	c := &Config{Type: f.text("model_type", "")}
	if f.err != nil {
		return nil, f.err
	}
	arch, known := architectures[c.Type]
	if !known {
		return nil, &UnsupportedModelError{c.Type, "", "known are " + knownTypes()}
	}
	c.Width = f.size("hidden_size", 1, math.MaxInt32)
	c.Layers = f.size("num_hidden_layers", 1, maxLayers)
	switch {
	case f.err != nil:
		return nil, f.err
	case arch.parse == nil:
		c.Unsupported = &UnsupportedModelError{c.Type, "mlp", arch.lacks}
		return c, nil
	}
	arch.parse(c, f)
	if f.err != nil {
		return nil, f.err
	}
	return c, nil
}

// common parses what the supported architectures share.
func (c *Config) common(f *fields, expertsField, hiddenField string) {
	c.Experts = f.size(expertsField, 1, moe.MaxExperts)
	c.TopK = f.size("num_experts_per_tok", 1, min(c.Experts, moe.MaxTopK))
	c.Hidden = f.size(hiddenField, 1, math.MaxInt32/2)
	act := f.text("hidden_act", "silu")
	switch act {
	case "silu", "swish":
		c.Activation = moe.SwiGLU
	case "gelu":
		c.Activation = moe.GEGLU
	case "gelu_new", "gelu_pytorch_tanh":
		c.Activation = moe.GEGLUTanh
	default:
		f.unsupported(c.Type, fmt.Sprintf("activation %q", act))
	}
}

func parseMixtral(c *Config, f *fields) {
	c.common(f, "num_local_experts", "intermediate_size")
	c.Router = moe.SoftmaxTopKNorm
}

func parseOLMoE(c *Config, f *fields) {
	c.common(f, "num_experts", "intermediate_size")
	c.Router = f.normTopKProb()
}

func parseGraniteMoE(c *Config, f *fields) {
	c.common(f, "num_local_experts", "intermediate_size")
	c.Router = moe.TopKSoftmax
}

func parseQwen3MoE(c *Config, f *fields) {
	// Public checkpoints say num_experts, those saved by transformers 5 say num_local_experts.
	experts := "num_experts"
	if f.has("num_local_experts") && !f.has(experts) {
		experts = "num_local_experts"
	}
	c.common(f, experts, "moe_intermediate_size")
	c.Router = f.normTopKProb()

	step := 1
	if f.has("decoder_sparse_step") {
		step = f.size("decoder_sparse_step", 1, math.MaxInt32)
	}
	plain := f.sizes("mlp_only_layers")
	c.denseLayers = map[int]bool{}
	for layer := range c.Layers {
		if slices.Contains(plain, layer) || (layer+1)%max(step, 1) != 0 {
			c.denseLayers[layer] = true
		}
	}
	if len(c.denseLayers) > 0 {
		c.DenseHidden = f.size("intermediate_size", 1, math.MaxInt32/2)
	}
}

// fields reads members of a config.json; the first fault sticks.
type fields struct {
	path   string
	values map[string]json.RawMessage
	err    error
}

func (f *fields) fail(field, format string, args ...any) {
	if f.err == nil {
		f.err = &ConfigError{f.path, field, fmt.Sprintf(format, args...)}
	}
}

func (f *fields) unsupported(model, reason string) {
	if f.err == nil {
		f.err = &UnsupportedModelError{model, "mlp", reason}
	}
}

// has reports whether a member is present and not null.
func (f *fields) has(field string) bool {
	v, ok := f.values[field]
	return ok && string(v) != "null"
}

// size reads a whole number from low to high. An absent member is a fault.
func (f *fields) size(field string, low, high int) int {
	if !f.has(field) {
		f.fail(field, "is absent")
		return 0
	}
	var v int
	if err := json.Unmarshal(f.values[field], &v); err != nil {
		f.fail(field, "%s is not a whole number", f.values[field])
		return 0
	}
	if v < low || v > high {
		f.fail(field, "%d is not between %d and %d", v, low, high)
		return 0
	}
	return v
}

// sizes reads a list of whole numbers, nil when it is absent.
func (f *fields) sizes(field string) []int {
	var v []int
	if f.has(field) {
		if err := json.Unmarshal(f.values[field], &v); err != nil {
			f.fail(field, "%s is not a list of whole numbers", f.values[field])
		}
	}
	return v
}

// text reads a string. An absent member has the default, and is a fault where that is "".
func (f *fields) text(field, absent string) string {
	if !f.has(field) {
		if absent == "" {
			f.fail(field, "is absent")
		}
		return absent
	}
	var v string
	if err := json.Unmarshal(f.values[field], &v); err != nil {
		f.fail(field, "%s is not a string", f.values[field])
	}
	return v
}

// normTopKProb reads norm_topk_prob, false when absent as in transformers' own defaults.
func (f *fields) normTopKProb() moe.RouterMode {
	var norm bool
	if f.has("norm_topk_prob") {
		if err := json.Unmarshal(f.values["norm_topk_prob"], &norm); err != nil {
			f.fail("norm_topk_prob", "%s is not true or false", f.values["norm_topk_prob"])
		}
	}
	if norm {
		return moe.SoftmaxTopKNorm
	}
	return moe.SoftmaxTopK
}
