package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// openDevice opens a device for a test, which it skips where there is none and none is required.
func openDevice(t *testing.T) *vk.Device {
	t.Helper()
	return gputest.Open(t, vk.Options{Timestamps: true, NoCache: true})
}

// TestFMAPeakIsExact uses numbers with which every step is exact: a step too many or too few shows.
func TestFMAPeakIsExact(t *testing.T) {
	dev := openDevice(t)
	for _, f := range []fmaPeak{{64, 16, 1, 1, 1}, {32, 3, 7, 3, 9}, {64, 5, 4, 2, 0}} {
		k := gputest.New(t, dev)
		x := make([]float32, f.threads*f.chains)
		for i := range x {
			x[i] = float32(i%37 - 18)
		}
		y := k.Output("y", vk.F32, stored(f.groups, f.every), len(x))
		require.NoError(t, f.record(k.Rec, k.F32("x", x, len(x)), y, -1, 3))
		k.Run()
		got, err := vk.Download[float32](t.Context(), y)
		require.NoError(t, err)
		want := ref.FMAPeak(x, -1, 3, f.rounds)
		require.NoError(t, compareCopies(got, want, make([]float64, len(x))))
		got[len(got)-1]++
		require.Error(t, compareCopies(got, want, make([]float64, len(x))))
		k.Close()
	}
}

// TestMatrixPeakIsExact likewise: whole numbers whose sums f32 holds.
func TestMatrixPeakIsExact(t *testing.T) {
	dev := openDevice(t)
	ran := false
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		for _, size := range [][5]int{{1, 1, 1, 1, 1}, {2, 4, 7, 3, 5}, {4, 2, 2, 1, 0}} {
			p, ok := newMatrixPeak(dev, dtype, size[0], size[1])
			if !ok {
				continue
			}
			ran = true
			p.groups, p.every, p.rounds = size[2], size[3], size[4]
			k := gputest.New(t, dev)
			m, n := p.mi*p.m, p.ni*p.n
			a, b := make([]float32, m*p.k), make([]float32, n*p.k)
			for i := range a {
				a[i] = float32(i*7%9 - 4)
			}
			for i := range b {
				b[i] = float32(i*5%11 - 5)
			}
			c := k.Output("c", vk.F32, stored(p.groups, p.every)*p.subgroups, m, n)
			require.NoError(t, p.record(k.Rec, k.Floats("a", dtype, a, m, p.k), k.Floats("b", dtype, b, n, p.k), c))
			k.Run()
			got, err := vk.Download[float32](t.Context(), c)
			require.NoError(t, err)
			want := ref.MatrixPeak(a, b, m, n, p.k, p.rounds)
			require.NoError(t, compareCopies(got, want, make([]float64, m*n)))
			k.Close()
		}
	}
	if !ran {
		t.Skip("needs cooperative matrices of f16 or bf16 products added up in f32")
	}
}

func TestCeilingsAreMeasured(t *testing.T) {
	c, err := measureCeilings(t.Context(), openDevice(t), vk.F32)
	require.NoError(t, err)
	require.Positive(t, c.Copy)
	require.Positive(t, c.F32)
	require.Zero(t, c.Matrix)
	require.Equal(t, c.F32, c.arithmetic())
	require.NotContains(t, c.String(), "matrices")
}
