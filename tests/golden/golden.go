// Package golden judges the library against reference models: folders with config.json, model.safetensors and
// expected.safetensors, the last holding the input and output of every block as another implementation computed them.
//
// Run opens the folders, runs what the library supports of each model and returns a Report. How a block is run is a
// Runner, so that the judging is tested without a device; Device is the one that uses the library.
package golden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Part is a part of a model that can be asked for.
type Part string

// The parts.
const (
	MLP       Part = "mlp"       // every layer's MLP block, from its recorded input
	Attention Part = "attention" // every layer's attention, from its recorded input
	Logits    Part = "logits"    // the whole model, from the tokens
	Grads     Part = "grads"     // the gradient of the loss with respect to every parameter
)

// Parts lists every part, in the order in which reports print them.
var Parts = []Part{MLP, Attention, Logits, Grads}

// ParseParts reads a comma-separated list of parts. The empty text is none.
func ParseParts(text string) ([]Part, error) {
	if text == "" {
		return nil, nil
	}
	var parts []Part
	for _, name := range strings.Split(text, ",") {
		p := Part(strings.TrimSpace(name))
		if !slices.Contains(Parts, p) {
			return nil, fmt.Errorf("golden: unknown part %q; parts are mlp, attention, logits and grads", p)
		}
		if !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// A Runner runs blocks of a model.
type Runner interface {
	// RunMLP runs an MLP block in w.Config.DType on x [tokens,D], rounded to it, and returns its output [tokens,D] and the experts it chose, ids
	// [tokens,K], most probable first.
	RunMLP(ctx context.Context, w *model.MLPWeights, x []float32, tokens int) (out []float32, ids []int32, err error)

	// RunAttention runs a layer's attention in dtype on x [T,D], rounded to it, of sequences with offsets [B+1], and returns its
	// output [T,D] and the experts that a mixture chose, ids [T,K]; nil for any other attention.
	RunAttention(ctx context.Context, w *model.AttentionWeights, dtype vk.DType, x []float32, offsets []int32) (out []float32, ids []int32, err error)
}

// A ModelRunner is a Runner that also runs whole models.
type ModelRunner interface {
	Runner

	// RunDecoder runs a model in f32 on tokens ids [T] of sequences with offsets [B+1]; grads asks for gradients too.
	RunDecoder(ctx context.Context, c *model.Checkpoint, ids, offsets []int32, grads bool) (*DecoderRun, error)
}

// Options say what to run.
type Options struct {
	Only  []Part   // the parts asked for; none is everything the library supports
	DType vk.DType // F32, F16 or BF16: what weights and activations are stored as

	// Open opens the Runner. It is called once, and only when there is something to run.
	Open func() (Runner, *DeviceInfo, error)
}

// Run judges dir, which is one model folder or holds several. What is wrong is part of the Report: a fault of one folder
// is its ModelReport's, and the other folders are still judged.
func Run(ctx context.Context, dir string, opts Options) *Report {
	report := &Report{DType: opts.DType}
	folders, err := findFolders(dir)
	if err != nil {
		report.Unusable = err
		return report
	}
	var runner Runner
	for _, folder := range folders {
		m := &ModelReport{Folder: folder, Name: filepath.Base(folder), Asked: opts.Only}
		report.Models = append(report.Models, m)
		c, err := openCase(folder)
		if err != nil {
			m.Unusable = err
			continue
		}
		m.Type = c.checkpoint.Config.Type
		m.Unsupported = unsupported(opts.Only)
		if runs(opts.Only) {
			if runner == nil {
				runner, report.Device, report.Unusable = opts.Open()
			}
			if report.Unusable == nil {
				c.run(ctx, m, runner, opts)
				report.Unusable = ctx.Err()
			}
		}
		c.close()
		if report.Unusable != nil {
			break
		}
	}
	return report
}

// expectedFile is the file of a model folder beside those of the checkpoint.
const expectedFile = "expected.safetensors"

// findFolders returns dir itself when it is a model folder, else the model folders in it, sorted.
func findFolders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if isModelFolder(dir) {
		return []string{dir}, nil
	}
	var folders []string
	for _, e := range entries {
		// Stat follows links, which e does not.
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && info.IsDir() && isModelFolder(path) {
			folders = append(folders, path)
		}
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("golden: neither %s nor a folder in it holds %s, %s or %s",
			dir, model.ConfigFile, safetensors.SingleFile, expectedFile)
	}
	return folders, nil
}

// isModelFolder reports whether a folder holds any file of a model, so that an incomplete one is reported, not passed
// over.
func isModelFolder(dir string) bool {
	for _, name := range []string{model.ConfigFile, safetensors.SingleFile, safetensors.IndexFile, expectedFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// A goldenCase is one open model folder.
type goldenCase struct {
	checkpoint *model.Checkpoint
	expected   *safetensors.File
}

func openCase(dir string) (*goldenCase, error) {
	checkpoint, err := model.Open(dir)
	if err != nil {
		return nil, err
	}
	expected, err := safetensors.Open(filepath.Join(dir, expectedFile))
	if err != nil {
		checkpoint.Close()
		return nil, err
	}
	return &goldenCase{checkpoint, expected}, nil
}

func (c *goldenCase) close() {
	c.checkpoint.Close()
	c.expected.Close()
}

// run judges the parts of a model that were asked for and that the library supports.
func (c *goldenCase) run(ctx context.Context, m *ModelReport, runner Runner, opts Options) {
	for _, p := range supported {
		if m.Unusable != nil || ctx.Err() != nil || !asked(opts.Only, p) {
			continue
		}
		var reports []TensorReport
		switch p {
		case MLP:
			reports, m.Unusable = c.runMLPs(ctx, runner, opts.DType)
		case Attention:
			if len(opts.Only) == 0 && !c.recordsAttention() {
				m.Unsupported = append(m.Unsupported, UnsupportedPart{p, "nothing is recorded of it"})
				continue
			}
			reports, m.Unusable = c.runAttentions(ctx, runner, opts.DType)
		case Logits, Grads:
			if reason := c.cannotRun(p, runner, opts); reason != "" {
				m.Unsupported = append(m.Unsupported, UnsupportedPart{p, reason})
				continue
			}
			reports, m.Unusable = c.runDecoder(ctx, p, runner.(ModelRunner))
		}
		m.Tensors = append(m.Tensors, reports...)
		var beyond *model.UnsupportedModelError
		if errors.As(m.Unusable, &beyond) {
			m.Unsupported = append(m.Unsupported, UnsupportedPart{p, beyond.Error()})
			m.Unusable = nil
		}
	}
}

// supported are the parts that the library runs.
var supported = Parts

// asked reports whether a part was asked for: by name, or because none was named.
func asked(only []Part, p Part) bool { return len(only) == 0 || slices.Contains(only, p) }

// runs reports whether anything asked for can run.
func runs(only []Part) bool {
	return slices.ContainsFunc(supported, func(p Part) bool { return asked(only, p) })
}

// unsupported lists what was asked for, or everything when nothing was named, that the library cannot run.
func unsupported(only []Part) []UnsupportedPart {
	var list []UnsupportedPart
	for _, p := range Parts {
		if asked(only, p) && !slices.Contains(supported, p) {
			list = append(list, UnsupportedPart{p, "the library does not run it yet"})
		}
	}
	return list
}

// runMLPs runs and judges the MLP block of every layer.
func (c *goldenCase) runMLPs(ctx context.Context, runner Runner, dtype vk.DType) ([]TensorReport, error) {
	var reports []TensorReport
	for layer := range c.checkpoint.Config.Layers {
		w, err := c.checkpoint.LoadMLP(layer)
		if err != nil {
			return reports, err
		}
		block, err := c.block(layer, mlpModules)
		if err != nil {
			return reports, err
		}
		asked := *w
		asked.Config.DType = dtype
		got, ids, err := runner.RunMLP(ctx, &asked, block.in, block.tokens)
		if beyondDevice(err) {
			return reports, err
		}
		if err != nil {
			reports = append(reports, TensorReport{Name: block.name, Part: MLP, Err: err})
			continue
		}
		reports = append(reports, judgeMLP(w, dtype, block, got, ids))
	}
	return reports, nil
}

// beyondDevice reports whether a model is larger than the library or the device takes, which says nothing about whether it
// computes what it should.
func beyondDevice(err error) bool {
	var config *moe.ConfigError
	return errors.As(err, &config) || errors.Is(err, vk.ErrOutOfMemory)
}
