package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// SelfAttentionOptions are the choices of one forward pass.
type SelfAttentionOptions struct {
	// Save says what stays for the backward pass: all of SelfAttentionSaved (SaveAll), Heads and LSE only, the rest of which
	// the backward pass computes once more (RecomputeActivation), or nothing (SaveNothing).
	Save moe.Save
}

// SelfAttentionSaved is what a forward pass leaves in the recorder's scratch for the backward pass. What its Save does not keep
// is nil.
type SelfAttentionSaved struct {
	Save      moe.Save
	Sequences Sequences // with the positions that were made

	Projected, Turned [2]*vk.Tensor // queries [T,Hq·d] and keys [T,Hkv·d] before the norm, nil without one, and as attention reads them
	Value             *vk.Tensor    // [T,Hkv·d]
	Heads             *vk.Tensor    // [T,Hq·d]: the attention's output
	LSE               *vk.Tensor    // F32 [T,Hq]: the logarithm of the softmax's denominators
}

// Forward records y = SelfAttention(x) for x and y [T,D] of the layer's dtype, with everything saved. It takes PassBytes of
// scratch. Errors: see the package.
func (l *SelfAttention) Forward(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) (*SelfAttentionSaved, error) {
	return l.ForwardWith(rec, x, y, seq, SelfAttentionOptions{})
}

// ForwardWith is Forward with options.
func (l *SelfAttention) ForwardWith(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences, o SelfAttentionOptions) (*SelfAttentionSaved, error) {
	tokens, err := checkForward(rec.Device(), "SelfAttention.Forward", l, x, y, seq)
	err = check.First(err, check.InRange("SelfAttentionOptions", "Save", int(o.Save), 0, int(moe.SaveNothing)))
	if err != nil {
		return nil, rec.Fail(err)
	}
	s := &SelfAttentionSaved{Save: o.Save, Sequences: seq}
	var p selfStages
	heads, lse, err := attend(rec, l.Config.flash(), l.RoPE, tokens, &s.Sequences, o.Save, func() (FlashInput, error) {
		p = l.takeStages(rec, tokens, o.Save == moe.SaveAll)
		if err := l.project(rec, x, s.Sequences, p); err != nil {
			return FlashInput{}, err
		}
		return l.flashInput(seq, p), nil
	})
	if err != nil {
		return nil, err
	}
	if o.Save == moe.SaveAll {
		s.Projected, s.Turned, s.Value = p.projected, p.turned, p.value
	} else {
		p.release(rec)
	}
	if o.Save != moe.SaveNothing {
		s.Heads, s.LSE = heads, lse
	} else {
		defer rec.Release(heads)
	}
	return s, l.Output.Dense(rec, heads, y)
}

func (l *SelfAttention) flashInput(seq Sequences, p selfStages) FlashInput {
	return FlashInput{Q: l.queryHeads(p.turned[0]), K: l.keyHeads(p.turned[1]), V: l.keyHeads(p.value), QueryOffsets: seq.Offsets,
		Sinks: l.Sinks}
}

func (l *SelfAttention) queryHeads(t *vk.Tensor) Heads {
	return DenseHeads(t, l.Config.Heads, l.Config.HeadWidth)
}

func (l *SelfAttention) keyHeads(t *vk.Tensor) Heads {
	return DenseHeads(t, l.Config.KVHeads, l.Config.HeadWidth)
}

// selfStages are queries and keys before and after norm and RoPE, and values.
type selfStages struct {
	projected, turned [2]*vk.Tensor // the same tensors where the norm, if any, is in place
	value             *vk.Tensor
}

// takeStages takes memory for what a backward pass needs, or only for what attention does.
func (l *SelfAttention) takeStages(rec *vk.Recorder, tokens int, all bool) selfStages {
	c := l.Config
	widths := [2]int{c.queryWidth(), c.keyWidth()}
	p := selfStages{value: rec.Scratch(c.DType, tokens, c.keyWidth())}
	for i, width := range widths {
		p.turned[i] = rec.Scratch(c.DType, tokens, width)
	}
	p.projected = p.turned
	for i, width := range widths { // last, so that a backward pass finds what the forward pass gave back
		if all && c.QKNorm != NoNorm {
			p.projected[i] = rec.Scratch(c.DType, tokens, width)
		}
	}
	return p
}

func (p selfStages) release(rec *vk.Recorder) {
	for i := range p.turned {
		if p.projected[i] != p.turned[i] {
			rec.Release(p.projected[i])
		}
		rec.Release(p.turned[i])
	}
	rec.Release(p.value)
}

// project records queries, keys and values of x. It goes step by step, not side by side: what does not depend on each other may run
// at once between two barriers.
func (l *SelfAttention) project(rec *vk.Recorder, x *vk.Tensor, seq Sequences, p selfStages) error {
	if rec.Err() != nil {
		return rec.Err()
	}
	c, sides := l.Config, l.sides()
	err := l.Value.Dense(rec, x, p.value)
	for i, side := range sides {
		if err == nil {
			err = side.linear.Dense(rec, x, p.projected[i])
		}
	}
	for i, side := range sides {
		if err == nil && side.norm != nil {
			err = RMSNorm(rec, p.projected[i], side.norm, c.Eps, p.turned[i])
		}
	}
	for i, side := range sides {
		if err == nil && l.RoPE != nil {
			h := DenseHeads(p.turned[i], side.heads, c.HeadWidth)
			err = l.RoPE.Rotate(rec, seq.Positions, side.heads, c.HeadWidth, h, h)
		}
	}
	return err
}

// A side is what queries and keys have alike.
type side struct {
	linear *moe.ParallelLinear
	norm   *vk.Tensor
	heads  int
}

func (l *SelfAttention) sides() [2]side {
	return [2]side{{l.Query, l.QueryNorm, l.Config.Heads}, {l.Key, l.KeyNorm, l.Config.KVHeads}}
}
