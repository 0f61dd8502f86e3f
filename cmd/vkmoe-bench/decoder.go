package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A decoderShape is a whole model that is timed, of Mixtral's architecture.
type decoderShape struct {
	vocabulary, width, layers, heads, kvHeads, headWidth, experts, topK, hidden int
}

// decoderShapes are the ScatterMoE paper's 1.5B Mixtral (arXiv 2403.08245, section 4.1), four layers of Mixtral-8x7B, and one
// that a CPU runs in seconds.
var decoderShapes = map[string]decoderShape{
	"paper":   {32000, 1024, 16, 16, 8, 64, 8, 2, 3584},
	"mixtral": {32000, 4096, 4, 32, 8, 128, 8, 2, 14336},
	"small":   {256, 64, 2, 4, 2, 16, 4, 2, 32},
}

func (s decoderShape) config(dtype vk.DType, positions int) model.DecoderConfig {
	c := model.DecoderConfig{Type: "mixtral", Vocabulary: s.vocabulary, Width: s.width, Epsilon: 1e-5, Positions: positions, DType: dtype}
	for range s.layers {
		c.Layers = append(c.Layers, model.LayerConfig{
			SelfAttention: &attention.SelfAttentionConfig{Heads: s.heads, KVHeads: s.kvHeads, HeadWidth: s.headWidth, Causal: true},
			RoPE:          &attention.RoPEConfig{Width: s.headWidth, Base: 1e6},
			MLP:           &moe.MLPConfig{Experts: s.experts, TopK: s.topK, Hidden: s.hidden, Activation: moe.SwiGLU, Mode: moe.SoftmaxTopKNorm},
		})
	}
	return c
}

// A decoderResult is what was measured of a whole model.
type decoderResult struct {
	Shape, DType, Work string
	Layers             int
	Parameters         int
	Batch, Length      int
	Recompute          bool    `json:",omitempty"`
	SecondsPerStep     float64 // the median; of generation per token of every sequence
	TokensPerSecond    float64
	WeightBytes        uint64 // on the device
	StateBytes         uint64 // weights, gradients and optimizer states, or weights and cache
	PeakBytes          uint64 // the most that was allocated at once
}

// A decoderReport is what --json writes.
type decoderReport struct {
	Device  string          `json:"device"`
	Driver  string          `json:"driver"`
	Date    string          `json:"date"`
	Results []decoderResult `json:"results"`
	Peers   []decoderPeer   `json:"peers,omitempty"`
}

// A decoderPeer is what a peer took for the same model and work.
type decoderPeer struct {
	Peer, Device, Driver, Date string
	Shape, Work                string
	Parameters                 int
	Batch, Length              int
	SecondsPerStep             float64
	TokensPerSecond            float64
	StateBytes, PeakBytes      uint64
}

// peer has a command time the same model and work: it is told WORK --shape SHAPE --batch B --length L --reps N.
func (r decoderResult) peer(ctx context.Context, command string, reps int) (p decoderPeer, err error) {
	words := append(strings.Fields(command), r.Work, "--shape", r.Shape, "--batch", strconv.Itoa(r.Batch), "--length",
		strconv.Itoa(r.Length), "--reps", strconv.Itoa(reps))
	err = runPeer(ctx, words, &p)
	return p, err
}

func (r decoderResult) String() string {
	return fmt.Sprintf("%s of %s, %d layers, %d parameters, %s, batch %d, length %d:\n  %.0f tokens/s, %.4g ms a step, weights %.0f MB, "+
		"with states %.0f MB, peak %.0f MB", r.Work, r.Shape, r.Layers, r.Parameters, r.DType, r.Batch, r.Length, r.TokensPerSecond,
		1e3*r.SecondsPerStep, float64(r.WeightBytes)/1e6, float64(r.StateBytes)/1e6, float64(r.PeakBytes)/1e6)
}

