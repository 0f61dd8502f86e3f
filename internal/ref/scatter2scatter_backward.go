package ref

// LinearGrads are the gradients of Scatter2scatter. Sums run over valid slots only; an expert without slots has zeros.
type LinearGrads struct {
	X      Result // shape of x
	Weight Result // shape and storage order of the weights
	Bias   Result // [E,out]; also computed for a layer without bias
	Gates  Result // [T·K]
}

// Scatter2scatterBackward differentiates y = gate·(W[e]·x + b[e]) (arXiv 2403.08245, algorithm 2): for every valid slot s,
// with dy the row of dY [T·K,out] that s wrote,
//
//	dX[in row]  += gate·W[e]ᵀ·dy        (a token's K slots add up where they share a row)
//	dW[e]       += gate·dy·xᵀ           (GroupXTY)
//	db[e]       += gate·dy
//	dgate[s]     = dy·(W[e]·x + b[e])
func Scatter2scatterBackward[X, W, G, D Float](l Linear[W], x []X, r *Routing, layout Layout, gates []G, dy []D) LinearGrads {
	l.check("Scatter2scatterBackward")
	requireLen("Scatter2scatterBackward", "x", len(x), layout.InRows(r)*l.In)
	requireLen("Scatter2scatterBackward", "dy", len(dy), r.Slots()*l.Out)
	grads := LinearGrads{
		X:      newResult(len(x)),
		Weight: GroupXTY(x, dy, r, layout, gates, l.In, l.Out),
		Bias:   newResult(l.Experts * l.Out),
		Gates:  newResult(r.Slots()),
	}
	if l.InOut {
		grads.Weight = transposeEach(grads.Weight, l.Experts, l.Out, l.In)
	}
	plain := Scatter2scatter(l, x, r, layout, []float64(nil))
	for s := range r.Slots() {
		if !r.Valid(s) {
			continue
		}
		e, gate := int(r.IDs[s]), gateOf(gates, s)
		in, out := layout.InRow(r, s)*l.In, layout.OutRow(r, s)*l.Out
		for o := range l.Out {
			d := float64(dy[out+o])
			add(&grads.Bias, e*l.Out+o, gate*d)
			grads.Gates.Y[s] += d * plain.Y[out+o]
			grads.Gates.Abs[s] += max(d, -d) * plain.Abs[out+o]
			for i := range l.In {
				add(&grads.X, in+i, gate*d*l.At(e, o, i))
			}
		}
	}
	return grads
}

// GroupXTY is the weight gradient [E,out,in] of a ParallelLinear, over each expert's slots:
//
//	dW[e] = Σ_s gate[s] · dy[out row of s] · x[in row of s]ᵀ
//
// x and dy [T·K,out] are in the layout of the forward; gates [T·K], nil meaning 1.
func GroupXTY[X, G, D Float](x []X, dy []D, r *Routing, layout Layout, gates []G, in, out int) Result {
	requireLen("GroupXTY", "x", len(x), layout.InRows(r)*in)
	requireLen("GroupXTY", "dy", len(dy), r.Slots()*out)
	res := newResult(r.Experts * out * in)
	for s := range r.Slots() {
		if !r.Valid(s) {
			continue
		}
		xr, yr, gate := layout.InRow(r, s)*in, layout.OutRow(r, s)*out, gateOf(gates, s)
		for o := range out {
			for i := range in {
				add(&res, (int(r.IDs[s])*out+o)*in+i, gate*float64(dy[yr+o])*float64(x[xr+i]))
			}
		}
	}
	return res
}

func gateOf[G Float](gates []G, slot int) float64 {
	if gates == nil {
		return 1
	}
	return float64(gates[slot])
}

// add adds a term to one element and its absolute value to the element's scale.
func add(r *Result, i int, term float64) {
	r.Y[i] += term
	r.Abs[i] += max(term, -term)
}

// transposeEach turns [E,rows,columns] into [E,columns,rows].
func transposeEach(r Result, experts, rows, columns int) Result {
	t := newResult(len(r.Y))
	for e := range experts {
		for i := range rows {
			for j := range columns {
				from, to := (e*rows+i)*columns+j, (e*columns+j)*rows+i
				t.Y[to], t.Abs[to] = r.Y[from], r.Abs[from]
			}
		}
	}
	return t
}
