package golden

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// Tolerance returns the largest relative Frobenius error of an output that passes: 1e-5 in f32; in a 16-bit dtype four
// times its unit roundoff u (2^-11 for f16, 2^-8 for bf16).
//
// Between input and output of an expert a value is rounded at most nine times: the input, which counts four times, because
// gate and up share it; the two weights of gate and up, both sums, their product, Down's weight, its sum, and the output;
// four more are granted for the gate, whose logit comes of a rounded input and a rounded weight. Each rounding is off by
// at most u, and roundings of different values are independent of each other, so that in the norm of a whole output they
// add in squares: √16·u.
//
// In attention six roundings lie between input and output by way of the values: input, weight, value, the heads' sum, the
// output's weight, and the output. The other ten are granted to the probabilities, which change by the errors of logits: those
// of queries and keys that were rounded before and after norm and rotation, times the logit. They suffice for logits of
// order 1 to 3, as those of the recorded models are; sharper ones would ask for more.
func Tolerance(dtype vk.DType) float64 {
	switch dtype {
	case vk.F16:
		return 4 * 0x1p-11
	case vk.BF16:
		return 4 * 0x1p-8
	}
	return 1e-5
}

// A choice is what the oracle says of a block's choice of experts.
type choice struct {
	logits  ref.Result // [T,E]
	ids     []int32    // [T,K]
	margins []float64  // [T]
	ties    []float64  // [T]: the margins that rounding in f32 may close
}

// chooseFrom runs the oracle's router on x. input is the relative error of x beside the rounding errors of f32.
func chooseFrom(rules ref.Router, router ref.Linear[float32], x []float32, tokens int, input float64) choice {
	c := choice{logits: ref.DenseLinear(router, x, tokens)}
	c.ids = ref.Select(rules, c.logits.Y, tokens)
	c.margins = ref.RouterMargins(rules, c.logits.Y, tokens)
	for t := range tokens {
		c.ties = append(c.ties, rules.NearTie(c.logits.Abs[t*router.Out:(t+1)*router.Out], router.In, input))
	}
	return c
}

// judgeMLP compares what a device computed in a dtype with what was recorded.
//
// The chosen experts come first. They must be the oracle's, which computes from weights and input rounded to the dtype.
// Where its logits leave a choice open within the rounding errors of f32 (a near tie) a device may choose differently. Any
// other choice is wrong, whatever the values. Values are then compared with what was recorded, except in tokens that
// were recorded with other experts, be it for a near tie or for the rounding of router and input: there the oracle computes
// what the experts that the device chose give, from unrounded weights, and the token is counted.
func judgeMLP(w *model.MLPWeights, dtype vk.DType, b block, got []float32, ids []int32) TensorReport {
	r := TensorReport{Name: b.name, Part: MLP, Elements: len(b.out), Tokens: b.tokens, Tolerance: Tolerance(dtype), Error: math.NaN()}
	cfg := w.Config
	m, err := Oracle(w)
	var stored ref.MLP[float32]
	if err == nil {
		stored, err = Oracle(w.Rounded(dtype))
	}
	if err == nil {
		err = checkLengths(b, cfg, got, ids)
	}
	if err != nil {
		r.Err = err
		return r
	}
	// The recorded input was rounded to f32 from the one that the recorded choice was made of. What the device gets is exact.
	recorded := chooseFrom(m.Rules(), m.Router, b.in, b.tokens, ref.UnitF32)
	device := chooseFrom(stored.Rules(), stored.Router, vk.Round(dtype, b.in), b.tokens, 0)
	want := ref.Widen(b.out)
	for _, t := range r.compareChoices(b, cfg.TopK, ids, recorded, device, want, got) {
		copy(want[t*cfg.Width:(t+1)*cfg.Width], oracleRow(m, b, recorded.logits, ids, t))
	}
	r.Error = ref.RelativeFrobenius(got, want)
	r.Pass = r.Error <= r.Tolerance && len(r.WrongChoices) == 0
	return r
}

// compareChoices notes wrong choices and near ties, and returns the tokens whose values are to be judged against the experts
// that the device chose.
func (r *TensorReport) compareChoices(b block, k int, ids []int32, recorded, device choice, want []float64, got []float32) []int {
	wrong, differ := map[int]bool{}, map[int]bool{}
	for _, d := range ref.CompareChoices(ids, device.ids, device.margins, k) {
		if !(d.Margin <= device.ties[d.Token]) {
			r.WrongChoices = append(r.WrongChoices, Choice{d.Token, d.Got, d.Want, d.Margin})
			wrong[d.Token] = true
		}
	}
	for _, d := range ref.CompareChoices(ids, recorded.ids, recorded.margins, k) {
		differ[d.Token] = true
	}
	var others []int
	for t := range b.tokens {
		width := len(want) / b.tokens
		row, was := got[t*width:(t+1)*width], want[t*width:(t+1)*width]
		open := recorded.margins[t] <= recorded.ties[t] && !(ref.RelativeFrobenius(row, was) <= r.Tolerance)
		if (differ[t] || open) && !wrong[t] {
			r.NearTies = append(r.NearTies, Choice{t, ids[t*k : (t+1)*k], recorded.ids[t*k : (t+1)*k], recorded.margins[t]})
			others = append(others, t)
		}
	}
	return others
}

// checkLengths refuses results that have not the promised shape or name experts that do not exist or are chosen twice.
func checkLengths(b block, cfg moe.MLPConfig, got []float32, ids []int32) error {
	if len(got) != len(b.out) {
		return fmt.Errorf("golden: %s: the runner returned %d values for %d tokens", b.name, len(got), b.tokens)
	}
	return checkChoices(b, cfg.Experts, cfg.TopK, ids)
}

// checkChoices refuses choices of k experts a token that are too few, name experts that do not exist or name one twice.
func checkChoices(b block, experts, k int, ids []int32) error {
	if len(ids) != b.tokens*k {
		return fmt.Errorf("golden: %s: the runner returned %d choices for %d tokens", b.name, len(ids), b.tokens)
	}
	for t := range b.tokens {
		seen := map[int32]bool{}
		for _, e := range ids[t*k : (t+1)*k] {
			if e < 0 || int(e) >= experts || seen[e] {
				return fmt.Errorf("golden: %s: token %d goes to expert %d of %d, or twice to it", b.name, t, e, experts)
			}
			seen[e] = true
		}
	}
	return nil
}

// oracleRow is the oracle's output [D] for one token whose experts are given.
func oracleRow(m ref.MLP[float32], b block, logits ref.Result, ids []int32, token int) []float64 {
	width, experts := m.Router.In, m.Router.Out
	one := ref.Result{Y: logits.Y[token*experts : (token+1)*experts], Abs: logits.Abs[token*experts : (token+1)*experts]}
	x := b.in[token*width : (token+1)*width]
	return ref.ForwardChosen(m, x, 1, one, ids[token*m.K:(token+1)*m.K]).Out.Y
}
