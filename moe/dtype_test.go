package moe

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// bankOf makes a bank of one tensor.
func bankOf(t testing.TB, x *vk.Tensor) *ExpertBank {
	t.Helper()
	b, err := BankOfTensor(x)
	require.NoError(t, err)
	return b
}

// storage says how the operands of a linear layer are stored; the zero value is all f32 and one tensor.
type storage struct {
	x, w, y vk.DType
	part    int // experts per tensor of a bank, 0 for all
	format  WeightFormat
}

// bank makes banded weights [E, …].
func (st storage) bank(k *kit, name string, data []float32, shape ...int) *ExpertBank {
	k.T.Helper()
	if st.part == 0 {
		return bankOf(k.T, k.Floats(name, st.w, data, shape...))
	}
	b := &ExpertBank{shape: shape}
	size := len(data) / shape[0]
	for e := 0; e < shape[0]; e += st.part {
		n := min(st.part, shape[0]-e)
		part := k.Floats(fmt.Sprintf("%s of experts from %d", name, e), st.w, data[e*size:(e+n)*size], append([]int{n}, shape[1:]...)...)
		b.parts, b.first = append(b.parts, part), append(b.first, e)
	}
	require.NoError(k.T, b.makeTable(dev))
	k.OnClose(b.Close)
	return b
}

// uniform is all three operands in one type.
func uniform(dtype vk.DType) storage { return storage{x: dtype, w: dtype, y: dtype} }

var halfTypes = []vk.DType{vk.F16, vk.BF16}

// tenths are normal values of a tenth, so that no f16 sum of the tests overflows.
func tenths(r *rand.Rand, n int) []float32 {
	out := gputest.Normal(r, n)
	for i := range out {
		out[i] /= 10
	}
	return out
}

// TestScatter2scatterIn16Bits covers layouts, biases, gates, weight orders, odd and even widths and alignments.
func TestScatter2scatterIn16Bits(t *testing.T) {
	widths := [][2]int{{1, 3}, {3, 1}, {36, 40}, {100, 25}, {25, 100}, {7, 66}}
	worst := map[vk.DType]float64{}
	for i, w := range widths {
		for j, layout := range ref.Layouts {
			for flags := range 8 {
				dtype := halfTypes[(flags+i+j)%2]
				c := linearCase{23, 5, 2, w[0], w[1], spreads[(i+flags)%len(spreads)], layout,
					flags&1 != 0, flags&2 != 0, flags&4 != 0, (flags + j/2) % 2, Tile{}, nil}
				worst[dtype] = max(worst[dtype], c.checkIn(t, uniform(dtype), false))
			}
		}
	}
	t.Logf("largest error in units of its bound: %v", worst)
}

func TestScatter2scatterShapesIn16Bits(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {1, 1, 1, 1, 1}, {1, 8, 2, 600, 100}, {40, 64, 1, 12, 1}, {64, 8, 2, 100, 600},
		{60, 4, 2, 1025, 3}, {64, 2, 1, 3, 1025}, {129, 1, 1, 128, 64},
	}
	worst := map[vk.DType]float64{}
	for i, s := range shapes {
		for j, dtype := range halfTypes {
			for shift := range 2 {
				c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[(i+j)%len(spreads)], ref.Layouts[(i+j)%len(ref.Layouts)],
					true, i%2 == 0, (i+shift)%2 == 0, shift, Tile{}, tenths}
				worst[dtype] = max(worst[dtype], c.checkIn(t, uniform(dtype), false))
			}
		}
	}
	t.Logf("largest error in units of its bound: %v", worst)
}

// TestScatter2scatterMixesStorageTypes runs 16-bit weights with f32 rows on either side or both.
func TestScatter2scatterMixesStorageTypes(t *testing.T) {
	for types := range linearKernels {
		for flags := range 4 {
			linearCase{33, 4, 2, 30 + flags%2*2, 45 + flags, spreads[0], ref.Layouts[flags], true, true, flags&1 != 0, flags >> 1, Tile{},
				nil}.checkIn(t, storage{x: types.x, w: types.w, y: types.y}, false)
		}
	}
}

