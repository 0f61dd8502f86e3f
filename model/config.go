package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/vkmoe/vkmoe/moe"
)

// ConfigFile is the name of the configuration in a checkpoint folder.
const ConfigFile = "config.json"

// A Config is what the library needs of a config.json. Sizes are in elements.
type Config struct {
	Type   string // model_type, for example "mixtral"
	Width  int    // D
	Layers int

	MLP         moe.MLPConfig // of layers with experts, in F32
	DenseHidden int           // hidden width of layers without experts; 0 where every layer has experts

	denseLayers   map[int]bool
	furtherLayers int // layers of a checkpoint beyond the decoder's

	text   []byte  // the whole file
	fields *fields // the same, of which the attention is read layer by layer
}

// Dense reports whether a layer's MLP is a plain one, without router and experts.
func (c *Config) Dense(layer int) bool { return c.denseLayers[layer] }

// maxLayers keeps a hostile layer count from becoming work; the deepest public decoders have about 130.
const maxLayers = 4096

// ReadConfig reads the config.json of a checkpoint folder. An architecture that is not recognised, or a
// variant of one that the library does not run, is an *UnsupportedModelError.
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
	f := &fields{path: path, part: "mlp"}
	if err := json.Unmarshal(text, &f.values); err != nil {
		return nil, &ConfigError{path, "", err.Error()}
	}
	c := &Config{text: text, fields: f, Type: f.text("model_type", "")}
	if f.err != nil {
		return nil, f.err
	}
	arch, known := architectures[c.Type]
	if !known {
		return nil, &UnsupportedModelError{c.Type, "", "known are " + knownTypes()}
	}
	c.Width = f.size("hidden_size", 1, math.MaxInt32)
	c.Layers = f.size("num_hidden_layers", 1, maxLayers)
	if f.err != nil {
		return nil, f.err
	}
	arch.parse(c, f)
	if f.err != nil {
		return nil, f.err
	}
	return c, nil
}

// fields reads members of a config.json; the first fault sticks.
type fields struct {
	path   string
	part   string // of the model, for errors
	within string // what precedes the names of members: the object that holds them
	values map[string]json.RawMessage
	err    error
}

func (f *fields) fail(field, format string, args ...any) {
	if f.err == nil {
		f.err = &ConfigError{f.path, f.within + field, fmt.Sprintf(format, args...)}
	}
}

func (f *fields) unsupported(model, reason string) {
	if f.err == nil {
		f.err = &UnsupportedModelError{model, f.part, reason}
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

// sizeOr is size with a value for an absent member.
func (f *fields) sizeOr(field string, absent, low, high int) int {
	if !f.has(field) {
		return absent
	}
	return f.size(field, low, high)
}

// positive reads a number above 0 that float32 holds.
func (f *fields) positive(field string, absent float32) float32 {
	v := float32(f.number(field, float64(absent)))
	if f.has(field) && (v == 0 || math.IsInf(float64(v), 0)) {
		f.fail(field, "%s is not a positive float32", f.values[field])
	}
	return v
}

// boolean reads true or false.
func (f *fields) boolean(field string, absent bool) bool {
	v := absent
	if f.has(field) {
		if err := json.Unmarshal(f.values[field], &v); err != nil {
			f.fail(field, "%s is not true or false", f.values[field])
		}
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
	if f.boolean("norm_topk_prob", false) {
		return moe.SoftmaxTopKNorm
	}
	return moe.SoftmaxTopK
}
