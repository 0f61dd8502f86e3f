package ref

import (
	"fmt"
	"math"
)

// An Attention is softmax attention of ragged sequences with grouped heads: for query i of head h, over the keys j it sees,
//
//	s_ij = Scale·(q_i·k_j),  t_ij = SoftCap·tanh(s_ij/SoftCap)  (t = s without a cap)
//	p_ij = exp(t_ij − LSE_i),  LSE_i = log(Σ_j exp(t_ij) + exp(Sinks[h]))  (no sink term without sinks)
//	out_i = Σ_j p_ij·v_j
//
// Sequence b has the queries [QueryOffsets[b], QueryOffsets[b+1]) and the keys [KeyOffsets[b], KeyOffsets[b+1]). Query i of
// n stands among m keys at position i + m − n, so that the last query stands at the last key.
type Attention struct {
	Heads, KVHeads    int
	Width, ValueWidth int  // of a query and key head, and of a value head
	Tiled             bool // head h reads kv head h mod KVHeads; otherwise h / (Heads/KVHeads)
	Causal            bool // a key after the query's position is not seen
	Window            int  // w > 0: nor is a key at position − w or before

	SoftCap float64   // 0 for none
	Scale   float64   // 0 means 1/√Width
	Sinks   []float32 // [Heads], nil for none

	QueryOffsets []int32 // [B+1], first 0
	KeyOffsets   []int32 // [B+1], nil for QueryOffsets
}

// An AttentionResult is the output of AttentionForward. A query that sees no key has output 0 and LSE −Inf, or the sink's
// logit.
type AttentionResult struct {
	Out    Result    // [T,Heads,ValueWidth]
	LSE    []float64 // [T,Heads]
	LSEAbs []float64 // [T,Heads] the scale of its rounding errors

	weighted, plain []float64 // [T,Heads,ValueWidth] Σ p|v|, and Σ |v| over the visible keys
	a               Attention
}

// SequenceCount returns B.
func (a Attention) SequenceCount() int { return len(a.QueryOffsets) - 1 }

// Queries returns T, and Keys the number of key rows.
func (a Attention) Queries() int { return int(a.QueryOffsets[a.SequenceCount()]) }

// Keys returns the number of key rows of all sequences.
func (a Attention) Keys() int { return int(a.keyOffsets()[a.SequenceCount()]) }

func (a Attention) keyOffsets() []int32 {
	if a.KeyOffsets == nil {
		return a.QueryOffsets
	}
	return a.KeyOffsets
}

// KVHead returns the key and value head that query head h reads.
func (a Attention) KVHead(h int) int {
	if a.Tiled {
		return h % a.KVHeads
	}
	return h / (a.Heads / a.KVHeads)
}

func (a Attention) scale() float64 {
	if a.Scale == 0 {
		return 1 / math.Sqrt(float64(a.Width))
	}
	return a.Scale
}

func (a Attention) check(op string, q, k, v int) {
	if a.KVHeads < 1 || a.Heads%a.KVHeads != 0 {
		panic(fmt.Sprintf("ref.%s: %d heads of %d key/value heads", op, a.Heads, a.KVHeads))
	}
	if a.SequenceCount() < 0 || len(a.keyOffsets()) != len(a.QueryOffsets) {
		panic(fmt.Sprintf("ref.%s: %d query and %d key offsets", op, len(a.QueryOffsets), len(a.keyOffsets())))
	}
	for _, offsets := range [][]int32{a.QueryOffsets, a.keyOffsets()} {
		for b, o := range offsets {
			if b == 0 && o != 0 || b > 0 && o < offsets[b-1] {
				panic(fmt.Sprintf("ref.%s: offset %d is %d", op, b, o))
			}
		}
	}
	if a.Sinks != nil {
		requireLen(op, "Sinks", len(a.Sinks), a.Heads)
	}
	requireLen(op, "q", q, a.Queries()*a.Heads*a.Width)
	requireLen(op, "k", k, a.Keys()*a.KVHeads*a.Width)
	requireLen(op, "v", v, a.Keys()*a.KVHeads*a.ValueWidth)
}

