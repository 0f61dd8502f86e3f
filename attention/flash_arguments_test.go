package attention

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

func TestFlashConfigValidate(t *testing.T) {
	require.NoError(t, mha(4, 64).Validate())
	for field, change := range map[string]func(c *FlashConfig){
		"Heads":      func(c *FlashConfig) { c.Heads = 5 },
		"KVHeads":    func(c *FlashConfig) { c.KVHeads = 0 },
		"Width":      func(c *FlashConfig) { c.Width = MaxHeadWidth + 1 },
		"ValueWidth": func(c *FlashConfig) { c.ValueWidth = 0 },
		"Window":     func(c *FlashConfig) { c.Window = -1 },
		"SoftCap":    func(c *FlashConfig) { c.SoftCap = float32(math.NaN()) },
		"Scale":      func(c *FlashConfig) { c.Scale = float32(math.Inf(1)) },
		"DType":      func(c *FlashConfig) { c.DType = vk.I32 },
	} {
		c := gqa(4, 2, 64, 64)
		change(&c)
		var config *ConfigError
		require.ErrorAs(t, c.Validate(), &config)
		require.Equal(t, field, config.Field)
	}
}

// TestFlashRefusesWhatDoesNotFit changes one argument of a good call at a time.
func TestFlashRefusesWhatDoesNotFit(t *testing.T) {
	cfg := gqa(4, 2, 8, 12)
	type arguments struct {
		in  FlashInput
		out Heads
		lse *vk.Tensor
	}
	for name, change := range map[string]func(k *kit, a *arguments){
		"Q of another dtype":       func(k *kit, a *arguments) { a.in.Q.Tensor = k.I32("x", make([]int32, 5*32), 5, 32) },
		"no K":                     func(k *kit, a *arguments) { a.in.K.Tensor = nil },
		"V with fewer rows":        func(k *kit, a *arguments) { a.in.V = DenseHeads(k.F32("x", make([]float32, 4*24), 4, 24), 2, 12) },
		"a stride of rows of 0":    func(k *kit, a *arguments) { a.in.K.RowStride = 0 },
		"a negative offset":        func(k *kit, a *arguments) { a.in.K.Offset = -1 },
		"no offsets":               func(k *kit, a *arguments) { a.in.QueryOffsets = nil },
		"offsets of another shape": func(k *kit, a *arguments) { a.in.QueryOffsets = k.I32("x", make([]int32, 4), 2, 2) },
		"key offsets too short":    func(k *kit, a *arguments) { a.in.KeyOffsets = k.I32("x", make([]int32, 2), 2) },
		"sinks too many":           func(k *kit, a *arguments) { a.in.Sinks = k.F32("x", make([]float32, 5), 5) },
		"lengths without capacity": func(k *kit, a *arguments) { a.in.KeyLengths = k.I32("x", make([]int32, 2), 2) },
		"capacity without lengths": func(k *kit, a *arguments) { a.in.KeyCapacity = 2 },
		"capacity beyond K": func(k *kit, a *arguments) {
			a.in.KeyCapacity, a.in.KeyLengths = 3, k.I32("x", make([]int32, 2), 2)
		},
		"out with fewer rows":   func(k *kit, a *arguments) { a.out.Tensor = k.F32("x", make([]float32, 4*48), 4, 48) },
		"out that overlaps":     func(k *kit, a *arguments) { a.out.HeadStride = 11 },
		"out in V":              func(k *kit, a *arguments) { a.out.Tensor = a.in.V.Tensor; a.out.RowStride = 24; a.out.HeadStride = 1 },
		"lse of another shape":  func(k *kit, a *arguments) { a.lse = k.F32("x", make([]float32, 20), 20) },
		"lse in out":            func(k *kit, a *arguments) { a.lse = must(a.out.Tensor.View(0, 5, 4)) },
		"a negative MaxKeys":    func(k *kit, a *arguments) { a.in.MaxKeys = -1 },
		"a negative MaxQueries": func(k *kit, a *arguments) { a.in.MaxQueries = -1 },
	} {
		k := newKit(t)
		run := flashCase{cfg: cfg, queries: []int{2, 3}}.record(k)
		a := arguments{run.in, DenseHeads(run.out, 4, 12), run.lse}
		change(k, &a)
		err := Flash(k.Rec, cfg, a.in, a.out, a.lse)
		var shape *vk.ShapeError
		var config *ConfigError
		switch {
		case err == nil:
			t.Errorf("%s is accepted", name)
		case strings.HasPrefix(name, "a negative Max"):
			require.ErrorAs(t, err, &config, name)
		default:
			require.ErrorAs(t, err, &shape, name)
		}
		require.Equal(t, err, k.Rec.Err(), "%s: a recording with a hole in it cannot run", name)
		k.Close()
	}
}

