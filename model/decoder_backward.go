package model

import (
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A LossPass says how a decoder computes its loss and gradients.
type LossPass struct {
	// Accumulate adds to the gradients, for batches that share a step; otherwise they are overwritten.
	Accumulate bool
	// GradientScale multiplies the gradients: 1 divided by the number of batches of a step, times a loss scale for 16-bit
	// storage. 0 means 1.
	GradientScale float32
	// Recompute keeps only the residual stream at the start of each layer, and computes a layer once more when its gradients
	// are due: about a third more time for a fraction of the memory.
	Recompute bool
	// Router holds the coefficients of the losses of all routers, which are added to the cross-entropy.
	Router moe.LossConfig
	// NoGrads computes the losses only.
	NoGrads bool
	// ChunkRows is that of HeadLoss.
	ChunkRows int
}

// DecoderLosses are on the device, scratch of the recorder.
type DecoderLosses struct {
	CrossEntropy *vk.Tensor // F32 [1]: the mean over all tokens with a target
	// Router are the losses of all routers with the same numbers of experts and choices, together; nil without coefficients.
	// Loss [0] is multiplied by GradientScale.
	Router []*moe.RouterLosses
}

// Loss records the cross-entropy of targets I32 [T] under the model, with those of its routers, and, unless o.NoGrads, the
// gradient of their sum with respect to every parameter, into the tensors of NewGrads. A target outside the vocabulary is
// ignored. In one recorder, nothing comes back to the host; the recorder may be submitted again.
// Errors: see the package.
func (d *Decoder) Loss(rec *vk.Recorder, in Batch, targets *vk.Tensor, o LossPass) (*DecoderLosses, error) {
	if !o.NoGrads && d.normGrad == nil {
		return nil, rec.Fail(&vk.ShapeError{Op: "Decoder.Loss", Arg: "gradients", Want: "NewGrads before", Got: "none"})
	}
	in, release, err := d.place(rec, in)
	if err != nil {
		return nil, err
	}
	defer release()
	o.GradientScale = orOne(o.GradientScale)
	s := &lossPass{d: d, rec: rec, in: in, targets: targets, LossPass: o, saving: moe.SaveAll}
	if o.NoGrads || o.Recompute {
		s.saving = moe.SaveNothing
	}
	if err := s.forward(); err != nil {
		return nil, err
	}
	losses := &DecoderLosses{CrossEntropy: rec.Scratch(vk.F32, 1)}
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	dh, err := s.head(losses.CrossEntropy)
	if err != nil {
		return nil, err
	}
	if losses.Router, err = s.routers(); err != nil || o.NoGrads {
		return losses, err
	}
	return losses, s.backward(dh)
}

// lossPass is one recording of Decoder.Loss.
type lossPass struct {
	LossPass
	d       *Decoder
	rec     *vk.Recorder
	in      Batch
	targets *vk.Tensor
	saving  moe.Save

	h      *vk.Tensor   // the stream after the last layer
	passes []*layerPass // one per layer
}

// wantsRouters reports whether the routers have losses.
func (s *lossPass) wantsRouters() bool { return s.Router.Balance != 0 || s.Router.Z != 0 }

func (s *lossPass) forward() error {
	h, err := s.d.embed(s.rec, s.in)
	if err != nil {
		return err
	}
	for i := range s.d.layers {
		out, p, err := s.d.forward(s.rec, i, h, s.in.Sequences, s.saving)
		if err == nil {
			err = s.in.routed(s.rec, i, p)
		}
		if err != nil {
			return err
		}
		if s.saving == moe.SaveNothing && !s.wantsRouters() {
			p.release(s.rec)
		} else if s.saving == moe.SaveNothing { // the routers' losses still need their logits and routings
			scratchSet{p.middle, p.mixIn, p.mlpIn}.release(s.rec)
		}
		if s.NoGrads {
			s.rec.Release(h)
		}
		s.passes = append(s.passes, p)
		h = out
	}
	s.h = h
	return nil
}

// head records the cross-entropy and returns the gradient of the stream after the last layer.
func (s *lossPass) head(mean *vk.Tensor) (*vk.Tensor, error) {
	d, rec := s.d, s.rec
	x := d.stream(rec, s.h.Dim(0))
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	defer rec.Release(x)
	if err := attention.RMSNorm(rec, s.h, d.norm, d.Config.Epsilon, x); err != nil {
		return nil, err
	}
	loss := HeadLoss{Scale: d.Config.LogitScale, GradientScale: s.GradientScale, Accumulate: s.Accumulate, ChunkRows: s.ChunkRows}
	if !s.NoGrads {
		grad := d.headGrad
		if d.Config.Tied {
			grad = d.embeddingGrad
		}
		bank, err := bankOf(grad)
		if err != nil {
			return nil, rec.Fail(err)
		}
		loss.Weight = bank
		if loss.X = d.stream(rec, s.h.Dim(0)); rec.Err() != nil {
			return nil, rec.Err()
		}
	}
	losses, err := HeadCrossEntropy(rec, d.head, x, s.targets, mean, loss)
	if err != nil {
		return nil, err
	}
	rec.Release(losses)
	if s.NoGrads {
		rec.Release(s.h)
		return nil, nil
	}
	dh := d.stream(rec, s.h.Dim(0))
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	err = attention.RMSNormBackward(rec, s.h, d.norm, d.Config.Epsilon, loss.X, attention.RMSNormGrads{X: dh, Weight: d.normGrad,
		AccumulateWeight: s.Accumulate})
	rec.Release(loss.X)
	rec.Release(s.h)
	return dh, err
}

// bankOf is a matrix as the bank of one expert.
func bankOf(t *vk.Tensor) (*moe.ExpertBank, error) {
	one, err := t.Reshape(append([]int{1}, t.Shape()...)...)
	if err != nil {
		return nil, err
	}
	return moe.BankOfTensor(one)
}

// routerKind is what routers must share to be judged together.
type routerKind struct {
	experts, k int
	sigmoid    bool
}

// routers records the losses of the routers, if they have any, with the gradients of their logits.
func (s *lossPass) routers() ([]*moe.RouterLosses, error) {
	if !s.wantsRouters() {
		return nil, nil
	}
	kinds, groups := []routerKind{}, map[routerKind][]moe.RoutedLayer{}
	for _, p := range s.passes {
		for _, part := range []struct {
			saved blockSaved
			grad  **vk.Tensor
		}{{p.mixed, &p.mixGrad}, {p.mlped, &p.mlpGrad}} {
			r, logits := part.saved.router()
			if logits == nil {
				continue
			}
			if !s.NoGrads {
				*part.grad = s.rec.Scratch(vk.F32, r.Tokens, r.Experts)
			}
			kind := routerKind{r.Experts, r.K, r.Router.Mode.Sigmoid()}
			if groups[kind] == nil {
				kinds = append(kinds, kind)
			}
			groups[kind] = append(groups[kind], moe.RoutedLayer{Routing: r, Logits: logits, DLogits: *part.grad})
		}
	}
	if s.rec.Err() != nil {
		return nil, s.rec.Err()
	}
	cfg := s.Router
	cfg.Balance *= s.GradientScale
	cfg.Z *= s.GradientScale
	var list []*moe.RouterLosses
	for _, kind := range kinds {
		losses, err := moe.Losses(s.rec, groups[kind], cfg, false)
		if err != nil {
			return nil, err
		}
		list = append(list, losses)
	}
	if s.Recompute || s.NoGrads {
		for _, p := range s.passes {
			p.mixed.release(s.rec)
			p.mlped.release(s.rec)
		}
	}
	return list, nil
}

// backward records the gradients of all layers, from the last, and of the embedding. dh is the gradient of the stream, which
// every block adds to in place.
func (s *lossPass) backward(dh *vk.Tensor) error {
	d, rec := s.d, s.rec
	for i := len(d.layers) - 1; i >= 0; i-- {
		p := s.passes[i]
		if s.Recompute {
			out, again, err := d.forward(rec, i, p.h, s.in.Sequences, moe.SaveAll)
			if err != nil {
				return err
			}
			rec.Release(out)
			again.mixGrad, again.mlpGrad = p.mixGrad, p.mlpGrad
			p = again
		}
		if err := s.layer(i, p, dh); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		p.release(rec)
		scratchSet{p.h, p.mixGrad, p.mlpGrad}.release(rec)
	}
	defer rec.Release(dh)
	return EmbedBackward(rec, s.in.IDs, dh, d.embeddingGrad, orOne(d.Config.EmbeddingScale), s.Accumulate || d.Config.Tied)
}

// layer records the gradients of one layer.
func (s *lossPass) layer(i int, p *layerPass, dh *vk.Tensor) error {
	d, rec, l := s.d, s.rec, s.d.layers[i]
	dx, dy := d.stream(rec, dh.Dim(0)), dh
	scale := orOne(d.Config.ResidualScale)
	if scale != 1 {
		dy = d.stream(rec, dh.Dim(0))
		defer rec.Release(dy)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	defer rec.Release(dx)
	for _, part := range []struct {
		block          block
		saved          blockSaved
		h, in, dLogits *vk.Tensor
		norm, grad     *vk.Tensor
	}{
		{l.mlp, p.mlped, p.middle, p.mlpIn, p.mlpGrad, l.mlpNorm, l.mlpNormGrad},
		{l.mix, p.mixed, p.h, p.mixIn, p.mixGrad, l.mixNorm, l.mixNormGrad},
	} {
		if scale != 1 {
			if err := ScaledAdd(rec, dh, nil, dy, scale, 0); err != nil {
				return err
			}
		}
		if err := part.block.backward(rec, part.saved, part.in, dy, dx, part.dLogits, s.Accumulate); err != nil {
			return err
		}
		err := attention.RMSNormBackward(rec, part.h, part.norm, d.Config.Epsilon, dx, attention.RMSNormGrads{X: dh,
			Weight: part.grad, AccumulateX: true, AccumulateWeight: s.Accumulate})
		if err != nil {
			return err
		}
	}
	return rec.Err()
}
