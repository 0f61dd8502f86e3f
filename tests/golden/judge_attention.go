package golden

import (
	"context"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// runAttentions runs and judges the attention of every layer.
func (c *goldenCase) runAttentions(ctx context.Context, runner Runner, dtype vk.DType) ([]TensorReport, error) {
	var reports []TensorReport
	for layer := range c.checkpoint.Config.Layers {
		b, err := c.block(layer, attentionModules)
		if err != nil {
			return reports, err
		}
		w, err := c.checkpoint.LoadAttention(layer)
		if err != nil {
			return reports, err
		}
		got, ids, err := runner.RunAttention(ctx, w, dtype, b.in, b.offsets)
		if beyondDevice(err) {
			return reports, err
		}
		if err != nil {
			reports = append(reports, TensorReport{Name: b.name, Part: Attention, Err: err})
			continue
		}
		reports = append(reports, judgeAttention(w, dtype, b, got, ids))
	}
	return reports, nil
}

// judgeAttention compares what a device computed in a dtype with what was recorded. A mixture's choices are judged as those
// of an MLP are; keys and values do not depend on them, so that a token with other experts than recorded changes no other.
func judgeAttention(w *model.AttentionWeights, dtype vk.DType, b block, got []float32, ids []int32) TensorReport {
	r := TensorReport{Name: b.name, Part: Attention, Elements: len(b.out), Tokens: b.tokens, Tolerance: Tolerance(dtype), Error: math.NaN()}
	if len(got) != len(b.out) {
		r.Err = fmt.Errorf("golden: %s: the runner returned %d values for %d", b.name, len(got), len(b.out))
		return r
	}
	want := ref.Widen(b.out)
	if w.Mixture != nil {
		if r.Err = r.judgeMixture(w, dtype, b, want, got, ids); r.Err != nil {
			return r
		}
	}
	r.Error = ref.RelativeFrobenius(got, want)
	r.Pass = r.Error <= r.Tolerance && len(r.WrongChoices) == 0
	return r
}

// judgeMixture judges choices, and replaces in want the rows of tokens that were recorded with other experts by what the
// oracle computes with the device's.
func (r *TensorReport) judgeMixture(w *model.AttentionWeights, dtype vk.DType, b block, want []float64, got []float32, ids []int32) error {
	exact, err := OracleAttention(w, b.offsets)
	if err != nil {
		return err
	}
	rounded, err := OracleAttention(w.Rounded(dtype), b.offsets)
	if err != nil {
		return err
	}
	experts, k := w.Mixture.Experts, w.Mixture.TopK
	if err := checkChoices(b, experts, k, ids); err != nil {
		return err
	}
	m, stored := *exact.Mixture, *rounded.Mixture
	recorded := chooseFrom(m.Gating, m.Router, b.in, b.tokens, ref.UnitF32)
	device := chooseFrom(stored.Gating, stored.Router, vk.Round(dtype, b.in), b.tokens, 0)
	others := r.compareChoices(b, k, ids, recorded, device, want, got)
	if len(others) == 0 {
		return nil
	}
	with := ref.MixtureOfAttentionChosen(m, b.in, recorded.logits, ids).Out.Y
	width := w.Mixture.Width
	for _, t := range others {
		copy(want[t*width:(t+1)*width], with[t*width:(t+1)*width])
	}
	return nil
}
