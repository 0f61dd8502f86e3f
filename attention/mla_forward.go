package attention

import (
	"slices"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MLAOptions are the choices of one forward pass.
type MLAOptions struct {
	// Save says what stays for the backward pass: all of MLASaved (SaveAll), Heads and LSE only, the rest of which the backward
	// pass computes once more (RecomputeActivation), or nothing (SaveNothing).
	Save moe.Save
}

// MLASaved is what a forward pass leaves in the recorder's scratch for the backward pass. What its Save does not keep is nil.
type MLASaved struct {
	Save      moe.Save
	Sequences Sequences // with the positions that were made

	MLAStages
	Heads *vk.Tensor // [T,H·dv]: the attention's output
	LSE   *vk.Tensor // F32 [T,H]: the logarithm of the softmax's denominators
}

// MLAStages are what a layer computes before attention.
type MLAStages struct {
	QueryLatent, QueryNormed *vk.Tensor // [T,QueryRank], the same where they need not both stay; nil without QueryDown
	Query                    *vk.Tensor // [T,H·(N + R)], turned
	Down                     *vk.Tensor // [T,KVRank + R]
	Latent                   *vk.Tensor // [T,KVRank], normalized
	Up                       *vk.Tensor // [T,H·(N + dv)]
	Key                      *vk.Tensor // [T,H·(N + R)], turned
}

// Forward records y = MLA(x) for x and y [T,D] of the layer's dtype, with everything saved. It takes PassBytes of scratch.
// Errors: see the package.
func (l *MLA) Forward(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) (*MLASaved, error) {
	return l.ForwardWith(rec, x, y, seq, MLAOptions{})
}

// ForwardWith is Forward with options.
func (l *MLA) ForwardWith(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences, o MLAOptions) (*MLASaved, error) {
	tokens, err := checkForward(rec.Device(), "MLA.Forward", l, x, y, seq)
	err = check.First(err, check.InRange("MLAOptions", "Save", int(o.Save), 0, int(moe.SaveNothing)))
	if err != nil {
		return nil, rec.Fail(err)
	}
	s := &MLASaved{Save: o.Save, Sequences: seq}
	var p MLAStages
	heads, lse, err := attend(rec, l.Config.flash(l.RoPE), l.RoPE, tokens, &s.Sequences, o.Save, func() (FlashInput, error) {
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
		s.MLAStages = p
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

func (l *MLA) flashInput(seq Sequences, p MLAStages) FlashInput {
	return FlashInput{Q: l.queryHeads(p.Query), K: l.queryHeads(p.Key), V: l.valueHeads(p.Up), QueryOffsets: seq.Offsets}
}

// queryHeads are the heads of queries or keys, and turned the part of each that turns.
func (l *MLA) queryHeads(t *vk.Tensor) Heads {
	return DenseHeads(t, l.Config.Heads, l.Config.headWidth())
}

func (l *MLA) turned(t *vk.Tensor) Heads {
	h := l.queryHeads(t)
	h.Offset = l.Config.PlainWidth
	return h
}

// plainHeads are the parts of keys in what KVUp makes, and valueHeads the values.
func (l *MLA) plainHeads(t *vk.Tensor) Heads {
	return DenseHeads(t, l.Config.Heads, l.Config.upWidth())
}

func (l *MLA) valueHeads(t *vk.Tensor) Heads {
	h := l.plainHeads(t)
	h.Offset = l.Config.PlainWidth
	return h
}

func (l *MLA) outputHeads(t *vk.Tensor) Heads {
	return DenseHeads(t, l.Config.Heads, l.Config.ValueWidth)
}

// latent is the part of what KVDown makes that becomes the latent, and shared the part of all heads' keys: one head for all.
func (l *MLA) latent(t *vk.Tensor) Heads {
	return Heads{Tensor: t, RowStride: l.Config.KVRank + l.Config.TurnedWidth}
}

func (l *MLA) shared(t *vk.Tensor) Heads {
	h := l.latent(t)
	h.Offset = l.Config.KVRank
	return h
}

// takeStages takes memory for what a backward pass needs, or only for what attention does.
func (l *MLA) takeStages(rec *vk.Recorder, tokens int, all bool) MLAStages {
	c := l.Config
	take := func(width int) *vk.Tensor { return rec.Scratch(c.DType, tokens, width) }
	var p MLAStages
	if c.QueryRank > 0 {
		p.QueryLatent = take(c.QueryRank)
	}
	p.Query, p.Down, p.Latent = take(c.Heads*c.headWidth()), take(c.KVRank+c.TurnedWidth), take(c.KVRank)
	p.Up, p.Key = take(c.Heads*c.upWidth()), take(c.Heads*c.headWidth())
	if p.QueryNormed = p.QueryLatent; all && c.QueryRank > 0 { // last, so that a backward pass finds what the forward pass gave back
		p.QueryNormed = take(c.QueryRank)
	}
	return p
}

func (p MLAStages) release(rec *vk.Recorder) {
	for _, t := range []*vk.Tensor{p.QueryLatent, p.QueryNormed, p.Query, p.Down, p.Latent, p.Up, p.Key} {
		rec.Release(t) // once where two are the same
	}
}

// project records queries, keys and values of x. It goes step by step, not side by side: what does not depend on each other may run
// at once between two barriers.
func (l *MLA) project(rec *vk.Recorder, x *vk.Tensor, seq Sequences, p MLAStages) error {
	c, tokens, query := l.Config, x.Dim(0), x
	turned := l.turned(p.Query)
	steps := []func() error{
		func() error { return l.KVDown.Dense(rec, x, p.Down) },
		func() error {
			return RMSNormHeads(rec, tokens, 1, l.latent(p.Down), l.KVNorm, c.Eps, DenseHeads(p.Latent, 1, c.KVRank))
		},
		func() error { return l.QueryUp.Dense(rec, query, p.Query) },
		func() error { return l.KVUp.Dense(rec, p.Latent, p.Up) },
		func() error { return l.RoPE.Rotate(rec, seq.Positions, c.Heads, c.TurnedWidth, turned, turned) },
		func() error {
			return copyHeads(rec, tokens, c.Heads, c.PlainWidth, l.plainHeads(p.Up), l.queryHeads(p.Key))
		},
		func() error {
			return l.RoPE.Rotate(rec, seq.Positions, c.Heads, c.TurnedWidth, l.shared(p.Down), l.turned(p.Key))
		},
	}
	if c.QueryRank > 0 {
		query = p.QueryNormed
		steps = slices.Insert(steps, 0, func() error { return l.QueryDown.Dense(rec, x, p.QueryLatent) })
		steps = slices.Insert(steps, 2, func() error { return RMSNorm(rec, p.QueryLatent, l.QueryNorm, c.Eps, p.QueryNormed) })
	}
	for _, step := range steps {
		if rec.Err() == nil {
			rec.Fail(step())
		}
	}
	return rec.Err()
}
