package train

import (
	"context"
	"errors"

	"github.com/vkmoe/vkmoe/vk"
)

// A Model is what a Trainer trains.
type Model interface {
	Forward(rec *vk.Recorder, x, y *vk.Tensor) (Pass, error) // records y = model(x)
	Params() []Param
}

// A Pass is one recorded forward pass.
type Pass interface {
	// Backward records the gradients of the params, and dx unless it is nil, from the gradient dy of y. All are overwritten.
	Backward(rec *vk.Recorder, dy, dx *vk.Tensor) error
	// Choice is the I32 tensor of the experts that were chosen.
	Choice() *vk.Tensor
}

// A Trainer fits a model to targets: all of them at once, by Adam on the squared error.
type Trainer struct {
	Model     Model
	Adam      *Adam
	X, Target *vk.Tensor // F32 [T,…]
	Y, DY     *vk.Tensor // in Target's shape: the model's output and its gradient
	Loss      *vk.Tensor // F32 [1]

	dev *vk.Device
}

// NewTrainer uploads inputs and targets of tokens rows. Whoever makes it closes it; the model stays the caller's.
func NewTrainer(ctx context.Context, dev *vk.Device, m Model, cfg AdamConfig, tokens int, x, target []float32) (*Trainer, error) {
	t := &Trainer{Model: m, dev: dev}
	fail := func(err error) (*Trainer, error) { return nil, errors.Join(err, t.Close()) }
	for _, n := range []struct {
		tensor **vk.Tensor
		shape  []int
	}{
		{&t.X, []int{tokens, len(x) / tokens}}, {&t.Target, []int{tokens, len(target) / tokens}},
		{&t.Y, []int{tokens, len(target) / tokens}}, {&t.DY, []int{tokens, len(target) / tokens}}, {&t.Loss, []int{1}},
	} {
		var err error
		if *n.tensor, err = dev.NewTensor(vk.F32, n.shape...); err != nil {
			return fail(err)
		}
	}
	var err error
	if t.Adam, err = NewAdam(ctx, dev, cfg, m.Params()); err != nil {
		return fail(err)
	}
	if err := errors.Join(vk.Upload(ctx, t.X, x), vk.Upload(ctx, t.Target, target)); err != nil {
		return fail(err)
	}
	return t, nil
}

// Record records router, forward, loss and backward, and the update where it is asked for. dx may be nil.
func (t *Trainer) Record(rec *vk.Recorder, dx *vk.Tensor, update bool) (Pass, error) {
	pass, err := t.Model.Forward(rec, t.X, t.Y)
	if err != nil {
		return nil, err
	}
	if err := SquaredError(rec, t.Y, t.Target, t.DY, t.Loss); err != nil {
		return nil, err
	}
	if err := pass.Backward(rec, t.DY, dx); err != nil {
		return nil, err
	}
	if update {
		err = t.Adam.Step(rec)
	}
	return pass, err
}

// Train records one step, submits it as often as asked, and calls report with the loss before each update: one number a
// step is all that is read back.
func (t *Trainer) Train(ctx context.Context, steps int, report func(i int, loss float32)) (err error) {
	rec, err := t.dev.NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	if _, err := t.Record(rec, nil, true); err != nil {
		return err
	}
	for i := range steps {
		if err := rec.Run(ctx); err != nil {
			return err
		}
		loss, err := vk.Download[float32](ctx, t.Loss)
		if err != nil {
			return err
		}
		report(i, loss[0])
	}
	return nil
}

// Close frees what NewTrainer allocated.
func (t *Trainer) Close() error {
	err := errors.Join(t.X.Close(), t.Target.Close(), t.Y.Close(), t.DY.Close(), t.Loss.Close())
	if t.Adam != nil {
		err = errors.Join(err, t.Adam.Close())
	}
	return err
}
