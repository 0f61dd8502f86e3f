package attention

import (
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestFlashBackwardOfLongSides has so many queries for few keys, and so many keys for few queries, that the loops of one dispatch
// on lavapipe would end early.
func TestFlashBackwardOfLongSides(t *testing.T) {
	const long = 70000
	cfg := gqa(1, 1, 8, 8)
	cfg.Causal = false
	for _, lengths := range [][2]int{{long, 16}, {16, long}} {
		p := newFlashProblem(rand.New(rand.NewSource(1)), cfg, lengths[:1], lengths[1:], false)
		p.check(t, backwardOption{}, 1)
	}
	tile := chooseBackwardTile(true, 32768, 8)
	require.Less(t, tile.steps(true, cfg), long/tile.other, "the test is shorter than one dispatch")
}

// TestFlashBackwardOfALongSequence is one of 4,097 tokens.
func TestFlashBackwardOfALongSequence(t *testing.T) {
	newFlashProblem(rand.New(rand.NewSource(2)), gqa(2, 1, 8, 8), []int{4097}, nil, false).check(t, backwardOption{}, 1)
}

// packedBackward is a problem whose q, k and v are columns of one matrix, and so are their gradients.
func packedBackward(k *kit, p *flashProblem) (in FlashInput, grads FlashGrads, columns [3]int) {
	c, tokens := p.cfg, p.oracle().Queries()
	columns = [3]int{c.Heads * c.Width, c.KVHeads * c.Width, c.KVHeads * c.ValueWidth}
	row := columns[0] + columns[1] + columns[2]
	var data []float32
	for t := range tokens {
		for i, x := range [][]float32{p.q, p.k, p.v} {
			data = append(data, x[t*columns[i]:(t+1)*columns[i]]...)
		}
	}
	x, dx := k.Floats("qkv", c.DType, data, tokens, row), k.Output("dqkv", c.DType, tokens, row)
	heads := func(t *vk.Tensor) [3]Heads {
		return [3]Heads{{t, 0, row, c.Width}, {t, columns[0], row, c.Width}, {t, columns[0] + columns[1], row, c.ValueWidth}}
	}
	a, b := heads(x), heads(dx)
	in = FlashInput{Q: a[0], K: a[1], V: a[2], QueryOffsets: k.I32("offsets", p.queries, len(p.queries))}
	return in, FlashGrads{Q: b[0], K: b[1], V: b[2]}, columns
}

// TestFlashBackwardOfPackedHeads has q, k and v and their gradients in the columns of two matrices.
func TestFlashBackwardOfPackedHeads(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.BF16} {
		cfg := gqa(4, 2, 6, 10)
		cfg.DType = dtype
		k := newKit(t)
		p := newFlashProblem(rand.New(rand.NewSource(3)), cfg, []int{40, 0, 9}, nil, false)
		in, grads, columns := packedBackward(k, p)
		out := k.headsOf("out", dtype, dense, p.out, nil, 49, 4, 10)
		dOut := k.headsOf("dOut", dtype, dense, p.dOut, nil, 49, 4, 10)
		require.NoError(t, FlashBackward(k.Rec, cfg, in, out, k.F32("lse", p.lse, 49, 4), dOut, grads))
		k.Run()
		got := [3][]float32{}
		bits := gputest.Words(t, grads.Q.Tensor)
		for at := 0; at < len(bits); {
			for i, n := range columns {
				for range n {
					got[i] = append(got[i], vk.FromBits(dtype, bits[at]))
					at++
				}
			}
		}
		p.requireGrads(t, flashGradients{dq: got[0], dk: got[1], dv: got[2]}, backwardOption{}, 1, "packed")
		k.Close()
	}
}

