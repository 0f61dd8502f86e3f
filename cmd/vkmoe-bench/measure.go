package main

import (
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

// warmUp is how long the device works before it is timed: an idle GPU takes tens of milliseconds to raise its clocks.
const warmUp = 300 * time.Millisecond

// A result is one timed case.
type result struct {
	Case   string  `json:"case"`
	Shape  string  `json:"shape"`
	Median float64 `json:"median_us"`
	Low    float64 `json:"p10_us"`
	High   float64 `json:"p90_us"`
	TFLOPs float64 `json:"tflops"`
	// Weights is the rate at which the active experts' weights are read if each is read once, in 10¹² bytes a second: what
	// bounds small numbers of tokens.
	Weights float64 `json:"weights_tb_per_s"`
	Error   float64 `json:"relative_error"` // of sampled rows, Frobenius
	Runs    int     `json:"runs"`
}

func (r result) String() string {
	return fmt.Sprintf("%-14s %-22s %7.1f µs %9.1f … %6.1f µs %9.1f %8.2f %9.1e", r.Case, r.Shape, r.Median, r.Low, r.High,
		r.TFLOPs, r.Weights, r.Error)
}

// bench holds the tensors of one case.
type bench struct {
	benchCase
	dev     *vk.Device
	dtype   vk.DType
	ids     []int32
	x, w    []float32
	routing *moe.Routing
	layer   *moe.ParallelLinear
	xs, ys  *vk.Tensor
	closers []func() error
}

func (b *bench) close() error {
	var err error
	for _, f := range slices.Backward(b.closers) {
		err = errors.Join(err, f())
	}
	return err
}

// measure checks a case and times it.
func measure(ctx context.Context, dev *vk.Device, c benchCase, dtype vk.DType, reps int) (res result, err error) {
	b := &bench{benchCase: c, dev: dev, dtype: dtype}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx); err != nil {
		return res, err
	}
	once, err := b.record(1)
	if err != nil {
		return res, err
	}
	if err := once.Run(ctx); err != nil {
		return res, err
	}
	if res.Error, err = b.check(ctx); err != nil {
		return res, err
	}
	times, err := b.time(ctx, reps)
	if err != nil {
		return res, err
	}
	res.Case, res.Shape, res.Runs = c.Name(), c.shape(), len(times)
	res.Low, res.Median, res.High = quantile(times, 0.1), quantile(times, 0.5), quantile(times, 0.9)
	flops := 2 * float64(c.t*c.k) * float64(c.in) * float64(c.out)
	bytes := float64(b.active()) * float64(c.in) * float64(c.out) * float64(dtype.Bytes())
	res.TFLOPs = flops / res.Median / 1e6
	res.Weights = bytes / res.Median / 1e6
	return res, nil
}

// active is the number of experts that have a token.
func (b *bench) active() int {
	used := map[int32]bool{}
	for _, id := range b.ids {
		used[id] = true
	}
	return len(used)
}

// prepare makes the layer, its input and the routing.
func (b *bench) prepare(ctx context.Context) (err error) {
	rng := rand.New(rand.NewPCG(1, uint64(b.t)))
	for range b.t {
		for _, e := range rng.Perm(b.experts)[:b.k] {
			b.ids = append(b.ids, int32(e))
		}
	}
	b.x = uniform(rng, b.t*b.in, 1)
	b.w = uniform(rng, b.experts*b.in*b.out, float32(1/math.Sqrt(float64(b.in))))
	if b.layer, err = moe.NewParallelLinear(b.dev, moe.ParallelLinearConfig{Experts: b.experts, In: b.in, Out: b.out,
		DType: b.dtype}); err != nil {
		return err
	}
	b.closers = append(b.closers, b.layer.Close)
	if err := moe.UploadBank(ctx, b.layer.Weight, b.w); err != nil {
		return err
	}
	if b.xs, err = b.tensor(b.t, b.in); err != nil {
		return err
	}
	if b.ys, err = b.tensor(b.t*b.k, b.out); err != nil {
		return err
	}
	if err := vk.Upload(ctx, b.xs, b.x); err != nil {
		return err
	}
	return b.route(ctx)
}

func (b *bench) tensor(shape ...int) (*vk.Tensor, error) {
	t, err := b.dev.NewTensor(b.dtype, shape...)
	if err == nil {
		b.closers = append(b.closers, t.Close)
	}
	return t, err
}

