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

// A spread is how the heads of a test's operand lie in its tensor.
type spread int

const (
	dense     spread = iota
	padded           // gaps between heads and between rows, and before the first; nothing is aligned to four elements
	headMajor        // all rows of a head before the next head
)

// heads returns the Heads of a tensor and how many elements that has.
func (s spread) heads(rows, heads, width int) (Heads, int) {
	h := Heads{RowStride: heads * width, HeadStride: width}
	switch s {
	case padded:
		h = Heads{Offset: 3, RowStride: heads*(width+1) + 2, HeadStride: width + 1}
	case headMajor:
		h = Heads{RowStride: width, HeadStride: rows * width}
	}
	if rows == 0 {
		return h, 0
	}
	return h, h.Offset + (rows-1)*h.RowStride + (heads-1)*h.HeadStride + width
}

// headsOf makes a banded tensor of rows of heads, with poison in the gaps. data is dense; nil makes an output of poison, or of
// before where that is not nil.
func (k *kit) headsOf(name string, dtype vk.DType, s spread, data, before []float32, rows, heads, width int) Heads {
	k.T.Helper()
	h, elements := s.heads(rows, heads, width)
	bits := make([]uint32, elements)
	for i := range bits {
		bits[i] = gputest.Poison(dtype)
	}
	fill := data
	if data == nil {
		fill = before
	}
	for i, v := range fill {
		at := h.Offset + i/(heads*width)*h.RowStride + i/width%heads*h.HeadStride + i%width
		bits[at] = vk.Bits(dtype, v)
	}
	h.Tensor = k.Bits(name, dtype, bits, elements)
	if data == nil {
		k.Overwritten(h.Tensor)
		k.Partial(name)
	}
	return h
}

// gather reads the heads of an output back, and asks that its gaps still hold poison.
func gather(t testing.TB, h Heads, rows, heads, width int) []float32 {
	t.Helper()
	bits := gputest.Words(t, h.Tensor)
	out := make([]float32, rows*heads*width)
	poisoned := gputest.Poison(h.Tensor.DType())
	for i := range out {
		at := h.Offset + i/(heads*width)*h.RowStride + i/width%heads*h.HeadStride + i%width
		require.NotEqual(t, poisoned, bits[at], "element %d was not written", i)
		out[i] = vk.FromBits(h.Tensor.DType(), bits[at])
		bits[at] = poisoned
	}
	for i, w := range bits {
		require.Equal(t, poisoned, w, "element %d of the gaps was written", i)
	}
	return out
}

// A flashProblem is one attention with its operands and what the oracle says of it.
type flashProblem struct {
	cfg           FlashConfig
	queries, keys []int32 // offsets; keys nil for those of the queries
	sinks         []float32

	q, k, v, dOut []float32
	out, lse      []float32 // as the device would store them
	want          ref.AttentionGrads
}

func (p *flashProblem) oracle() ref.Attention {
	c := p.cfg
	return ref.Attention{Heads: c.Heads, KVHeads: c.KVHeads, Width: c.Width, ValueWidth: c.ValueWidth, Tiled: c.Tiled,
		Causal: c.Causal, Window: c.Window, SoftCap: float64(c.SoftCap), Scale: float64(c.scale()), Sinks: p.sinks,
		QueryOffsets: p.queries, KeyOffsets: p.keys}
}

// newFlashProblem draws operands for a configuration and computes the oracle's gradients. lengths of keys may be nil.
func newFlashProblem(r *rand.Rand, cfg FlashConfig, queries, keys []int, sinks bool) *flashProblem {
	p := &flashProblem{cfg: cfg, queries: offsetsOf(queries)}
	if keys != nil {
		p.keys = offsetsOf(keys)
	}
	if sinks {
		p.sinks = gputest.Normal(r, cfg.Heads)
	}
	a := p.oracle()
	tokens, rows := a.Queries(), a.Keys()
	p.q = vk.Round(cfg.DType, gputest.Normal(r, tokens*cfg.Heads*cfg.Width))
	p.k = vk.Round(cfg.DType, gputest.Normal(r, rows*cfg.KVHeads*cfg.Width))
	p.v = vk.Round(cfg.DType, gputest.Normal(r, rows*cfg.KVHeads*cfg.ValueWidth))
	p.dOut = vk.Round(cfg.DType, gputest.Normal(r, tokens*cfg.Heads*cfg.ValueWidth))
	p.judge()
	return p
}

// judge asks the oracle.
func (p *flashProblem) judge() {
	a := p.oracle()
	forward := ref.AttentionForward(a, p.q, p.k, p.v)
	p.out, p.lse = make([]float32, len(forward.Out.Y)), make([]float32, len(forward.LSE))
	for i, y := range forward.Out.Y {
		p.out[i] = vk.FromBits(p.cfg.DType, vk.Bits(p.cfg.DType, float32(y)))
	}
	for i, y := range forward.LSE {
		p.lse[i] = float32(y)
	}
	p.want = ref.AttentionBackward(a, p.q, p.k, p.v, p.dOut)
}

// flashGradients are the device's gradients.
type flashGradients struct{ dq, dk, dv, dsinks []float32 }

// A backwardOption is how a test calls FlashBackward.
type backwardOption struct {
	spread     spread
	plan       backwardPlan
	flash      bool      // out and LSE are those that Flash computes, not the oracle's
	accumulate []float32 // dq, dk, dv and dsinks start with this, repeated; nil: overwrite
}