// runDecoder is the subcommand decoder: it times training steps or the generation of a whole model with random weights.
// Times are the host's, from one step's or token's arrival to the next, so that everything in between counts.
func runDecoder(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("vkmoe-bench decoder", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	work := flags.String("work", "train", "what is timed: train or generate")
	shape := flags.String("shape", "paper", "paper (1.5B Mixtral), mixtral (4 layers of 8x7B) or small")
	layers := flags.Int("layers", 0, "layers instead of the shape's")
	dtype := flags.String("dtype", "bf16", "storage: f32, f16 or bf16")
	batch := flags.Int("batch", 8, "sequences")
	length := flags.Int("length", 2048, "tokens of a sequence; of generation, of the prompt")
	recompute := flags.Bool("recompute", false, "compute layers once more in the backward pass")
	reps := flags.Int("reps", 10, "timed steps, or new tokens of each sequence")
	out := flags.String("json", "", "write the result to this file too")
	var peers peerCommands
	flags.Var(&peers, "peer", "a command that times a peer on the same model just before (again for more), such as "+
		"\"python3 bench/peers/transformers_mixtral.py\"")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, known := decoderShapes[*shape]
	if !known || flags.NArg() > 0 {
		return fmt.Errorf("there is no shape %q %v; there are paper, mixtral and small", *shape, flags.Args())
	}
	if *layers > 0 {
		s.layers = *layers
	}
	storage, err := parseDType(*dtype)
	if err != nil {
		return err
	}
	if len(peers) > 0 && (*layers > 0 || storage != vk.BF16 || *recompute) {
		return errors.New("peers are for whole shapes in bf16, without --recompute")
	}
	if *reps < 2 || *work != "train" && *work != "generate" {
		return fmt.Errorf("--work %s --reps %d: want train or generate, and at least 2", *work, *reps)
	}
	r := decoderResult{Shape: *shape, DType: *dtype, Work: *work, Layers: s.layers, Batch: *batch, Length: *length, Recompute: *recompute}
	var report decoderReport
	for _, command := range peers {
		p, err := r.peer(ctx, command, *reps)
		if err != nil {
			return err
		}
		report.Peers = append(report.Peers, p)
	}
	dev, err := vk.Open(vk.Options{Device: *device})
	if err != nil {
		return err
	}
	defer dev.Close()
	a := dev.Adapter()
	report.Device, report.Driver, report.Date = a.Name, a.DriverName+" "+a.DriverInfo, time.Now().UTC().Format(time.DateOnly)
	b := &decoderBench{dev: dev, reps: *reps, recompute: *recompute, result: r}
	if err := b.run(ctx, s.config(storage, *length+*reps)); err != nil {
		return err
	}
	fmt.Println(a)
	fmt.Println(b.result)
	for _, p := range report.Peers {
		if p.Parameters != b.result.Parameters {
			return fmt.Errorf("%s has a model of %d parameters instead of %d", p.Peer, p.Parameters, b.result.Parameters)
		}
		fmt.Printf("  %s: %.0f tokens/s (%.2f of ours), states %.0f MB, peak %.0f MB\n", p.Peer, p.TokensPerSecond,
			p.TokensPerSecond/b.result.TokensPerSecond, float64(p.StateBytes)/1e6, float64(p.PeakBytes)/1e6)
	}
	report.Results = []decoderResult{b.result}
	return writeJSON(*out, report)
}

// decoderBench times one model.
type decoderBench struct {
	dev       *vk.Device
	reps      int
	recompute bool
	result    decoderResult
}

func (b *decoderBench) run(ctx context.Context, cfg model.DecoderConfig) (err error) {
	r := &b.result
	if r.WeightBytes, err = cfg.WeightBytes(); err != nil {
		return err
	}
	d, err := model.NewDecoder(ctx, b.dev, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for i, p := range d.Parameters() {
		r.Parameters += p.Value.Elements()
		if err := randomize(ctx, b.dev, p, uint32(i)); err != nil {
			return err
		}
	}
	b.dev.ResetPeak()
	if r.Work == "generate" {
		err = b.generate(ctx, d)
	} else {
		err = b.train(ctx, d)
	}
	r.PeakBytes = b.dev.Memory().PeakBytes
	return err
}

// randomize fills a parameter with numbers that are uniform around 0, and a gain with 1, on the device: the values of billions
// of weights do not have to pass through the host.
func randomize(ctx context.Context, dev *vk.Device, p model.Parameter, stream uint32) (err error) {
	ones := map[vk.DType]uint32{vk.F32: 0x3f800000, vk.F16: 0x3c003c00, vk.BF16: 0x3f803f80}[p.Value.DType()]
	rec, err := dev.NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	rec.Fill(p.Value, ones)
	if !p.NoDecay {
		one := rec.Scratch(p.Value.DType(), p.Value.Shape()...)
		noisy := rec.Scratch(p.Value.DType(), p.Value.Shape()...)
		if rec.Err() != nil {
			return rec.Err()
		}
		rec.Fill(one, ones)
		if err := moe.Jitter(rec, one, noisy, moe.JitterConfig{Eps: 1, Seed: 1, Stream: stream}); err != nil {
			return err
		}
		const scale = 0.03
		if err := model.ScaledAdd(rec, noisy, one, p.Value, scale, -scale); err != nil {
			return err
		}
	}
	return rec.Run(ctx)
}

// tokensOf are n tokens of no meaning.
func tokensOf(n, vocabulary int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((i*7919 + i/13) % vocabulary)
	}
	return ids
}

// train times whole steps, losses' way back and all.
func (b *decoderBench) train(ctx context.Context, d *model.Decoder) (err error) {
	r := &b.result
	t, err := train.New(ctx, d, train.Config{Batch: r.Batch, Length: r.Length, Recompute: b.recompute, GradDType: d.Config.DType,
		Adam: train.AdamWConfig{ClipNorm: 1, Decay: 0.1}, Schedule: train.Schedule{Peak: 1e-5}, Router: moe.LossConfig{Balance: 0.01}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	ids := tokensOf(t.Config.Tokens(), d.Config.Vocabulary)
	targets := append(slices.Clone(ids[1:]), 0)
	var times, losses []float64
	for i := range b.reps + 2 {
		begin := time.Now()
		s, err := t.Step(ctx, ids, targets)
		if err != nil {
			return err
		}
		if !(s.GradNorm > 0) {
			return fmt.Errorf("step %d has a gradient norm of %v", s.Step, s.GradNorm)
		}
		losses = append(losses, s.Loss)
		if i >= 2 { // pipelines are compiled and clocks up
			times = append(times, time.Since(begin).Seconds())
		}
	}
	if last := losses[len(losses)-1]; !(last < losses[0]) {
		return fmt.Errorf("the loss of the same tokens went from %v to %v: gradients are wrong", losses[0], last)
	}
	slices.Sort(times)
	r.SecondsPerStep = times[len(times)/2]
	r.TokensPerSecond = float64(t.Config.Tokens()) / r.SecondsPerStep
	r.StateBytes = t.StateBytes()
	return nil
}

// generate times token after token of all sequences together, after the prompts.
func (b *decoderBench) generate(ctx context.Context, d *model.Decoder) (err error) {
	r := &b.result
	if err := b.checkGeneration(ctx, d); err != nil {
		return err
	}
	b.dev.ResetPeak()
	g, err := model.NewGenerator(ctx, d, model.GeneratorConfig{Sequences: r.Batch, Capacity: r.Length + b.reps,
		Sampling: model.SamplingConfig{Temperature: 1, TopK: 50, TopP: 0.95}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	r.StateBytes = b.dev.Memory().LiveBytes
	prompts := make([][]int32, r.Batch)
	for i := range prompts {
		prompts[i] = tokensOf(r.Length, d.Config.Vocabulary)
	}
	for range 2 { // the first time compiles
		var arrived []time.Time
		_, err := g.Generate(ctx, model.Request{Prompts: prompts, Tokens: b.reps, Token: func(sequence int, _ int32) bool {
			if sequence == r.Batch-1 {
				arrived = append(arrived, time.Now())
			}
			return true
		}})
		if err != nil {
			return err
		}
		r.SecondsPerStep = arrived[len(arrived)-1].Sub(arrived[0]).Seconds() / float64(len(arrived)-1)
	}
	r.TokensPerSecond = float64(r.Batch) / r.SecondsPerStep
	return nil
}

// checkGeneration holds the tokens that a generator takes one by one, with its cache, to the logits of one pass over all of them: each
// has to be the likeliest, or nearly. One of four may be another, since roundings may choose another expert.
func (b *decoderBench) checkGeneration(ctx context.Context, d *model.Decoder) (err error) {
	r, tokens := b.result, min(4, b.reps)
	g, err := model.NewGenerator(ctx, d, model.GeneratorConfig{Sequences: r.Batch, Capacity: r.Length + tokens})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	prompts := slices.Repeat([][]int32{tokensOf(r.Length, d.Config.Vocabulary)}, r.Batch)
	out, err := g.Generate(ctx, model.Request{Prompts: prompts, Tokens: tokens})
	if err != nil {
		return err
	}
	made := out[r.Batch-1]
	logits, err := logitsOf(ctx, d, append(slices.Clone(prompts[0]), made...))
	if err != nil {
		return err
	}
	vocabulary, right := d.Config.Vocabulary, 0
	for i, token := range made {
		row := logits[(r.Length-1+i)*vocabulary:][:vocabulary]
		squares := 0.0
		for _, v := range row {
			squares += float64(v) * float64(v)
		}
		if float64(slices.Max(row)-row[token]) <= 0.25*math.Sqrt(squares/float64(vocabulary)) {
			right++
		}
	}
	if len(made) != tokens || right < max(1, tokens-1) {
		return fmt.Errorf("of %d generated tokens only %d are what the whole pass finds likeliest", len(made), right)
	}
	return nil
}

// logitsOf are the logits [T·V] of a sequence.
func logitsOf(ctx context.Context, d *model.Decoder, ids []int32) (logits []float32, err error) {
	var tensors [2]*vk.Tensor
	for i, values := range [][]int32{ids, {0, int32(len(ids))}} {
		if tensors[i], err = d.Device().NewTensor(vk.I32, len(values)); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, tensors[i].Close()) }()
		if err := vk.Upload(ctx, tensors[i], values); err != nil {
			return nil, err
		}
	}
	rec, err := d.Device().NewRecorder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	y, err := d.Logits(rec, model.Batch{IDs: tensors[0], Sequences: attention.Sequences{Offsets: tensors[1]}})
	if err != nil {
		return nil, err
	}
	if err := rec.Run(ctx); err != nil {
		return nil, err
	}
	return vk.Download[float32](ctx, y)
}
