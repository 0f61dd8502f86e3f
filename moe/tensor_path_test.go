package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// matrixTypes are the 16-bit types whose products the device's cooperative matrices add up in f32.
func matrixTypes(t *testing.T) []vk.DType {
	t.Helper()
	newKit(t).Close() // skips without a device
	var types []vk.DType
	for _, dtype := range halfTypes {
		if _, _, _, ok := matrixShape(dev.Caps(), dtype); ok && dev.Caps().Has(tensorKernels[tensorTypes{dtype, WeightsFull}].Needs...) {
			types = append(types, dtype)
		}
	}
	if len(types) == 0 {
		t.Skip("needs coopmat with f16 or bf16 products added up in f32")
	}
	return types
}

// tensorTiles are the tiles of the table and some that exercise other grids of subgroups, as far as they fit the device.
func tensorTiles(dtype vk.DType) []tensorTile {
	m, n, _, _ := matrixShape(dev.Caps(), dtype)
	tiles := []tensorTile{{m, 2 * n, 16, 1, 1}, {2 * m, 4 * n, 32, 2, 2}, {m, 4 * n, 32, 1, 2}, {4 * m, 2 * n, 64, 2, 1},
		{4 * m, n, 16, 1, 1}, {2 * m, n, 16, 1, 1}}
	for _, band := range builtInBands() {
		if software(dev) { // they take lavapipe half a minute to compile
			break
		}
		for _, matrices := range band.Matrices {
			tiles = append(tiles, matrices.tensorTile)
		}
	}
	return tiles
}

// checkTensor holds a case on the tensor path against the oracle; it reports false where the tile does not fit the device.
func (c linearCase) checkTensor(t *testing.T, dtype vk.DType, tile tensorTile, exact bool) bool {
	return c.checkTensorIn(t, uniform(dtype), tile, exact)
}

// checkTensorIn does so with other weights.
func (c linearCase) checkTensorIn(t *testing.T, st storage, tile tensorTile, exact bool) bool {
	t.Helper()
	dtype := st.x
	k := newKit(t)
	defer k.Close()
	k.matrices = tile
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: c.in, Out: c.out, DType: dtype, InOut: c.inOut, Weights: st.format}}
	probe := k.Output("probe", dtype, 1, 8)
	if _, ok := tensorSpec(dev, tile, l, probe, probe); !ok {
		return false
	}
	k.Partial("probe") // which is not written
	run := c.recordIn(k, st)
	k.Run()
	want := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, run.gates)
	bound := want.Bound(gputest.Oracle(dtype), c.in+st.roundings())
	if exact {
		bound = nil
	}
	gputest.RequireClose(t, gputest.Download[float32](t, run.y), want.Y, bound, fmt.Sprintf("%v %+v %+v", c, st, tile))
	return true
}

func TestTensorPath(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{1, 1, 1, 8, 8}, {37, 3, 2, 24, 16}, {70, 8, 4, 104, 72}, {130, 4, 2, 64, 128}, {300, 16, 4, 136, 200}, {9, 64, 8, 1032, 40},
	}
	for _, dtype := range matrixTypes(t) {
		ran := 0
		for i, tile := range tensorTiles(dtype) {
			for j, s := range shapes {
				flags := i + j
				layout := ref.Layouts[flags%len(ref.Layouts)]
				if (linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], layout,
					flags&1 != 0, flags&2 != 0, (i+j/2)%2 == 1, 0, Tile{}, nil}).checkTensor(t, dtype, tile, false) {
					ran++
				}
			}
		}
		require.GreaterOrEqual(t, ran, 3*len(shapes), "most tiles must fit the device")
	}
}

func TestTensorPathInEveryLayoutExactly(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		tile := tensorTiles(dtype)[1]
		for _, layout := range ref.Layouts {
			for flags := range 8 {
				require.True(t, linearCase{45, 5, 3, 40, 56, spreads[flags%len(spreads)], layout, flags&1 != 0, flags&2 != 0, flags&4 != 0, 0,
					Tile{}, signs}.checkTensor(t, dtype, tile, true))
			}
		}
	}
}

