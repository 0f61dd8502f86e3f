package train

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Config says how a Trainer trains. Sizes are in tokens unless they say otherwise.
type Config struct {
	Batch  int // sequences that are computed together
	Length int // of each sequence
	Micro  int // batches whose gradients are added up for a step; 0 means 1

	Adam      AdamWConfig    // its GradScale is LossScale's
	Schedule  Schedule       // of the learning rate
	Router    moe.LossConfig // the routers' losses
	Recompute bool           // see model.LossPass

	// GradDType is the storage of the gradients: F32, or that of the decoder. LossScale multiplies them on their way, so that
	// 16-bit ones do not vanish; 0 means 1.
	GradDType vk.DType
	LossScale float32

	// Observe is called while a pass is recorded, for every router of it; see model.Batch. nil for none.
	Observe func(Observation) error
}

// An Observation is a router of a pass that is being recorded: of batch Micro of a step, or of Trainer.Loss.
type Observation struct {
	Recorder *vk.Recorder
	Judging  bool         // Trainer.Loss
	Micro    int          // which batch of the step
	Layer    int          // of the decoder
	Block    model.Block  // attention or MLP
	Routing  *moe.Routing // the recorder's, with the router's choice once it has run
}

// maxMicro bounds Micro: the losses of a step come back in one small copy.
const maxMicro = 32

func (c Config) normalized() (Config, error) {
	bad := func(field, want string, got any) (Config, error) {
		return c, &moe.ConfigError{Config: "Config", Field: field, Want: want, Got: fmt.Sprint(got)}
	}
	if c.Micro == 0 {
		c.Micro = 1
	}
	if c.LossScale == 0 {
		c.LossScale = 1
	}
	c.Adam.GradScale = c.LossScale
	switch {
	case c.Batch < 1 || c.Batch > 1<<20:
		return bad("Batch", "1 to 2^20", c.Batch)
	case c.Length < 1 || c.Length > 1<<20 || c.Batch*c.Length > 1<<26:
		return bad("Length", "1 to 2^20, and Batch·Length at most 2^26", c.Length)
	case c.Micro < 1 || c.Micro > maxMicro:
		return bad("Micro", fmt.Sprintf("1 to %d", maxMicro), c.Micro)
	case !(c.LossScale >= 1e-30 && c.LossScale <= 1e30):
		return bad("LossScale", "1e-30 to 1e30", c.LossScale)
	}
	return c, errors.Join(c.Adam.Validate(), c.Schedule.Validate())
}

// Tokens is how many tokens a step reads.
func (c Config) Tokens() int { return max(c.Micro, 1) * c.Batch * c.Length }

// A Trainer trains a decoder: it records one whole step, forward, losses, backward, clipping and optimizer, and submits it
// again for every step. Nothing but its losses comes back to the host. Whoever makes it closes it; the decoder stays the
// caller's. It is not safe for concurrent use.
type Trainer struct {
	Config  Config
	Decoder *model.Decoder

	adam         *AdamW
	steps        int        // done
	ids, targets *vk.Tensor // I32 [Micro·Batch·Length]
	offsets      *vk.Tensor // I32 [Batch+1]
	report       *vk.Tensor // F32 [2·Micro+2]
	step, judge  *vk.Recorder
	words        []uint32 // of report, from the newest run
}