// route groups the tokens once; the recorder keeps the routing's tensors until the case is closed.
func (b *bench) route(ctx context.Context) error {
	ids, err := moe.NewIDs(ctx, b.dev, b.ids, b.k, b.experts)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, ids.Close)
	rec, err := b.recorder()
	if err != nil {
		return err
	}
	if b.routing, err = moe.RouteIDs(rec, ids, nil, b.experts); err != nil {
		return err
	}
	return rec.Run(ctx)
}

func (b *bench) recorder() (*vk.Recorder, error) {
	rec, err := b.dev.NewRecorder()
	if err == nil {
		b.closers = append(b.closers, rec.Close)
	}
	return rec, err
}

// record records the layer n times.
func (b *bench) record(n int) (*vk.Recorder, error) {
	rec, err := b.recorder()
	if err != nil {
		return nil, err
	}
	for range n {
		if err := b.layer.Forward(rec, b.routing, b.xs, b.ys, moe.LinearOptions{Out: moe.Grouped}); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

// time returns the GPU times of at least reps runs in microseconds.
func (b *bench) time(ctx context.Context, reps int) ([]float64, error) {
	rec, err := b.record(min(reps, 25))
	if err != nil {
		return nil, err
	}
	for start := time.Now(); time.Since(start) < warmUp; {
		if err := rec.Run(ctx); err != nil {
			return nil, err
		}
	}
	var times []float64
	for len(times) < reps {
		if err := rec.Run(ctx); err != nil {
			return nil, err
		}
		if times, err = appendTimes(times, rec); err != nil {
			return nil, err
		}
	}
	return times, nil
}

func appendTimes(times []float64, rec *vk.Recorder) ([]float64, error) {
	timings, err := rec.Timings()
	for _, t := range timings {
		times = append(times, float64(t.Duration)/float64(time.Microsecond))
	}
	return times, err
}

// check compares sampled rows with the float64 reference on the rounded inputs and returns their relative error. It
// fails when one value is beyond the bound that dtype and length give.
func (b *bench) check(ctx context.Context) (float64, error) {
	got, err := vk.Download[float32](ctx, b.ys)
	if err != nil {
		return 0, err
	}
	x, w := rounded(b.dtype, b.x), b.w
	r := ref.Route(b.ids, b.t, b.experts, b.k)
	rng := rand.New(rand.NewPCG(2, 3))
	layout := ref.Layout{GroupedOut: true}
	var diff, norm float64
	for range 12 {
		slot := rng.IntN(b.t * b.k)
		e := int(b.ids[slot])
		one := ref.Linear[float32]{Experts: 1, In: b.in, Out: b.out, Weight: rounded(b.dtype, w[e*b.in*b.out:(e+1)*b.in*b.out])}
		single := ref.Route(make([]int32, 1), 1, 1, 1)
		row := x[slot/b.k*b.in : (slot/b.k+1)*b.in]
		want := ref.Scatter2scatterSlot(one, row, single, layout, 0, 1)
		at := int(r.Inverse[slot]) * b.out
		c := ref.Compare(got[at:at+b.out], want.Y, want.Bound(refType[b.dtype], b.in))
		if !(c.Worst.Ratio <= 1) {
			return 0, fmt.Errorf("slot %d is wrong: %+v", slot, c)
		}
		for i, v := range want.Y {
			diff += (float64(got[at+i]) - v) * (float64(got[at+i]) - v)
			norm += v * v
		}
	}
	return math.Sqrt(diff / norm), nil
}

var refType = map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}

// rounded is what values are once stored in a dtype.
func rounded(dtype vk.DType, values []float32) []float32 {
	out := slices.Clone(values)
	for i, v := range out {
		switch dtype {
		case vk.F16:
			out[i] = vk.FromF16(vk.ToF16(v))
		case vk.BF16:
			out[i] = vk.FromBF16(vk.ToBF16(v))
		}
	}
	return out
}

// uniform returns n values in [−scale, scale); a long list repeats every million and some.
func uniform(rng *rand.Rand, n int, scale float32) []float32 {
	period := make([]float32, min(n, 1<<20+7))
	for i := range period {
		period[i] = (2*rng.Float32() - 1) * scale
	}
	out := make([]float32, n)
	for i := 0; i < n; i += len(period) {
		copy(out[i:], period)
	}
	return out
}

// quantile of the times.
func quantile(times []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