// TestFlashBackwardOfSomeGradients asks for one gradient at a time.
func TestFlashBackwardOfSomeGradients(t *testing.T) {
	cfg := gqa(4, 2, 6, 10)
	p := newFlashProblem(rand.New(rand.NewSource(4)), cfg, []int{40, 0, 9}, nil, true)
	dq, dk, dv, dsinks := p.want.Bounds(ref.F32)
	k := newKit(t)
	in := FlashInput{Q: k.headsOf("q", vk.F32, dense, p.q, nil, 49, 4, 6), K: k.headsOf("k", vk.F32, dense, p.k, nil, 49, 2, 6),
		V:            k.headsOf("v", vk.F32, dense, p.v, nil, 49, 2, 10),
		QueryOffsets: k.I32("offsets", p.queries, len(p.queries)), Sinks: k.F32("sinks", p.sinks, 4)}
	out, lse := k.headsOf("out", vk.F32, dense, p.out, nil, 49, 4, 10), k.F32("lse", p.lse, 49, 4)
	dOut := k.headsOf("dOut", vk.F32, dense, p.dOut, nil, 49, 4, 10)
	for _, grads := range []FlashGrads{
		{Q: DenseHeads(k.Output("dq", vk.F32, 49, 4, 6), 4, 6)},
		{K: DenseHeads(k.Output("dk", vk.F32, 49, 2, 6), 2, 6)},
		{V: DenseHeads(k.Output("dv", vk.F32, 49, 2, 10), 2, 10)},
		{Sinks: k.Output("dsinks", vk.F32, 4)},
		{},
	} {
		require.NoError(t, FlashBackward(k.Rec, cfg, in, out, lse, dOut, grads))
	}
	k.Run()
	for _, g := range []struct {
		name  string
		want  []float64
		bound []float64
	}{{"dq", p.want.DQ.Y, dq}, {"dk", p.want.DK.Y, dk}, {"dv", p.want.DV.Y, dv}, {"dsinks", p.want.DSinks.Y, dsinks}} {
		gputest.RequireClose(t, gputest.Download[float32](t, k.Tensor(g.name)), g.want, g.bound, g.name)
	}
}

// TestFlashBackwardKeepsSequencesApart puts NaN in every operand of one sequence and of the rows of none. Other sequences do
// not see them, and the rows of no sequence are left alone.
func TestFlashBackwardKeepsSequencesApart(t *testing.T) {
	cfg := gqa(2, 1, 8, 8)
	p := newFlashProblem(rand.New(rand.NewSource(5)), cfg, []int{4, 20, 7, 30, 5}, nil, false)
	clean := &flashProblem{cfg: cfg, queries: []int32{0, 20, 50}}
	nan := float32(math.NaN())
	rows := func(x []float32, width int, keep *[]float32) {
		*keep = append(append([]float32(nil), x[4*width:24*width]...), x[31*width:61*width]...)
		for i := range x {
			if row := i / width; row < 4 || row >= 24 && row < 31 || row >= 61 {
				x[i] = nan
			}
		}
	}
	rows(p.q, 16, &clean.q)
	rows(p.k, 8, &clean.k)
	rows(p.v, 8, &clean.v)
	rows(p.dOut, 16, &clean.dOut)
	rows(p.out, 16, &clean.out)
	rows(p.lse, 2, &clean.lse)
	clean.judge()
	k := newKit(t)
	in := FlashInput{Q: k.headsOf("q", vk.F32, dense, p.q, nil, 66, 2, 8), K: k.headsOf("k", vk.F32, dense, p.k, nil, 66, 1, 8),
		V:            k.headsOf("v", vk.F32, dense, p.v, nil, 66, 1, 8),
		QueryOffsets: k.I32("offsets", []int32{4, 24, 31, 61}, 4)}
	grads := FlashGrads{Q: DenseHeads(k.PartialOutput("dq", vk.F32, 66, 2, 8), 2, 8),
		K: DenseHeads(k.PartialOutput("dk", vk.F32, 66, 1, 8), 1, 8), V: DenseHeads(k.PartialOutput("dv", vk.F32, 66, 1, 8), 1, 8)}
	require.NoError(t, FlashBackward(k.Rec, cfg, in, k.headsOf("out", vk.F32, dense, p.out, nil, 66, 2, 8),
		k.F32("lse", p.lse, 66, 2), k.headsOf("dOut", vk.F32, dense, p.dOut, nil, 66, 2, 8), grads))
	k.Run()
	var got flashGradients
	for _, g := range []struct {
		heads Heads
		width int
		keep  *[]float32
	}{{grads.Q, 16, &got.dq}, {grads.K, 8, &got.dk}, {grads.V, 8, &got.dv}} {
		bits := gputest.Words(t, g.heads.Tensor)
		for i, w := range bits {
			if row := i / g.width; row < 4 || row >= 61 {
				require.Equal(t, gputest.Poison(vk.F32), w, "row %d belongs to no sequence", row)
			}
		}
		values := make([]float32, len(bits))
		for i, w := range bits {
			values[i] = math.Float32frombits(w)
		}
		rows(values, g.width, g.keep)
	}
	clean.requireGrads(t, got, backwardOption{}, 1, "sequences of numbers")
}

