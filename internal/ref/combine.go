package ref

// Combine is the gate-weighted sum over a token's choices:
//
//	out[t] = Σ_j gate[t,j] · y[row of slot t·K+j], j ascending
//
// y is [T·K,D], its row the slot, or the grouped position when grouped; gates [T·K], nil meaning 1. A slot without an
// expert adds 0, whatever its gate and row hold. Y is [T,D].
func Combine[Y, G Float](y []Y, gates []G, r *Routing, width int, grouped bool) Result {
	requireLen("Combine", "y", len(y), r.Slots()*width)
	if gates != nil {
		requireLen("Combine", "gates", len(gates), r.Slots())
	}
	layout := Layout{GroupedOut: grouped}
	res := newResult(r.Tokens * width)
	for s := 0; s < r.Slots(); s++ {
		if !r.Valid(s) {
			continue
		}
		gate := 1.0
		if gates != nil {
			gate = float64(gates[s])
		}
		row, t := layout.OutRow(r, s), s/r.K
		for c := 0; c < width; c++ {
			term := gate * float64(y[row*width+c])
			res.Y[t*width+c] += term
			res.Abs[t*width+c] += max(term, -term)
		}
	}
	return res
}
