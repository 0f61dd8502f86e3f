package attention

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// matrixTypes are the 16-bit types for which the device has matrices that flash attention can use.
func matrixTypes(t *testing.T) []vk.DType {
	t.Helper()
	newKit(t).Close() // skips without a device
	var types []vk.DType
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		if _, ok := findMatrix(dev, dtype); ok {
			types = append(types, dtype)
		}
	}
	if len(types) == 0 {
		t.Skip("needs coopmat with f16 or bf16 products added up in f32")
	}
	return types
}

// flashMatrix is the device's shape for one of them.
func flashMatrix(t *testing.T) deviceMatrix {
	x, ok := findMatrix(dev, matrixTypes(t)[0])
	require.True(t, ok)
	return x
}

// checkByMatrices holds a case on the tensor path against the oracle, for every type that the device has.
func (c flashCase) checkByMatrices(t *testing.T) {
	t.Helper()
	c.cfg.Path = moe.PathCoopMat
	for _, c.cfg.DType = range matrixTypes(t) {
		c.check(t)
	}
}

func TestFlashByMatricesOfEverySequenceLength(t *testing.T) {
	for _, n := range []int{1, 2, 15, 16, 17, 31, 33, 64, 257} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(4, 2, 16, 16)
			cfg.Causal = causal
			flashCase{cfg: cfg, queries: []int{n}}.checkByMatrices(t)
		}
	}
}

func TestFlashByMatricesOfUnequalSequences(t *testing.T) {
	queries := []int{0, 5, 1, 0, 33, 70, 2, 0}
	for _, keys := range [][]int{nil, {3, 5, 0, 0, 40, 65, 90, 7}} {
		for _, cfg := range []FlashConfig{gqa(6, 2, 32, 16), gqa(5, 1, 16, 16)} {
			for flags := range 4 {
				cfg.Causal, cfg.Tiled = flags&1 != 0, flags&2 != 0
				flashCase{cfg: cfg, queries: queries, keys: keys, sinks: flags == 1}.checkByMatrices(t)
				flashCase{cfg: cfg, queries: queries, packed: true}.checkByMatrices(t)
			}
		}
	}
}

func TestFlashByMatricesWithWindowsCapsAndScales(t *testing.T) {
	for _, window := range []int{0, 1, 3, 16, 31, 200} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(4, 2, 16, 16)
			cfg.Causal, cfg.Window = causal, window
			if window%2 == 1 {
				cfg.SoftCap, cfg.Scale = 1.5, -0.75
			}
			flashCase{cfg: cfg, queries: []int{100, 3, 0, 41}, sinks: causal}.checkByMatrices(t)
			flashCase{cfg: cfg, queries: []int{10, 3, 0, 41}, keys: []int{100, 90, 5, 20}, sinks: causal}.checkByMatrices(t)
		}
	}
}

func TestFlashByMatricesOfEveryWidth(t *testing.T) {
	widths := [][2]int{{48, 16}, {16, 80}, {64, 64}, {192, 128}, {96, 96}, {128, 128}, {256, 256}}
	if dev != nil && dev.Adapter().Type == vk.Software {
		widths = widths[:2]
		if testing.Short() {
			widths = widths[:1]
		}
	}
	for _, w := range widths {
		tile := softwareMatrixTile
		if dev != nil && dev.Adapter().Type != vk.Software {
			tile = matrixTile{} // the table's
		}
		flashCase{cfg: gqa(2, 1, w[0], w[1]), queries: []int{140, 3}, plan: flashPlan{matrices: tile}}.checkByMatrices(t)
	}
}

// TestFlashByMatricesWithOtherTiles has more matrices of rows than one per subgroup, and one subgroup alone.
func TestFlashByMatricesWithOtherTiles(t *testing.T) {
	for _, tile := range []matrixTile{{1, 2, 16}, {3, 1, 32}} {
		if shortOnSoftware() && tile.MI == 1 {
			continue
		}
		flashCase{cfg: gqa(4, 2, 16, 16), queries: []int{70, 1, 0, 9}, sinks: true, plan: flashPlan{matrices: tile}}.checkByMatrices(t)
	}
}