// TestFlashBackwardOfSinksSkipsRowsOfNoSequence puts NaN in rows that belong to no sequence.
func TestFlashBackwardOfSinksSkipsRowsOfNoSequence(t *testing.T) {
	cfg := gqa(18, 3, 4, 4)
	p := newFlashProblem(rand.New(rand.NewSource(6)), cfg, []int{1100, 2, 33}, nil, true)
	_, _, _, bound := p.want.Bounds(ref.F32)
	nan := make([]float32, 18*4)
	for i := range nan {
		nan[i] = float32(math.NaN())
	}
	around := func(x []float32, width int) []float32 {
		return append(append(append([]float32(nil), nan[:width]...), x...), nan[:width]...)
	}
	for i := range p.queries {
		p.queries[i]++
	}
	k := newKit(t)
	in := FlashInput{Q: k.headsOf("q", vk.F32, dense, around(p.q, 72), nil, 1137, 18, 4),
		K: k.headsOf("k", vk.F32, dense, around(p.k, 12), nil, 1137, 3, 4), V: k.headsOf("v", vk.F32, dense, around(p.v, 12), nil, 1137, 3, 4),
		QueryOffsets: k.I32("offsets", p.queries, len(p.queries)), Sinks: k.F32("sinks", p.sinks, 18)}
	dsinks := k.Output("dsinks", vk.F32, 18)
	require.NoError(t, FlashBackward(k.Rec, cfg, in, k.headsOf("out", vk.F32, dense, around(p.out, 72), nil, 1137, 18, 4),
		k.F32("lse", around(p.lse, 18), 1137, 18), k.headsOf("dOut", vk.F32, dense, around(p.dOut, 72), nil, 1137, 18, 4),
		FlashGrads{Sinks: dsinks}))
	k.Run()
	gputest.RequireClose(t, gputest.Download[float32](t, dsinks), p.want.DSinks.Y, bound, "dsinks")
}

// TestFlashBackwardTakesTheMemoryItSays counts the scratch: nothing grows with the square of the tokens.
func TestFlashBackwardTakesTheMemoryItSays(t *testing.T) {
	for _, tokens := range []int{256, 4096, 16384} {
		cfg := gqa(8, 2, 16, 24)
		k := newKit(t)
		in := FlashInput{Q: DenseHeads(k.Output("q", vk.F32, tokens, 8, 16), 8, 16), K: DenseHeads(k.Output("k", vk.F32, tokens, 2, 16), 2, 16),
			V:            DenseHeads(k.Output("v", vk.F32, tokens, 2, 24), 2, 24),
			QueryOffsets: k.I32("offsets", []int32{0, int32(tokens)}, 2), Sinks: k.Output("sinks", vk.F32, 8)}
		grads := FlashGrads{Q: DenseHeads(k.Output("dq", vk.F32, tokens, 8, 16), 8, 16), K: DenseHeads(k.Output("dk", vk.F32, tokens, 2, 16), 2, 16),
			V: DenseHeads(k.Output("dv", vk.F32, tokens, 2, 24), 2, 24), Sinks: k.Output("dsinks", vk.F32, 8)}
		out, dOut := k.Output("out", vk.F32, tokens, 8, 24), k.Output("dOut", vk.F32, tokens, 8, 24)
		lse := k.Output("lse", vk.F32, tokens, 8)
		before := dev.Memory().LiveBytes
		dev.ResetPeak()
		require.NoError(t, FlashBackward(k.Rec, cfg, in, DenseHeads(out, 8, 24), lse, DenseHeads(dOut, 8, 24), grads))
		want := uint64(4*tokens*8) + uint64(4*8*(tokens+1023)/1024)
		require.InDelta(t, want, dev.Memory().LiveBytes-before, 512, "%d tokens", tokens)
		require.InDelta(t, want, dev.Memory().PeakBytes-before, 512, "%d tokens", tokens)
		k.Close()
	}
}

