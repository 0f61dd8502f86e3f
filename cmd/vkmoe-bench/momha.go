package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A momhaShape is the question of the ScatterMoE paper's section on mixture of attention: a mixture against grouped-query
// attention with as many active heads and as many key and value heads, so with the same active parameters and cache.
type momhaShape struct {
	width, heads, headWidth int // D, active query heads, d
	sequences, length       int
}

// The paper's unit on the H100, and one that a CPU finishes in seconds.
var (
	momhaPaper = momhaShape{width: 4096, heads: 32, headWidth: 128, sequences: 8, length: 2048}
	momhaSmall = momhaShape{width: 256, heads: 8, headWidth: 32, sequences: 4, length: 64}
)

// momhaExperts is E/k.
const momhaExperts = 8

// A momhaCase is one number of experts per token, of heads/k heads each.
type momhaCase struct {
	momhaShape
	k int
}

func (c momhaCase) name() string { return fmt.Sprintf("momha/%d", c.k) }

func (c momhaCase) tokens() int { return c.sequences * c.length }

// kvHeads is the number of heads of an expert, and of keys and values.
func (c momhaCase) kvHeads() int { return c.heads / c.k }

// momhaChoices are the numbers of experts per token.
var momhaChoices = []int{1, 2, 4, 8}

// chooseMomha finds the choices of names such as momha and momha/4. It returns nil where no name begins so.
func chooseMomha(names []string) ([]int, error) {
	var list []int
	for _, name := range names {
		group, k, one := strings.Cut(name, "/")
		if group != "momha" {
			continue
		}
		before := len(list)
		for _, choice := range momhaChoices {
			if !one || fmt.Sprint(choice) == k {
				list = append(list, choice)
			}
		}
		if len(list) == before {
			return nil, fmt.Errorf("there is no case %q; there are momha/1, momha/2, momha/4 and momha/8", name)
		}
	}
	if list != nil && slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, "momha") }) {
		return nil, errors.New("momha is timed by itself")
	}
	return list, nil
}

// A momhaResult is one layer of one case.
type momhaResult struct {
	Case  string `json:"case"`
	Layer string `json:"layer"` // momha or gqa
	Shape string `json:"shape"`

	Forward  momhaTime `json:"forward"`
	Training momhaTime `json:"training"` // forward and backward, all gradients

	Active float64 `json:"active_parameters"`   // weights that a token meets
	Total  float64 `json:"parameters"`          //
	Cache  float64 `json:"cache_bytes_a_token"` // keys and values
	Error  float64 `json:"relative_error"`      // of sampled results, Frobenius
}

// A momhaTime is the GPU time of a pass, and the memory that it takes from its recorder.
type momhaTime struct {
	Median float64            `json:"median_us"`
	Low    float64            `json:"p10_us"`
	High   float64            `json:"p90_us"`
	Memory float64            `json:"extra_mb"` // 10⁶ bytes of results, gradients and scratch: all but weights and inputs
	Parts  map[string]float64 `json:"parts_us"` // median time of each kernel, by label
}

func (t momhaTime) String() string {
	return fmt.Sprintf("%9.3f ms (%.3f … %.3f) %9.1f MB", t.Median/1e3, t.Low/1e3, t.High/1e3, t.Memory)
}

func (r momhaResult) String() string {
	return fmt.Sprintf("%-8s %-6s %-22s forward %v   with backward %v   %.1f of %.1f M parameters, cache %.0f B/token, error %.1e",
		r.Case, r.Layer, r.Shape, r.Forward, r.Training, r.Active/1e6, r.Total/1e6, r.Cache, r.Error)
}

// peerWords are what peers are told of the case: out is an expert's heads together, and in place of an activation stands a
// sequence's length and a head's width.
func (c momhaCase) peerWords() []string {
	words := []string{c.name()}
	for _, n := range []int{momhaExperts * c.k, c.k, c.width, c.kvHeads() * c.headWidth, c.tokens()} {
		words = append(words, strconv.Itoa(n))
	}
	return append(words, fmt.Sprintf("%dx%d", c.length, c.headWidth))
}

