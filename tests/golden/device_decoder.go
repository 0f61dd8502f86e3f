package golden

import (
	"context"
	"errors"
	"strings"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// RunDecoder loads the whole model in f32 and runs it as one recording: logits and loss, or loss and gradients.
func (d Device) RunDecoder(ctx context.Context, c *model.Checkpoint, ids, offsets []int32, grads bool) (run *DecoderRun, err error) {
	decoder, err := model.LoadDecoder(ctx, d.Device, c, vk.F32, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, decoder.Close()) }()
	var tensors []*vk.Tensor
	defer func() {
		for _, t := range tensors {
			err = errors.Join(err, t.Close())
		}
	}()
	upload := func(data []int32) *vk.Tensor {
		if err != nil {
			return nil
		}
		var t *vk.Tensor
		if t, err = d.NewTensor(vk.I32, len(data)); err == nil {
			tensors = append(tensors, t)
			err = vk.Upload(ctx, t, data)
		}
		return t
	}
	in := model.Batch{IDs: upload(ids), Sequences: attention.Sequences{Offsets: upload(offsets)}}
	targets := upload(Targets(ids, offsets))
	if err != nil {
		return nil, err
	}
	rec, err := d.NewRecorder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	if grads {
		if err := decoder.NewGrads(vk.F32); err != nil {
			return nil, err
		}
	}
	losses, err := decoder.Loss(rec, in, targets, model.LossPass{NoGrads: !grads})
	if err != nil {
		return nil, err
	}
	logits, err := decoder.Logits(rec, in)
	if err != nil {
		return nil, err
	}
	if err := rec.Run(ctx); err != nil {
		return nil, err
	}
	run = &DecoderRun{}
	if run.Logits, err = vk.Download[float32](ctx, logits); err != nil {
		return nil, err
	}
	loss, err := vk.Download[float32](ctx, losses.CrossEntropy)
	if err != nil {
		return nil, err
	}
	run.Loss = loss[0]
	if grads {
		err = run.download(ctx, decoder)
	}
	return run, err
}

// download reads the gradients.
func (r *DecoderRun) download(ctx context.Context, d *model.Decoder) error {
	r.Grads, r.Fused = map[string][]float32{}, map[string][]float32{}
	for _, t := range d.Tensors() {
		for _, g := range t.Grads {
			values, err := vk.Download[float32](ctx, g)
			if err != nil {
				return err
			}
			r.Grads[t.Name] = append(r.Grads[t.Name], values...)
		}
	}
	for _, p := range d.Parameters() {
		values, err := vk.Download[float32](ctx, p.Grad)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(p.Name, "#")
		r.Fused[name] = append(r.Fused[name], values...)
	}
	return nil
}
