package attention

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// flashCase is one attention with its data.
type flashCase struct {
	name    string
	cfg     FlashConfig
	queries []int // per sequence
	keys    []int // per sequence; nil for the queries'
	sinks   bool
	shift   int       // misaligns every tensor
	plan    flashPlan // what is 0 in it is chosen
	packed  bool      // q, k and v are columns of one matrix

	change func(q, k, v []float32) // of the data
}

func (c flashCase) String() string {
	return fmt.Sprintf("%s %+v queries %v keys %v sinks %v shift %d plan %+v packed %v", c.name, c.cfg, c.queries, c.keys, c.sinks, c.shift,
		c.plan, c.packed)
}

// offsetsOf are the offsets of sequences of these lengths.
func offsetsOf(lengths []int) []int32 {
	out := make([]int32, len(lengths)+1)
	for i, n := range lengths {
		out[i+1] = out[i] + int32(n)
	}
	return out
}

// oracle is the case for internal/ref.
func (c flashCase) oracle() ref.Attention {
	a := ref.Attention{Heads: c.cfg.Heads, KVHeads: c.cfg.KVHeads, Width: c.cfg.Width, ValueWidth: c.cfg.ValueWidth,
		Tiled: c.cfg.Tiled, Causal: c.cfg.Causal, Window: c.cfg.Window, SoftCap: float64(c.cfg.SoftCap),
		Scale: float64(c.cfg.Scale), QueryOffsets: offsetsOf(c.queries)}
	if c.keys != nil {
		a.KeyOffsets = offsetsOf(c.keys)
	}
	return a
}

// flashRun is a flashCase on the device.
type flashRun struct {
	oracle  ref.Attention
	q, k, v []float32
	in      FlashInput
	out     *vk.Tensor
	lse     *vk.Tensor
}

// record uploads the case's data and records the attention.
func (c flashCase) record(k *kit) flashRun {
	k.T.Helper()
	r := rand.New(rand.NewSource(int64(c.cfg.Width + len(c.queries))))
	run := flashRun{oracle: c.oracle()}
	tokens, keys := run.oracle.Queries(), run.oracle.Keys()
	run.q = vk.Round(c.cfg.DType, gputest.Normal(r, tokens*c.cfg.Heads*c.cfg.Width))
	run.k = vk.Round(c.cfg.DType, gputest.Normal(r, keys*c.cfg.KVHeads*c.cfg.Width))
	run.v = vk.Round(c.cfg.DType, gputest.Normal(r, keys*c.cfg.KVHeads*c.cfg.ValueWidth))
	if c.change != nil {
		c.change(run.q, run.k, run.v)
	}
	k.Shift = c.shift
	run.in.QueryOffsets = k.I32("query offsets", run.oracle.QueryOffsets, len(c.queries)+1)
	if c.keys != nil {
		run.in.KeyOffsets = k.I32("key offsets", run.oracle.KeyOffsets, len(c.keys)+1)
	}
	if c.sinks {
		run.oracle.Sinks = gputest.Normal(r, c.cfg.Heads)
		run.in.Sinks = k.F32("sinks", run.oracle.Sinks, c.cfg.Heads)
	}
	if c.packed {
		c.pack(k, &run, tokens)
	} else {
		run.in.Q = DenseHeads(k.Floats("q", c.cfg.DType, run.q, tokens, c.cfg.Heads, c.cfg.Width), c.cfg.Heads, c.cfg.Width)
		run.in.K = DenseHeads(k.Floats("k", c.cfg.DType, run.k, keys, c.cfg.KVHeads, c.cfg.Width), c.cfg.KVHeads, c.cfg.Width)
		run.in.V = DenseHeads(k.Floats("v", c.cfg.DType, run.v, keys, c.cfg.KVHeads, c.cfg.ValueWidth), c.cfg.KVHeads, c.cfg.ValueWidth)
	}
	run.out = k.Output("out", c.cfg.DType, tokens, c.cfg.Heads, c.cfg.ValueWidth)
	run.lse = k.Output("lse", vk.F32, tokens, c.cfg.Heads)
	require.NoError(k.T, flash(k.Rec, c.cfg, run.in, DenseHeads(run.out, c.cfg.Heads, c.cfg.ValueWidth), run.lse, c.plan))
	return run
}

