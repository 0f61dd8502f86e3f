package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// cached is a block that keeps keys and values.
type cached interface {
	block
	cacheConfig(sequences, capacity int) attention.KVCacheConfig
	// decode records y = block(x) for rows that continue the cache's sequences.
	decode(rec *vk.Recorder, cache *attention.KVCache, x, y *vk.Tensor, seq attention.Sequences) error
}

// A GeneratorConfig says how much a Generator holds and how it draws tokens. Sampling.Step is the Generator's own.
type GeneratorConfig struct {
	Sequences int            // that are continued together, B
	Capacity  int            // tokens of each, prompt and all; at most the decoder's Positions
	Sampling  SamplingConfig // of every token
}

// A Generator continues sequences token by token. The keys and values of all tokens so far stay in a cache, so that a new
// token costs one row per sequence; a step is recorded once and submitted for every token. Whoever makes it closes it; the
// decoder stays the caller's. It is not safe for concurrent use.
type Generator struct {
	Config  GeneratorConfig
	Decoder *Decoder

	caches  []*attention.KVCache // one per layer
	next    *vk.Tensor           // I32 [B]: the token that each sequence goes on with
	drawn   *vk.Tensor           // I32 [B]
	offsets *vk.Tensor           // I32 [B+1] of one row per sequence
	count   *vk.Tensor           // U32 [1]: draws so far
	draws   uint32
	step    *vk.Recorder
}

