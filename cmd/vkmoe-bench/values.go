package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// uniformPeriod is how many values uniform makes before it repeats them.
const uniformPeriod = 1<<20 + 7

// uniform returns n values in [−scale, scale) that the dtype holds exactly; a long list repeats every million and some.
func uniform(rng *rand.Rand, dtype vk.DType, n int, scale float32) []float32 {
	period := make([]float32, min(n, uniformPeriod))
	for i := range period {
		period[i] = (2*rng.Float32() - 1) * scale
	}
	period = vk.Round(dtype, period)
	out := make([]float32, n)
	for i := 0; i < n; i += len(period) {
		copy(out[i:], period)
	}
	return out
}

// bankValues are the weights of all experts: each begins a little later in one list of random values, so that the host need
// not make and send all of them.
type bankValues struct {
	values []float32
	size   int // of an expert
}

// bankShift is how much later the next expert begins, in elements: whole cache lines.
const bankShift = 64

// of returns an expert's weights.
func (v bankValues) of(expert int) []float32 { return v.values[expert*bankShift:][:v.size] }

// fill fills a bank with random weights.
func (b *bench) fill(ctx context.Context, bank *moe.ExpertBank, scale float32) (v bankValues, err error) {
	experts := bank.Experts()
	v.size = bank.Elements() / experts
	v.values = uniform(b.rng, b.dtype, v.size+bankShift*(experts-1), scale)
	source, err := b.dev.NewTensor(b.dtype, len(v.values))
	if err != nil {
		return v, err
	}
	defer source.Close()
	if err := vk.Upload(ctx, source, v.values); err != nil {
		return v, err
	}
	rec, err := b.dev.NewRecorder()
	if err != nil {
		return v, err
	}
	defer rec.Close()
	for e := range experts {
		from, err := source.View(e*bankShift, v.size)
		if err != nil {
			return v, err
		}
		if bank.Format() != moe.WeightsFull {
			if err := moe.Quantize(rec, bank, e*v.size, from); err != nil {
				return v, err
			}
			continue
		}
		to, err := bank.Expert(e)
		if err != nil {
			return v, err
		}
		if to, err = to.Reshape(v.size); err != nil {
			return v, err
		}
		rec.Copy(to, from)
	}
	return v, rec.Run(ctx)
}

// upload makes a tensor of values that uniform has made, whose repetitions need not be narrowed again.
func (b *bench) upload(ctx context.Context, values []float32, shape ...int) (*vk.Tensor, error) {
	t, err := b.tensor(shape...)
	if err != nil {
		return nil, err
	}
	if b.dtype == vk.F32 {
		return t, vk.Upload(ctx, t, values)
	}
	bits := make([]uint16, len(values))
	for i, v := range values[:min(len(values), uniformPeriod)] {
		bits[i] = uint16(vk.Bits(b.dtype, v))
	}
	for i := uniformPeriod; i < len(bits); i += uniformPeriod {
		copy(bits[i:], bits[:uniformPeriod])
	}
	return t, vk.Upload(ctx, t, bits)
}

// inParallel calls f for 0 … n−1 on all cores.
func inParallel(n int, f func(i int)) {
	var wait sync.WaitGroup
	workers := min(n, runtime.GOMAXPROCS(0))
	for w := range workers {
		wait.Go(func() {
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				f(i)
			}
		})
	}
	wait.Wait()
}