// runMixtures times peers and mixtures of attention.
func (r *report) runMixtures(ctx context.Context, dev *vk.Device, f *runFlags, choices []int, dtype vk.DType) (err error) {
	shape := momhaPaper
	if dev.Adapter().Type == vk.Software {
		shape = momhaSmall
	}
	words := []string{"--op", "momha"}
	for _, k := range choices {
		words = append(words, momhaCase{shape, k}.peerWords()...)
	}
	if r.Peers, err = f.peers.run(ctx, f, words); err != nil {
		return err
	}
	r.Mixtures, err = runMomha(ctx, dev, shape, choices, dtype, *f.reps, *f.parts)
	fmt.Print(r.ratios())
	return err
}

// runMomha times both layers for each number of experts per token.
func runMomha(ctx context.Context, dev *vk.Device, shape momhaShape, choices []int, dtype vk.DType, reps int,
	parts bool) ([]momhaResult, error) {
	fmt.Printf("mixture of attention against grouped-query attention in %v: D=%d, %d active heads of %d, %d sequences of %d\n\n", dtype,
		shape.width, shape.heads, shape.headWidth, shape.sequences, shape.length)
	var results []momhaResult
	for _, k := range choices {
		c := momhaCase{shape, k}
		for _, make := range []func(context.Context, *momhaBench) (momhaLayer, error){newMomhaMixture, newMomhaGQA} {
			r, err := measureMomha(ctx, dev, c, dtype, reps, make)
			if err != nil {
				return results, fmt.Errorf("momha/%d: %w", c.k, err)
			}
			fmt.Println(r)
			if parts {
				fmt.Println(result{Parts: r.Forward.Parts}.parts() + "\n    with backward:" + result{Parts: r.Training.Parts}.parts())
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// momhaBench is what the layers of a case have in common.
type momhaBench struct {
	momhaCase
	dev     *vk.Device
	dtype   vk.DType
	rng     *rand.Rand
	x, dy   []float32  // as stored
	in, out *vk.Tensor // x and y
	dOut    *vk.Tensor
	dx      *vk.Tensor
	seq     attention.Sequences
	closers []func() error
}

// momhaLayer is one of the two layers.
type momhaLayer interface {
	// record records the forward pass, and with training the backward pass.
	record(rec *vk.Recorder, training bool) error
	// check compares a pass's output y, and where training is said the gradient of x, with the reference and returns the
	// relative error.
	check(ctx context.Context, training bool, y, dx []float32) (float64, error)
	// describe fills in what the layer is.
	describe(r *momhaResult)
}

func measureMomha(ctx context.Context, dev *vk.Device, c momhaCase, dtype vk.DType, reps int,
	make func(context.Context, *momhaBench) (momhaLayer, error)) (r momhaResult, err error) {
	b := &momhaBench{momhaCase: c, dev: dev, dtype: dtype, rng: rand.New(rand.NewPCG(1, uint64(c.k)))}
	defer func() {
		for _, f := range slices.Backward(b.closers) {
			err = errors.Join(err, f())
		}
	}()
	if err := b.prepare(ctx); err != nil {
		return r, err
	}
	layer, err := make(ctx, b)
	if err != nil {
		return r, err
	}
	r.Case = c.name()
	layer.describe(&r)
	r.Cache = 2 * float64(c.kvHeads()*c.headWidth) * float64(dtype.Bytes())
	for i, t := range []*momhaTime{&r.Forward, &r.Training} {
		before := dev.Memory().LiveBytes
		rec, err := dev.NewRecorder()
		if err != nil {
			return r, err
		}
		dev.ResetPeak()
		err = layer.record(rec, i == 1)
		t.Memory = (float64(dev.Memory().PeakBytes-before) + b.results(r, i == 1)) / 1e6
		if err == nil {
			err = rec.Run(ctx)
		}
		if err == nil {
			r.Error, err = b.check(ctx, layer, i == 1)
		}
		if err == nil {
			err = t.measure(ctx, rec, reps)
		}
		if err = errors.Join(err, rec.Close()); err != nil {
			return r, err
		}
	}
	return r, nil
}

// results are the bytes of what a pass leaves, which are there before it is recorded: the output, and with training the gradients of
// input and weights.
func (b *momhaBench) results(r momhaResult, training bool) float64 {
	if !training {
		return float64(b.out.Bytes())
	}
	return float64(b.out.Bytes()+b.dx.Bytes()) + r.Total*float64(b.dtype.Bytes())
}

// measure times runs of a recording.
func (t *momhaTime) measure(ctx context.Context, rec *vk.Recorder, reps int) error {
	times, parts, err := timeRuns(ctx, rec, 1, reps, warmUp)
	if err == nil {
		t.Parts, t.Low, t.Median, t.High = parts, quantile(times, 0.1), quantile(times, 0.5), quantile(times, 0.9)
	}
	return err
}

// prepare makes input, output and the gradients of both.
func (b *momhaBench) prepare(ctx context.Context) error {
	b.x = uniform(b.rng, b.dtype, b.tokens()*b.width, 1)
	b.dy = uniform(b.rng, b.dtype, b.tokens()*b.width, 1)
	for _, t := range []**vk.Tensor{&b.in, &b.out, &b.dOut, &b.dx} {
		var err error
		if *t, err = b.dev.NewTensor(b.dtype, b.tokens(), b.width); err != nil {
			return err
		}
		b.closers = append(b.closers, (*t).Close)
	}
	offsets := make([]int32, b.sequences+1)
	for i := range offsets {
		offsets[i] = int32(i * b.length)
	}
	var err error
	if b.seq.Offsets, err = b.dev.NewTensor(vk.I32, len(offsets)); err != nil {
		return err
	}
	b.closers = append(b.closers, b.seq.Offsets.Close)
	return errors.Join(vk.Upload(ctx, b.seq.Offsets, offsets), vk.Upload(ctx, b.in, b.x), vk.Upload(ctx, b.dOut, b.dy))
}

// rope makes the positions' rotation.
func (b *momhaBench) rope(ctx context.Context) (*attention.RoPE, error) {
	r, err := attention.NewRoPE(ctx, b.dev, attention.RoPEConfig{Width: b.headWidth}, b.length)
	if err == nil {
		b.closers = append(b.closers, r.Close)
	}
	return r, err
}

// momhaWeights are a linear map's weights on the device and for the reference.
type momhaWeights struct {
	layer  *moe.ParallelLinear
	oracle *ref.Linear[float32]
}

// fill makes random weights.
func (b *momhaBench) fill(ctx context.Context, list []momhaWeights) error {
	for _, w := range list {
		c := w.layer.Config
		data := uniform(b.rng, b.dtype, c.Experts*c.In*c.Out, float32(math.Sqrt(3/float64(c.In))))
		*w.oracle = ref.Linear[float32]{Experts: c.Experts, In: c.In, Out: c.Out, Weight: data}
		if err := moe.UploadBank(ctx, w.layer.Weight, data); err != nil {
			return err
		}
	}
	return nil
}

// momhaChecked is how many of the first tokens of a long run are computed on the CPU: those that see few keys.
const momhaChecked = 8

// checked says which tokens the reference computes: all of a small run, else the first.
func (b *momhaBench) checked() (tokens int, offsets []int32) {
	if b.tokens() > 1024 {
		return momhaChecked, []int32{0, momhaChecked}
	}
	for i := range b.sequences + 1 {
		offsets = append(offsets, int32(i*b.length))
	}
	return b.tokens(), offsets
}

// attention is the reference's.
func (b *momhaBench) attention(tiled bool, offsets []int32) ref.Attention {
	return ref.Attention{Heads: b.heads, KVHeads: b.kvHeads(), Width: b.headWidth, ValueWidth: b.headWidth, Tiled: tiled,
		Causal: true, QueryOffsets: offsets}
}

// check downloads what a pass left and compares it.
func (b *momhaBench) check(ctx context.Context, layer momhaLayer, training bool) (float64, error) {
	y, err := vk.Download[float32](ctx, b.out)
	if err != nil {
		return 0, err
	}
	if !training {
		return layer.check(ctx, false, y, nil)
	}
	dx, err := vk.Download[float32](ctx, b.dx)
	if err != nil {
		return 0, err
	}
	return layer.check(ctx, true, y, dx)
}

// limit is how far results may be from the reference, relative to all of them: a few roundings of intermediates.
func (b *momhaBench) limit() float64 { return max(1e-4, 8*refType[b.dtype].Storage()) }

// compare asks that got is within the limit of want.
func (b *momhaBench) compare(got []float32, want []float64, what string) (float64, error) {
	relative := ref.RelativeFrobenius(got[:len(want)], want)
	if !(relative <= b.limit()) {
		return relative, fmt.Errorf("%s are off by %g", what, relative)
	}
	return relative, nil
}

// parameters counts weights.
func parameters(layers ...*moe.ParallelLinear) float64 {
	n := 0.0
	for _, l := range layers {
		n += float64(l.Config.Experts) * float64(l.Config.In) * float64(l.Config.Out)
	}
	return n
}