// NewGenerator allocates the caches and records a step. It fails with a *moe.ConfigError or vk.ErrOutOfMemory.
func NewGenerator(ctx context.Context, d *Decoder, cfg GeneratorConfig) (*Generator, error) {
	bad := func(field, want string, got any) (*Generator, error) {
		return nil, &moe.ConfigError{Config: "GeneratorConfig", Field: field, Want: want, Got: fmt.Sprint(got)}
	}
	switch {
	case cfg.Sequences < 1 || cfg.Sequences > 1<<16:
		return bad("Sequences", "1 to 65536", cfg.Sequences)
	case cfg.Capacity < 1 || cfg.Capacity > d.Config.Positions:
		return bad("Capacity", fmt.Sprintf("1 to the decoder's %d positions", d.Config.Positions), cfg.Capacity)
	}
	if err := cfg.Sampling.Validate(); err != nil {
		return nil, err
	}
	g := &Generator{Config: cfg, Decoder: d}
	if err := g.allocate(ctx); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := g.recordStep(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Generator) allocate(ctx context.Context) error {
	dev, n := g.Decoder.dev, g.Config.Sequences
	for _, l := range g.Decoder.layers {
		c, err := attention.NewKVCache(ctx, dev, l.mix.(cached).cacheConfig(n, g.Config.Capacity))
		if err != nil {
			return err
		}
		g.caches = append(g.caches, c)
	}
	for _, t := range []struct {
		tensor **vk.Tensor
		dtype  vk.DType
		length int
	}{{&g.next, vk.I32, n}, {&g.drawn, vk.I32, n}, {&g.offsets, vk.I32, n + 1}, {&g.count, vk.U32, 1}} {
		var err error
		if *t.tensor, err = dev.NewTensor(t.dtype, t.length); err != nil {
			return err
		}
	}
	offsets := make([]int32, n+1)
	for b := range offsets {
		offsets[b] = int32(b)
	}
	g.Config.Sampling.Step = g.count
	return vk.Upload(ctx, g.offsets, offsets)
}

// recordStep records the drawing of one token per sequence after the one in next.
func (g *Generator) recordStep() error {
	var err error
	if g.step, err = g.Decoder.dev.NewRecorder(); err != nil {
		return err
	}
	h, err := g.decode(g.step, Batch{IDs: g.next, Sequences: attention.Sequences{Offsets: g.offsets}})
	if err != nil {
		return err
	}
	return g.draw(g.step, h)
}

// decode records all layers on rows that continue the caches, and returns the stream after them.
func (g *Generator) decode(rec *vk.Recorder, in Batch) (*vk.Tensor, error) {
	d := g.Decoder
	if len(d.ropes) > 0 { // all caches are equally long, so the positions are those of the first
		positions, err := d.ropes[0].MakePositions(rec, in.IDs.Dim(0), in.Sequences.Offsets, g.caches[0].Lengths)
		if err != nil {
			return nil, err
		}
		in.Sequences.Positions = positions
		defer rec.Release(positions)
	}
	h, err := d.embed(rec, in)
	if err != nil {
		return nil, err
	}
	for i, l := range d.layers {
		x, y := d.stream(rec, h.Dim(0)), d.stream(rec, h.Dim(0))
		if rec.Err() != nil {
			return nil, rec.Err()
		}
		err := attention.RMSNorm(rec, h, l.mixNorm, d.Config.Epsilon, x)
		if err == nil {
			err = l.mix.(cached).decode(rec, g.caches[i], x, y, in.Sequences)
		}
		if err == nil {
			err = ScaledAdd(rec, h, y, h, 1, orOne(d.Config.ResidualScale))
		}
		if err == nil {
			err = attention.RMSNorm(rec, h, l.mlpNorm, d.Config.Epsilon, x)
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		saved, err := l.mlp.forward(rec, x, y, in.Sequences, moe.SaveNothing)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		saved.release(rec)
		if err := ScaledAdd(rec, h, y, h, 1, orOne(d.Config.ResidualScale)); err != nil {
			return nil, err
		}
		scratchSet{x, y}.release(rec)
	}
	return h, nil
}

// draw records the logits of the stream h [B,D] and a token drawn from each row, into drawn and next.
func (g *Generator) draw(rec *vk.Recorder, h *vk.Tensor) error {
	logits, err := g.Decoder.headLogits(rec, h)
	if err != nil {
		return err
	}
	defer rec.Release(logits)
	if err := Sample(rec, logits, g.drawn, g.Config.Sampling); err != nil {
		return err
	}
	rec.Copy(g.next, g.drawn)
	return rec.Err()
}

// A PromptError is a prompt that cannot be continued.
type PromptError struct {
	Sequence int
	Reason   string
}

func (e *PromptError) Error() string {
	return fmt.Sprintf("model: prompt %d: %s", e.Sequence, e.Reason)
}

// A Request says what to generate.
type Request struct {
	Prompts [][]int32 // one per sequence, each of at least one token
	Tokens  int       // new tokens of each sequence at most
	Stop    []int32   // tokens that end a sequence, and are its last

	// Token is called for every new token as soon as it is drawn, sequence by sequence; nil for none. It ends everything by
	// returning false.
	Token func(sequence int, token int32) bool
}

// Generate continues the prompts, all together, and returns the new tokens of each. What was cached before is forgotten.
// Drawn tokens depend on the seed and on how many draws the Generator has made. Errors: a *PromptError, those of the device
// and of ctx, with what was drawn until then.
func (g *Generator) Generate(ctx context.Context, r Request) ([][]int32, error) {
	if err := g.check(r); err != nil {
		return nil, err
	}
	out := make([][]int32, len(r.Prompts))
	if r.Tokens == 0 {
		return out, nil
	}
	for _, c := range g.caches {
		if err := c.Reset(ctx); err != nil {
			return nil, err
		}
	}
	if err := g.prefill(ctx, r.Prompts); err != nil {
		return nil, err
	}
	ended := make([]bool, len(out))
	for n := 1; ; n++ {
		tokens, err := vk.Download[int32](ctx, g.drawn)
		if err != nil {
			return out, err
		}
		for b, token := range tokens {
			if ended[b] {
				continue
			}
			out[b] = append(out[b], token)
			ended[b] = slices.Contains(r.Stop, token)
			if r.Token != nil && !r.Token(b, token) {
				return out, nil
			}
		}
		if n == r.Tokens || !slices.Contains(ended, false) {
			return out, nil
		}
		if err := g.run(ctx, g.step, slices.Repeat([]int{1}, len(out))); err != nil {
			return out, err
		}
	}
}

func (g *Generator) check(r Request) error {
	if len(r.Prompts) != g.Config.Sequences {
		return &PromptError{len(r.Prompts), fmt.Sprintf("the generator continues %d sequences", g.Config.Sequences)}
	}
	if r.Tokens < 0 {
		return &PromptError{0, fmt.Sprintf("%d new tokens", r.Tokens)}
	}
	for b, p := range r.Prompts {
		switch {
		case len(p) == 0:
			return &PromptError{b, "is empty"}
		case len(p)+max(0, r.Tokens-1) > g.Config.Capacity:
			return &PromptError{b, fmt.Sprintf("%d tokens and %d new ones exceed the capacity of %d", len(p), r.Tokens, g.Config.Capacity)}
		}
		for _, id := range p {
			if id < 0 || int(id) >= g.Decoder.Config.Vocabulary {
				return &PromptError{b, fmt.Sprintf("holds token %d of %d", id, g.Decoder.Config.Vocabulary)}
			}
		}
	}
	return nil
}

// run submits a recording that appends counts[b] rows to sequence b and draws once.
func (g *Generator) run(ctx context.Context, rec *vk.Recorder, counts []int) error {
	for _, c := range g.caches {
		if err := c.Reserve(counts...); err != nil {
			return err
		}
	}
	if err := vk.Upload(ctx, g.count, []uint32{g.draws}); err != nil {
		return err
	}
	g.draws++
	return rec.Run(ctx)
}

// prefill runs the prompts, one behind the other, and draws the first tokens.
func (g *Generator) prefill(ctx context.Context, prompts [][]int32) (err error) {
	var ids, last []int32
	offsets, counts := []int32{0}, []int{}
	for _, p := range prompts {
		ids = append(ids, p...)
		offsets, last, counts = append(offsets, int32(len(ids))), append(last, int32(len(ids)-1)), append(counts, len(p))
	}
	rec, err := g.Decoder.dev.NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	upload := func(data []int32) *vk.Tensor {
		t := rec.Scratch(vk.I32, len(data))
		if rec.Err() == nil {
			rec.Fail(vk.Upload(ctx, t, data))
		}
		return t
	}
	in := Batch{IDs: upload(ids), Sequences: attention.Sequences{Offsets: upload(offsets)}}
	rows := upload(last)
	if rec.Err() != nil {
		return rec.Err()
	}
	h, err := g.decode(rec, in)
	if err != nil {
		return err
	}
	ends := g.Decoder.stream(rec, len(prompts))
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := Embed(rec, h, rows, ends, 1); err != nil { // the rows of the last tokens
		return err
	}
	if err := g.draw(rec, ends); err != nil {
		return err
	}
	return g.run(ctx, rec, counts)
}

// Close frees the caches. Closing twice does nothing.
func (g *Generator) Close() error {
	var err error
	if g.step != nil {
		err = g.step.Close()
	}
	for _, c := range g.caches {
		err = errors.Join(err, c.Close())
	}
	return errors.Join(err, g.next.Close(), g.drawn.Close(), g.offsets.Close(), g.count.Close())
}
