package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// NewMLP builds the layer on a device and uploads its weights, rounded to the configuration's dtype. The caller closes it.
// It fails with a *moe.ConfigError where the sizes exceed what the library runs, with a *vk.ShapeError where weights are
// absent or too many for the configuration, and with vk.ErrOutOfMemory.
func NewMLP(ctx context.Context, dev *vk.Device, w *MLPWeights) (*moe.MLP, error) {
	m, err := moe.NewMLP(dev, w.Config)
	if err != nil {
		return nil, err
	}
	if err := upload(ctx, m, w); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func upload(ctx context.Context, m *moe.MLP, w *MLPWeights) error {
	weight := func(l *moe.ParallelLinear) *moe.ExpertBank {
		if l == nil {
			return nil
		}
		return l.Weight
	}
	for _, part := range []struct {
		name string
		to   *moe.ExpertBank
		from []float32
	}{
		{"RouterWeight", m.Router.Weight, w.RouterWeight}, {"RouterBias", m.Router.Bias, w.RouterBias},
		{"Up", m.Up.Weight, w.Up}, {"UpBias", m.Up.Bias, w.UpBias},
		{"Down", m.Down.Weight, w.Down}, {"DownBias", m.Down.Bias, w.DownBias},
		{"SharedUp", weight(m.SharedUp), w.SharedUp}, {"SharedDown", weight(m.SharedDown), w.SharedDown},
		{"SharedGate", weight(m.SharedGate), w.SharedGate}, {"OutputBias", m.OutputBias, w.OutputBias},
	} {
		if part.to == nil {
			if len(part.from) > 0 {
				return surplus(part.name, len(part.from))
			}
			continue
		}
		if err := moe.UploadBank(ctx, part.to, part.from); err != nil {
			return fmt.Errorf("model: %s: %w", part.name, err)
		}
	}
	switch {
	case m.CorrectionBias != nil:
		return vk.Upload(ctx, m.CorrectionBias, w.CorrectionBias)
	case len(w.CorrectionBias) > 0:
		return surplus("CorrectionBias", len(w.CorrectionBias))
	}
	return nil
}

// surplus is the error of weights that the configuration does not have.
func surplus(name string, n int) error {
	return &vk.ShapeError{Op: "model.NewMLP", Arg: name, Want: "nil: the configuration has none", Got: fmt.Sprint(n, " values")}
}
