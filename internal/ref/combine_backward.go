package ref

// CombineBackward differentiates Combine in one pass over dOut [T,D] and y [T·K,D]: for every valid slot s of token t
//
//	dY[row of s] = gate[s]·dOut[t]     dGates[s] = dOut[t]·y[row of s]
//
// Rows and gates of slots without an expert are 0.
func CombineBackward[Y, G, D Float](y []Y, gates []G, dOut []D, r *Routing, width int, grouped bool) (dY, dGates Result) {
	requireLen("CombineBackward", "y", len(y), r.Slots()*width)
	requireLen("CombineBackward", "dOut", len(dOut), r.Tokens*width)
	layout := Layout{GroupedOut: grouped}
	dY, dGates = newResult(len(y)), newResult(r.Slots())
	for s := range r.Slots() {
		if !r.Valid(s) {
			continue
		}
		row, t, gate := layout.OutRow(r, s), s/r.K, gateOf(gates, s)
		for c := range width {
			d := float64(dOut[t*width+c])
			add(&dY, row*width+c, gate*d)
			add(&dGates, s, d*float64(y[row*width+c]))
		}
	}
	return dY, dGates
}
