package conform

import (
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// flashCase is one attention.
type flashCase struct {
	cfg           attention.FlashConfig
	queries, keys []int // lengths of the sequences; nil keys are the queries'
	sinks         bool
	headMajor     bool // all rows of a head before the next head
	odd           bool
	accumulate    bool
}

func offsetsOf(lengths []int) []int32 {
	out := make([]int32, len(lengths)+1)
	for i, n := range lengths {
		out[i+1] = out[i] + int32(n)
	}
	return out
}

// flashRun is a flashCase on the device.
type flashRun struct {
	flashCase
	k               *Kit
	oracle          ref.Attention
	tokens, keyRows int
	in              attention.FlashInput
	q, kk, v        []float32
}

// heads lays rows of heads out and returns where they are.
func (c flashCase) heads(rows, heads, width int) attention.Heads {
	if c.headMajor {
		return attention.Heads{RowStride: width, HeadStride: max(1, rows) * width}
	}
	return attention.Heads{RowStride: heads * width, HeadStride: width}
}

// lay moves dense rows [rows, heads, width] to the layout, or back.
func (c flashCase) lay(data []float32, rows, heads, width int, back bool) []float32 {
	h := c.heads(rows, heads, width)
	out := make([]float32, len(data))
	for i := range data {
		at := i/(heads*width)*h.RowStride + i/width%heads*h.HeadStride + i%width
		if back {
			out[i] = data[at]
		} else {
			out[at] = data[i]
		}
	}
	return out
}

// operand makes an input of heads.
func (r *flashRun) operand(name string, data []float32, rows, heads, width int) attention.Heads {
	h := r.heads(rows, heads, width)
	h.Tensor = r.k.Floats(name, r.cfg.DType, r.lay(data, rows, heads, width, false), rows, heads, width)
	return h
}

// target makes an output of heads.
func (r *flashRun) target(name string, rows, heads, width int) (attention.Heads, target) {
	h := r.heads(rows, heads, width)
	o := linearCase{accumulate: r.accumulate}.target(r.k, name, r.cfg.DType, false, rows, heads, width)
	h.Tensor = o.t
	return h, o
}

func (c flashCase) setUp(k *Kit) *flashRun {
	if c.odd {
		k.Shift = 1
	}
	cfg := c.cfg
	r := &flashRun{flashCase: c, k: k}
	r.oracle = ref.Attention{Heads: cfg.Heads, KVHeads: cfg.KVHeads, Width: cfg.Width, ValueWidth: cfg.ValueWidth, Tiled: cfg.Tiled,
		Causal: cfg.Causal, Window: cfg.Window, SoftCap: float64(cfg.SoftCap), QueryOffsets: offsetsOf(c.queries)}
	if r.oracle.Scale = float64(cfg.Scale); cfg.Scale == 0 {
		r.oracle.Scale = float64(float32(1 / math.Sqrt(float64(cfg.Width))))
	}
	r.in.QueryOffsets = k.I32("query_offsets", r.oracle.QueryOffsets, len(c.queries)+1)
	if c.keys != nil {
		r.oracle.KeyOffsets = offsetsOf(c.keys)
		r.in.KeyOffsets = k.I32("key_offsets", r.oracle.KeyOffsets, len(c.keys)+1)
	}
	if c.sinks {
		r.oracle.Sinks = k.Normal(vk.F32, cfg.Heads)
		r.in.Sinks = k.F32("sinks", r.oracle.Sinks, cfg.Heads)
	}
	r.tokens, r.keyRows = r.oracle.Queries(), r.oracle.Keys()
	r.q, r.kk = k.Normal(cfg.DType, r.tokens*cfg.Heads*cfg.Width), k.Normal(cfg.DType, r.keyRows*cfg.KVHeads*cfg.Width)
	r.v = k.Normal(cfg.DType, r.keyRows*cfg.KVHeads*cfg.ValueWidth)
	r.in.Q = r.operand("q", r.q, r.tokens, cfg.Heads, cfg.Width)
	r.in.K = r.operand("k", r.kk, r.keyRows, cfg.KVHeads, cfg.Width)
	r.in.V = r.operand("v", r.v, r.keyRows, cfg.KVHeads, cfg.ValueWidth)
	return r
}

func (c flashCase) forward(k *Kit) func() {
	r := c.setUp(k)
	cfg := c.cfg
	out, o := r.target("out", r.tokens, cfg.Heads, cfg.ValueWidth)
	lse := k.Output("lse", vk.F32, r.tokens, cfg.Heads)
	k.must(attention.Flash(k.Rec, cfg, r.in, out, lse))
	return func() {
		want := ref.AttentionForward(r.oracle, r.q, r.kk, r.v)
		bound, lseBound := want.Bounds(refTypes[cfg.DType])
		if cfg.Path != moe.PathPortable { // matrices take every weight rounded to the storage type
			bound, lseBound = want.RoundedBounds(refTypes[cfg.DType])
		}
		k.compare("out", r.lay(k.Values(o.t), r.tokens, cfg.Heads, cfg.ValueWidth, true), want.Out.Y, bound)
		k.Close("lse", lse, want.LSE, lseBound)
	}
}

// backward records the gradients from an output and LSE as the oracle has them, rounded as the device stores them.
func (c flashCase) backward(k *Kit) func() {
	r := c.setUp(k)
	cfg := c.cfg
	dOut := k.Normal(cfg.DType, r.tokens*cfg.Heads*cfg.ValueWidth)
	saved := ref.AttentionForward(r.oracle, r.q, r.kk, r.v)
	outs := make([]float32, len(saved.Out.Y))
	for i, y := range saved.Out.Y {
		outs[i] = float32(y)
	}
	lses := make([]float32, len(saved.LSE))
	for i, y := range saved.LSE {
		lses[i] = float32(y)
	}
	out := r.operand("out", vk.Round(cfg.DType, outs), r.tokens, cfg.Heads, cfg.ValueWidth)
	lse := k.F32("lse", lses, r.tokens, cfg.Heads)
	dout := r.operand("dout", dOut, r.tokens, cfg.Heads, cfg.ValueWidth)
	g := attention.FlashGrads{Accumulate: c.accumulate, AccumulateSinks: c.accumulate}
	var dq, dk, dv, dsinks target
	g.Q, dq = r.target("dq", r.tokens, cfg.Heads, cfg.Width)
	g.K, dk = r.target("dk", r.keyRows, cfg.KVHeads, cfg.Width)
	g.V, dv = r.target("dv", r.keyRows, cfg.KVHeads, cfg.ValueWidth)
	if c.sinks {
		dsinks = linearCase{accumulate: c.accumulate}.target(k, "dsinks", vk.F32, false, cfg.Heads)
		g.Sinks = dsinks.t
	}
	k.must(attention.FlashBackward(k.Rec, cfg, r.in, out, lse, dout, g))
	return func() {
		want := ref.AttentionBackward(r.oracle, r.q, r.kk, r.v, dOut)
		q, kb, v, sinks := want.Bounds(refTypes[cfg.DType])
		if cfg.Path != moe.PathPortable { // and the gradients of scores
			q, kb, v, sinks = want.RoundedBounds(refTypes[cfg.DType])
		}
		r.judge("dq", dq, want.DQ, q, r.tokens, cfg.Heads, cfg.Width)
		r.judge("dk", dk, want.DK, kb, r.keyRows, cfg.KVHeads, cfg.Width)
		r.judge("dv", dv, want.DV, v, r.keyRows, cfg.KVHeads, cfg.ValueWidth)
		dsinks.judge(k, "dsinks", want.DSinks, sinks, false)
	}
}

// judge compares a gradient in the case's layout with the oracle's.
func (r *flashRun) judge(name string, o target, want ref.Result, bound []float64, rows, heads, width int) {
	dtype := refTypes[r.cfg.DType]
	start := r.lay(o.start, rows, heads, width, true)
	for i, s := range start {
		bound[i] += (2*ref.UnitF32 + dtype.Storage()) * (math.Abs(float64(s)) + math.Abs(want.Y[i]))
		want.Y[i] += float64(s)
	}
	r.k.compare(name, r.lay(r.k.Values(o.t), rows, heads, width, true), want.Y, bound)
}
