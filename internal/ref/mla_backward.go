package ref

// MLAGrads are the gradients of MLAForward.
type MLAGrads struct {
	X                    []float64   // [T,D]
	QueryDown            LinearGrads // empty without
	QueryUp              LinearGrads
	KVDown, KVUp, Output LinearGrads
	QueryNorm, KVNorm    []float64
}

// MLABackward differentiates the block at x [T,D], whose result is saved, from dOut [T,D].
func MLABackward[F, X, D Float](m MLA[F], x []X, saved MLAResult, dOut []D) MLAGrads {
	var g MLAGrads
	a, positions := m.Attention, m.Attention.Positions()
	plain, rotated := m.widths()
	g.Output = denseBackward(m.Output, saved.Attention.Out.Y, dOut)
	core := AttentionBackward(a, saved.Query, saved.Key, saved.Value, g.Output.X.Y)

	dQuery := RotateBackward(m.RoPE, core.DQ.Y, positions, a.Heads, a.Width).Y
	if m.QueryDown == nil {
		g.QueryUp = denseBackward(m.QueryUp, x, dQuery)
		g.X = g.QueryUp.X.Y
	} else {
		g.QueryUp = denseBackward(m.QueryUp, saved.QueryNormed.Y, dQuery)
		norm := RMSNormBackward(saved.QueryLatent.Y, m.QueryNorm, m.QueryDown.Out, m.Epsilon, g.QueryUp.X.Y)
		g.QueryNorm = norm.Weight.Y
		g.QueryDown = denseBackward(*m.QueryDown, x, norm.X.Y)
		g.X = g.QueryDown.X.Y
	}

	dKey := RotateBackward(m.RoPE, core.DK.Y, positions, a.Heads, a.Width).Y
	dKeys, dEach := splitRows(dKey, plain, rotated)
	dShared := sumOverHeads(dEach, rotated, a.Heads)
	g.KVUp = denseBackward(m.KVUp, saved.LatentNormed.Y, joinRows(dKeys, core.DV.Y, plain, a.ValueWidth))
	norm := RMSNormBackward(saved.Latent, m.KVNorm, m.KVUp.In, m.Epsilon, g.KVUp.X.Y)
	g.KVNorm = norm.Weight.Y
	g.KVDown = denseBackward(m.KVDown, x, joinRows(norm.X.Y, dShared, m.KVUp.In, rotated))
	g.X = sum(g.X, g.KVDown.X.Y)
	return g
}

// sumOverHeads is the gradient of repeatRows.
func sumOverHeads(x []float64, width, heads int) []float64 {
	out := make([]float64, len(x)/heads)
	for i, v := range x {
		out[i/(heads*width)*width+i%width] += v
	}
	return out
}