// TestTensorPathRounds: sums halfway between two values of the storage type go to the even one, NaN and infinities stay what they
// are, with a bias, which is added first, and without.
func TestTensorPathRounds(t *testing.T) {
	const tokens, in, out = 3, 8, 48
	for _, dtype := range matrixTypes(t) {
		terms := roundingTerms(dtype)
		for flags := range 4 {
			plain := 5 // columns without what is no number, or all
			if flags&1 != 0 {
				plain = out
			}
			k := newKit(t)
			x, weight, want := make([]float32, tokens*in), make([]float32, out*in), make([]float32, out)
			for i := range tokens {
				x[i*in], x[i*in+5] = 1, 1
			}
			for n := range out {
				a, b := terms[0][n%min(plain, len(terms[0]))], terms[1][n%min(plain, len(terms[1]))]
				weight[n*in], weight[n*in+5] = float32(a), float32(b)
				want[n] = float32(float64(float32(a)) + float64(float32(b)))
			}
			want = vk.Round(dtype, want)
			l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: in, Out: out, DType: dtype}, matrices: tensorTiles(dtype)[1],
				Weight: bankOf(t, k.Floats("weight", dtype, weight, 1, out, in))}
			if flags&2 != 0 {
				l.Bias = bankOf(t, k.Floats("bias", dtype, make([]float32, out), 1, out))
			}
			y := k.Output("y", dtype, tokens, out)
			require.NoError(t, l.Dense(k.Rec, k.Floats("x", dtype, x, tokens, in), y))
			k.Run()
			for i, got := range gputest.Download[float32](t, y) {
				if w := want[i%out]; w == w {
					require.Equal(t, w, got, "%v, column %d", dtype, i%out)
				} else {
					require.True(t, got != got, "%v, column %d keeps NaN", dtype, i%out)
				}
			}
			k.Close()
		}
	}
}

func TestTensorPathRepeatsItsBits(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		k := newKit(t)
		k.matrices = tensorTiles(dtype)[1]
		run := linearCase{100, 8, 2, 104, 64, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, nil}.recordIn(k, uniform(dtype))
		k.RunAlike(run.y)
		k.Close()
	}
}

// TestTensorPathIsChosen: what the selector takes on a device with matrices, and what makes it fall back.
func TestTensorPathIsChosen(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		k := newKit(t)
		tile := tensorTiles(dtype)[1]
		x := k.Output("x", dtype, 4, 64)
		l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 64, Out: 32, DType: dtype}}
		_, ok := tensorSpec(dev, tile, l, x, x)
		require.True(t, ok)
		if !software(dev) {
			require.Equal(t, classTensor, classOf(dev))
			require.NotEmpty(t, l.tensorTile(dev, 4, x, x))
		}
		for _, change := range []func(c *ParallelLinearConfig){
			func(c *ParallelLinearConfig) { c.In = 60 }, func(c *ParallelLinearConfig) { c.Out = 30 },
			func(c *ParallelLinearConfig) { c.DType = vk.F32 },
		} {
			other := *l
			change(&other.Config)
			_, ok := tensorSpec(dev, tile, &other, x, x)
			require.False(t, ok)
		}
		odd, err := x.View(1, 1, 64)
		require.NoError(t, err)
		_, ok = tensorSpec(dev, tile, l, odd, x)
		require.False(t, ok, "an address that 16-byte loads cannot read")
	}
}

// TestTensorPathOfQuantizedWeights also has widths that are no multiple of 32, scales that are subnormal, and an upload order of
// [E,In,Out].
func TestTensorPathOfQuantizedWeights(t *testing.T) {
	small := func(r *rand.Rand, n int) []float32 {
		values := tenths(r, n)
		for i := range values {
			values[i] /= float32(int(1) << (i / 32 % 14))
		}
		return values
	}
	for _, dtype := range matrixTypes(t) {
		for _, format := range []WeightFormat{WeightsInt8, WeightsQ4} {
			st := storage{x: dtype, w: dtype, y: dtype, format: format}
			tiles := tensorTiles(dtype)
			shapes := []struct{ tokens, experts, k, in, out int }{{37, 3, 2, 24, 16}, {70, 8, 4, 104, 72}, {9, 64, 8, 1032, 40}, {130, 4, 2, 64, 128}}
			if software(dev) { // each tile takes lavapipe seconds to compile, and once more for widths that it divides
				tiles, shapes = tiles[1:2], shapes[:3]
			}
			for i, tile := range tiles {
				st.part = i % 3
				for j, s := range shapes {
					layout := ref.Layouts[(i+j)%len(ref.Layouts)]
					c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[(i+j)%len(spreads)], layout, j&1 != 0, i&1 != 0, (i+j)%2 == 1, 0,
						Tile{}, small}
					require.True(t, c.checkTensorIn(t, st, tile, false) || i > 1)
				}
			}
			require.True(t, linearCase{130, 4, 2, 64, 128, spreads[0], ref.Layouts[0], true, true, false, 0, Tile{}, small}.
				checkTensorIn(t, st, tensorTiles(dtype)[0], false))
			for flags, layout := range ref.Layouts {
				require.True(t, linearCase{45, 5, 3, 40, 56, spreads[flags%len(spreads)], layout, flags&1 != 0, flags&2 != 0, flags&4 != 0, 0,
					Tile{}, signs}.checkTensorIn(t, st, tensorTiles(dtype)[1], st.exact()))
			}
		}
	}
}