func TestFlashBackwardRefusesWhatDoesNotFit(t *testing.T) {
	gputest.Need(t, dev)
	cfg := gqa(2, 1, 8, 4)
	type call struct {
		in        FlashInput
		out, dOut Heads
		lse       *vk.Tensor
		grads     FlashGrads
	}
	k := newKit(t)
	f32 := func(shape ...int) *vk.Tensor { return k.Output("x", vk.F32, shape...) }
	good := func() call {
		return call{FlashInput{Q: DenseHeads(f32(6, 2, 8), 2, 8), K: DenseHeads(f32(5, 1, 8), 1, 8), V: DenseHeads(f32(5, 1, 4), 1, 4),
			QueryOffsets: k.I32("queries", []int32{0, 6}, 2), KeyOffsets: k.I32("keys", []int32{0, 5}, 2), Sinks: f32(2)},
			DenseHeads(f32(6, 2, 4), 2, 4), DenseHeads(f32(6, 2, 4), 2, 4), f32(6, 2),
			FlashGrads{Q: DenseHeads(f32(6, 2, 8), 2, 8), K: DenseHeads(f32(5, 1, 8), 1, 8), V: DenseHeads(f32(5, 1, 4), 1, 4),
				Sinks: f32(2)}}
	}
	record := func(c call) error {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		defer func() { require.NoError(t, rec.Close()) }()
		err = FlashBackward(rec, cfg, c.in, c.out, c.lse, c.dOut, c.grads)
		require.Equal(t, err, rec.Err())
		return err
	}
	require.NoError(t, record(good()))
	for arg, spoil := range map[string]func(c *call){
		"lse":  func(c *call) { c.lse = f32(6, 1) },
		"out":  func(c *call) { c.out = DenseHeads(f32(5, 2, 4), 2, 4) },
		"dOut": func(c *call) { c.dOut = DenseHeads(k.Output("x", vk.F16, 6, 2, 4), 2, 4) },
		"Q": func(c *call) { // one row, the next too far away
			c.in.Q, c.lse = DenseHeads(f32(1, 2, 8), 2, 8), f32(1, 2)
			c.in.Q.RowStride = maxRowStride + 1
			c.out, c.dOut, c.grads.Q = DenseHeads(f32(1, 2, 4), 2, 4), DenseHeads(f32(1, 2, 4), 2, 4), Heads{}
		},
		"grads.Q":     func(c *call) { c.grads.Q = DenseHeads(f32(7, 2, 8), 2, 8) },
		"grads.K":     func(c *call) { c.grads.K = c.in.K },
		"grads.V":     func(c *call) { c.grads.V = Heads{c.grads.Q.Tensor, 0, 4, 4} },
		"grads.Sinks": func(c *call) { c.grads.Sinks = c.in.Sinks },
		"KeyCapacity": func(c *call) {
			c.in.KeyCapacity, c.in.KeyOffsets, c.in.KeyLengths = 5, nil, k.I32("lengths", []int32{5}, 1)
		},
	} {
		c := good()
		spoil(&c)
		var shape *vk.ShapeError
		require.ErrorAs(t, record(c), &shape, arg)
		require.Equal(t, arg, shape.Arg)
	}
	c := good()
	c.in.Sinks = nil
	require.ErrorContains(t, record(c), "grads.Sinks")
	c = good()
	closed, err := dev.NewTensor(vk.F32, 6, 2)
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	c.lse = closed
	require.ErrorIs(t, record(c), vk.ErrClosed)
	cfg.Heads = 0
	var config *ConfigError
	require.ErrorAs(t, record(good()), &config)
}
