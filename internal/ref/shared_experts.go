package ref

// Shared are experts that every token passes, as one two-layer network, with the activation of the MLP they belong to:
//
//	out[t] = gate[t] · Down·act(Up·x[t]),  gate[t] = σ(Gate·x[t]), or 1 without Gate
type Shared[F Float] struct {
	Up, Down Linear[F]  // one expert each
	Gate     *Linear[F] // D → 1, or nil
}

// SharedResult holds every stage of Shared.
type SharedResult struct {
	Up, Hidden   Result
	Logits, Gate []float64 // [T], nil without Gate
	Out          Result    // [T,D]
}

// sharedForward runs the shared experts of m on x [T,D].
func sharedForward[F, X Float](m MLP[F], x []X, tokens int) SharedResult {
	var res SharedResult
	res.Up = DenseLinear(m.Shared.Up, x, tokens)
	res.Hidden = m.activate(res.Up.Y, tokens, m.Shared.Down.In)
	if m.Shared.Gate != nil {
		res.Logits = DenseLinear(*m.Shared.Gate, x, tokens).Y
		for _, v := range res.Logits {
			res.Gate = append(res.Gate, sigmoid(v))
		}
	}
	res.Out = Scatter2scatter(m.Shared.Down, res.Hidden.Y, Dense(tokens), Layout{}, res.Gate)
	return res
}

// SharedGrads are the gradients of Shared.
type SharedGrads struct {
	X              []float64 // [T,D]
	Up, Down, Gate LinearGrads
}

// sharedBackward differentiates sharedForward from dOut [T,D].
func sharedBackward[F, X, D Float](m MLP[F], x []X, saved SharedResult, dOut []D, tokens int) SharedGrads {
	var g SharedGrads
	dense, none := Dense(tokens), []float64(nil)
	g.Down = Scatter2scatterBackward(m.Shared.Down, saved.Hidden.Y, dense, Layout{}, saved.Gate, dOut)
	dz := m.activateBackward(saved.Up.Y, g.Down.X.Y, tokens, m.Shared.Down.In)
	g.Up = Scatter2scatterBackward(m.Shared.Up, x, dense, Layout{}, none, dz.Y)
	g.X = append([]float64(nil), g.Up.X.Y...)
	if m.Shared.Gate != nil {
		dLogits := make([]float64, tokens)
		for t, s := range saved.Gate {
			dLogits[t] = g.Down.Gates.Y[t] * s * (1 - s)
		}
		g.Gate = Scatter2scatterBackward(*m.Shared.Gate, x, dense, Layout{}, none, dLogits)
		for i, v := range g.Gate.X.Y {
			g.X[i] += v
		}
	}
	return g
}

// activate is the MLP's activation of z.
func (m MLP[F]) activate(z []float64, rows, hidden int) Result {
	switch {
	case m.Clamp != nil:
		return ActivateClamped(*m.Clamp, z, rows, hidden)
	case m.Gated:
		return ActivateGated(m.Activation, z, rows, hidden)
	}
	return Activate(m.Activation, z)
}

// activateBackward is its gradient.
func (m MLP[F]) activateBackward(z, dh []float64, rows, hidden int) Result {
	switch {
	case m.Clamp != nil:
		return ActivateClampedBackward(*m.Clamp, z, dh, rows, hidden)
	case m.Gated:
		return ActivateGatedBackward(m.Activation, z, dh, rows, hidden)
	}
	return ActivateBackward(m.Activation, z, dh)
}