// must is a view that is known to fit.
func must(t *vk.Tensor, err error) *vk.Tensor {
	if err != nil {
		panic(err)
	}
	return t
}

// TestFlashWithoutRows records nothing, or sequences that are all empty.
func TestFlashWithoutRows(t *testing.T) {
	for _, queries := range [][]int{{}, {0}, {0, 0, 0}} {
		flashCase{cfg: gqa(4, 2, 8, 12), queries: queries}.check(t)
		flashCase{cfg: gqa(4, 2, 8, 12), queries: queries, keys: make([]int, len(queries)), sinks: true}.check(t)
	}
	flashCase{cfg: gqa(4, 2, 8, 12), queries: []int{3, 2}, keys: []int{0, 0}, sinks: true}.check(t)
	flashCase{cfg: gqa(4, 2, 8, 12), queries: []int{3, 2}, keys: []int{0, 0}, plan: flashPlan{splits: 2}}.check(t)
}

// TestFlashHoldsOffsetsWithinRows gives offsets that lead out of the tensors: nothing outside them may change, and the rows of
// no sequence stay as they are.
func TestFlashHoldsOffsetsWithinRows(t *testing.T) {
	for _, offsets := range [][]int32{{0, 1 << 30, 1 << 30}, {-5, 2, 9}, {4, 1, 3}, {math.MinInt32, -1, math.MaxInt32}} {
		for _, splits := range []int{1, 2} {
			k := newKit(t)
			x := k.F32("x", make([]float32, 6*8), 6, 1, 8)
			out := k.PartialOutput("out", vk.F32, 6, 1, 8)
			o := k.I32("offsets", offsets, 3)
			in := FlashInput{Q: DenseHeads(x, 1, 8), K: DenseHeads(x, 1, 8), V: DenseHeads(x, 1, 8), QueryOffsets: o, KeyOffsets: o}
			require.NoError(t, flash(k.Rec, mha(1, 8), in, DenseHeads(out, 1, 8), nil, flashPlan{splits: splits}))
			k.Run()
			k.Close()
		}
	}
}

// TestFlashOfEqualScoresIsExact averages small integers with weights that are powers of two.
func TestFlashOfEqualScoresIsExact(t *testing.T) {
	const n, w = 8, 4
	k := newKit(t)
	values := make([]float32, n*w)
	want := make([]float32, w)
	for i := range values {
		values[i] = float32(i*i%17 - 8)
		want[i%w] += values[i] / n
	}
	q := k.F32("q", make([]float32, n*w), n, 1, w)
	v := k.F32("v", values, n, 1, w)
	out, lse := k.Output("out", vk.F32, n, 1, w), k.Output("lse", vk.F32, n, 1)
	cfg := mha(1, w)
	cfg.Causal = false
	require.NoError(t, Flash(k.Rec, cfg, FlashInput{Q: DenseHeads(q, 1, w), K: DenseHeads(q, 1, w), V: DenseHeads(v, 1, w),
		QueryOffsets: k.I32("offsets", []int32{0, n}, 2)}, DenseHeads(out, 1, w), lse))
	k.Run()
	got := gputest.Download[float32](t, out)
	for row := range n {
		require.Equal(t, want, got[row*w:(row+1)*w])
	}
}

// TestFlashMemoryIsNotQuadratic counts what attention takes beside its operands: nothing for long sequences, and where keys
// are split no more than its documentation says.
func TestFlashMemoryIsNotQuadratic(t *testing.T) {
	for _, c := range []flashCase{
		{cfg: gqa(4, 2, 8, 8), queries: []int{4000}},
		{cfg: gqa(4, 2, 8, 8), queries: []int{1}, keys: []int{8000}},
		{cfg: gqa(4, 2, 8, 8), queries: []int{1, 2}, keys: []int{8000, 60}, plan: flashPlan{splits: 5}},
	} {
		k := newKit(t)
		run := c.record(k)
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		before := dev.Memory().LiveBytes
		dev.ResetPeak()
		require.NoError(t, flash(rec, c.cfg, run.in, DenseHeads(run.out, c.cfg.Heads, c.cfg.ValueWidth), run.lse, c.plan))
		tokens := run.oracle.Queries()
		plan := c.plan.complete(dev, c.cfg, run.in, tokens, run.oracle.Keys())
		want := uint64(0)
		if plan.splits > 1 {
			rows := plan.splits * tokens * c.cfg.Heads
			want = blockBytes(4*rows*c.cfg.ValueWidth) + blockBytes(4*rows*2)
		} else {
			require.Equal(t, 4000, tokens, "few queries over many keys are split")
		}
		require.Equal(t, want, dev.Memory().PeakBytes-before)
		require.NoError(t, rec.Close())
		k.Close()
	}
}

