package attention

import (
	"errors"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MLAGrads says where a backward pass leaves the gradients of an MLA; what is nil is not computed. They are overwritten, or
// added to where Accumulate says so.
type MLAGrads struct {
	X                                        *vk.Tensor // [T,D]; it may be the forward's y, or dy
	QueryDown, QueryUp, KVDown, KVUp, Output moe.WeightGrads
	QueryNorm, KVNorm                        *vk.Tensor // of the layer's dtype or F32

	AccumulateX, AccumulateWeights bool // AccumulateWeights is also that of biases and norms
}

// NewGrads allocates the gradients of all weights, biases and norms, as many bytes as they take themselves, in the layer's
// dtype. The caller closes them with Close. It fails with vk.ErrOutOfMemory.
func (l *MLA) NewGrads() (*MLAGrads, error) {
	g := &MLAGrads{}
	if err := newGrads(l.QueryUp.Weight.Device(), l.gradParts(g), l.gradVectors(g)); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Close frees the gradients; X stays. Closing twice does nothing.
func (g *MLAGrads) Close() error {
	return closeGrads([]moe.WeightGrads{g.QueryDown, g.QueryUp, g.KVDown, g.KVUp, g.Output}, g.QueryNorm, g.KVNorm)
}

func (l *MLA) gradParts(g *MLAGrads) []gradPart {
	return []gradPart{{"QueryDown", l.QueryDown, &g.QueryDown}, {"QueryUp", l.QueryUp, &g.QueryUp}, {"KVDown", l.KVDown, &g.KVDown},
		{"KVUp", l.KVUp, &g.KVUp}, {"Output", l.Output, &g.Output}}
}

func (l *MLA) gradVectors(g *MLAGrads) []gradVector {
	return []gradVector{{"QueryNorm", l.QueryNorm, &g.QueryNorm}, {"KVNorm", l.KVNorm, &g.KVNorm}}
}

// beyondOutput reports whether anything is asked for that lies behind the attention.
func (g MLAGrads) beyondOutput() bool {
	none := moe.WeightGrads{}
	return g.X != nil || g.QueryDown != none || g.QueryUp != none || g.KVDown != none || g.KVUp != none || g.QueryNorm != nil || g.KVNorm != nil
}

// Backward records the gradients of the forward pass that left saved, at the same x [T,D], from dy [T,D], the gradient of its
// y; both of the layer's dtype. It takes PassBytes of scratch. Recorded with its forward pass in one recorder, it can be
// submitted again and again. Errors: see the package.
func (l *MLA) Backward(rec *vk.Recorder, s *MLASaved, x, dy *vk.Tensor, g MLAGrads) error {
	const op = "MLA.Backward"
	if err := l.checkBackward(rec.Device(), op, s, x, dy, g); err != nil {
		return rec.Fail(err)
	}
	output := linearGrad{l.Output, dy, g.Output}
	if !g.beyondOutput() {
		return linearsBackward(rec, s.Heads, nil, false, g.AccumulateWeights, output)
	}
	p := s.MLAStages
	if s.Save != moe.SaveAll {
		p = l.takeStages(rec, x.Dim(0), true)
		defer p.release(rec)
		if err := l.project(rec, x, s.Sequences, p); err != nil {
			return err
		}
	}
	dHeads := rec.Scratch(l.Config.DType, s.Heads.Shape()...)
	defer rec.Release(dHeads)
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := linearsBackward(rec, s.Heads, dHeads, false, g.AccumulateWeights, output); err != nil {
		return err
	}
	d, err := l.headsBackward(rec, s, dHeads, p)
	defer d.release(rec)
	if err == nil {
		err = l.keysBackward(rec, s, x, p, d, g)
	}
	if err != nil {
		return err
	}
	return l.queriesBackward(rec, s, x, p, d.query, g)
}

// mlaGrads are the gradients of queries and keys [T,H·(N + R)] and of what KVUp makes.
type mlaGrads struct {
	query, key, up *vk.Tensor
	whole          []*vk.Tensor
}

func (d mlaGrads) release(rec *vk.Recorder) {
	for _, t := range d.whole {
		rec.Release(t)
	}
}

// headsBackward records attention's gradients; up gets those of the values only.
func (l *MLA) headsBackward(rec *vk.Recorder, s *MLASaved, dHeads *vk.Tensor, p MLAStages) (mlaGrads, error) {
	c, tokens := l.Config, dHeads.Dim(0)
	var d mlaGrads
	take := func(width int) *vk.Tensor {
		t, whole := clearable(rec, c.DType, tokens, width)
		d.whole = append(d.whole, whole)
		if s.Sequences.Padded && rec.Err() == nil {
			rec.Fill(whole, 0)
		}
		return t
	}
	d.query, d.key, d.up = take(c.Heads*c.headWidth()), take(c.Heads*c.headWidth()), take(c.Heads*c.upWidth())
	if rec.Err() != nil {
		return d, rec.Err()
	}
	return d, FlashBackward(rec, c.flash(l.RoPE), l.flashInput(s.Sequences, p), l.outputHeads(s.Heads), s.LSE, l.outputHeads(dHeads),
		FlashGrads{Q: l.queryHeads(d.query), K: l.queryHeads(d.key), V: l.valueHeads(d.up)})
}

// keysBackward records the gradients of KVUp, its norm and KVDown, and theirs of grads.X.
func (l *MLA) keysBackward(rec *vk.Recorder, s *MLASaved, x *vk.Tensor, p MLAStages, d mlaGrads, g MLAGrads) error {
	c, tokens := l.Config, x.Dim(0)
	down, latent := rec.Scratch(c.DType, tokens, c.KVRank+c.TurnedWidth), rec.Scratch(c.DType, tokens, c.KVRank)
	defer rec.Release(down)
	defer rec.Release(latent)
	if rec.Err() != nil {
		return rec.Err()
	}
	// All heads turn by the same angle, so that their sum may be turned back instead of each.
	shared := l.shared(down)
	err := sumHeads(rec, tokens, c.Heads, c.TurnedWidth, l.turned(d.key), shared)
	if err == nil {
		err = l.RoPE.RotateBackward(rec, s.Sequences.Positions, 1, c.TurnedWidth, shared, shared)
	}
	if err == nil {
		err = copyHeads(rec, tokens, c.Heads, c.PlainWidth, l.queryHeads(d.key), l.plainHeads(d.up))
	}
	if err == nil {
		err = linearsBackward(rec, p.Latent, latent, false, g.AccumulateWeights, linearGrad{l.KVUp, d.up, g.KVUp})
	}
	if err == nil {
		err = RMSNormHeadsBackward(rec, tokens, 1, l.latent(p.Down), l.KVNorm, c.Eps, DenseHeads(latent, 1, c.KVRank),
			RMSNormHeadsGrads{X: l.latent(down), Weight: g.KVNorm, AccumulateWeight: g.AccumulateWeights})
	}
	if err != nil {
		return err
	}
	return linearsBackward(rec, x, g.X, g.AccumulateX, g.AccumulateWeights, linearGrad{l.KVDown, down, g.KVDown})
}

// queriesBackward records the gradients of QueryUp, its norm and QueryDown, and adds theirs to grads.X.
func (l *MLA) queriesBackward(rec *vk.Recorder, s *MLASaved, x *vk.Tensor, p MLAStages, dQuery *vk.Tensor, g MLAGrads) error {
	c := l.Config
	turned := l.turned(dQuery)
	if err := l.RoPE.RotateBackward(rec, s.Sequences.Positions, c.Heads, c.TurnedWidth, turned, turned); err != nil {
		return err
	}
	if c.QueryRank == 0 {
		return linearsBackward(rec, x, g.X, true, g.AccumulateWeights, linearGrad{l.QueryUp, dQuery, g.QueryUp})
	}
	latent := rec.Scratch(c.DType, x.Dim(0), c.QueryRank)
	defer rec.Release(latent)
	if rec.Err() != nil {
		return rec.Err()
	}
	err := linearsBackward(rec, p.QueryNormed, latent, false, g.AccumulateWeights, linearGrad{l.QueryUp, dQuery, g.QueryUp})
	if err == nil {
		err = RMSNormBackward(rec, p.QueryLatent, l.QueryNorm, c.Eps, latent,
			RMSNormGrads{X: latent, Weight: g.QueryNorm, AccumulateWeight: g.AccumulateWeights})
	}
	if err != nil {
		return err
	}
	return linearsBackward(rec, x, g.X, true, g.AccumulateWeights, linearGrad{l.QueryDown, latent, g.QueryDown})
}

// checkBackward checks what the operations of a backward pass do not check themselves.
func (l *MLA) checkBackward(dev *vk.Device, op string, s *MLASaved, x, dy *vk.Tensor, g MLAGrads) error {
	if s == nil {
		return errNotSaved(op)
	}
	if err := checkBackward(dev, op, l, l.Config.flash(l.RoPE), s.Save, s.Heads, s.LSE, x, dy, s.Sequences); err != nil {
		return err
	}
	inputs := inputSpans(x, s.Sequences, l.parts(), l.vectors())
	for arg, t := range map[string]*vk.Tensor{"saved.Heads": s.Heads, "saved.LSE": s.LSE, "saved.QueryLatent": s.QueryLatent,
		"saved.QueryNormed": s.QueryNormed, "saved.Query": s.Query, "saved.Down": s.Down, "saved.Latent": s.Latent, "saved.Up": s.Up,
		"saved.Key": s.Key} {
		inputs = append(inputs, tensorSpan(arg, t))
	}
	return checkGrads(dev, op, gradArgs{x: x, dy: dy, dx: g.X, inputs: inputs, parts: l.gradParts(&g), vectors: l.gradVectors(&g)})
}
