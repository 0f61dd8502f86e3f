package vk_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestUploadDownload(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		// The staged variant has chunks of 1 KiB: 5,000 floats go round its ring several times.
		for _, n := range []int{0, 1, 3, 255, 256, 257, 5000, 300_000} {
			want := make([]float32, n)
			for i := range want {
				want[i] = rand.Float32() - 0.5
			}
			x := newTensor(t, dev, vk.F32, n)
			require.NoError(t, vk.Upload(t.Context(), x, want))
			require.Equal(t, want, download(t, x))
			raw, err := vk.Download[byte](t.Context(), x)
			require.NoError(t, err)
			require.Len(t, raw, 4*n)
		}
	})
}

func TestSixteenBitTensors(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	values := []float32{0, 1, -2.5, 1.0 / 3, 65504, 1e-7, float32(math.Inf(1))}
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		x := newTensor(t, dev, dtype, len(values))
		require.NoError(t, vk.Upload(t.Context(), x, values))
		bits, err := vk.Download[uint16](t.Context(), x)
		require.NoError(t, err)
		for i, got := range download(t, x) {
			want := vk.FromF16(vk.ToF16(values[i]))
			if dtype == vk.BF16 {
				want = vk.FromBF16(vk.ToBF16(values[i]))
				require.Equal(t, vk.ToBF16(values[i]), bits[i])
			}
			require.Equal(t, want, got)
		}
	}
}

func TestIntegerTensors(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newTensor(t, dev, vk.I32, 2, 2)
	require.NoError(t, vk.Upload(t.Context(), x, []int32{-1, 2, -3, 4}))
	got, err := vk.Download[int32](t.Context(), x)
	require.NoError(t, err)
	require.Equal(t, []int32{-1, 2, -3, 4}, got)
}

func TestTransferRefusals(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newTensor(t, dev, vk.F32, 4)
	var shape *vk.ShapeError
	require.ErrorAs(t, vk.Upload(t.Context(), x, make([]float32, 3)), &shape)
	require.ErrorAs(t, vk.Upload(t.Context(), x, make([]int32, 4)), &shape)
	require.ErrorAs(t, vk.Upload(t.Context(), nil, make([]int32, 4)), &shape)
	_, err := vk.Download[uint16](t.Context(), x)
	require.ErrorAs(t, err, &shape)
	require.NoError(t, x.Close())
	require.ErrorIs(t, vk.Upload(t.Context(), x, make([]float32, 4)), vk.ErrClosed)
	_, err = vk.Download[float32](t.Context(), x)
	require.ErrorIs(t, err, vk.ErrClosed)

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	staged := openDevice(t, vk.Options{Disable: []vk.Feature{vk.FeatureDirectMap}, StagingBytes: 1024})
	y := newTensor(t, staged, vk.F32, 4096)
	require.ErrorIs(t, vk.Upload(cancelled, y, make([]float32, 4096)), context.Canceled)
	require.NoError(t, vk.Upload(t.Context(), y, make([]float32, 4096)), "a cancelled transfer leaves the ring whole")
}

func TestViews(t *testing.T) {
	forEachVariant(t, func(t *testing.T, dev *vk.Device) {
		x := newFloats(t, dev, 0, 1, 2, 3, 4, 5, 6, 7)
		v, err := x.View(2, 2, 2)
		require.NoError(t, err)
		require.Equal(t, x.Address()+8, v.Address())
		require.Equal(t, []float32{2, 3, 4, 5}, download(t, v))
		require.NoError(t, vk.Upload(t.Context(), v, []float32{9, 9, 9, 9}))
		rec := newRecorder(t, dev)
		inner, err := v.View(1, 1)
		require.NoError(t, err)
		rec.Fill(inner, 0)
		require.NoError(t, rec.Run(t.Context()))
		require.Equal(t, []float32{0, 1, 9, 0, 9, 9, 6, 7}, download(t, x))

		var shape *vk.ShapeError
		_, err = x.View(7, 2)
		require.ErrorAs(t, err, &shape)
		_, err = x.View(-1, 2)
		require.ErrorAs(t, err, &shape)
		_, err = x.Reshape(3, 3)
		require.ErrorAs(t, err, &shape)
		r, err := x.Reshape(4, 2)
		require.NoError(t, err)
		require.Equal(t, []int{4, 2}, r.Shape())

		require.NoError(t, v.Close(), "closing a view does nothing")
		require.False(t, x.Closed())
	})
}

