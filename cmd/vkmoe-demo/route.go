package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A result is everything that the run found out.
type result struct {
	Adapter *vk.Adapter
	Layer   *layer
	Text    *document
	Options *options

	IDs   []int32   // [T,K], first choice first
	Gates []float32 // [T,K]

	Submits int            // in one pass over the text
	Wall    time.Duration  // mean of a timed pass, from submission to completion
	Kernels []kernelTime   // device time of a timed pass; empty where the device has no timestamps
	Memory  vk.MemoryStats // at the end of the last pass

	Load      load
	Agreement agreement
	Picture   string // the file written

	sample sample
}

// A kernelTime is the mean device time of one pass spent under one label.
type kernelTime struct {
	Label string
	Time  time.Duration
}

// deviceTime is the device time of one pass.
func (r *result) deviceTime() time.Duration {
	var sum time.Duration
	for _, k := range r.Kernels {
		sum += k.Time
	}
	return sum
}

// rate is tokens per second of wall time.
func (r *result) rate() float64 { return float64(len(r.Text.Characters)) / r.Wall.Seconds() }

// A batch is a recording of the layer for a fixed number of tokens.
type batch struct {
	tokens int
	x, y   *vk.Tensor // F32 [tokens,D]
	rec    *vk.Recorder
	saved  *moe.MLPSaved
	host   []float32 // x before its upload
}

// newBatch records the layer. The batch is usable only when err is nil, but must be closed in any case.
func newBatch(dev *vk.Device, mlp *moe.MLP, tokens int) (*batch, error) {
	width := mlp.Config.Width
	b := &batch{tokens: tokens, host: make([]float32, tokens*width)}
	var err error
	if b.x, err = dev.NewTensor(vk.F32, tokens, width); err != nil {
		return b, err
	}
	if b.y, err = dev.NewTensor(vk.F32, tokens, width); err != nil {
		return b, err
	}
	if b.rec, err = dev.NewRecorder(); err != nil {
		return b, err
	}
	b.saved, err = mlp.Forward(b.rec, b.x, b.y)
	return b, err
}

func (b *batch) close() error {
	var err error
	if b.rec != nil {
		err = b.rec.Close()
	}
	for _, t := range []*vk.Tensor{b.x, b.y} {
		if t != nil {
			err = errors.Join(err, t.Close())
		}
	}
	return err
}

// A router runs the text through the layer, batch by batch.
type router struct {
	result *result
	input  *input
	sizes  []int // tokens of each submission of a pass
	byTime map[string]time.Duration
	labels []string // of byTime, in order of appearance
}

// route runs the text through the layer as often as the options say. The first pass, which compiles the kernels, is
// timed only when it is the only one; the results are those of the last.
func route(ctx context.Context, dev *vk.Device, l *layer, text *document, o *options, show progress) (r *result, err error) {
	tokens := len(text.Characters)
	r = &result{Adapter: dev.Adapter(), Layer: l, Text: text, Options: o, sample: newSample(tokens, o.Check)}
	mlp, err := model.NewMLP(ctx, dev, l.MLPWeights)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mlp.Close()) }()

	ru := &router{result: r, input: newInput(l, text.Characters, o.Context), byTime: map[string]time.Duration{}}
	batches := map[int]*batch{}
	defer func() {
		for _, b := range batches {
			err = errors.Join(err, b.close())
		}
	}()
	for left := tokens; left > 0; left -= o.Batch {
		size := min(left, o.Batch)
		ru.sizes = append(ru.sizes, size)
		if batches[size] == nil {
			b, err := newBatch(dev, mlp, size)
			batches[size] = b
			if err != nil {
				return nil, err
			}
		}
	}
	r.Submits = len(ru.sizes)
	if err := ru.passes(ctx, batches, show); err != nil {
		return nil, err
	}
	r.Memory = dev.Memory()
	r.Load = measureLoad(r.IDs, l.Config.Experts)
	return r, nil
}

// passes makes all passes and takes the means.
func (ru *router) passes(ctx context.Context, batches map[int]*batch, show progress) error {
	steps := ru.result.Options.Steps
	show.start(steps * len(ru.sizes))
	defer show.stop()
	var wall time.Duration
	timed := 0
	for step := range steps {
		count := step > 0 || steps == 1
		ru.input.rewind()
		for _, size := range ru.sizes {
			elapsed, err := ru.submit(ctx, batches[size], count, step == steps-1)
			if err != nil {
				return fmt.Errorf("pass %d of %d: %w", step+1, steps, err)
			}
			if count {
				wall += elapsed
			}
			show.add()
		}
		if count {
			timed++
		}
	}
	ru.result.Wall = wall / time.Duration(timed)
	for _, label := range ru.labels {
		ru.result.Kernels = append(ru.result.Kernels, kernelTime{label, ru.byTime[label] / time.Duration(timed)})
	}
	return nil
}

// submit runs the next tokens of the text; on the last pass it keeps their results.
func (ru *router) submit(ctx context.Context, b *batch, timed, keep bool) (time.Duration, error) {
	first := ru.input.next
	ru.input.rows(b.host)
	if err := vk.Upload(ctx, b.x, b.host); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := b.rec.Run(ctx); err != nil {
		return 0, err
	}
	elapsed := time.Since(begin)
	if timed {
		timings, err := b.rec.Timings()
		if err != nil {
			return 0, err
		}
		for _, t := range timings {
			if _, known := ru.byTime[t.Label]; !known {
				ru.labels = append(ru.labels, t.Label)
			}
			ru.byTime[t.Label] += t.Duration
		}
	}
	if !keep {
		return elapsed, nil
	}
	return elapsed, ru.keep(ctx, b, first)
}

// keep downloads a batch's results.
func (ru *router) keep(ctx context.Context, b *batch, first int) error {
	ids, err := vk.Download[int32](ctx, b.saved.Routing.IDs)
	if err != nil {
		return err
	}
	gates, err := vk.Download[float32](ctx, b.saved.Routing.Gates)
	if err != nil {
		return err
	}
	y, err := vk.Download[float32](ctx, b.y)
	if err != nil {
		return err
	}
	r := ru.result
	r.IDs = append(r.IDs, ids...)
	r.Gates = append(r.Gates, gates...)
	r.sample.take(first, b.tokens, b.host, y, ids, gates)
	return nil
}
