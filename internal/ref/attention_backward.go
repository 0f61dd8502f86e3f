package ref

import "math"

// AttentionGrads are the gradients of AttentionForward.
type AttentionGrads struct {
	DQ     Result // [T,Heads,Width]
	DK     Result // [Tk,KVHeads,Width]
	DV     Result // [Tk,KVHeads,ValueWidth]
	DSinks Result // [Heads], nil without sinks

	a Attention
	// What a stored output that is off by a relative 1 adds: the kernels read it back to form the row sums D.
	qStored, kStored, sinksStored []float64
	// What weights and logits' gradients that are off by a relative 1 add to dq, dk and dv, and what those off by 1 do.
	rounded, plain [3][]float64
}

// AttentionBackward differentiates AttentionForward from dOut [T,Heads,ValueWidth] (arXiv 2205.14135, appendix B.4): with
// D_i = dOut_i·out_i,
//
//	dv_j    = Σ_i p_ij·dOut_i
//	dt_ij   = p_ij·(dOut_i·v_j − D_i),   ds_ij = dt_ij·(1 − tanh²(s_ij/SoftCap))
//	dq_i    = Scale·Σ_j ds_ij·k_j,       dk_j = Scale·Σ_i ds_ij·q_i
//	dsink_h = −Σ_i p_sink,i·D_i
//
// Sums over i run over the queries of all heads that read a key/value head. A query that sees no key adds nothing.
func AttentionBackward[F, D Float](a Attention, q, k, v []F, dOut []D) AttentionGrads {
	a.check("AttentionBackward", len(q), len(k), len(v))
	requireLen("AttentionBackward", "dOut", len(dOut), a.Queries()*a.Heads*a.ValueWidth)
	g := AttentionGrads{
		DQ: newResult(len(q)), DK: newResult(len(k)), DV: newResult(len(v)), a: a,
		qStored: make([]float64, len(q)), kStored: make([]float64, len(k)),
	}
	for i, n := range []int{len(q), len(k), len(v)} {
		g.rounded[i], g.plain[i] = make([]float64, n), make([]float64, n)
	}
	if a.Sinks != nil {
		g.DSinks, g.sinksStored = newResult(a.Heads), make([]float64, a.Heads)
	}
	q64, k64, v64, d64 := Widen(q), Widen(k), Widen(v), Widen(dOut)
	for t := range a.Queries() {
		for h := range a.Heads {
			g.addRow(q64, k64, v64, d64[(t*a.Heads+h)*a.ValueWidth:][:a.ValueWidth], t, h)
		}
	}
	return g
}

// addRow adds what query t of head h contributes; d is its output's gradient [ValueWidth].
func (g *AttentionGrads) addRow(q, k, v, d []float64, t, h int) {
	a := g.a
	r := a.row(q, k, t, h)
	out := newResult(a.ValueWidth)
	a.rowOut(r, v, out)
	var rowSum, rowAbs, rowStored float64 // D, the scale of its errors, and Σ|dOut·out|
	for c, x := range d {
		rowSum += x * out.Y[c]
		rowAbs += math.Abs(x) * out.Abs[c]
		rowStored += math.Abs(x * out.Y[c])
	}
	lseError := math.Abs(r.lse) // the LSE is read back rounded to f32
	for j, p := range r.p {
		value := ((r.first+j)*a.KVHeads + r.head) * a.ValueWidth
		var dp, dpAbs float64
		for c, x := range d {
			dp += x * v[value+c]
			dpAbs += math.Abs(x * v[value+c])
			g.DV.Y[value+c] += p * x
			g.DV.Abs[value+c] += p * (r.errors[j] + lseError) * math.Abs(x)
			g.rounded[2][value+c] += p * math.Abs(x)
			g.plain[2][value+c] += math.Abs(x)
		}
		slope, slopeAbs := 1.0, 1.0
		if a.SoftCap > 0 {
			th := math.Abs(r.tanh[j])
			slope = 1 - th*th
			slopeAbs = slope*(1+2*th*r.score[j]/a.SoftCap) + th*th
		}
		ds := a.scale() * p * (dp - rowSum) * slope
		dsAbs := math.Abs(a.scale()) * p * (r.errors[j] + lseError) * (dpAbs + rowAbs) * slopeAbs
		dsStored := math.Abs(a.scale()) * p * rowStored * slope
		query, key := (t*a.Heads+h)*a.Width, ((r.first+j)*a.KVHeads+r.head)*a.Width
		for i := range a.Width {
			x, y := q[query+i], k[key+i]
			g.DQ.Y[query+i] += ds * y
			g.DQ.Abs[query+i] += dsAbs * math.Abs(y)
			g.qStored[query+i] += dsStored * math.Abs(y)
			g.DK.Y[key+i] += ds * x
			g.DK.Abs[key+i] += dsAbs * math.Abs(x)
			g.kStored[key+i] += dsStored * math.Abs(x)
			g.rounded[0][query+i] += math.Abs(ds * y)
			g.rounded[1][key+i] += math.Abs(ds * x)
			g.plain[0][query+i] += math.Abs(a.scale() * y)
			g.plain[1][key+i] += math.Abs(a.scale() * x)
		}
	}
	if a.Sinks != nil && len(r.p) > 0 {
		g.DSinks.Y[h] -= r.sink * rowSum
		g.DSinks.Abs[h] += r.sink * (r.sinkError + lseError) * rowAbs
		g.sinksStored[h] += r.sink * rowStored
	}
}

// Bounds returns per element the largest errors that correct kernels may show which compute in f32 from exact q, k, v and
// dOut, and from an output stored as dtype and an LSE stored as f32, and which store dq, dk and dv as dtype and dsinks as
// f32. dsinks is nil without sinks.
func (g AttentionGrads) Bounds(dtype DType) (dq, dk, dv, dsinks []float64) {
	n := g.a.terms() + g.a.ValueWidth
	queries := 0
	for b, o := range g.a.QueryOffsets[1:] {
		queries = max(queries, int(o-g.a.QueryOffsets[b]))
	}
	sums := n + queries*g.a.Heads/g.a.KVHeads
	dq = g.DQ.stored(dtype, n, g.qStored)
	dk = g.DK.stored(dtype, sums, g.kStored)
	dv = g.DV.stored(dtype, sums, nil)
	if g.a.Sinks == nil {
		return dq, dk, dv, nil
	}
	dsinks = g.DSinks.stored(F32, n+g.a.Queries(), nil)
	for i, s := range g.sinksStored {
		dsinks[i] += dtype.Storage() * s
	}
	return dq, dk, dv, dsinks
}

// RoundedBounds are Bounds for kernels that round every probability and every logit's gradient, before it is scaled, to dtype
// before it is multiplied. A denormal of f16 is off by up to 2^-25.
func (g AttentionGrads) RoundedBounds(dtype DType) (dq, dk, dv, dsinks []float64) {
	dq, dk, dv, dsinks = g.Bounds(dtype)
	unit := dtype.Storage()
	stored := [3][]float64{g.qStored, g.kStored, nil}
	for which, bound := range [3][]float64{dq, dk, dv} {
		for i := range bound {
			bound[i] += unit * 1.01 * g.rounded[which][i]
			if stored[which] != nil { // the stored output's error is rounded too
				bound[i] += unit * unit * stored[which][i]
			}
			if dtype == F16 {
				bound[i] += 0x1p-25 * g.plain[which][i]
			}
		}
	}
	return dq, dk, dv, dsinks
}
