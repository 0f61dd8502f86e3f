package model

import (
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Batch is what a decoder reads: the tokens of all sequences, one behind the other.
type Batch struct {
	IDs       *vk.Tensor // I32 [T]; an id outside the vocabulary is embedded as zeros
	Sequences attention.Sequences

	// Routed is called for every router, layer by layer, once its choice is recorded and while its routing is still there: what
	// it records, such as copies of the experts' ids, becomes part of the pass. Its error ends the recording. nil for none.
	Routed func(layer int, block Block, r *moe.Routing) error
}

// A Block is one of the two parts of a layer.
type Block uint8

// The blocks.
const (
	AttentionBlock Block = iota
	MLPBlock
)

func (b Block) String() string {
	if b == AttentionBlock {
		return "attention"
	}
	return "MLP"
}

// routed tells the caller of the routings of a layer.
func (in *Batch) routed(rec *vk.Recorder, layer int, p *layerPass) error {
	if in.Routed == nil {
		return nil
	}
	for block, saved := range []blockSaved{AttentionBlock: p.mixed, MLPBlock: p.mlped} {
		if r, _ := saved.router(); r != nil {
			if err := in.Routed(layer, Block(block), r); err != nil {
				return rec.Fail(err)
			}
		}
	}
	return rec.Err()
}

// place fills in the positions, which all layers share, where a layer needs them and the caller gave none. release gives them
// back.
func (d *Decoder) place(rec *vk.Recorder, in Batch) (placed Batch, release func(), err error) {
	if in.Sequences.Positions != nil || len(d.ropes) == 0 {
		return in, func() {}, nil
	}
	if err := check.Rank("Decoder", "IDs", in.IDs, 1); err != nil {
		return in, nil, rec.Fail(err)
	}
	in.Sequences.Positions, err = d.ropes[0].MakePositions(rec, in.IDs.Dim(0), in.Sequences.Offsets, nil)
	return in, func() { rec.Release(in.Sequences.Positions) }, err
}

// layerPass is what a layer's forward pass leaves.
type layerPass struct {
	h            *vk.Tensor // [T,D] the residual stream before the layer
	middle       *vk.Tensor // and between attention and MLP
	mixIn, mlpIn *vk.Tensor // [T,D] both normalized
	mixed, mlped blockSaved

	mixGrad, mlpGrad *vk.Tensor // F32 [T,E]: of the routers' logits by the routers' losses, nil without
}

func (p *layerPass) release(rec *vk.Recorder) {
	scratchSet{p.middle, p.mixIn, p.mlpIn}.release(rec)
	for _, s := range []blockSaved{p.mixed, p.mlped} {
		if s != nil {
			s.release(rec)
		}
	}
}

// stream makes a [T,D] matrix.
func (d *Decoder) stream(rec *vk.Recorder, tokens int) *vk.Tensor {
	return rec.Scratch(d.Config.DType, tokens, d.Config.Width)
}

// embed records the residual stream before the first layer.
func (d *Decoder) embed(rec *vk.Recorder, in Batch) (*vk.Tensor, error) {
	if err := check.Rank("Decoder", "IDs", in.IDs, 1); err != nil {
		return nil, rec.Fail(err)
	}
	if n := in.IDs.Dim(0); n >= 1<<31/d.Config.Width {
		return nil, rec.Fail(&vk.ShapeError{Op: "Decoder", Arg: "IDs", Want: "T·D below 2^31", Got: fmt.Sprint(n)})
	}
	h := d.stream(rec, in.IDs.Dim(0))
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	return h, Embed(rec, d.embedding, in.IDs, h, orOne(d.Config.EmbeddingScale))
}

// forward records layer i from the stream h, which stays, and returns the stream after it.
func (d *Decoder) forward(rec *vk.Recorder, i int, h *vk.Tensor, seq attention.Sequences, save moe.Save) (*vk.Tensor, *layerPass, error) {
	l, tokens := d.layers[i], h.Dim(0)
	p := &layerPass{h: h, middle: d.stream(rec, tokens), mixIn: d.stream(rec, tokens), mlpIn: d.stream(rec, tokens)}
	out := d.stream(rec, tokens)
	if rec.Err() != nil {
		return nil, nil, rec.Err()
	}
	residual := func(h, norm, in, sum *vk.Tensor, b block) (blockSaved, error) {
		if err := attention.RMSNorm(rec, h, norm, d.Config.Epsilon, in); err != nil {
			return nil, err
		}
		added := d.stream(rec, tokens)
		if rec.Err() != nil {
			return nil, rec.Err()
		}
		defer rec.Release(added)
		saved, err := b.forward(rec, in, added, seq, save)
		if err != nil {
			return nil, err
		}
		return saved, ScaledAdd(rec, h, added, sum, 1, orOne(d.Config.ResidualScale))
	}
	var err error
	if p.mixed, err = residual(h, l.mixNorm, p.mixIn, p.middle, l.mix); err != nil {
		return nil, nil, fmt.Errorf("layer %d: attention: %w", i, err)
	}
	if p.mlped, err = residual(p.middle, l.mlpNorm, p.mlpIn, out, l.mlp); err != nil {
		return nil, nil, fmt.Errorf("layer %d: MLP: %w", i, err)
	}
	return out, p, nil
}

// Logits records the whole model on a batch of T tokens and returns its logits, F32 [T,V], scratch of rec.
// Errors: see the package.
func (d *Decoder) Logits(rec *vk.Recorder, in Batch) (*vk.Tensor, error) {
	in, release, err := d.place(rec, in)
	if err != nil {
		return nil, err
	}
	defer release()
	h, err := d.embed(rec, in)
	if err != nil {
		return nil, err
	}
	for i := range d.layers {
		out, p, err := d.forward(rec, i, h, in.Sequences, moe.SaveNothing)
		if err == nil {
			err = in.routed(rec, i, p)
		}
		if err != nil {
			return nil, err
		}
		p.release(rec)
		rec.Release(h)
		h = out
	}
	return d.headLogits(rec, h)
}

// headLogits records logits F32 [rows,V] of the stream h [rows,D], which it releases.
func (d *Decoder) headLogits(rec *vk.Recorder, h *vk.Tensor) (*vk.Tensor, error) {
	rows := h.Dim(0)
	x, logits := d.stream(rec, rows), rec.Scratch(vk.F32, rows, d.Config.Vocabulary)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	defer rec.Release(x)
	if err := attention.RMSNorm(rec, h, d.norm, d.Config.Epsilon, x); err != nil {
		return nil, err
	}
	rec.Release(h)
	if err := d.head.Dense(rec, x, logits); err != nil {
		return nil, err
	}
	if scale := orOne(d.Config.LogitScale); scale != 1 {
		return logits, ScaledAdd(rec, logits, nil, logits, scale, 0)
	}
	return logits, nil
}
