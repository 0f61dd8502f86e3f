package ref

// MLPGrads are the gradients of an MLP.
type MLPGrads struct {
	X        []float64 // [T,D]
	Router   LinearGrads
	Up, Down LinearGrads
	Logits   Result // [T,E]
	Gates    Result // [T,K]
	Shared   SharedGrads

	OutputBias []float64 // [D], nil without
}

// MLPBackward differentiates MLP.Forward at x [T,D], whose result is saved, from dOut [T,D]. The choice of experts has no
// gradient; the gates' flows through the router into X.
func MLPBackward[F, X, D Float](m MLP[F], x []X, saved MLPResult, dOut []D) MLPGrads {
	var g MLPGrads
	r, noGates := saved.Routing, []float64(nil)
	dSlots, dGates := CombineBackward(saved.Slots.Y, saved.Gates, dOut, r, m.Down.Out, false)
	g.Gates = dGates
	g.Down = Scatter2scatterBackward(m.Down, saved.Hidden.Y, r, Layout{GroupedIn: true}, noGates, dSlots.Y)
	dz := m.activateBackward(saved.Up.Y, g.Down.X.Y, r.Slots(), m.Down.In)
	g.Up = Scatter2scatterBackward(m.Up, x, r, Layout{GroupedOut: true}, noGates, dz.Y)
	g.Logits = RouterGatesBackward(m.Rules(), saved.Logits.Y, saved.IDs, dGates.Y, r.Tokens)
	g.Router = Scatter2scatterBackward(m.Router, x, Dense(r.Tokens), Layout{}, noGates, g.Logits.Y)
	g.X = make([]float64, len(g.Up.X.Y))
	for i := range g.X {
		g.X[i] = g.Up.X.Y[i] + g.Router.X.Y[i]
	}
	if m.Shared != nil {
		g.Shared = sharedBackward(m, x, saved.Shared, dOut, r.Tokens)
		for i, v := range g.Shared.X {
			g.X[i] += v
		}
	}
	if m.OutputBias != nil {
		g.OutputBias = make([]float64, m.Down.Out)
		for i, d := range dOut {
			g.OutputBias[i%m.Down.Out] += float64(d)
		}
	}
	return g
}