// New makes a trainer for a decoder whose weights are in place, allocates gradients and optimizer states, and records a step.
// It fails with a *moe.ConfigError or vk.ErrOutOfMemory.
func New(ctx context.Context, d *model.Decoder, cfg Config) (*Trainer, error) {
	cfg, err := cfg.normalized()
	if err != nil {
		return nil, err
	}
	t := &Trainer{Config: cfg, Decoder: d}
	if err := t.allocate(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := errors.Join(t.recordStep(), t.recordJudge()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Trainer) allocate(ctx context.Context) error {
	c, dev := t.Config, t.Decoder.Device()
	if err := t.Decoder.NewGrads(c.GradDType); err != nil {
		return err
	}
	var params []Param
	for _, p := range t.Decoder.Parameters() {
		params = append(params, Param{Name: p.Name, Value: p.Value, Grad: p.Grad, NoDecay: p.NoDecay})
	}
	var err error
	if t.adam, err = NewAdamW(ctx, dev, c.Adam, params); err != nil {
		return err
	}
	for _, n := range []struct {
		tensor **vk.Tensor
		dtype  vk.DType
		length int
	}{{&t.ids, vk.I32, c.Tokens()}, {&t.targets, vk.I32, c.Tokens()}, {&t.offsets, vk.I32, c.Batch + 1}, {&t.report, vk.F32, 2*c.Micro + 2}} {
		if *n.tensor, err = dev.NewTensor(n.dtype, n.length); err != nil {
			return err
		}
	}
	offsets := make([]int32, c.Batch+1)
	for b := range offsets {
		offsets[b] = int32(b * c.Length)
	}
	return vk.Upload(ctx, t.offsets, offsets)
}

// batch returns the i-th batch of a step.
func (t *Trainer) batch(i int) (in model.Batch, targets *vk.Tensor, err error) {
	n := t.Config.Batch * t.Config.Length
	ids, err := t.ids.View(i*n, n)
	if err == nil {
		targets, err = t.targets.View(i*n, n)
	}
	return model.Batch{IDs: ids, Sequences: attention.Sequences{Offsets: t.offsets}}, targets, err
}

func (t *Trainer) recordStep() error {
	var err error
	if t.step, err = t.Decoder.Device().NewRecorder(); err != nil {
		return err
	}
	for i := range t.Config.Micro {
		err := t.recordBatch(t.step, i, model.LossPass{Accumulate: i > 0, GradientScale: t.Config.LossScale / float32(t.Config.Micro),
			Recompute: t.Config.Recompute, Router: t.Config.Router})
		if err != nil {
			return err
		}
	}
	if err := t.adam.Step(t.step); err != nil {
		return err
	}
	norm, err := t.report.View(2*t.Config.Micro, 2)
	if err != nil {
		return err
	}
	t.step.Copy(norm, t.adam.Norm())
	return t.watch(t.step)
}

// recordJudge records the losses of a step's tokens without gradients.
func (t *Trainer) recordJudge() error {
	var err error
	if t.judge, err = t.Decoder.Device().NewRecorder(); err != nil {
		return err
	}
	for i := range t.Config.Micro {
		if err := t.recordBatch(t.judge, i, model.LossPass{NoGrads: true}); err != nil {
			return err
		}
	}
	return t.watch(t.judge)
}

func (t *Trainer) recordBatch(rec *vk.Recorder, i int, pass model.LossPass) error {
	in, targets, err := t.batch(i)
	if err != nil {
		return err
	}
	if t.Config.Observe != nil {
		in.Routed = func(layer int, block model.Block, r *moe.Routing) error {
			return t.Config.Observe(Observation{rec, pass.NoGrads, i, layer, block, r})
		}
	}
	losses, err := t.Decoder.Loss(rec, in, targets, pass)
	if err != nil {
		return err
	}
	view, err := t.report.View(i, 1)
	if err != nil {
		return err
	}
	rec.Copy(view, losses.CrossEntropy)
	rec.Release(losses.CrossEntropy)
	balance, err := t.report.View(t.Config.Micro+i, 1)
	if err != nil {
		return err
	}
	if len(losses.Router) == 0 {
		rec.Fill(balance, 0)
		return rec.Err()
	}
	first, err := losses.Router[0].Loss.View(1, 1)
	if err != nil {
		return err
	}
	rec.Copy(balance, first)
	for _, r := range losses.Router {
		rec.Release(r.Loss)
	}
	return rec.Err()
}

// watch brings the report back with every run.
func (t *Trainer) watch(rec *vk.Recorder) error {
	rec.Check(t.report, func(words []uint32) error {
		t.words = words
		return nil
	})
	return rec.Err()
}

// Stats are what a step reports.
type Stats struct {
	Step     int     // from 1 on
	Rate     float64 // the learning rate
	Loss     float64 // mean cross-entropy in nats per token, before the step
	Balance  float64 // the routers' load balancing loss, 0 without
	GradNorm float64 // global norm before clipping; NaN where it was not finite, and then the step changed nothing
}

// A TokenError is a token that the model does not have.
type TokenError struct {
	Index      int // in the step's ids
	Vocabulary int // V
	ID         int32
}

func (e *TokenError) Error() string {
	return fmt.Sprintf("train: token %d is %d, the vocabulary has %d", e.Index, e.ID, e.Vocabulary)
}

// upload checks and uploads a step's tokens.
func (t *Trainer) upload(ctx context.Context, ids, targets []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= t.Decoder.Config.Vocabulary {
			return &TokenError{i, t.Decoder.Config.Vocabulary, id}
		}
	}
	if err := vk.Upload(ctx, t.ids, ids); err != nil {
		return err
	}
	return vk.Upload(ctx, t.targets, targets)
}

// Step makes one step on ids and targets of Config.Tokens() tokens: Micro batches of Batch sequences of Length tokens. A target
// outside the vocabulary, such as −1, is ignored.
func (t *Trainer) Step(ctx context.Context, ids, targets []int32) (Stats, error) {
	if err := t.upload(ctx, ids, targets); err != nil {
		return Stats{}, err
	}
	s := Stats{Step: t.steps + 1, Rate: t.Config.Schedule.Rate(t.steps + 1)}
	if err := t.adam.SetStep(ctx, s.Step, s.Rate); err != nil {
		return Stats{}, err
	}
	if err := t.step.Run(ctx); err != nil {
		return Stats{}, err
	}
	t.steps++
	s.Loss, s.Balance = t.mean(0), t.mean(t.Config.Micro)
	s.GradNorm = float64(math.Float32frombits(t.words[2*t.Config.Micro]))
	return s, nil
}

// Loss is the mean cross-entropy on as many tokens as a step reads, without changing anything.
func (t *Trainer) Loss(ctx context.Context, ids, targets []int32) (float64, error) {
	if err := t.upload(ctx, ids, targets); err != nil {
		return 0, err
	}
	if err := t.judge.Run(ctx); err != nil {
		return 0, err
	}
	return t.mean(0), nil
}

// mean is the mean over the batches of what the report holds from word first on.
func (t *Trainer) mean(first int) float64 {
	var sum float64
	for i := range t.Config.Micro {
		sum += float64(math.Float32frombits(t.words[first+i]))
	}
	return sum / float64(t.Config.Micro)
}

// Timings are the GPU times of the last step's commands, in order; empty unless the device takes timestamps.
func (t *Trainer) Timings() ([]vk.Timing, error) { return t.step.Timings() }

// Kernels names the kernels of a step, each once, with the values that they were specialized by.
func (t *Trainer) Kernels() []string {
	var list []string
	for _, p := range t.step.Pipelines() {
		list = append(list, fmt.Sprint(p.Kernel.Name(), " ", p.Spec))
	}
	return list
}

// StateBytes is the device memory of weights, gradients and optimizer states.
func (t *Trainer) StateBytes() uint64 {
	n := uint64(0)
	for i, p := range t.adam.params {
		s := t.adam.states[i]
		for _, tensor := range []*vk.Tensor{p.Value, p.Grad, s.m, s.v, s.master} {
			if tensor != nil {
				n += tensor.Bytes()
			}
		}
	}
	return n
}

// Steps is how many steps have been made.
func (t *Trainer) Steps() int { return t.steps }

// Close frees everything but the decoder and its gradients. Closing twice does nothing.
func (t *Trainer) Close() error {
	var err error
	for _, r := range []*vk.Recorder{t.step, t.judge} {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
	}
	if t.adam != nil {
		err = errors.Join(err, t.adam.Close())
	}
	return errors.Join(err, t.ids.Close(), t.targets.Close(), t.offsets.Close(), t.report.Close())
}
