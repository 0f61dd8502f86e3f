package model

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/vkmoe/vkmoe/vk"
)

// Initialize fills the weights for training from scratch: matrices from a normal distribution of the given deviation, those
// that write to the residual stream from one divided by √(2·layers) (Radford et al., "Language models are unsupervised
// multitask learners", section 2.3), gains with 1, biases and sinks with 0. A tensor's values depend on the seed and its name
// only.
func (d *Decoder) Initialize(ctx context.Context, seed uint64, deviation float64) error {
	if err := d.Config.checkTrainable(); err != nil {
		return err
	}
	for _, w := range d.all() {
		scale := deviation
		if strings.HasSuffix(w.name, ".down") || strings.HasSuffix(w.name, ".output") || strings.HasSuffix(w.name, ".shared_down") {
			scale /= math.Sqrt(2 * float64(len(d.layers)))
		}
		hash := fnv.New64a()
		hash.Write([]byte(w.name))
		rng := rand.New(rand.NewPCG(seed, hash.Sum64()))
		for _, t := range w.values() {
			if err := fill(ctx, t, func() float32 {
				switch {
				case strings.HasSuffix(w.name, "norm") || strings.HasSuffix(w.name, "norm.weight"):
					return 1
				case w.noDecay || w.gradBank == nil && w.gradTensor == nil:
					return 0
				}
				return float32(scale * rng.NormFloat64())
			}); err != nil {
				return fmt.Errorf("model: %s: %w", w.name, err)
			}
		}
	}
	return nil
}

// fill uploads values piece by piece.
func fill(ctx context.Context, t *vk.Tensor, value func() float32) error {
	for from := 0; from < t.Elements(); from += loadPiece {
		values := make([]float32, min(loadPiece, t.Elements()-from))
		for i := range values {
			values[i] = value()
		}
		piece, err := t.View(from, len(values))
		if err != nil {
			return err
		}
		if err := vk.Upload(ctx, piece, values); err != nil {
			return err
		}
	}
	return nil
}
