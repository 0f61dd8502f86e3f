package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/tests/testdata/golden"
)

// A layer is one MLP block on the host, with what makes its input from token ids.
type layer struct {
	Name   string // of the model
	Number int
	Layers int // of the model
	*model.MLPWeights

	embedding []float32 // [vocabulary, D]: the first rows of the model's embedding
	norm      []float32 // [D], weight of the norm before the block
	epsilon   float64
}

// inputConfig is what the demo itself needs of config.json, with transformers' defaults.
type inputConfig struct {
	Epsilon    float64 `json:"rms_norm_eps"`
	Multiplier float64 `json:"embedding_multiplier"` // GraniteMoE's
}

// builtIn lists the embedded models.
func builtIn() []string {
	entries, err := fs.ReadDir(golden.Models, ".")
	if err != nil {
		panic(fmt.Sprintf("vkmoe-demo: embedded models: %v", err))
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// loadLayer reads one layer of a built-in model, or of a checkpoint folder.
func loadLayer(name string, number int) (*layer, error) {
	if slices.Contains(builtIn(), name) {
		dir, err := unpack(name)
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		return openLayer(dir, name, number)
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("no model %q: it is neither built in (%s) nor a folder", name, strings.Join(builtIn(), ", "))
	}
	return openLayer(name, filepath.Base(filepath.Clean(name)), number)
}

// unpack writes an embedded model into a temporary folder, where the checkpoint reader finds it.
func unpack(name string) (dir string, err error) {
	dir, err = os.MkdirTemp("", "vkmoe-demo-")
	if err != nil {
		return "", err
	}
	for _, file := range []string{model.ConfigFile, safetensors.SingleFile} {
		data, err := golden.Models.ReadFile(path.Join(name, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), data, 0o600)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("cannot unpack the built-in model: %w", err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// openLayer reads one layer of a checkpoint folder.
func openLayer(dir, name string, number int) (*layer, error) {
	checkpoint, err := model.Open(dir)
	if err != nil {
		return nil, err
	}
	defer checkpoint.Close()
	if number >= checkpoint.Config.Layers {
		return nil, fmt.Errorf("%s has layers 0 to %d, not %d", name, checkpoint.Config.Layers-1, number)
	}
	weights, err := checkpoint.LoadMLP(number)
	if err != nil {
		return nil, err
	}
	l := &layer{Name: name, Number: number, Layers: checkpoint.Config.Layers, MLPWeights: weights}
	return l, l.loadInput(dir)
}

// loadInput reads the embedding and the norm.
func (l *layer) loadInput(dir string) error {
	cfg := inputConfig{Epsilon: 1e-6, Multiplier: 1}
	text, err := os.ReadFile(filepath.Join(dir, model.ConfigFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &cfg); err != nil {
		return fmt.Errorf("%s: %w", model.ConfigFile, err)
	}
	tensors, err := safetensors.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer tensors.Close()
	width := l.Config.Width
	embedding, rows, err := readMatrix(tensors, "model.embed_tokens.weight", width)
	if err != nil {
		return err
	}
	if rows < vocabulary {
		return fmt.Errorf("the model has %d tokens; the demo needs %d", rows, vocabulary)
	}
	// Only the rows of the demo's vocabulary stay in memory.
	l.embedding = append([]float32(nil), embedding[:vocabulary*width]...)
	for i := range l.embedding {
		l.embedding[i] *= float32(cfg.Multiplier)
	}
	norm, rows, err := readMatrix(tensors, fmt.Sprintf("model.layers.%d.post_attention_layernorm.weight", l.Number), width)
	if err != nil {
		return err
	}
	if rows != 1 {
		return fmt.Errorf("the norm of layer %d has %d values for width %d", l.Number, rows*width, width)
	}
	l.norm, l.epsilon = norm, cfg.Epsilon
	return nil
}

// readMatrix reads a tensor whose last dimension is width and returns its values and how many rows it has.
func readMatrix(tensors *safetensors.Checkpoint, name string, width int) (values []float32, rows int, err error) {
	info, err := tensors.Info(name)
	if err != nil {
		return nil, 0, err
	}
	if len(info.Shape) == 0 || info.Shape[len(info.Shape)-1] != width {
		return nil, 0, fmt.Errorf("tensor %q has shape %v, its last dimension should be %d", name, info.Shape, width)
	}
	rows = 1
	for _, d := range info.Shape[:len(info.Shape)-1] {
		rows *= d
	}
	values = make([]float32, rows*width)
	return values, rows, tensors.ReadFloat32(name, values)
}

// An input makes the layer's input rows one after the other:
//
//	h[t] = embedding[token(t)] + context·h[t−1],  x[t] = norm·h[t]/√(mean(h[t]²) + ε)
type input struct {
	layer   *layer
	text    []rune
	context float64
	state   []float64 // h of the last row made
	next    int
}

func newInput(l *layer, text []rune, context float64) *input {
	return &input{layer: l, text: text, context: context, state: make([]float64, l.Config.Width)}
}

// rewind starts again at the first character.
func (in *input) rewind() {
	clear(in.state)
	in.next = 0
}

// rows fills x [n,D] with the next n rows.
func (in *input) rows(x []float32) {
	width := in.layer.Config.Width
	for ; len(x) > 0; x = x[width:] {
		e := in.layer.embedding[token(in.text[in.next])*width:][:width]
		in.next++
		var squares float64
		for i := range in.state {
			in.state[i] = float64(e[i]) + in.context*in.state[i]
			squares += in.state[i] * in.state[i]
		}
		scale := 1 / math.Sqrt(squares/float64(width)+in.layer.epsilon)
		for i, h := range in.state {
			x[i] = float32(h * scale * float64(in.layer.norm[i]))
		}
	}
}