// repeat returns n values of data over and over, or nil.
func repeat(data []float32, n int) []float32 {
	if data == nil {
		return nil
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = data[i%len(data)]
	}
	return out
}

// backward records FlashBackward of a problem; the results are there once the recorder has run.
func (p *flashProblem) backward(k *kit, o backwardOption) func() flashGradients {
	k.T.Helper()
	c, a := p.cfg, p.oracle()
	tokens, rows := a.Queries(), a.Keys()
	in := FlashInput{
		Q:            k.headsOf("q", c.DType, o.spread, p.q, nil, tokens, c.Heads, c.Width),
		K:            k.headsOf("k", c.DType, o.spread, p.k, nil, rows, c.KVHeads, c.Width),
		V:            k.headsOf("v", c.DType, o.spread, p.v, nil, rows, c.KVHeads, c.ValueWidth),
		QueryOffsets: k.I32("queries", p.queries, len(p.queries)),
	}
	if p.keys != nil {
		in.KeyOffsets = k.I32("keys", p.keys, len(p.keys))
	}
	grads := FlashGrads{
		Q:          k.headsOf("dq", c.DType, o.spread, nil, repeat(o.accumulate, len(p.q)), tokens, c.Heads, c.Width),
		K:          k.headsOf("dk", c.DType, o.spread, nil, repeat(o.accumulate, len(p.k)), rows, c.KVHeads, c.Width),
		V:          k.headsOf("dv", c.DType, o.spread, nil, repeat(o.accumulate, len(p.v)), rows, c.KVHeads, c.ValueWidth),
		Accumulate: o.accumulate != nil, AccumulateSinks: o.accumulate != nil,
	}
	if p.sinks != nil {
		in.Sinks = k.F32("sinks", p.sinks, c.Heads)
		grads.Sinks = k.headsOf("dsinks", vk.F32, dense, nil, repeat(o.accumulate, c.Heads), 1, 1, c.Heads).Tensor
	}
	saved := p.out
	if o.flash {
		saved = nil
	}
	out := k.headsOf("out", c.DType, o.spread, saved, nil, tokens, c.Heads, c.ValueWidth)
	dOut := k.headsOf("dOut", c.DType, o.spread, p.dOut, nil, tokens, c.Heads, c.ValueWidth)
	var lse *vk.Tensor
	if o.flash {
		lse = k.Output("lse", vk.F32, tokens, c.Heads)
		require.NoError(k.T, Flash(k.Rec, c, in, out, lse))
	} else {
		lse = k.F32("lse", p.lse, tokens, c.Heads)
	}
	require.NoError(k.T, flashBackwardBy(k.Rec, c, in, out, lse, dOut, grads, o.plan))
	return func() flashGradients {
		r := flashGradients{
			dq: gather(k.T, grads.Q, tokens, c.Heads, c.Width),
			dk: gather(k.T, grads.K, rows, c.KVHeads, c.Width),
			dv: gather(k.T, grads.V, rows, c.KVHeads, c.ValueWidth),
		}
		if p.sinks != nil {
			r.dsinks = gather(k.T, DenseHeads(grads.Sinks, 1, c.Heads), 1, 1, c.Heads)
		}
		return r
	}
}

// requireGrads judges gradients by the oracle's bounds. Where they were added to what was there, and where sums were stored
// in parts, each part is one more sum to round.
func (p *flashProblem) requireGrads(t testing.TB, got flashGradients, o backwardOption, parts int, what string) {
	t.Helper()
	dtype := gputest.Oracle(p.cfg.DType)
	bounds := p.want.Bounds
	if p.cfg.Path == moe.PathCoopMat {
		bounds = p.want.RoundedBounds
	}
	dq, dk, dv, dsinks := bounds(dtype)
	for _, g := range []struct {
		name  string
		dtype ref.DType
		got   []float32
		want  ref.Result
		bound []float64
	}{
		{"dq", dtype, got.dq, p.want.DQ, dq}, {"dk", dtype, got.dk, p.want.DK, dk},
		{"dv", dtype, got.dv, p.want.DV, dv}, {"dsinks", ref.F32, got.dsinks, p.want.DSinks, dsinks},
	} {
		want, bound := append([]float64(nil), g.want.Y...), append([]float64(nil), g.bound...)
		start := repeat(o.accumulate, len(want))
		for i := range want {
			if start != nil {
				want[i] += float64(start[i])
				bound[i] += (g.dtype.Storage() + ref.UnitF32) * (math.Abs(float64(start[i])) + math.Abs(g.want.Y[i]))
			}
			bound[i] += float64(parts-1) * (g.dtype.Storage() + ref.UnitF32) * g.want.Abs[i]
		}
		gputest.RequireClose(t, g.got, want, bound, fmt.Sprintf("%s: %s", what, g.name))
	}
}

// check runs a problem and judges it.
func (p *flashProblem) check(t *testing.T, o backwardOption, parts int) {
	t.Helper()
	k := newKit(t)
	results := p.backward(k, o)
	k.Run()
	p.requireGrads(t, results(), o, parts, fmt.Sprintf("%+v queries %v keys %v sinks %v %+v", p.cfg, p.queries, p.keys, p.sinks != nil, o))
	k.Close()
}

// requireAlike runs the recording 20 times, after each of which the results must be the same to the bit.
func requireAlike(k *kit, results func() flashGradients) {
	k.T.Helper()
	k.Run()
	want := results()
	for range 19 {
		k.Run()
		require.Equal(k.T, want, results())
	}
}
