package moe

import (
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// tensorXTYKernel is the kernel of weight gradients [1,m,n] on the tensor path, nil where the tile does not fit the device.
func tensorXTYKernel(t *testing.T, dtype vk.DType, tile tensorTile, m, n int) *vk.Kernel {
	t.Helper()
	k := newKit(t)
	defer k.Close()
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: n, Out: m, DType: dtype}, matrices: tile}
	a, b, c := k.Output("a", dtype, 3, m), k.Output("b", dtype, 3, n), k.Output("c", dtype, 1, m, n)
	var d vk.Dispatch
	l.tensorXTY(dev, a, b, nil, bankOf(t, c), &d)
	return d.Kernel
}

// TestTensorPathBackward runs dX and dW through ragged, empty and long experts in every layout, gates, both weight orders,
// gradients in f32, accumulation and split banks.
func TestTensorPathBackward(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 3, 2, 8, 16}, {1, 1, 1, 8, 8}, {37, 3, 2, 24, 16}, {70, 8, 4, 104, 72}, {130, 4, 2, 64, 128}, {9, 64, 8, 136, 40},
		{400, 3, 1, 64, 64},
	}
	for _, dtype := range matrixTypes(t) {
		ran := 0
		tiles := tensorTiles(dtype)
		if software(dev) {
			tiles = tiles[:2] // every variant of a tile takes lavapipe seconds to compile
		}
		for i, tile := range tiles {
			if tensorXTYKernel(t, dtype, tile, 64, 64) == nil {
				continue
			}
			for j, s := range shapes {
				flags := 3*i + j
				c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], ref.Layouts[flags%len(ref.Layouts)],
					flags&1 != 0, flags&2 != 0, flags&4 != 0, 0, Tile{}, tenths}
				gradsCase{linearCase: c, dtype: dtype, wide: flags%3 == 0, accumulate: flags%4 == 1, part: flags % 3,
					noGates: j%2 == 0, matrices: tile}.check(t, false)
				ran++
			}
		}
		require.GreaterOrEqual(t, ran, 2*len(shapes), "most tiles must fit the device")
	}
}

func TestTensorPathBackwardIsExact(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		tile := tensorTiles(dtype)[1]
		require.Same(t, tensorXTYKernels[[2]vk.DType{dtype, dtype}], tensorXTYKernel(t, dtype, tile, 40, 56))
		for i, layout := range ref.Layouts {
			for flags := range 4 {
				c := linearCase{55, 4, 2, 40, 56, spreads[(flags+i)%len(spreads)], layout, false, flags&1 != 0, flags&2 != 0, 0, Tile{}, signs}
				gradsCase{linearCase: c, dtype: dtype, wide: i%2 == 0, accumulate: i%3 == 0, noGates: true, matrices: tile}.check(t, true)
			}
		}
	}
}

func TestTensorPathBackwardRepeatsItsBits(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		k := newKit(t)
		k.matrices = tensorTiles(dtype)[1]
		run := linearCase{200, 8, 4, 64, 72, spreads[0], ref.Layout{}, false, true, false, 0, Tile{}, tenths}.recordIn(k, uniform(dtype))
		dy := k.Floats("dy", dtype, vk.Round(dtype, tenths(rand.New(rand.NewSource(5)), 800*72)), 800, 72)
		outputs := []*vk.Tensor{k.Output("dx", dtype, run.xs.Shape()...), k.Output("dw", dtype, run.layer.Weight.Shape()...)}
		g := LinearGrads{X: outputs[0], Weight: bankOf(t, outputs[1])}
		require.NoError(t, run.layer.Backward(k.Rec, run.device, run.xs, dy, g, run.opts))
		k.RunAlike(outputs...)
		k.Close()
	}
}

