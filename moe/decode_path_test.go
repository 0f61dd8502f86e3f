package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// vectorTiles are the tiles of the table and some that share work otherwise.
func vectorTiles() []vectorTile {
	tiles := []vectorTile{{32, 8, 2, 1}, {64, 64, 4, 3}, {64, 16, 2, 8}, {128, 128, 4, 1}, {128, 64, 4, 1}}
	for _, band := range builtInBands() {
		if band.Vectors != (vectorTile{}) {
			tiles = append(tiles, band.Vectors)
		}
		if band.VectorsQ4 != (vectorTile{}) {
			tiles = append(tiles, band.VectorsQ4)
		}
	}
	return tiles
}

// checkVectors holds a case on the decode path against the oracle.
func (c linearCase) checkVectors(t *testing.T, st storage, tile vectorTile, exact bool) {
	t.Helper()
	k := newKit(t)
	defer k.Close()
	k.vectors = tile
	run := c.recordIn(k, st)
	var d vk.Dispatch
	columns, ok := decodeDispatch(dev, tile, run.layer, run.device.BlockM, run.xs, run.y, &d)
	require.True(t, ok, "the decode path must be taken")
	require.Same(t, decodeKernels[run.layer.types(run.xs, run.y)], d.Kernel)
	require.Equal(t, tile.BN(), columns)
	k.Run()
	want := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, run.gates)
	bound := want.Bound(gputest.Oracle(st.y), c.in+st.roundings())
	if exact {
		bound = nil
	}
	gputest.RequireClose(t, gputest.Download[float32](t, run.y), want.Y, bound, fmt.Sprintf("%v %+v %+v", c, st, tile))
}

func TestDecodePath(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {1, 1, 1, 8, 1}, {1, 8, 2, 256, 40}, {3, 4, 2, 24, 17}, {8, 16, 4, 1032, 30}, {37, 3, 2, 64, 33}, {9, 1000, 8, 136, 5},
		{5, 2, 1, 4096, 9},
	}
	for i, tile := range vectorTiles() {
		for j, s := range shapes {
			flags := i + j
			c := linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], ref.Layouts[(2*i+j)%len(ref.Layouts)],
				flags&1 != 0, flags&2 != 0, false, 0, Tile{}, tenths}
			dtype := []vk.DType{vk.F32, vk.F16, vk.BF16}[(i+2*j)%3]
			c.checkVectors(t, uniform(dtype), tile, false)
			format := []WeightFormat{WeightsInt8, WeightsQ4}[(i+j/2)%2]
			c.in, c.inOut = linearTypes{format: format}.inputs(c.in), flags%3 == 0
			c.checkVectors(t, storage{x: dtype, w: dtype, y: dtype, format: format}, tile, false)
		}
	}
}

// inputs rounds a width up to what the decode path needs of quantized weights.
func (t linearTypes) inputs(in int) int {
	if t.format == WeightsFull {
		return in
	}
	n := t.format.chunkValues(t.w)
	return check.CeilDiv(in, n) * n
}

func TestDecodePathMixesStorageTypesExactly(t *testing.T) {
	tile := vectorTiles()[2]
	for types := range decodeKernels {
		for i, layout := range ref.Layouts {
			linearCase{11, 5, 3, types.inputs(40), 21 + i, spreads[i%len(spreads)], layout, i&1 != 0, i&2 != 0, false, 0, Tile{}, signs}.
				checkVectors(t, storage{x: types.x, w: types.w, y: types.y, part: i % 3, format: types.format}, tile, types.format != WeightsInt8)
		}
	}
}

func TestDecodePathAccumulates(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		k := newKit(t)
		k.vectors = vectorTiles()[0]
		run := linearCase{6, 3, 2, 16, 7, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, signs}.recordIn(k, uniform(dtype))
		once := ref.Scatter2scatter(run.weights, run.x, run.routing, ref.Layout{}, run.gates)
		run.opts.Accumulate = true
		require.NoError(t, run.layer.Forward(k.Rec, run.device, run.xs, run.y, run.opts))
		k.Run()
		for i := range once.Y {
			once.Y[i] *= 2
		}
		gputest.RequireClose(t, gputest.Download[float32](t, run.y), once.Y, nil, dtype.String())
		k.Close()
	}
}

func TestDecodePathOfDenseRows(t *testing.T) {
	for rows := range 6 {
		k := newKit(t)
		weights := ref.Linear[float32]{Experts: 1, In: 24, Out: 19, Weight: gputest.Halves(rand.New(rand.NewSource(int64(rows))), 24*19)}
		xs := gputest.Halves(rand.New(rand.NewSource(int64(rows+10))), rows*24)
		l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 24, Out: 19}, vectors: vectorTiles()[rows%3]}
		l.Weight = bankOf(t, k.F32("weight", weights.Weight, 1, 19, 24))
		y := k.Output("y", vk.F32, rows, 19)
		require.NoError(t, l.Dense(k.Rec, k.F32("x", xs, rows, 24), y))
		k.Run()
		gputest.RequireClose(t, gputest.Download[float32](t, y), ref.DenseLinear(weights, xs, rows).Y, nil, fmt.Sprint(rows))
		k.Close()
	}
}

