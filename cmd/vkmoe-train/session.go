package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// sizes are those of the model.
type sizes struct {
	layers, width, experts, topK, heads, headWidth, hidden int
}

var defaultSizes = sizes{layers: 4, width: 64, experts: 8, topK: 2, heads: 1, headWidth: 32, hidden: 64}

// decoder describes the model: JetMoE's block, a mixture of attention and one of MLP experts, at bytes.
func (s sizes) decoder(length int, dense bool) model.DecoderConfig {
	mixture := &attention.MixtureConfig{Experts: s.experts, TopK: s.topK, HeadsPerExpert: s.heads, HeadWidth: s.headWidth,
		Mode: moe.TopKSoftmax, OutputBias: true, Causal: true}
	layer := model.LayerConfig{Mixture: mixture, RoPE: &attention.RoPEConfig{Width: s.headWidth, Base: 10_000}}
	if dense {
		layer.Dense = &model.DenseConfig{Hidden: s.topK * s.hidden, Activation: moe.SwiGLU}
	} else {
		layer.MLP = &moe.MLPConfig{Experts: s.experts, TopK: s.topK, Hidden: s.hidden, Activation: moe.SwiGLU,
			Mode: moe.TopKSoftmax, OutputBias: true}
	}
	c := model.DecoderConfig{Type: "jetmoe", Vocabulary: 256, Width: s.width, Epsilon: 1e-6, Tied: true, Positions: length}
	for range s.layers {
		c.Layers = append(c.Layers, layer)
	}
	return c
}

// session is a run of the command.
type session struct {
	o             options
	decoder       *model.Decoder
	trainer       *train.Trainer
	text, heldOut train.Windows
	curve         strings.Builder
}

func newSession(ctx context.Context, dev *vk.Device, o options, text []int32) (*session, error) {
	cut := len(text) - len(text)/10
	s := &session{o: o, text: train.Windows{Tokens: text[:cut], Seed: o.seed}, heldOut: train.Windows{Tokens: text[cut:], Seed: o.seed + 1}}
	var err error
	if s.decoder, err = model.NewDecoder(ctx, dev, o.sizes.decoder(max(o.length, len(o.prompt)+o.sample), o.dense)); err != nil {
		return nil, err
	}
	err = s.decoder.Initialize(ctx, o.seed, 0.05)
	if err == nil {
		s.trainer, err = train.New(ctx, s.decoder, train.Config{
			Batch: o.batch, Length: o.length,
			Adam:     train.AdamWConfig{Beta2: 0.98, Decay: 0.1, ClipNorm: 1},
			Schedule: train.Schedule{Peak: o.rate, Warmup: min(100, o.steps/10), Steps: o.steps, Floor: 0.05},
			// Each layer alone: balanced over all layers together, one layer could leave experts out that another overloads.
			Router: moe.LossConfig{Form: moe.JetMoEBalance, Balance: float32(o.balance)},
		})
	}
	if err == nil && o.resume != "" {
		err = s.trainer.Load(ctx, o.resume)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *session) close() error {
	var err error
	if s.trainer != nil {
		err = s.trainer.Close()
	}
	return errors.Join(err, s.decoder.Close())
}

// train makes the steps that are left and prints what they lead to.
func (s *session) train(ctx context.Context) error {
	count := 0
	for _, p := range s.decoder.Parameters() {
		count += p.Value.Elements()
	}
	fmt.Printf("%d parameters, %d bytes of text, %d held out, %d bytes a step\n", count, len(s.text.Tokens), len(s.heldOut.Tokens),
		s.trainer.Config.Tokens())
	s.curve.WriteString("step,seconds,train,held_out\n")
	begin := time.Now()
	var recent float64
	for s.trainer.Steps() < s.o.steps && (s.o.limit == 0 || time.Since(begin) < s.o.limit) {
		step := s.trainer.Steps() + 1
		ids, targets, err := s.text.Batch(step, s.o.batch, s.o.length)
		if err != nil {
			return err
		}
		stats, err := s.trainer.Step(ctx, ids, targets)
		if err != nil {
			return err
		}
		if recent == 0 {
			recent = stats.Loss
		}
		recent += (stats.Loss - recent) / 20
		if step%s.o.every != 0 && step != 1 && step != s.o.steps {
			continue
		}
		heldOut, err := s.judge(ctx, step == s.o.steps)
		if err != nil {
			return err
		}
		spent := time.Since(begin)
		fmt.Printf("step %5d  %6.0f s  train %.4f  held-out %.4f nats/byte  balance %.3f  norm %.2f  rate %.1e\n", step, spent.Seconds(),
			recent, heldOut, stats.Balance, stats.GradNorm, stats.Rate)
		fmt.Fprintf(&s.curve, "%d,%.1f,%.4f,%.4f\n", step, spent.Seconds(), recent, heldOut)
		if err := s.writeCurve(); err != nil {
			return err
		}
	}
	return nil
}

// judgeBatches is how many batches of held-out text a look takes; the last takes as many as the text holds.
const judgeBatches = 8

// judge is the mean loss on held-out text, the same windows every time.
func (s *session) judge(ctx context.Context, last bool) (float64, error) {
	var sum float64
	batches := judgeBatches
	if last {
		batches = max(batches, len(s.heldOut.Tokens)/s.trainer.Config.Tokens())
	}
	for i := range batches {
		ids, targets, err := s.heldOut.Batch(i, s.o.batch, s.o.length)
		if err != nil {
			return 0, err
		}
		loss, err := s.trainer.Loss(ctx, ids, targets)
		if err != nil {
			return 0, err
		}
		sum += loss
	}
	return sum / float64(batches), nil
}

// write prints what the model continues the prompt with, byte by byte.
func (s *session) write(ctx context.Context, w io.Writer) (err error) {
	if s.o.sample == 0 {
		return nil
	}
	prompt := train.Bytes([]byte(s.o.prompt))
	if most := s.decoder.Config.Positions - s.o.sample; len(prompt) > most && most > 0 {
		prompt = prompt[len(prompt)-most:]
	}
	g, err := model.NewGenerator(ctx, s.decoder, model.GeneratorConfig{Sequences: 1, Capacity: s.decoder.Config.Positions,
		Sampling: model.SamplingConfig{Temperature: 0.7, TopK: 40, TopP: 0.95, Seed: s.o.seed}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if _, err = fmt.Fprintf(w, "\n%s", s.o.prompt); err != nil {
		return err
	}
	_, err = g.Generate(ctx, model.Request{Prompts: [][]int32{prompt}, Tokens: s.o.sample, Token: func(_ int, token int32) bool {
		_, err := w.Write([]byte{byte(token)})
		return err == nil
	}})
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

func (s *session) writeCurve() error {
	if s.o.curve == "" {
		return nil
	}
	return os.WriteFile(s.o.curve, []byte(s.curve.String()), 0o644)
}
