package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// warmUp is how long the device works at least before it is timed: an idle GPU takes tens of milliseconds to raise its clocks. It works
// on, up to settled, while it becomes faster from one span of settling to the next. One that has been idle for longer than a second
// works five times as long: an H100 then stays near a third of its clocks for most of a second, at times that do settle.
var warmUp = 300 * time.Millisecond // less in tests

const (
	settling = 50 * time.Millisecond
	settled  = 2 * time.Second
)

// A submission lasts about so long where the job is shorter, by repeating it: between submissions the device waits for the host, and one
// that often waits keeps its clocks down. The repetitions take no more scratch than repeatedBytes.
const (
	longSubmission = 3000 // µs
	mostRepeats    = 64
	repeatedBytes  = 256 << 20
)

// A result is one timed case.
type result struct {
	Operation string  `json:"operation"`
	Case      string  `json:"case"`
	Shape     string  `json:"shape"`
	Median    float64 `json:"median_us"`
	Least     float64 `json:"min_us"`
	Low       float64 `json:"p10_us"`
	High      float64 `json:"p90_us"`
	TFLOPs    float64 `json:"tflops"`
	// Weights is the rate at which the active experts' weights are read, or their gradients written, if each is once, in
	// 10¹² bytes a second: what bounds small numbers of tokens.
	Weights float64 `json:"weights_tb_per_s"`
	Memory  float64 `json:"extra_mb"` // 10⁶ bytes of results and scratch: all but weights and inputs
	// ShareOfCopy is Weights, and ShareOfPeak TFLOPs, as a share of what the device was measured to do in the same run.
	ShareOfCopy float64 `json:"share_of_copy,omitempty"`
	ShareOfPeak float64 `json:"share_of_peak,omitempty"`

	// LowClocks is the share of the device's clocks that the case was timed at where they did not rise; 0 where nothing held them down.
	LowClocks float64 `json:"low_clocks,omitempty"`

	Error float64            `json:"relative_error"` // of sampled results, Frobenius
	Runs  int                `json:"runs"`
	Parts map[string]float64 `json:"parts_us,omitempty"` // median time of each kernel of a run, by label
}

func (r result) String() string {
	s := fmt.Sprintf("%-16s %-22s %9.1f µs %9.1f … %9.1f µs %8.1f %5.1f %% %7.2f %5.1f %% %8.1f %9.1e", r.Case, r.Shape, r.Median, r.Low,
		r.High, r.TFLOPs, 100*r.ShareOfPeak, r.Weights, 100*r.ShareOfCopy, r.Memory, r.Error)
	if r.LowClocks > 0 {
		s += fmt.Sprintf("  at %.0f %% of the clocks", 100*r.LowClocks)
	}
	return s
}

// resultHeader heads a table of results.
var resultHeader = fmt.Sprintf("%-16s %-22s %12s %24s %8s %7s %7s %7s %8s %9s", "case", "shape", "median", "10 % … 90 %", "TFLOP/s", "of peak",
	"TB/s", "of copy", "extra MB", "error")

// compareWith fills in the shares.
func (r *result) compareWith(c ceilings) {
	r.ShareOfCopy, r.ShareOfPeak = r.Weights/c.Copy, r.TFLOPs/c.arithmetic()
}

// parts lists the times of the kernels, longest first.
func (r result) parts() string {
	labels := make([]string, 0, len(r.Parts))
	for label := range r.Parts {
		labels = append(labels, label)
	}
	slices.SortFunc(labels, func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Parts[b], r.Parts[a]), cmp.Compare(a, b))
	})
	text := ""
	for _, label := range labels {
		text += fmt.Sprintf("\n    %9.1f µs %s", r.Parts[label], label)
	}
	return text
}

// bench is what all jobs of a case have.
type bench struct {
	benchCase
	dev     *vk.Device
	dtype   vk.DType
	weights moe.WeightFormat
	rng     *rand.Rand
	ids     []int32
	closers []func() error
}

// newBench routes the case's tokens.
func newBench(dev *vk.Device, c benchCase, dtype vk.DType, weights moe.WeightFormat) *bench {
	b := &bench{benchCase: c, dev: dev, dtype: dtype, weights: weights, rng: rand.New(rand.NewPCG(1, uint64(c.t)))}
	for range b.t {
		for _, e := range b.rng.Perm(b.experts)[:b.k] {
			b.ids = append(b.ids, int32(e))
		}
	}
	return b
}