func TestBadShapes(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	var shape *vk.ShapeError
	_, err := dev.NewTensor(vk.F32, 2, -1)
	require.ErrorAs(t, err, &shape)
	_, err = dev.NewTensor(vk.DType(99), 2)
	require.ErrorAs(t, err, &shape)
	_, err = dev.NewTensor(vk.F32, math.MaxInt, 2)
	require.ErrorAs(t, err, &shape)
	_, err = dev.NewTensor(vk.F32, 1<<40)
	require.ErrorIs(t, err, vk.ErrOutOfMemory)
	var oom *vk.OutOfMemoryError
	require.ErrorAs(t, err, &oom)
	require.EqualValues(t, 4<<40, oom.Bytes)
	require.NotZero(t, oom.Limit)
	require.Zero(t, dev.Memory().LiveObjects)

	empty := newTensor(t, dev, vk.F32, 0, 5)
	require.Zero(t, empty.Address())
	require.Empty(t, download(t, empty))
}

func TestMemoryIsCounted(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	small := newTensor(t, dev, vk.F32, 10)
	require.EqualValues(t, 256, dev.Memory().LiveBytes)
	large := newTensor(t, dev, vk.F32, 40<<18) // 40 MiB: memory of its own
	require.EqualValues(t, 40<<20+256, dev.Memory().LiveBytes)
	reserved := dev.Memory().ReservedBytes
	require.NoError(t, large.Close())
	stats := dev.Memory()
	require.EqualValues(t, 256, stats.LiveBytes)
	require.EqualValues(t, 40<<20+256, stats.PeakBytes)
	require.EqualValues(t, reserved-40<<20, stats.ReservedBytes)
	dev.ResetPeak()
	require.EqualValues(t, 256, dev.Memory().PeakBytes)
	require.NoError(t, small.Close())
	require.NoError(t, small.Close())
	require.Zero(t, dev.Memory().LiveBytes)
}

// A tensor closed while the GPU still works on it must not be handed out again before the GPU is done.
func TestCloseWaitsForTheGPU(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x, err := dev.NewTensor(vk.F32, 1<<16)
	require.NoError(t, err)
	y := newTensor(t, dev, vk.F32, 1<<16)
	rec := newRecorder(t, dev)
	rec.Fill(x, 0)
	recordScaleAdd(rec, x, x, 1, 1, 64, 10_000, 1)
	rec.Copy(y, x)
	p, err := rec.Submit()
	require.NoError(t, err)
	require.NoError(t, x.Close())
	_, err = rec.Submit()
	require.ErrorIs(t, err, vk.ErrClosed)
	for range 8 {
		z := newTensor(t, dev, vk.F32, 1<<16)
		require.NoError(t, vk.Upload(t.Context(), z, make([]float32, 1<<16)))
	}
	require.NoError(t, p.Wait(t.Context()))
	require.Equal(t, float32(10_000), download(t, y)[1<<15])
}

func TestFloat16Conversions(t *testing.T) {
	for h := range 1 << 16 {
		h := uint16(h)
		if f := vk.FromF16(h); f == f {
			require.Equal(t, h, vk.ToF16(f))
			require.Equal(t, float64(f), f16Value(h))
		} else {
			require.NotEqual(t, vk.FromF16(vk.ToF16(f)), vk.FromF16(vk.ToF16(f)))
		}
		if f := vk.FromBF16(h); f == f {
			require.Equal(t, h, vk.ToBF16(f))
		} else {
			require.NotEqual(t, vk.FromBF16(vk.ToBF16(f)), vk.FromBF16(vk.ToBF16(f)))
		}
	}
	// Rounding: any float lies between two neighbours, and goes to the nearer, or to the even one.
	for range 200_000 {
		f := math.Float32frombits(rand.Uint32())
		if f != f {
			continue
		}
		requireNearest(t, f, vk.ToF16, vk.FromF16)
		requireNearest(t, f, vk.ToBF16, vk.FromBF16)
	}
	require.Equal(t, uint16(0x7bff), vk.ToF16(65519.996))
	require.Equal(t, uint16(0x7c00), vk.ToF16(65520))
	require.Equal(t, uint16(0x8001), vk.ToF16(-5e-8))
	require.Equal(t, uint16(0), vk.ToF16(1.0/(1<<25)), "half the least subnormal goes to even")
}

// f16Value is the value of a finite or infinite binary16 by its definition.
func f16Value(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	e, f := int(h>>10&31), float64(h&1023)
	switch e {
	case 0:
		return sign * math.Ldexp(f, -24)
	case 31:
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+f, e-25)
}

// requireNearest holds narrow(f) against its two neighbours.
func requireNearest(t *testing.T, f float32, narrow func(float32) uint16, widen func(uint16) float32) {
	t.Helper()
	h := narrow(f)
	got := float64(widen(h))
	if math.IsInf(got, 0) {
		return // overflow is checked by value
	}
	miss := math.Abs(got - float64(f))
	for _, other := range []uint16{h - 1, h + 1} {
		o := float64(widen(other))
		if o != o || math.IsInf(o, 0) || (o < 0) != (got < 0) {
			continue
		}
		d := math.Abs(o - float64(f))
		require.False(t, d < miss || d == miss && h&1 == 1, "%v became %v, but %v is nearer or even", f, got, o)
	}
}