// Visible returns the key rows [first, end) that query row t sees, empty where first = end.
func (a Attention) Visible(t int) (first, end int) {
	b := 0
	for int(a.QueryOffsets[b+1]) <= t {
		b++
	}
	start, stop := int(a.keyOffsets()[b]), int(a.keyOffsets()[b+1])
	position := stop - (int(a.QueryOffsets[b+1]) - t) // the row at which the query stands; may lie before start
	first, end = start, stop
	if a.Causal {
		end = min(end, position+1)
	}
	if a.Window > 0 {
		first = max(first, position-a.Window+1)
	}
	if first >= end {
		return start, start
	}
	return first, end
}

// AttentionForward computes attention of dense rows q [T,Heads,Width], k [Tk,KVHeads,Width], v [Tk,KVHeads,ValueWidth].
func AttentionForward[F Float](a Attention, q, k, v []F) AttentionResult {
	a.check("AttentionForward", len(q), len(k), len(v))
	rows := a.Queries() * a.Heads
	res := AttentionResult{Out: newResult(rows * a.ValueWidth), LSE: make([]float64, rows), LSEAbs: make([]float64, rows), a: a}
	res.weighted, res.plain = make([]float64, len(res.Out.Y)), make([]float64, len(res.Out.Y))
	q64, k64, v64 := Widen(q), Widen(k), Widen(v)
	for t := range a.Queries() {
		for h := range a.Heads {
			row := a.row(q64, k64, t, h)
			at := t*a.Heads + h
			res.LSE[at], res.LSEAbs[at] = row.lse, row.lseAbs
			out := at * a.ValueWidth
			a.rowOut(row, v64, Result{res.Out.Y[out : out+a.ValueWidth], res.Out.Abs[out : out+a.ValueWidth]})
			a.rowScales(row, v64, res.weighted[out:out+a.ValueWidth], res.plain[out:out+a.ValueWidth])
		}
	}
	return res
}

// AttentionQuery computes one query row of one head, Out [ValueWidth] and its LSE: for shapes at which all rows would take
// too long.
func AttentionQuery[F Float](a Attention, q, k, v []F, t, h int) (out Result, lse float64) {
	a.check("AttentionQuery", len(q), len(k), len(v))
	first, end := a.Visible(t)
	alone := a
	alone.QueryOffsets, alone.KeyOffsets, alone.Causal, alone.Window = []int32{0, 1}, []int32{0, int32(end - first)}, false, 0
	rows := func(x []F, first, end, heads, width int) []float64 {
		return Widen(x[first*heads*width : end*heads*width])
	}
	row := alone.row(rows(q, t, t+1, a.Heads, a.Width), rows(k, first, end, a.KVHeads, a.Width), 0, h)
	out = newResult(a.ValueWidth)
	alone.rowOut(row, rows(v, first, end, a.KVHeads, a.ValueWidth), out)
	return out, row.lse
}

// An attentionRow is the softmax of one query of one head.
type attentionRow struct {
	first, head int // first visible key row; its kv head

	p      []float64 // [visible keys] probabilities
	errors []float64 // relative rounding error of p, in units of one f32 sum's
	score  []float64 // Σ|q·k|·Scale: scale of the logit's rounding error
	tanh   []float64 // tanh(s/SoftCap), nil without a cap

	sink, sinkError float64 // probability of the sink and its error, 0 without one
	lse, lseAbs     float64
}

// row computes the softmax of query t of head h.
//
// An error δ_j of logit j changes p_j by the factor 1 + δ_j − Σ_l p_l·δ_l. δ_j is that of the dot product, that of tanh,
// and that of the rounded exponent t_j − LSE.
func (a Attention) row(q, k []float64, t, h int) attentionRow {
	first, end := a.Visible(t)
	r := attentionRow{first: first, head: a.KVHead(h), lse: math.Inf(-1)}
	logits := make([]float64, end-first)
	delta := make([]float64, end-first)
	query := q[(t*a.Heads+h)*a.Width:][:a.Width]
	top := math.Inf(-1)
	for j := range logits {
		key := k[((first+j)*a.KVHeads+r.head)*a.Width:][:a.Width]
		var abs float64
		for i, x := range query {
			term := a.scale() * x * key[i]
			logits[j] += term
			abs += max(term, -term)
		}
		r.score = append(r.score, abs)
		delta[j] = abs
		if a.SoftCap > 0 {
			r.tanh = append(r.tanh, math.Tanh(logits[j]/a.SoftCap))
			logits[j] = a.SoftCap * r.tanh[j]
			delta[j] += math.Abs(logits[j])
		}
		top = math.Max(top, logits[j])
	}
	if a.Sinks != nil {
		top = math.Max(top, float64(a.Sinks[h]))
	}
	if math.IsInf(top, -1) {
		return r
	}
	a.normalize(&r, logits, delta, top, h)
	return r
}