// blockBytes rounds up to what an allocation takes.
func blockBytes(n int) uint64 { return uint64(check.CeilDiv(n, 256) * 256) }

// TestFlashEndsNoLoopEarly would show a driver that ends loops early (see maxLoop): as many heads as keep a software device
// busy each see more keys than one work-group can go through, all with the score 0 and the value 1.
func TestFlashEndsNoLoopEarly(t *testing.T) {
	const heads, keys, w = busySoftwareGroups, 80_000, 4
	cfg := mha(heads, w)
	tile := flashRules[0].tile.fit(cfg, true)
	require.Greater(t, tile.loops(cfg, keys), maxLoop)
	k := newKit(t)
	q, rows := k.F32("q", make([]float32, heads*w), 1, heads, w), k.F32("k", make([]float32, keys*w), keys, w)
	v := k.F32("v", slices.Repeat([]float32{1}, keys*w), keys, w)
	out, lse := k.Output("out", vk.F32, 1, heads, w), k.Output("lse", vk.F32, 1, heads)
	all := func(x *vk.Tensor) Heads { return Heads{Tensor: x, RowStride: w} } // all heads are the same
	require.NoError(t, flash(k.Rec, cfg, FlashInput{Q: DenseHeads(q, heads, w), K: all(rows), V: all(v),
		QueryOffsets: k.I32("queries", []int32{0, 1}, 2), KeyOffsets: k.I32("keys", []int32{0, keys}, 2)},
		DenseHeads(out, heads, w), lse, flashPlan{tile: tile}))
	k.Run()
	for _, x := range gputest.Download[float32](t, out) {
		require.InDelta(t, 1, x, ref.Gamma(keys))
	}
	for _, x := range gputest.Download[float32](t, lse) {
		require.InDelta(t, math.Log(keys), x, ref.Gamma(keys))
	}
}

// TestFlashTilesFitTogether asks of every tile what the kernel asks of them.
func TestFlashTilesFitTogether(t *testing.T) {
	for _, r := range flashRules {
		for _, w := range [][2]int{{1, 1}, {20, 80}, {64, 64}, {192, 128}, {256, 256}} {
			tile := r.tile.fit(gqa(8, 2, w[0], w[1]), r.software)
			require.Zero(t, tile.BK%tile.UK, "%v", tile)
			require.Zero(t, tile.BV%tile.UV, "%v", tile)
			require.Zero(t, tile.BN%tile.BV, "%v", tile)
			require.Zero(t, tile.BM%tile.TM, "%v", tile)
			require.Zero(t, tile.BN%tile.TN, "%v", tile)
		}
	}
}

// TestFlashFitsEveryDevice holds the tiles to what devices offer: 16 KiB of shared memory where a device has no more, 32 KiB for
// the first choice, and 256 invocations.
func TestFlashFitsEveryDevice(t *testing.T) {
	for _, r := range flashRules {
		for _, w := range [][2]int{{1, 1}, {64, 64}, {96, 96}, {192, 128}, {256, 256}, {16, 256}} {
			if w[1] > r.maxValueWidth {
				continue
			}
			cfg := gqa(8, 2, w[0], w[1])
			tile := r.tile.fit(cfg, r.software)
			for _, kernel := range flashKernels {
				shared, err := spirv.SharedBytes(kernel.SPIRV(), tile.spec(cfg).Values())
				require.NoError(t, err)
				require.Equal(t, uint64(tile.sharedBytes(w[1])), shared)
				limit := uint64(16384)
				if tile.BM > 32 {
					limit = 32768 // the next in the table takes less
				}
				require.LessOrEqual(t, shared, limit, "%v for %v", tile, w)
				require.LessOrEqual(t, tile.threads(), 256)
				require.Empty(t, kernel.Needs)
			}
		}
	}
	for _, kernel := range append(mergeKernels[:], shaders.KvAppendF32, shaders.KvAppendF16, shaders.KvAppendBf16, shaders.KvAdvance) {
		require.Empty(t, kernel.Needs)
	}
}

// TestFlashOfClosedTensors asks for the error that says so.
func TestFlashOfClosedTensors(t *testing.T) {
	k := newKit(t)
	run := flashCase{cfg: mha(1, 4), queries: []int{3}}.record(k)
	require.NoError(t, k.Rec.Run(context.Background()))
	x, err := dev.NewTensor(vk.F32, 3, 1, 4)
	require.NoError(t, err)
	require.NoError(t, x.Close())
	run.in.K.Tensor = x
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	require.ErrorIs(t, Flash(rec, mha(1, 4), run.in, DenseHeads(run.out, 1, 4), nil), vk.ErrClosed)
	require.NoError(t, rec.Close())
}
