package attention

import (
	"errors"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// SelfAttentionGrads says where a backward pass leaves the gradients of a SelfAttention; what is nil is not computed. They are
// overwritten, or added to where Accumulate says so.
type SelfAttentionGrads struct {
	X                         *vk.Tensor // [T,D]; it may be the forward's y, or dy
	Query, Key, Value, Output moe.WeightGrads
	QueryNorm, KeyNorm        *vk.Tensor // of the layer's dtype or F32
	Sinks                     *vk.Tensor // F32 [Hq]

	AccumulateX, AccumulateWeights bool // AccumulateWeights is also that of biases, norms and sinks
}

// NewGrads allocates the gradients of all weights, biases, norms and sinks, as many bytes as they take themselves, in their
// dtypes. The caller closes them with Close. It fails with vk.ErrOutOfMemory.
func (l *SelfAttention) NewGrads() (*SelfAttentionGrads, error) {
	g := &SelfAttentionGrads{}
	if err := newGrads(l.Query.Weight.Device(), l.gradParts(g), l.gradVectors(g)); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Close frees the gradients; X stays. Closing twice does nothing.
func (g *SelfAttentionGrads) Close() error {
	return closeGrads([]moe.WeightGrads{g.Query, g.Key, g.Value, g.Output}, g.QueryNorm, g.KeyNorm, g.Sinks)
}

func (l *SelfAttention) gradParts(g *SelfAttentionGrads) []gradPart {
	return []gradPart{{"Query", l.Query, &g.Query}, {"Key", l.Key, &g.Key}, {"Value", l.Value, &g.Value},
		{"Output", l.Output, &g.Output}}
}

func (l *SelfAttention) gradVectors(g *SelfAttentionGrads) []gradVector {
	return []gradVector{{"QueryNorm", l.QueryNorm, &g.QueryNorm}, {"KeyNorm", l.KeyNorm, &g.KeyNorm}, {"Sinks", l.Sinks, &g.Sinks}}
}

// beyondOutput reports whether anything is asked for that lies behind the attention.
func (g SelfAttentionGrads) beyondOutput() bool {
	none := moe.WeightGrads{}
	return g.X != nil || g.Query != none || g.Key != none || g.Value != none || g.QueryNorm != nil || g.KeyNorm != nil || g.Sinks != nil
}

// Backward records the gradients of the forward pass that left saved, at the same x [T,D], from dy [T,D], the gradient of its
// y; both of the layer's dtype. It takes PassBytes of scratch. Recorded with its forward pass in one recorder, it can be
// submitted again and again. Errors: see the package.
func (l *SelfAttention) Backward(rec *vk.Recorder, s *SelfAttentionSaved, x, dy *vk.Tensor, g SelfAttentionGrads) error {
	const op = "SelfAttention.Backward"
	if err := l.checkBackward(rec.Device(), op, s, x, dy, g); err != nil {
		return rec.Fail(err)
	}
	output := linearGrad{l.Output, dy, g.Output}
	if !g.beyondOutput() {
		return linearsBackward(rec, s.Heads, nil, false, g.AccumulateWeights, output)
	}
	p := selfStages{s.Projected, s.Turned, s.Value}
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
	return l.headsBackward(rec, s, x, dHeads, p, g)
}

// headsBackward records the gradients of queries, keys and values, and all that lies before these.
func (l *SelfAttention) headsBackward(rec *vk.Recorder, s *SelfAttentionSaved, x, dHeads *vk.Tensor, p selfStages,
	g SelfAttentionGrads) error {
	c, tokens := l.Config, x.Dim(0)
	var d [3]*vk.Tensor
	for i, width := range [3]int{c.queryWidth(), c.keyWidth(), c.keyWidth()} {
		var whole *vk.Tensor
		d[i], whole = clearable(rec, c.DType, tokens, width)
		defer rec.Release(whole)
		if s.Sequences.Padded && rec.Err() == nil {
			rec.Fill(whole, 0)
		}
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	err := FlashBackward(rec, c.flash(), l.flashInput(s.Sequences, p), l.queryHeads(s.Heads), s.LSE, l.queryHeads(dHeads), FlashGrads{
		Q: l.queryHeads(d[0]), K: l.keyHeads(d[1]), V: l.keyHeads(d[2]), Sinks: g.Sinks, AccumulateSinks: g.AccumulateWeights})
	norms, sides := [2]*vk.Tensor{g.QueryNorm, g.KeyNorm}, l.sides()
	for i, side := range sides {
		if err == nil && l.RoPE != nil {
			h := DenseHeads(d[i], side.heads, c.HeadWidth)
			err = l.RoPE.RotateBackward(rec, s.Sequences.Positions, side.heads, c.HeadWidth, h, h)
		}
	}
	for i, side := range sides {
		if err == nil && side.norm != nil {
			grads := RMSNormGrads{X: d[i], Weight: norms[i], AccumulateWeight: g.AccumulateWeights}
			err = RMSNormBackward(rec, p.projected[i], side.norm, c.Eps, d[i], grads)
		}
	}
	if err != nil {
		return err
	}
	return linearsBackward(rec, x, g.X, g.AccumulateX, g.AccumulateWeights,
		linearGrad{l.Query, d[0], g.Query}, linearGrad{l.Key, d[1], g.Key}, linearGrad{l.Value, d[2], g.Value})
}

// checkBackward checks what the operations of a backward pass do not check themselves.
func (l *SelfAttention) checkBackward(dev *vk.Device, op string, s *SelfAttentionSaved, x, dy *vk.Tensor, g SelfAttentionGrads) error {
	if s == nil {
		return errNotSaved(op)
	}
	if err := checkBackward(dev, op, l, l.Config.flash(), s.Save, s.Heads, s.LSE, x, dy, s.Sequences); err != nil {
		return err
	}
	inputs := inputSpans(x, s.Sequences, l.parts(), l.vectors())
	for arg, t := range map[string]*vk.Tensor{"saved.Heads": s.Heads, "saved.LSE": s.LSE, "saved.Value": s.Value,
		"saved.Turned queries": s.Turned[0], "saved.Turned keys": s.Turned[1], "saved.Projected queries": s.Projected[0],
		"saved.Projected keys": s.Projected[1]} {
		inputs = append(inputs, tensorSpan(arg, t))
	}
	return checkGrads(dev, op, gradArgs{x: x, dy: dy, dx: g.X, inputs: inputs, parts: l.gradParts(&g), vectors: l.gradVectors(&g)})
}
