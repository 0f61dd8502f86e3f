package golden

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// gradsFile is the file with the recorded gradients of the loss, by the names that transformers has in memory: experts that a
// checkpoint holds one by one are fused there.
const gradsFile = "expected_grads.safetensors"

// GradTolerance is the largest relative Frobenius error of a gradient that passes.
const GradTolerance = 1e-4

// A DecoderRun is what a whole model computed: next-token prediction of each token but the last of its sequence.
type DecoderRun struct {
	Logits []float32 // [T,V]
	Loss   float32   // the mean cross-entropy

	// Grads are the gradients of the loss by the names of a checkpoint's tensors, and Fused those of whole arrays of experts by
	// those of the decoder's parameters; both nil where none were asked for.
	Grads, Fused map[string][]float32
}

// cannotRun says why a part of the whole model is not judged, or nothing. Without a part asked for by name, what is not recorded
// is passed over.
func (c *goldenCase) cannotRun(p Part, runner Runner, opts Options) string {
	_, whole := runner.(ModelRunner)
	switch {
	case opts.DType != vk.F32:
		return "whole models are judged in f32 only: in 16 bits other experts are chosen"
	case !whole:
		return "the runner runs blocks only"
	case len(opts.Only) == 0 && !c.recordsModel(p):
		return "nothing is recorded of it"
	}
	return ""
}

// runDecoder judges a part of the whole model.
func (c *goldenCase) runDecoder(ctx context.Context, p Part, runner ModelRunner) ([]TensorReport, error) {
	if p == Logits {
		return c.runLogits(ctx, runner)
	}
	return c.runGrads(ctx, runner)
}

// runLogits judges the logits and the loss of the whole model.
func (c *goldenCase) runLogits(ctx context.Context, runner ModelRunner) ([]TensorReport, error) {
	ids, offsets, err := c.tokens()
	if err != nil {
		return nil, err
	}
	logits, err := c.expected.Float32s("logits")
	if err != nil {
		return nil, err
	}
	loss, err := c.expected.Float32s("loss")
	if err != nil {
		return nil, err
	}
	run, err := runner.RunDecoder(ctx, c.checkpoint, ids, offsets, false)
	if err != nil {
		return nil, err
	}
	return []TensorReport{
		judgeArray("logits", Logits, len(ids), run.Logits, logits, Tolerance(vk.F32)),
		judgeArray("loss", Logits, len(ids), []float32{run.Loss}, loss, Tolerance(vk.F32)),
	}, nil
}

// runGrads judges the gradient of the loss with respect to every parameter.
func (c *goldenCase) runGrads(ctx context.Context, runner ModelRunner) ([]TensorReport, error) {
	ids, offsets, err := c.tokens()
	if err != nil {
		return nil, err
	}
	expected, err := safetensors.Open(filepath.Join(filepath.Dir(c.expected.Path()), gradsFile))
	if err != nil {
		return nil, err
	}
	defer expected.Close()
	run, err := runner.RunDecoder(ctx, c.checkpoint, ids, offsets, true)
	if err != nil {
		return nil, err
	}
	var reports []TensorReport
	judged, all := 0, 0
	for _, name := range expected.Names() {
		want, err := expected.Float32s(name)
		if err != nil {
			return reports, err
		}
		r := judgeArray(name, Grads, len(ids), run.gradient(name), want, GradTolerance)
		reports, judged = append(reports, r), judged+len(want)
	}
	for _, g := range run.Grads {
		all += len(g)
	}
	if judged != all {
		reports = append(reports, TensorReport{Name: "all parameters", Part: Grads, Error: math.NaN(),
			Err: fmt.Errorf("golden: %d elements have a gradient, %d are recorded", all, judged)})
	}
	return reports, nil
}

// recordsModel reports whether the files that a part of the whole model is judged by are there.
func (c *goldenCase) recordsModel(p Part) bool {
	if _, err := c.expected.Info("input_ids"); err != nil {
		return false
	}
	if p == Logits {
		_, err := c.expected.Info("logits")
		return err == nil
	}
	f, err := safetensors.Open(filepath.Join(filepath.Dir(c.expected.Path()), gradsFile))
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// tokens reads input_ids [B,T], and returns the sequences' offsets.
func (c *goldenCase) tokens() (ids, offsets []int32, err error) {
	const name = "input_ids"
	info, err := c.expected.Info(name)
	if err != nil {
		return nil, nil, err
	}
	if len(info.Shape) != 2 {
		return nil, nil, &model.TensorError{Path: c.expected.Path(), Tensor: name, Fault: model.MisShaped, Want: []int{-1, -1}, Got: info.Shape}
	}
	if ids, err = c.expected.Int32s(name); err != nil {
		return nil, nil, err
	}
	for b := 0; b <= info.Shape[0]; b++ {
		offsets = append(offsets, int32(b*info.Shape[1]))
	}
	return ids, offsets, nil
}

// Targets are the next tokens of all but the last token of each sequence, which has −1.
func Targets(ids, offsets []int32) []int32 {
	targets := make([]int32, len(ids))
	for i := range ids {
		targets[i] = -1
		if i+1 < len(ids) && !slices.Contains(offsets, int32(i+1)) {
			targets[i] = ids[i+1]
		}
	}
	return targets
}

// judgeArray compares an array of a whole model with what was recorded.
func judgeArray(name string, part Part, tokens int, got, want []float32, tolerance float64) TensorReport {
	r := TensorReport{Name: name, Part: part, Elements: len(want), Tokens: tokens, Tolerance: tolerance, Error: math.NaN()}
	if len(got) != len(want) {
		r.Err = fmt.Errorf("golden: %s: the runner returned %d values for %d", name, len(got), len(want))
		return r
	}
	r.Error = ref.RelativeFrobenius(got, ref.Widen(want))
	r.Pass = r.Error <= r.Tolerance
	return r
}

// fusedNames are what transformers' names of fused arrays end with, and the decoder's of the same.
var fusedNames = []struct{ recorded, parameter string }{
	{".experts.gate_up_proj", "up"}, {".experts.down_proj", "down"}, {".gate.weight", "router"}, {".router.weight", "router"},
}

// gradient finds a recorded gradient among those computed, nil where there is none.
func (r *DecoderRun) gradient(name string) []float32 {
	if g := r.Grads[name]; g != nil {
		return g
	}
	for _, f := range fusedNames {
		if !strings.HasSuffix(name, f.recorded) {
			continue
		}
		layer, _, _ := strings.Cut(strings.TrimPrefix(name, "model.layers."), ".")
		if _, err := strconv.Atoi(layer); err != nil {
			return nil
		}
		for _, module := range mlpModules {
			if g := r.Fused[fmt.Sprintf("model.layers.%s.%s.%s", layer, module, f.parameter)]; g != nil {
				return g
			}
		}
	}
	return nil
}