// TestFlashByMatricesOfALongSequence checks single rows: later tiles rescale what was summed before.
func TestFlashByMatricesOfALongSequence(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		cfg := gqa(2, 1, 16, 16)
		cfg.DType = dtype
		k := newKit(t)
		run := flashCase{cfg: cfg, queries: []int{2049}, plan: flashPlan{matrices: softwareMatrixTile}}.record(k)
		k.Run()
		out, lse := gputest.Download[float32](t, run.out), gputest.Download[float32](t, run.lse)
		for _, row := range []int{0, 1, 63, 64, 1023, 1024, 2047, 2048} {
			want, wantLSE := ref.AttentionQuery(run.oracle, run.q, run.k, run.v, row, 1)
			at := row*2 + 1
			bound := want.BoundBy(ref.Gamma(3*(row+1)+64)+3*gputest.Oracle(dtype).Storage(), 1e-7)
			gputest.RequireClose(t, out[at*16:(at+1)*16], want.Y, bound, fmt.Sprint(row))
			require.InDelta(t, wantLSE, lse[at], 1e-4)
		}
		k.Close()
	}
}

// TestFlashByMatricesLetsNumbersThatAreNoneThroughWhereTheyAreSeen is the portable path's test on this one.
func TestFlashByMatricesLetsNumbersThatAreNoneThroughWhereTheyAreSeen(t *testing.T) {
	const n, w = 70, 16
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for _, at := range []int{0, 33, 69} {
			for _, operand := range []int{0, 1, 2} {
				for _, dtype := range matrixTypes(t) {
					cfg := gqa(2, 1, w, w)
					cfg.Window, cfg.DType = 40, dtype
					c := flashCase{name: fmt.Sprintf("%v in operand %d row %d", bad, operand, at), cfg: cfg, queries: []int{n},
						plan:   flashPlan{matrices: softwareMatrixTile},
						change: func(q, k, v []float32) { [][]float32{q, k, v}[operand][at*w+3] = bad }}
					k := newKit(t)
					run := c.record(k)
					k.Run()
					want := ref.AttentionForward(run.oracle, run.q, run.k, run.v)
					// Sums of at most 40 normal values; the oracle's bounds are no numbers here.
					bound := 8 * gputest.Oracle(dtype).Storage()
					gputest.RequireClose(t, gputest.Download[float32](t, run.out), want.Out.Y, []float64{bound}, "out of "+c.String())
					gputest.RequireClose(t, gputest.Download[float32](t, run.lse), want.LSE, []float64{1e-4}, "LSE of "+c.String())
					k.Close()
				}
			}
		}
	}
}

func TestFlashByMatricesRepeatsItsBits(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		k := newKit(t)
		c := flashCase{cfg: gqa(4, 2, 32, 16), queries: []int{50, 1, 0, 17}, sinks: true, plan: flashPlan{matrices: softwareMatrixTile}}
		c.cfg.DType = dtype
		run := c.record(k)
		k.RunAlike(run.out, run.lse)
		k.Close()
	}
}

// TestFlashPathsAreObeyed asks for the tensor path where it can and cannot be had, and for the other where it could.
func TestFlashPathsAreObeyed(t *testing.T) {
	_, has := deviceMatrix{}, false
	if dev != nil {
		_, has = findMatrix(dev, vk.F16)
	}
	for _, c := range []struct {
		cfg   FlashConfig
		shift int
		can   bool
	}{
		{gqa(2, 1, 16, 16), 0, has}, {gqa(2, 1, 16, 24), 0, false}, {gqa(2, 1, 8, 16), 0, false}, {gqa(2, 1, 16, 16), 1, false},
	} {
		c.cfg.DType = vk.F16
		for _, path := range []moe.Path{moe.PathPortable, moe.PathCoopMat} {
			k := newKit(t)
			k.Shift = c.shift
			c.cfg.Path = path
			in := FlashInput{QueryOffsets: k.I32("offsets", []int32{0, 40}, 2)}
			in.Q = DenseHeads(k.Floats("q", vk.F16, make([]float32, 40*2*c.cfg.Width), 40, 2*c.cfg.Width), 2, c.cfg.Width)
			in.K = DenseHeads(k.Floats("k", vk.F16, make([]float32, 40*c.cfg.Width), 40, c.cfg.Width), 1, c.cfg.Width)
			in.V = DenseHeads(k.Floats("v", vk.F16, make([]float32, 40*c.cfg.ValueWidth), 40, c.cfg.ValueWidth), 1, c.cfg.ValueWidth)
			out := k.Output("out", vk.F16, 40, 2, c.cfg.ValueWidth)
			err := Flash(k.Rec, c.cfg, in, DenseHeads(out, 2, c.cfg.ValueWidth), nil)
			if path == moe.PathCoopMat && !c.can {
				var unsupported *vk.UnsupportedError
				require.True(t, errors.As(err, &unsupported), "%+v: %v", c, err)
			} else {
				require.NoError(t, err, "%+v", c)
				k.Run()
			}
			k.Close()
		}
	}
}
