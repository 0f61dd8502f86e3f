package model

import (
	"context"
	"errors"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// NewMLP builds the layer on a device and uploads its weights. The caller closes it. It fails with a *moe.ConfigError
// where the sizes exceed what the library runs, and with vk.ErrOutOfMemory.
func NewMLP(ctx context.Context, dev *vk.Device, w *MLPWeights) (*moe.MLP, error) {
	m, err := moe.NewMLP(dev, w.Config)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		to   *moe.ExpertBank
		from []float32
	}{{m.Router.Weight, w.RouterWeight}, {m.Up.Weight, w.Up}, {m.Down.Weight, w.Down}} {
		if err := moe.UploadBank(ctx, part.to, part.from); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}
