package vk_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestDispatchChain(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		const n = 1000
		x, y := newTensor(t, dev, vk.F32, n), newTensor(t, dev, vk.F32, n)
		rec := newRecorder(t, dev)
		rec.Fill(x, 0)
		for range 50 { // each step reads what the one before wrote, and overwrites what it read
			recordScaleAdd(rec, y, x, 1, 1)
			recordScaleAdd(rec, x, y, 1, 1)
		}
		rec.Copy(y, x)
		before := dev.Stats().Submits
		require.NoError(t, rec.Run(t.Context()))
		require.Equal(t, before+1, dev.Stats().Submits)
		for _, v := range download(t, y) {
			require.Equal(t, float32(100), v)
		}
	})
}

func TestResubmitInFlight(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		x := newFloats(t, dev, 0, 1, 2)
		rec := newRecorder(t, dev)
		recordScaleAdd(rec, x, x, 1, 1)
		var last *vk.Pending
		for range 200 {
			p, err := rec.Submit()
			require.NoError(t, err)
			last = p
		}
		require.NoError(t, last.Wait(t.Context()))
		require.True(t, last.Done())
		require.Equal(t, []float32{200, 201, 202}, download(t, x))
	})
}

func TestSeveralGoroutines(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		const workers, rounds = 8, 20
		var wg sync.WaitGroup
		errs := make([]error, workers)
		for w := range workers {
			wg.Go(func() { errs[w] = useAlone(t.Context(), dev, float32(w), rounds) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Zero(t, dev.Memory().LiveBytes)
	})
}

// useAlone does everything a program does with a device, on tensors of its own.
func useAlone(ctx context.Context, dev *vk.Device, start float32, rounds int) error {
	x, err := dev.NewTensor(vk.F32, 3000)
	if err != nil {
		return err
	}
	defer x.Close()
	data := make([]float32, x.Elements())
	for i := range data {
		data[i] = start
	}
	if err := vk.Upload(ctx, x, data); err != nil {
		return err
	}
	for range rounds {
		rec, err := dev.NewRecorder()
		if err != nil {
			return err
		}
		tmp := rec.Scratch(vk.F32, x.Elements())
		recordScaleAdd(rec, tmp, x, 1, 1)
		recordScaleAdd(rec, x, tmp, 1, 0)
		if err := errors.Join(rec.Run(ctx), rec.Close()); err != nil {
			return err
		}
	}
	got, err := vk.Download[float32](ctx, x)
	for i, v := range got {
		if v != start+float32(rounds) {
			return fmt.Errorf("element %d is %v, want %v", i, v, start+float32(rounds))
		}
	}
	return err
}

func TestLinearPastOneAxis(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	// One invocation per work-group, and more of them than the 65,535 that every device allows on an axis.
	const n = 70_000
	x, y := newTensor(t, dev, vk.F32, n), newTensor(t, dev, vk.F32, n)
	rec := newRecorder(t, dev)
	rec.Fill(x, 0x3f800000)
	rec.Fill(y, 0)
	rec.Dispatch(vk.Dispatch{Kernel: scaleAdd, Spec: []uint32{1, 1, 1}, Push: scaleAddPush(x, y, 2, 1), Linear: n,
		Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{y}})
	require.NoError(t, rec.Run(t.Context()))
	for i, v := range download(t, y) {
		require.Equal(t, float32(3), v, "element %d", i)
	}
}

func TestIndirect(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		x := newFloats(t, dev, make([]float32, 256)...)
		counts := newTensor(t, dev, vk.U32, 4)
		require.NoError(t, vk.Upload(t.Context(), counts, []uint32{9, 2, 1, 1}))
		rec := newRecorder(t, dev)
		rec.Dispatch(vk.Dispatch{Kernel: scaleAdd, Push: scaleAddPush(x, x, 1, 5), Indirect: counts, IndirectOffset: 4,
			Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{x}})
		require.NoError(t, rec.Run(t.Context()))
		got := download(t, x)
		require.Equal(t, []float32{5, 5, 0, 0}, []float32{got[0], got[127], got[128], got[255]})

		bad := newRecorder(t, dev)
		bad.Dispatch(vk.Dispatch{Kernel: scaleAdd, Push: scaleAddPush(x, x, 1, 5), Indirect: counts, IndirectOffset: 8})
		var shape *vk.ShapeError
		require.ErrorAs(t, bad.Run(t.Context()), &shape)
	})
}