func TestDecodePathRepeatsItsBits(t *testing.T) {
	for _, format := range []WeightFormat{WeightsFull, WeightsInt8, WeightsQ4} {
		k := newKit(t)
		k.vectors = vectorTiles()[0]
		run := linearCase{20, 8, 2, 1024, 65, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, nil}.recordIn(k,
			storage{x: vk.BF16, w: vk.BF16, y: vk.BF16, format: format})
		k.RunAlike(run.y)
		k.Close()
	}
}

// TestDecodePathIsChosen: GPUs take it for few rows, and what makes it fall back.
func TestDecodePathIsChosen(t *testing.T) {
	k := newKit(t)
	tile := vectorTiles()[0]
	x := k.F32("x", make([]float32, 64), 1, 64)
	w := bankOf(t, k.F32("w", make([]float32, 64*64), 1, 64, 64))
	fits := func(change func(l *ParallelLinear)) bool {
		l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 64, Out: 64}, Weight: w}
		change(l)
		_, ok := decodeDispatch(dev, tile, l, 16, x, x, &vk.Dispatch{})
		return ok
	}
	require.True(t, fits(func(*ParallelLinear) {}))
	require.False(t, fits(func(l *ParallelLinear) { l.Config.InOut = true }))
	require.False(t, fits(func(l *ParallelLinear) { l.Config.In = 62 }))
	require.False(t, fits(func(l *ParallelLinear) { l.Config.In, l.Config.Weights = 40, WeightsInt8 }))
	require.True(t, fits(func(l *ParallelLinear) { l.Config.In, l.Config.Weights = 48, WeightsInt8 }))
	require.False(t, fits(func(l *ParallelLinear) { l.Config.In, l.Config.Weights = 48, WeightsQ4 }))
	require.True(t, fits(func(l *ParallelLinear) { l.Config.InOut, l.Config.Weights = true, WeightsQ4 }))
	odd, err := x.View(1, 63)
	require.NoError(t, err)
	x = odd
	require.False(t, fits(func(*ParallelLinear) {}), "an address that 16-byte loads cannot read")
	for _, class := range []deviceClass{classPlain, classTensor} {
		require.NotZero(t, classTunings()[class].band(8, 64).Vectors.Threads)
		require.Zero(t, classTunings()[class].band(8*64, 64).Vectors.Threads)
		require.Zero(t, classTunings()[class].band(8*64, 64).vectors(WeightsQ4))
		require.Equal(t, classTunings()[class].band(8, 64).Wide.BM, classTunings()[class].band(8*64, 64).Wide.BM)
	}
}

// TestDecodePathOfOneToken: quantized weights then leave no room for other rows, and 4-bit ones have a tile of their own.
func TestDecodePathOfOneToken(t *testing.T) {
	band := classTunings()[classTensor].band(2, 8)
	require.Equal(t, 4, band.vectors(WeightsFull).forRows(WeightsFull, 1).Columns)
	require.Equal(t, 1, band.vectors(WeightsInt8).forRows(WeightsInt8, 1).Columns)
	require.Equal(t, 4, band.vectors(WeightsInt8).forRows(WeightsInt8, 2).Columns)
	require.Equal(t, 1, band.vectors(WeightsQ4).forRows(WeightsQ4, 1).Columns)
	require.Equal(t, 2, band.vectors(WeightsQ4).forRows(WeightsQ4, 8).Columns)
	require.Zero(t, vectorTile{}.forRows(WeightsQ4, 1))
}

// TestDecodePathOfOneRow: teams share a row's chunks evenly, in as many steps as their loads allow.
func TestDecodePathOfOneRow(t *testing.T) {
	band := classTunings()[classTensor].band(2, 8)
	for _, c := range []struct {
		format                       WeightFormat
		chunks, team, columns, depth int
	}{
		{WeightsFull, 1024, 128, 1, 4}, {WeightsFull, 512, 128, 1, 4}, {WeightsFull, 1792, 128, 1, 2}, {WeightsFull, 640, 128, 1, 1},
		{WeightsFull, 256, 64, 1, 2}, {WeightsFull, 384, 64, 1, 2}, {WeightsFull, 192, 32, 1, 2}, {WeightsFull, 96, 32, 1, 1},
		{WeightsFull, 100, 32, 4, 0}, {WeightsInt8, 256, 64, 1, 1}, {WeightsInt8, 96, 32, 1, 1}, {WeightsInt8, 48, 32, 1, 0},
		{WeightsQ4, 448, 64, 1, 1}, {WeightsQ4, 24, 32, 1, 0},
	} {
		tile := band.vectors(c.format).forOneRow(c.format, c.chunks)
		require.Equal(t, c.team, tile.Team, "%+v", c)
		require.Equal(t, c.columns, tile.Columns, "%+v", c)
		require.Equal(t, c.depth, tile.depth(c.format, c.chunks, classTensor), "%+v", c)
		require.Zero(t, tile.depth(c.format, c.chunks, classPlain))
	}
	require.Zero(t, vectorTile{}.forOneRow(WeightsFull, 512))
}