// normalize fills in the probabilities, the LSE and their errors from logits and the errors of those.
func (a Attention) normalize(r *attentionRow, logits, delta []float64, top float64, h int) {
	sum := 0.0
	for _, s := range logits {
		sum += math.Exp(s - top)
	}
	if a.Sinks != nil {
		sum += math.Exp(float64(a.Sinks[h]) - top)
	}
	r.lse = top + math.Log(sum)
	mean := 0.0
	for j, s := range logits {
		r.p = append(r.p, math.Exp(s-r.lse))
		delta[j] += math.Abs(s - r.lse)
		mean += r.p[j] * delta[j]
	}
	if a.Sinks != nil {
		r.sink = math.Exp(float64(a.Sinks[h]) - r.lse)
		r.sinkError = math.Abs(float64(a.Sinks[h]) - r.lse)
		mean += r.sink * r.sinkError
	}
	for _, d := range delta {
		r.errors = append(r.errors, 1+d+mean)
	}
	r.sinkError += 1 + mean
	r.lseAbs = 1 + mean + math.Abs(r.lse)
}

// rowOut adds up the values of one row.
func (a Attention) rowOut(r attentionRow, v []float64, out Result) {
	for j, p := range r.p {
		value := v[((r.first+j)*a.KVHeads+r.head)*a.ValueWidth:][:a.ValueWidth]
		for c, x := range value {
			out.Y[c] += p * x
			out.Abs[c] += p * r.errors[j] * math.Abs(x)
		}
	}
}

// rowScales adds up what rounded weights of one row do to its sums.
func (a Attention) rowScales(r attentionRow, v, weighted, plain []float64) {
	for j, p := range r.p {
		value := v[((r.first+j)*a.KVHeads+r.head)*a.ValueWidth:][:a.ValueWidth]
		for c, x := range value {
			weighted[c] += p * math.Abs(x)
			plain[c] += math.Abs(x)
		}
	}
}

// RoundedBounds are Bounds for kernels that round every weight e^(s − top), at most 1, to dtype before it meets its value. A
// denormal of f16 is off by up to 2^-25, and the weights' sum is at least 1.
func (r AttentionResult) RoundedBounds(dtype DType) (out, lse []float64) {
	out, lse = r.Bounds(dtype)
	for i := range out {
		out[i] += dtype.Storage() * 1.01 * r.weighted[i]
		if dtype == F16 {
			out[i] += 0x1p-25 * r.plain[i]
		}
	}
	return out, lse
}

// Bounds returns per element the largest errors that a correct kernel may show which computes in f32, stores the output as
// dtype and the LSE as f32.
func (r AttentionResult) Bounds(dtype DType) (out, lse []float64) {
	n := r.a.terms()
	lse = make([]float64, len(r.LSE))
	for i, abs := range r.LSEAbs {
		lse[i] = Gamma(n) * abs
	}
	return r.Out.stored(dtype, n, nil), lse
}

// attentionRoundings are those of one probability besides the sums over width and keys: the scale, an exponential of the
// kernels' own, a logarithm or a division.
const attentionRoundings = 24

// terms is the number of roundings on the longest way to an output. Each key may bring a new maximum, which rescales the
// sums by an exponential.
func (a Attention) terms() int {
	keys := 0
	for b, o := range a.keyOffsets()[1:] {
		keys = max(keys, int(o-a.keyOffsets()[b]))
	}
	return a.Width + a.ValueWidth + 3*keys + attentionRoundings
}

// stored bounds a result computed in n roundings, of which only the value itself, and what was stored before it, suffered
// from rounding to a 16-bit type.
func (r Result) stored(dtype DType, n int, before []float64) []float64 {
	bound := r.BoundBy(Gamma(n), Underflow(dtype, n))
	for i, y := range r.Y {
		bound[i] += dtype.Storage() * (math.Abs(y) + Gamma(n)*r.Abs[i])
		if before != nil {
			bound[i] += dtype.Storage() * before[i]
		}
	}
	return bound
}