// pack makes q, k and v columns of one matrix, the heads of k and v in turn.
func (c flashCase) pack(k *kit, run *flashRun, tokens int) {
	qWidth, pair := c.cfg.Heads*c.cfg.Width, c.cfg.Width+c.cfg.ValueWidth
	row := qWidth + c.cfg.KVHeads*pair
	data := make([]float32, 0, tokens*row)
	for t := range tokens {
		data = append(data, run.q[t*qWidth:(t+1)*qWidth]...)
		for h := range c.cfg.KVHeads {
			at := t*c.cfg.KVHeads + h
			data = append(data, run.k[at*c.cfg.Width:(at+1)*c.cfg.Width]...)
			data = append(data, run.v[at*c.cfg.ValueWidth:(at+1)*c.cfg.ValueWidth]...)
		}
	}
	x := k.Floats("qkv", c.cfg.DType, data, tokens, row)
	run.in.Q = Heads{x, 0, row, c.cfg.Width}
	run.in.K = Heads{x, qWidth, row, pair}
	run.in.V = Heads{x, qWidth + c.cfg.Width, row, pair}
}

// check runs the case and compares it with the oracle.
func (c flashCase) check(t *testing.T) {
	t.Helper()
	k := newKit(t)
	run := c.record(k)
	k.Run()
	want := ref.AttentionForward(run.oracle, run.q, run.k, run.v)
	bounds := want.Bounds
	if c.cfg.Path == moe.PathCoopMat {
		bounds = want.RoundedBounds
	}
	out, lse := bounds(gputest.Oracle(c.cfg.DType))
	gputest.RequireClose(t, gputest.Download[float32](t, run.out), want.Out.Y, out, "out of "+c.String())
	gputest.RequireClose(t, gputest.Download[float32](t, run.lse), want.LSE, lse, "LSE of "+c.String())
	k.Close()
}

// mha is a plain configuration.
func mha(heads, width int) FlashConfig {
	return FlashConfig{Heads: heads, KVHeads: heads, Width: width, ValueWidth: width, Causal: true}
}

// gqa is one with grouped heads.
func gqa(heads, kvHeads, width, valueWidth int) FlashConfig {
	c := mha(heads, width)
	c.KVHeads, c.ValueWidth = kvHeads, valueWidth
	return c
}

func TestFlashOfEverySequenceLength(t *testing.T) {
	for _, n := range []int{1, 2, 17, 63, 64, 65, 257} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(4, 2, 16, 16)
			cfg.Causal = causal
			flashCase{cfg: cfg, queries: []int{n}}.check(t)
		}
	}
}

func TestFlashOfUnequalSequences(t *testing.T) {
	queries := []int{0, 5, 1, 0, 33, 70, 2, 0}
	for _, keys := range [][]int{nil, {3, 5, 0, 0, 40, 65, 90, 7}} {
		for _, cfg := range []FlashConfig{mha(2, 24), gqa(6, 2, 24, 16), gqa(5, 1, 8, 12)} {
			for flags := range 4 {
				cfg.Causal, cfg.Tiled = flags&1 != 0, flags&2 != 0
				flashCase{cfg: cfg, queries: queries, keys: keys, sinks: flags == 1}.check(t)
			}
		}
	}
}

func TestFlashWithWindowsCapsAndScales(t *testing.T) {
	for _, window := range []int{0, 1, 3, 31, 32, 40, 200} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(4, 2, 16, 16)
			cfg.Causal, cfg.Window = causal, window
			if window%2 == 1 {
				cfg.SoftCap, cfg.Scale = 1.5, 0.75
			}
			flashCase{cfg: cfg, queries: []int{100, 3, 0, 41}, sinks: causal}.check(t)
			flashCase{cfg: cfg, queries: []int{10, 3, 0, 41}, keys: []int{100, 90, 5, 20}, sinks: causal}.check(t)
		}
	}
}

func TestFlashOfEveryWidth(t *testing.T) {
	widths := [][2]int{{24, 16}, {255, 254}, {192, 128}, {1, 1}, {3, 5}, {33, 7}, {64, 64}, {80, 80}, {96, 96}, {128, 128}, {256, 256}}
	if testing.Short() { // each is a pipeline, which software devices take seconds to compile
		widths = widths[:3]
	}
	for _, w := range widths {
		flashCase{cfg: gqa(2, 1, w[0], w[1]), queries: []int{40, 3}}.check(t)
	}
}

func TestFlashInEveryStorage(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		for i, w := range [][2]int{{5, 7}, {16, 24}, {64, 64}} {
			if testing.Short() && i > 0 {
				continue
			}
			for shift := range 2 {
				cfg := gqa(4, 2, w[0], w[1])
				cfg.DType = dtype
				flashCase{cfg: cfg, queries: []int{40, 0, 3}, sinks: true, shift: shift}.check(t)
				flashCase{cfg: cfg, queries: []int{40, 0, 3}, shift: shift, packed: true, plan: flashPlan{splits: 3}}.check(t)
			}
		}
	}
}