// roundingTerms are pairs whose sums are halfway between two values of the storage type, NaN, infinite, or large; the first five are
// halfway.
func roundingTerms(dtype vk.DType) [2][]float64 {
	step, most := 0x1p-10, 60000.0 // between 1 and the next value; a large value
	if dtype == vk.BF16 {
		step, most = 0x1p-7, 0x1.cp127
	}
	inf, nan := math.Inf(1), math.NaN()
	return [2][]float64{
		{1, 1, 1 + step, 1 + step, -1 - step, inf, -inf, inf, nan, 0, 0, most, -most},
		{step / 2, -step / 4, step / 2, step / 4, -step / 2, 1, 1, -inf, 1, nan, 0, -1, 0},
	}
}

// TestTensorPathBackwardRounds: sums halfway between two values of the storage type go to the even one, NaN and infinities stay
// what they are, and so do numbers whose magnitudes have an infinite sum.
func TestTensorPathBackwardRounds(t *testing.T) {
	const in, out = 40, 48
	for _, dtype := range matrixTypes(t) {
		terms := roundingTerms(dtype)
		for _, plain := range []int{out, 5} { // rows without and with what is no number
			k := newKit(t)
			dys, want := make([]float32, 2*out), make([]float32, out)
			for m := range out {
				for r := range terms {
					dys[r*out+m] = float32(terms[r][m%min(plain, len(terms[r]))])
				}
				want[m] = float32(float64(dys[m]) + float64(dys[out+m]))
			}
			want = vk.Round(dtype, want)
			ones := make([]float32, 2*in)
			for i := range ones {
				ones[i] = 1
			}
			l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: in, Out: out, DType: dtype}, matrices: tensorTiles(dtype)[1],
				Weight: bankOf(t, k.Floats("weight", dtype, make([]float32, in*out), 1, out, in))}
			dw := k.Output("dw", dtype, 1, out, in)
			require.NoError(t, l.DenseBackward(k.Rec, k.Floats("x", dtype, ones, 2, in), k.Floats("dy", dtype, dys, 2, out),
				LinearGrads{Weight: bankOf(t, dw)}))
			k.Run()
			for i, got := range gputest.Download[float32](t, dw) {
				if w := want[i/in]; w == w {
					require.Equal(t, w, got, "%v, row %d", dtype, i/in)
				} else {
					require.True(t, got != got, "%v, row %d keeps NaN", dtype, i/in)
				}
			}
			k.Close()
		}
	}
}

// TestTensorPathOfMLPs: there the gates meet h before the gradient of the second weights.
func TestTensorPathOfMLPs(t *testing.T) {
	const tokens = 61 // 30 rows per expert, tiles of 32 on software devices
	for _, dtype := range matrixTypes(t) {
		for i, cfg := range []MLPConfig{
			{Experts: 4, TopK: 2, Width: 64, Hidden: 48, Activation: GELU, DType: dtype},
			{Experts: 4, TopK: 2, Width: 32, Hidden: 40, Bias: true, InOut: true, DType: dtype},
			{Experts: 4, TopK: 2, Width: 64, Hidden: 264, Activation: GELU, DType: dtype}, // saved in a gradient, which has two halves
		} {
			l := newLayer(t, cfg)
			l.saveIn = i == 2
			if software(dev) {
				l.Up.matrices, l.Down.matrices = tensorTile{32, 16, 16, 2, 2}, tensorTile{32, 16, 16, 2, 2}
			}
			require.True(t, l.Down.onTensors(dev, l.Down.Weight.parts[0], l.Down.Weight.parts[0], l.Down.Weight))
			for _, save := range []Save{SaveAll, RecomputeActivation} {
				k := newKit(t)
				r := rand.New(rand.NewSource(int64(i)))
				x, dy := vk.Round(dtype, gputest.Normal(r, tokens*cfg.Width)), vk.Round(dtype, gputest.Normal(r, tokens*cfg.Width))
				run := l.recordBackward(k, x, dy, tokens, save, i == 1, false)
				k.Run()
				res, want := l.wantBackward(t, run, x, dy, tokens)
				run.requireBackward(t, res.Out.Y, want)
				k.Close()
			}
		}
	}
}
