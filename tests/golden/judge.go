package golden

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
)

// Oracle returns the float64 oracle of an MLP block.
func Oracle(w *model.MLPWeights) (ref.MLP[float32], error) {
	cfg := w.Config
	m := ref.MLP[float32]{
		K: cfg.TopK, Gated: true,
		Router: ref.Linear[float32]{Experts: 1, In: cfg.Width, Out: cfg.Experts, Weight: w.RouterWeight},
		Up:     ref.Linear[float32]{Experts: cfg.Experts, In: cfg.Width, Out: 2 * cfg.Hidden, Weight: w.Up},
		Down:   ref.Linear[float32]{Experts: cfg.Experts, In: cfg.Hidden, Out: cfg.Width, Weight: w.Down},
	}
	switch cfg.Mode {
	case moe.SoftmaxTopK:
		m.Mode = ref.SoftmaxTopK
	case moe.SoftmaxTopKNorm:
		m.Mode = ref.SoftmaxTopKNorm
	case moe.TopKSoftmax:
		m.Mode = ref.TopKSoftmax
	default:
		return m, fmt.Errorf("golden: the oracle has no router mode %v", cfg.Mode)
	}
	switch cfg.Activation {
	case moe.SwiGLU:
		m.Activation = ref.SiLU
	case moe.GEGLU:
		m.Activation = ref.GELU
	case moe.GEGLUTanh:
		m.Activation = ref.GELUTanh
	default:
		return m, fmt.Errorf("golden: the oracle has no activation %v", cfg.Activation)
	}
	return m, nil
}

// judgeMLP compares what a device computed with what was recorded.
//
// The chosen experts come first. Where the oracle's logits leave a choice open within the rounding errors of f32 (a near
// tie), a device may choose differently, and so may the recorded implementation; such a token is judged against the
// oracle with the device's own choice, and counted. Any other choice than the oracle's is wrong, whatever the values.
func judgeMLP(w *model.MLPWeights, b block, got []float32, ids []int32) TensorReport {
	r := TensorReport{Name: b.name, Part: MLP, Elements: len(b.out), Tokens: b.tokens, Tolerance: ToleranceIn(w.Config.DType), Error: math.NaN()}
	cfg := w.Config
	m, err := Oracle(w)
	if err == nil {
		err = checkLengths(b, cfg, got, ids)
	}
	if err != nil {
		r.Err = err
		return r
	}
	logits := ref.DenseLinear(m.Router, b.in, b.tokens)
	chosen := ref.SelectTopK(logits.Y, b.tokens, cfg.Experts, cfg.TopK)
	margins := ref.Margins(logits.Y, b.tokens, cfg.Experts, cfg.TopK)
	differ := map[int]bool{}
	for _, d := range ref.CompareChoices(ids, chosen, logits.Y, b.tokens, cfg.Experts, cfg.TopK) {
		differ[d.Token] = true
		if !(d.Margin <= nearTie(logits, d.Token, cfg)) {
			r.WrongChoices = append(r.WrongChoices, Choice{d.Token, d.Got, d.Want, d.Margin})
		}
	}
	want := ref.Widen(b.out)
	for t := range b.tokens {
		if !(margins[t] <= nearTie(logits, t, cfg)) {
			continue
		}
		row := got[t*cfg.Width : (t+1)*cfg.Width]
		recorded := want[t*cfg.Width : (t+1)*cfg.Width]
		if differ[t] || !(ref.RelativeFrobenius(row, recorded) <= r.Tolerance) {
			r.NearTies = append(r.NearTies, Choice{t, ids[t*cfg.TopK : (t+1)*cfg.TopK], chosen[t*cfg.TopK : (t+1)*cfg.TopK], margins[t]})
			copy(recorded, oracleRow(m, b, logits, ids, t))
		}
	}
	r.Error = ref.RelativeFrobenius(got, want)
	r.Pass = r.Error <= r.Tolerance && len(r.WrongChoices) == 0
	return r
}

// checkLengths refuses results that have not the promised shape or name experts that do not exist or are chosen twice.
func checkLengths(b block, cfg moe.MLPConfig, got []float32, ids []int32) error {
	if len(got) != len(b.out) || len(ids) != b.tokens*cfg.TopK {
		return fmt.Errorf("golden: %s: the runner returned %d values and %d choices for %d tokens", b.name, len(got), len(ids), b.tokens)
	}
	for t := range b.tokens {
		seen := map[int32]bool{}
		for _, e := range ids[t*cfg.TopK : (t+1)*cfg.TopK] {
			if e < 0 || int(e) >= cfg.Experts || seen[e] {
				return fmt.Errorf("golden: %s: token %d goes to expert %d of %d, or twice to it", b.name, t, e, cfg.Experts)
			}
			seen[e] = true
		}
	}
	return nil
}

// nearTie is the largest margin of a token that rounding may close: two logits, each off by the forward error of its own
// sum, by the rounding of the recorded input to f32, and by that of input and weights to the storage type.
func nearTie(logits ref.Result, token int, cfg moe.MLPConfig) float64 {
	largest := 0.0
	for _, a := range logits.Abs[token*cfg.Experts : (token+1)*cfg.Experts] {
		largest = math.Max(largest, a)
	}
	return 2 * largest * (ref.Tolerance(ref.F32, cfg.Width) + ref.UnitF32 + 2*storage(cfg.DType).Storage())
}

// oracleRow is the oracle's output [D] for one token whose experts are given.
func oracleRow(m ref.MLP[float32], b block, logits ref.Result, ids []int32, token int) []float64 {
	width, experts := m.Router.In, m.Router.Out
	one := ref.Result{Y: logits.Y[token*experts : (token+1)*experts], Abs: logits.Abs[token*experts : (token+1)*experts]}
	x := b.in[token*width : (token+1)*width]
	return ref.ForwardChosen(m, x, 1, one, ids[token*m.K:(token+1)*m.K]).Out.Y
}