func TestFlashOfMisalignedAndPackedHeads(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for shift := range 2 {
			flashCase{cfg: gqa(4, 2, 16, 8), queries: []int{40, 0, 3}, shift: shift, packed: packed}.check(t)
		}
	}
}

// TestFlashWithSplitKeys cuts the keys in more and fewer parts than there are tiles of them.
func TestFlashWithSplitKeys(t *testing.T) {
	for _, splits := range []int{2, 3, 7, 64} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(6, 2, 16, 24)
			cfg.Causal = causal
			c := flashCase{cfg: cfg, queries: []int{1, 0, 3, 40}, keys: []int{300, 5, 2, 100}, plan: flashPlan{splits: splits}}
			c.check(t)
			c.sinks, c.cfg.Window = true, 50
			c.check(t)
		}
	}
}

// TestFlashWithEveryTile runs each tile of the table, and sequences that end within one.
func TestFlashWithEveryTile(t *testing.T) {
	for _, r := range flashRules {
		for i, w := range [][2]int{{16, 16}, {80, 64}} {
			if testing.Short() && (i > 0 || !r.software) {
				continue
			}
			cfg := gqa(4, 2, w[0], w[1])
			tile := r.tile.fit(cfg, r.software)
			t.Run(fmt.Sprintf("%v %v", tile, w), func(t *testing.T) {
				flashCase{cfg: cfg, queries: []int{70, 1, 0, 9}, sinks: true, plan: flashPlan{tile: tile}}.check(t)
				flashCase{cfg: cfg, queries: []int{1, 2, 0}, keys: []int{130, 64, 3}, plan: flashPlan{tile: tile, splits: 2}}.check(t)
			})
		}
	}
}

func TestFlashOfALongSequence(t *testing.T) {
	cfg := gqa(2, 1, 8, 8)
	k := newKit(t)
	c := flashCase{cfg: cfg, queries: []int{4097}}
	run := c.record(k)
	k.Run()
	out, lse := gputest.Download[float32](t, run.out), gputest.Download[float32](t, run.lse)
	for _, row := range []int{0, 1, 63, 64, 2047, 2048, 4095, 4096} {
		a := run.oracle
		want, wantLSE := ref.AttentionQuery(a, run.q, run.k, run.v, row, 1)
		at := row*2 + 1
		gputest.RequireClose(t, out[at*8:(at+1)*8], want.Y, want.BoundBy(ref.Gamma(3*(row+1)+64), 1e-30), fmt.Sprint(row))
		require.InDelta(t, wantLSE, lse[at], 1e-4)
	}
}

// TestFlashLetsNumbersThatAreNoneThroughWhereTheyAreSeen puts NaN and infinities where only some queries see them.
func TestFlashLetsNumbersThatAreNoneThroughWhereTheyAreSeen(t *testing.T) {
	const n, w = 70, 8
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for _, at := range []int{0, 33, 69} {
			for _, operand := range []int{0, 1, 2} {
				for _, plan := range []flashPlan{{}, {splits: 2}} {
					cfg := gqa(2, 1, w, w)
					cfg.Window = 40
					c := flashCase{name: fmt.Sprintf("%v in operand %d row %d", bad, operand, at), cfg: cfg, queries: []int{n}, plan: plan,
						change: func(q, k, v []float32) { [][]float32{q, k, v}[operand][at*w+3] = bad }}
					k := newKit(t)
					run := c.record(k)
					k.Run()
					want := ref.AttentionForward(run.oracle, run.q, run.k, run.v)
					// Sums of at most 40 normal values; the oracle's bounds are no numbers here.
					gputest.RequireClose(t, gputest.Download[float32](t, run.out), want.Out.Y, []float64{1e-5}, "out of "+c.String())
					gputest.RequireClose(t, gputest.Download[float32](t, run.lse), want.LSE, []float64{1e-4}, "LSE of "+c.String())
					k.Close()
				}
			}
		}
	}
}

func TestFlashRepeatsItsBits(t *testing.T) {
	for _, splits := range []int{1, 4} {
		k := newKit(t)
		c := flashCase{cfg: gqa(4, 2, 20, 12), queries: []int{50, 1, 0, 17}, sinks: true, plan: flashPlan{splits: splits}}
		run := c.record(k)
		k.RunAlike(run.out, run.lse)
		k.Close()
	}
}
