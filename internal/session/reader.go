package session

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/tokenizer"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mostRead is how many tokens of the text a checkpoint reads.
const mostRead = 512

// A reader is a checkpoint that reads a text and shows where its routers send it.
type reader struct {
	name    string
	config  *model.Config
	decoder *model.Decoder
	words   *tokenizer.Tokenizer
	routers []dashboard.Router
	spread  dashboard.Spread
	seconds float64
}

func (s *Session) setUpReader(ctx context.Context) error {
	words, err := tokenizer.Open(s.cfg.Model)
	if err != nil {
		return fmt.Errorf("cannot open the checkpoint's tokenizer: %w", err)
	}
	c, err := model.Open(s.cfg.Model)
	if err != nil {
		return fmt.Errorf("cannot open the checkpoint: %w", err)
	}
	defer c.Close()
	dtype, ok := c.DType()
	if !ok {
		dtype = vk.BF16
	}
	d, err := model.LoadDecoder(ctx, s.dev, c, dtype, mostPositions)
	if err != nil {
		return fmt.Errorf("cannot load the checkpoint: %w", err)
	}
	s.v.dtype = dtype
	s.reader = &reader{name: filepath.Base(s.cfg.Model), config: c.Config, decoder: d, words: words}
	ids := words.Encode(string(s.cfg.Text[:min(len(s.cfg.Text), 16*mostRead)]), false)
	ids = ids[:min(len(ids), mostRead)]
	if len(ids) == 0 {
		return errors.New("the text has no token")
	}
	for _, id := range ids {
		s.pieces = append(s.pieces, words.Decode([]int32{id}, false))
	}
	s.describeDevice()
	return s.reader.read(ctx, s.dev, ids)
}

// read runs the model on tokens once and keeps what its routers chose.
func (r *reader) read(ctx context.Context, dev *vk.Device, ids []int32) (err error) {
	for i, id := range ids {
		if int(id) >= r.decoder.Config.Vocabulary {
			return fmt.Errorf("the tokenizer does not fit the model: token %d is %d, the model has %d", i, id, r.decoder.Config.Vocabulary)
		}
	}
	rec, err := dev.NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	words, offsets := rec.Scratch(vk.I32, len(ids)), rec.Scratch(vk.I32, 2)
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := errors.Join(vk.Upload(ctx, words, ids), vk.Upload(ctx, offsets, []int32{0, int32(len(ids))})); err != nil {
		return err
	}
	type copies struct{ ids, gates *vk.Tensor }
	var kept []copies
	_, err = r.decoder.Logits(rec, model.Batch{IDs: words, Sequences: attention.Sequences{Offsets: offsets},
		Routed: func(layer int, block model.Block, routing *moe.Routing) error {
			c := copies{rec.Scratch(vk.I32, routing.Tokens, routing.K), rec.Scratch(vk.F32, routing.Tokens, routing.K)}
			if rec.Err() != nil {
				return rec.Err()
			}
			rec.Copy(c.ids, routing.IDs)
			rec.Copy(c.gates, routing.Gates)
			kept = append(kept, c)
			r.routers = append(r.routers, dashboard.Router{Layer: layer, Block: block.String(), K: routing.K, Load: make([]int, routing.Experts)})
			return nil
		}})
	if err != nil {
		return err
	}
	if len(kept) == 0 {
		return errors.New("the model has no routers")
	}
	if err := rec.Run(ctx); err != nil {
		return err
	}
	var loads [][]int
	for i, c := range kept {
		router := &r.routers[i]
		if router.IDs, err = vk.Download[int32](ctx, c.ids); err != nil {
			return err
		}
		if router.Gates, err = vk.Download[float32](ctx, c.gates); err != nil {
			return err
		}
		for _, e := range router.IDs {
			router.Load[e]++
		}
		loads = append(loads, router.Load)
	}
	r.spread = spread(0, loads)
	return nil
}

// describe fills in what a checkpoint has.
func (r *reader) describe(next *dashboard.Snapshot) {
	first := r.routers[0]
	next.Model = fmt.Sprintf("%s (%s), %d layers, width %d", r.name, r.config.Type, r.config.Layers, r.decoder.Config.Width)
	next.Layers, next.Experts, next.K = len(r.decoder.Config.Layers), len(first.Load), first.K
	next.Routers, next.Spread = r.routers, []dashboard.Spread{r.spread}
}

// encode are the tokens of a prompt, with what a text of this model begins with.
func (r *reader) encode(prompt string) []int32 { return r.words.Encode(prompt, true) }

func (r *reader) decode(tokens []int32) string { return r.words.Decode(tokens, true) }

func (r *reader) close() error { return r.decoder.Close() }
