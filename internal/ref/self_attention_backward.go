package ref

// SelfAttentionGrads are the gradients of SelfAttentionForward.
type SelfAttentionGrads struct {
	X                         []float64 // [T,D]
	Query, Key, Value, Output LinearGrads
	QueryNorm, KeyNorm        []float64 // nil without
	Sinks                     []float64 // [Heads], nil without
}

// SelfAttentionBackward differentiates the block at x [T,D], whose result is saved, from dOut [T,D].
func SelfAttentionBackward[F, X, D Float](s SelfAttention[F], x []X, saved SelfAttentionResult, dOut []D) SelfAttentionGrads {
	var g SelfAttentionGrads
	a := s.Attention
	g.Output = denseBackward(s.Output, saved.Attention.Out.Y, dOut)
	core := AttentionBackward(a, saved.Rotated[0].Y, saved.Rotated[1].Y, saved.Value.Y, g.Output.X.Y)
	g.Sinks = core.DSinks.Y
	g.Value = denseBackward(s.Value, x, core.DV.Y)
	norms, linears := [2]*[]float64{&g.QueryNorm, &g.KeyNorm}, [2]*LinearGrads{&g.Query, &g.Key}
	for i, side := range s.sides() {
		d := [2]Result{core.DQ, core.DK}[i].Y
		d = RotateBackward(s.RoPE, d, a.Positions(), side.heads, a.Width).Y
		if side.norm != nil {
			n := RMSNormBackward(saved.Projected[i].Y, side.norm, len(side.norm), s.Epsilon, d)
			d, *norms[i] = n.X.Y, n.Weight.Y
		}
		*linears[i] = denseBackward(*side.linear, x, d)
	}
	g.X = sum(g.Query.X.Y, g.Key.X.Y, g.Value.X.Y)
	return g
}

// denseBackward differentiates DenseLinear.
func denseBackward[W, X, D Float](l Linear[W], x []X, dy []D) LinearGrads {
	return Scatter2scatterBackward(l, x, Dense(len(x)/l.In), Layout{}, []float64(nil), dy)
}

// sum adds arrays of one length element by element.
func sum(arrays ...[]float64) []float64 {
	out := make([]float64, len(arrays[0]))
	for _, a := range arrays {
		requireLen("sum", "array", len(a), len(out))
		for i, v := range a {
			out[i] += v
		}
	}
	return out
}