func TestScratchIsReused(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newFloats(t, dev, 1, 2, 3)
	rec := newRecorder(t, dev)
	before := dev.Memory().LiveBytes
	first := rec.Scratch(vk.F32, 3)
	recordScaleAdd(rec, first, x, 2, 0)
	second := rec.Scratch(vk.F32, 3)
	recordScaleAdd(rec, second, first, 1, 1)
	rec.Release(first)
	third := rec.Scratch(vk.F32, 3)
	require.Equal(t, first.Address(), third.Address())
	recordScaleAdd(rec, third, second, 1, 1)
	recordScaleAdd(rec, x, third, 1, 0)
	require.NoError(t, rec.Run(t.Context()))
	require.Equal(t, []float32{4, 6, 8}, download(t, x))
	require.Equal(t, before+512, dev.Memory().LiveBytes)
	require.NoError(t, rec.Close())
	require.Equal(t, before, dev.Memory().LiveBytes)
}

// TestScratchPlanCountsAsARecorderDoes takes and releases tensors at random, as many bytes in both.
func TestScratchPlanCountsAsARecorderDoes(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	r := rand.New(rand.NewSource(1))
	rec, plan := newRecorder(t, dev), vk.ScratchPlan{}
	before := dev.Memory().LiveBytes
	var tensors []*vk.Tensor
	var sizes []uint64
	for range 300 {
		if i := r.Intn(len(tensors) + 1); i < len(tensors) && r.Intn(5) > 1 {
			rec.Release(tensors[i])
			plan.Release(sizes[i])
			tensors, sizes = slices.Delete(tensors, i, i+1), slices.Delete(sizes, i, i+1)
			continue
		}
		dtype, rows, width := []vk.DType{vk.F32, vk.F16}[r.Intn(2)], r.Intn(40), 1+r.Intn(30)
		tensors, sizes = append(tensors, rec.Scratch(dtype, rows, width)), append(sizes, plan.Take(dtype, rows, width))
		require.NoError(t, rec.Err())
		require.Equal(t, dev.Memory().LiveBytes-before, plan.Bytes)
	}
	require.NotZero(t, plan.Bytes)
}

func TestCheck(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		status := newTensor(t, dev, vk.U32, 2)
		rec := newRecorder(t, dev)
		rec.Fill(status, 7)
		bad := errors.New("seven")
		rec.Check(status, func(words []uint32) error {
			if words[0] == 7 && words[1] == 7 {
				return bad
			}
			return nil
		})
		require.ErrorIs(t, rec.Run(t.Context()), bad)
		require.ErrorIs(t, rec.Run(t.Context()), bad, "a resubmission is judged again")
	})
}

func TestWaitHonoursContext(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		x := newTensor(t, dev, vk.F32, 1<<16)
		rec := newRecorder(t, dev)
		rec.Fill(x, 0)
		for range 20 {
			recordScaleAdd(rec, x, x, 1, 1, 64, 1_000, 1)
		}
		p, err := rec.Submit()
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := p.Wait(ctx); err != nil { // a fast device may be done by then
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.NoError(t, p.Wait(t.Context()), "the work goes on")
		require.Equal(t, float32(20_000), download(t, x)[0])
	})
}

func TestTimings(t *testing.T) {
	dev := openDevice(t, vk.Options{Timestamps: true})
	if !dev.Caps().Has(vk.FeatureTimestamps) {
		t.Skip("needs timestamps")
	}
	x := newTensor(t, dev, vk.F32, 1<<16)
	rec := newRecorder(t, dev)
	rec.Fill(x, 0)
	for range 300 { // more than one query pool
		recordScaleAdd(rec, x, x, 1, 1)
	}
	require.NoError(t, rec.Run(t.Context()))
	timings, err := rec.Timings()
	require.NoError(t, err)
	require.Len(t, timings, 301)
	require.Equal(t, "fill", timings[0].Label)
	var total time.Duration
	for _, s := range timings {
		require.Less(t, s.Duration, time.Minute)
		total += s.Duration
	}
	require.Positive(t, total)
}

func TestLongRecordingsAreSplit(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newFloats(t, dev, 0)
	rec := newRecorder(t, dev)
	for range 40 {
		rec.Dispatch(vk.Dispatch{Kernel: scaleAdd, Push: scaleAddPush(x, x, 1, 1), Linear: 1, FLOPs: 30e9,
			Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{x}})
	}
	before := dev.Stats().Submits
	require.NoError(t, rec.Run(t.Context()))
	require.Equal(t, before+1, dev.Stats().Submits, "batches of one submission")
	require.Equal(t, []float32{40}, download(t, x))
}
