package golden

import (
	"context"
	"errors"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// RunAttention runs the block as one recording: upload, one submission, download.
func (d Device) RunAttention(ctx context.Context, w *model.AttentionWeights, dtype vk.DType, x []float32, offsets []int32) (out []float32, ids []int32, err error) {
	r, err := d.newAttention(ctx, w, dtype, x, offsets)
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
	rec, err := d.NewRecorder()
	if err != nil {
		return nil, nil, err
	}
	defer rec.Close()
	saved, err := r.forward(rec)
	if err != nil {
		return nil, nil, err
	}
	if err := rec.Run(ctx); err != nil {
		return nil, nil, err
	}
	if saved.mixture != nil {
		if ids, err = vk.Download[int32](ctx, saved.mixture.Routing.IDs); err != nil {
			return nil, nil, err
		}
	}
	out, err = vk.Download[float32](ctx, r.y)
	return out, ids, err
}

// An attentionRun is a layer on the device with its input and output [T,D].
type attentionRun struct {
	layer *model.Attention
	rope  *attention.RoPE
	x, y  *vk.Tensor
	seq   attention.Sequences
}

func (r *attentionRun) close() error {
	err := errors.Join(r.x.Close(), r.y.Close(), r.seq.Offsets.Close())
	if r.layer != nil {
		err = errors.Join(err, r.layer.Close())
	}
	return errors.Join(err, r.rope.Close())
}

// newAttention builds a layer in dtype and uploads x [T,D], of sequences with offsets [B+1].
func (d Device) newAttention(ctx context.Context, w *model.AttentionWeights, dtype vk.DType, x []float32, offsets []int32) (r *attentionRun, err error) {
	r = &attentionRun{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	longest := 0
	for b, o := range offsets[1:] {
		longest = max(longest, int(o-offsets[b]))
	}
	if r.rope, err = attention.NewRoPE(ctx, d.Device, w.RoPE, longest); err != nil {
		return nil, err
	}
	if r.layer, err = model.NewAttention(ctx, d.Device, w.WithDType(dtype), r.rope); err != nil {
		return nil, err
	}
	tokens := int(offsets[len(offsets)-1])
	width := w.Width()
	if r.x, err = d.NewTensor(dtype, tokens, width); err != nil {
		return nil, err
	}
	if r.y, err = d.NewTensor(dtype, tokens, width); err != nil {
		return nil, err
	}
	if r.seq.Offsets, err = d.NewTensor(vk.I32, len(offsets)); err != nil {
		return nil, err
	}
	if err = vk.Upload(ctx, r.seq.Offsets, offsets); err != nil {
		return nil, err
	}
	return r, vk.Upload(ctx, r.x, x)
}

// attentionSaved is what a forward pass left; one is set.
type attentionSaved struct {
	self    *attention.SelfAttentionSaved
	mla     *attention.MLASaved
	mixture *attention.MixtureSaved
}

// forward records the layer.
func (r *attentionRun) forward(rec *vk.Recorder) (saved attentionSaved, err error) {
	switch l := r.layer; {
	case l.SelfAttention != nil:
		saved.self, err = l.SelfAttention.Forward(rec, r.x, r.y, r.seq)
	case l.MLA != nil:
		saved.mla, err = l.MLA.Forward(rec, r.x, r.y, r.seq)
	default:
		saved.mixture, err = l.Mixture.Forward(rec, r.x, r.y, r.seq)
	}
	return saved, err
}