// TestScatter2scatterIn16BitsIsExact uses values whose sums are exact in every type: |sum| ≤ 61·4 + 2 in steps of 1/4 has up
// to 10 bits; bf16, which has 8, gets fewer inputs.
func TestScatter2scatterIn16BitsIsExact(t *testing.T) {
	for i, layout := range ref.Layouts {
		for shift := range 2 {
			linearCase{50, 6, 3, 61, 34 + i%2, spreads[i%len(spreads)], layout, true, false, i%2 == 1, shift, Tile{}, gputest.Halves}.
				checkIn(t, uniform(vk.F16), true)
			linearCase{50, 6, 3, 7, 34 + i%2, spreads[i%len(spreads)], layout, true, false, i%2 == 1, shift, Tile{}, signs}.
				checkIn(t, uniform(vk.BF16), true)
		}
	}
}

// signs returns n values of −1, 0 and 1.
func signs(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.Intn(3) - 1)
	}
	return out
}

// TestEveryTileIn16Bits runs pairs of columns through all tiles, and tiles whose invocations own single columns.
func TestEveryTileIn16Bits(t *testing.T) {
	tiles := []Tile{{8, 8, 8, 1, 1}, {16, 12, 8, 2, 3}}
	for _, band := range builtInBands() {
		tiles = append(tiles, band.Wide, band.Narrow)
	}
	if testing.Short() {
		tiles = tiles[:4]
	}
	for _, tile := range tiles {
		for _, inOut := range []bool{false, true} {
			linearCase{37, 3, 2, 20, 71, spreads[2], ref.Layout{GroupedOut: true}, true, false, inOut, 1, tile, signs}.
				checkIn(t, uniform(vk.BF16), true)
			linearCase{37, 3, 2, 20, 72, spreads[2], ref.Layout{}, true, false, inOut, 0, tile, signs}.
				checkIn(t, uniform(vk.F16), true)
		}
	}
}

func TestScatter2scatterIn16BitsRepeatsItsBits(t *testing.T) {
	for _, dtype := range halfTypes {
		k := newKit(t)
		run := linearCase{100, 8, 2, 100, 65, spreads[0], ref.Layout{}, true, true, false, 1, Tile{}, nil}.recordIn(k, uniform(dtype))
		k.RunAlike(run.y)
		k.Close()
	}
}

// TestF16OverflowsToInfinity: a sum beyond 65,504 is stored as infinity, an infinite or NaN input spoils its rows only.
func TestF16OverflowsToInfinity(t *testing.T) {
	k := newKit(t)
	inf, nan := float32(math.Inf(1)), math.Float32frombits(0x7fc00000)
	x := k.Bits("x", vk.F16, []uint32{vk.Bits(vk.F16, 300), vk.Bits(vk.F16, inf), vk.Bits(vk.F16, nan), vk.Bits(vk.F16, 1)}, 4, 1)
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 1, Out: 3, DType: vk.F16},
		Weight: bankOf(t, k.Floats("weight", vk.F16, []float32{300, -300, 0x1p-24}, 1, 3, 1))}
	y := k.Output("y", vk.F16, 4, 3)
	require.NoError(t, l.Dense(k.Rec, x, y))
	k.Run()
	got := gputest.Words(t, y)
	require.Equal(t, []uint32{0x7c00, 0xfc00, vk.Bits(vk.F16, 300*0x1p-24), 0x7c00, 0xfc00, 0x7c00}, got[:6])
	for _, w := range got[6:9] {
		require.EqualValues(t, 0x7e00, w&0x7fff, "NaN stays NaN")
	}
	require.Equal(t, []uint32{vk.Bits(vk.F16, 300), vk.Bits(vk.F16, -300), 1}, got[9:])
}