func (b *bench) close() error {
	var err error
	for _, f := range slices.Backward(b.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// slots is T·k.
func (b *bench) slots() int { return b.t * b.k }

// active is the number of experts that have a token.
func (b *bench) active() int {
	used := map[int32]bool{}
	for _, id := range b.ids {
		used[id] = true
	}
	return len(used)
}

func (b *bench) tensor(shape ...int) (*vk.Tensor, error) {
	t, err := b.dev.NewTensor(b.dtype, shape...)
	if err == nil {
		b.closers = append(b.closers, t.Close)
	}
	return t, err
}

// deviceIDs uploads the choices.
func (b *bench) deviceIDs(ctx context.Context) (*vk.Tensor, error) {
	ids, err := moe.NewIDs(ctx, b.dev, b.ids, b.k, b.experts)
	if err == nil {
		b.closers = append(b.closers, ids.Close)
	}
	return ids, err
}

// record records a job so many times.
func (b *bench) record(j job, times int) (*vk.Recorder, error) {
	rec, err := b.recorder()
	if err != nil {
		return nil, err
	}
	for range times {
		if err := j.record(rec); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

func (b *bench) recorder() (*vk.Recorder, error) {
	rec, err := b.dev.NewRecorder()
	if err == nil {
		b.closers = append(b.closers, rec.Close)
	}
	return rec, err
}

// measure checks a job and times it.
func measure(ctx context.Context, b *bench, operation string, reps int, clocks *pace) (res result, err error) {
	j := operations[operation](b)
	defer func() { err = errors.Join(err, j.close()) }()
	if err := j.prepare(ctx); err != nil {
		return res, err
	}
	before := b.dev.Memory().LiveBytes
	b.dev.ResetPeak()
	once, err := b.record(j, 1)
	if err != nil {
		return res, err
	}
	if err := once.Run(ctx); err != nil {
		return res, err
	}
	scratch := b.dev.Memory().PeakBytes - before
	res.Memory = float64(scratch+j.memory()) / 1e6
	checking := time.Now()
	if res.Error, err = j.check(ctx); err != nil {
		return res, err
	}
	first, _, err := timeFor(ctx, once, 1, 1, 0)
	if err != nil {
		return res, err
	}
	if err := once.Close(); err != nil { // before its scratch is needed twice
		return res, err
	}
	repeats := repeatsOf(first[0], scratch)
	rec, err := b.record(j, repeats)
	if err != nil {
		return res, err
	}
	warm := warmUp
	if time.Since(checking) > time.Second {
		warm *= 5
	}
	var times []float64
	var parts map[string]float64
	res.LowClocks, err = atFullClocks(func() (err error) {
		times, parts, err = timeRuns(ctx, rec, repeats, reps, warm)
		return err
	}, func() (float64, error) { return clocks.share(ctx) })
	if err != nil {
		return res, err
	}
	res.Operation, res.Case, res.Shape, res.Runs, res.Parts = operation, b.Name(), b.shape(), len(times), parts
	res.Least = quantile(times, 0)
	res.Low, res.Median, res.High = quantile(times, 0.1), quantile(times, 0.5), quantile(times, 0.9)
	flops, bytes := j.cost()
	res.TFLOPs, res.Weights = flops/res.Median/1e6, bytes/res.Median/1e6
	return res, nil
}

// repeatsOf is how often a job of so many microseconds and so much scratch is recorded in one submission.
func repeatsOf(µs float64, scratch uint64) int {
	most := min(mostRepeats, repeatedBytes/max(scratch, 1))
	return int(max(1, min(uint64(longSubmission/max(µs, 1)), most)))
}

// timeRuns returns the GPU times of at least reps runs in microseconds, and the median of each kernel's share. The recorder
// holds the job so many times. It works for warm at least before.
func timeRuns(ctx context.Context, rec *vk.Recorder, repeats, reps int, warm time.Duration) ([]float64, map[string]float64, error) {
	before := math.Inf(1)
	for start := time.Now(); time.Since(start) < settled; {
		span := time.Now()
		var times []float64
		for time.Since(span) < settling {
			one, _, err := timeFor(ctx, rec, repeats, 1, 0)
			if err != nil {
				return nil, nil, err
			}
			times = append(times, one...)
		}
		now := quantile(times, 0.5)
		slow := time.Since(span) > 2*settling // a run that takes long varies by more than clocks do
		if time.Since(start) >= warm && (slow || now > 0.98*before) {
			break
		}
		before = now
	}
	return timeFor(ctx, rec, repeats, reps, 0)
}

// timeFor is timeRuns after another time of warm-up.
func timeFor(ctx context.Context, rec *vk.Recorder, repeats, reps int, warm time.Duration) ([]float64, map[string]float64, error) {
	for start := time.Now(); time.Since(start) < warm; {
		if err := rec.Run(ctx); err != nil {
			return nil, nil, err
		}
	}
	var times []float64
	shares := map[string][]float64{}
	for len(times) < reps {
		if err := rec.Run(ctx); err != nil {
			return nil, nil, err
		}
		timings, err := rec.Timings()
		if err != nil {
			return nil, nil, err
		}
		each := len(timings) / repeats
		for run := range slices.Chunk(timings, each) {
			total, parts := 0.0, map[string]float64{}
			for _, t := range run {
				µs := float64(t.Duration) / float64(time.Microsecond)
				total += µs
				parts[t.Label] += µs
			}
			times = append(times, total)
			for label, µs := range parts {
				shares[label] = append(shares[label], µs)
			}
		}
	}
	parts := map[string]float64{}
	for label, list := range shares {
		parts[label] = quantile(list, 0.5)
	}
	return times, parts, nil
}

var refType = map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}

// deviation adds up how far results are from the reference.
type deviation struct{ diff, norm float64 }

func (d *deviation) add(got float32, want float64) {
	d.diff += (float64(got) - want) * (float64(got) - want)
	d.norm += want * want
}

// relative is the Frobenius norm of the difference over that of the reference.
func (d *deviation) relative() float64 { return math.Sqrt(d.diff / d.norm) }

// rows downloads width elements of a tensor from element at on.
func rows(ctx context.Context, t *vk.Tensor, at, width int) ([]float32, error) {
	view, err := t.View(at, width)
	if err != nil {
		return nil, err
	}
	return vk.Download[float32](ctx, view)
}

// quantile of the times.
func quantile(times []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
