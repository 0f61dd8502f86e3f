package ref

// MixtureOfAttentionGrads are the gradients of MixtureOfAttentionForward.
type MixtureOfAttentionGrads struct {
	X                     []float64 // [T,D]
	Router, Query, Output LinearGrads
	KeyValue              LinearGrads
	Gates                 Result    // [T,K]
	Logits                Result    // [T,E]
	Bias                  []float64 // [D], nil without
	Sinks                 []float64 // [Heads], nil without
}

// MixtureOfAttentionBackward differentiates the block at x [T,D], whose result is saved, from dOut [T,D]. The choice of
// experts has no gradient; the gates' flows through the router into X.
func MixtureOfAttentionBackward[F, X, D Float](m MixtureOfAttention[F], x []X, saved MixtureOfAttentionResult, dOut []D) MixtureOfAttentionGrads {
	var g MixtureOfAttentionGrads
	a, r, noGates := m.Attention, saved.Routing, []float64(nil)
	dSlots, dGates := CombineBackward(saved.Slots.Y, saved.Gates, dOut, r, m.Output.Out, false)
	g.Gates = dGates
	g.Output = Scatter2scatterBackward(m.Output, saved.Attention.Out.Y, r, Layout{PerSlot: true}, noGates, dSlots.Y)
	core := AttentionBackward(a, saved.RotatedQuery, saved.RotatedKey, saved.Value, g.Output.X.Y)
	g.Sinks = core.DSinks.Y
	dQuery := RotateBackward(m.RoPE, core.DQ.Y, a.Positions(), a.Heads, a.Width).Y
	dKey := RotateBackward(m.RoPE, core.DK.Y, a.Positions(), a.KVHeads, a.Width).Y
	g.Query = Scatter2scatterBackward(m.Query, x, r, Layout{}, noGates, dQuery)
	g.KeyValue = denseBackward(m.KeyValue, x, joinRows(dKey, core.DV.Y, a.KVHeads*a.Width, a.KVHeads*a.ValueWidth))
	g.Logits = RouterGatesBackward(m.rules(), saved.Logits.Y, saved.IDs, dGates.Y, r.Tokens)
	g.Router = denseBackward(m.Router, x, g.Logits.Y)
	g.X = sum(g.Query.X.Y, g.KeyValue.X.Y, g.Router.X.Y)
	if m.Bias != nil {
		g.Bias = make([]float64, m.Output.Out)
		for i, d := range dOut {
			g.Bias[i%m.Output.Out] += float64(d)
		}
	}
	return g
}
