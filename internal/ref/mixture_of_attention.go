package ref

// A MixtureOfAttention is the mixture of multi-head attention (arXiv 2403.08245, section 3.3; JetMoE, arXiv 2404.07413,
// section 3.2) on rows x [T,D]. Each of a token's K experts e brings h query heads and its own output map; all share h
// heads of keys and values:
//
//	q[t,j] = Query[e]·x[t]  (h·Width),  e = ids[t,j];   [k | v][t] = KeyValue·x[t]
//	y[t]   = Σ_j gate[t,j]·Output[e]·attention(rope(q), rope(k), v)[t,j] + Bias
//
// Head j·h + i reads key/value head i. A row's position is its place in its sequence.
type MixtureOfAttention[F Float] struct {
	Attention Attention // KVHeads = h, Heads = K·h, Tiled, KeyOffsets nil
	RoPE      RoPE      // of every head of q and k

	Gating        Router    // Experts is that of Query
	Router        Linear[F] // one expert, D → E
	Query, Output Linear[F] // E experts: D → h·Width and h·ValueWidth → D
	KeyValue      Linear[F] // one expert, D → h·Width + h·ValueWidth: the keys' rows first
	Bias          []F       // [D], nil for none
}

// A MixtureOfAttentionResult holds the stages of MixtureOfAttentionForward.
type MixtureOfAttentionResult struct {
	Logits   Result    // [T,E]
	IDs      []int32   // [T,K]
	Gates    []float64 // [T,K]
	Routing  *Routing
	Query    Result // [T·K, h·Width] scattered, before the rotation
	KeyValue Result // [T, h·Width + h·ValueWidth], before the rotation

	RotatedQuery, RotatedKey, Value []float64

	Attention AttentionResult // [T,K·h,ValueWidth]
	Slots     Result          // [T·K,D] scattered, before the gates
	Out       Result          // [T,D]; its scale is that of the weighted sum alone
}

// MixtureOfAttentionForward runs the block on x [T,D].
func MixtureOfAttentionForward[F, X Float](m MixtureOfAttention[F], x []X) MixtureOfAttentionResult {
	logits := DenseLinear(m.Router, x, m.Attention.Queries())
	ids := Select(m.rules(), logits.Y, m.Attention.Queries())
	return MixtureOfAttentionChosen(m, x, logits, ids)
}

func (m *MixtureOfAttention[F]) rules() Router {
	r := m.Gating
	r.Experts, r.K = m.Query.Experts, m.Attention.Heads/m.Attention.KVHeads
	return r
}

// MixtureOfAttentionChosen runs the block on x [T,D] with the experts ids [T,K] already chosen and gates from the given
// logits [T,E]. It judges a device that broke a near tie differently.
func MixtureOfAttentionChosen[F, X Float](m MixtureOfAttention[F], x []X, logits Result, ids []int32) MixtureOfAttentionResult {
	a, noGates := m.Attention, []float64(nil)
	tokens, positions := a.Queries(), a.Positions()
	rules := m.rules()
	res := MixtureOfAttentionResult{Logits: logits, IDs: ids, Gates: RouterGates(rules, logits.Y, ids, tokens)}
	res.Routing = Route(ids, tokens, rules.Experts, rules.K)
	res.Query = Scatter2scatter(m.Query, x, res.Routing, Layout{}, noGates)
	res.KeyValue = DenseLinear(m.KeyValue, x, tokens)
	// A token's K slots are K·h heads in a row.
	res.RotatedQuery = Rotate(m.RoPE, res.Query.Y, positions, a.Heads, a.Width).Y
	keys, values := splitRows(res.KeyValue.Y, a.KVHeads*a.Width, a.KVHeads*a.ValueWidth)
	res.RotatedKey, res.Value = Rotate(m.RoPE, keys, positions, a.KVHeads, a.Width).Y, values
	res.Attention = AttentionForward(a, res.RotatedQuery, res.RotatedKey, res.Value)
	res.Slots = Scatter2scatter(m.Output, res.Attention.Out.Y, res.Routing, Layout{PerSlot: true}, noGates)
	res.Out = Combine(res.Slots.Y, res.Gates, res.Routing, m.Output.Out, false)
	if m.Bias != nil {
		requireLen("MixtureOfAttention", "Bias", len(m.Bias), m.Output.Out)
		for i := range res.Out.Y {
			add(&res.Out, i, float64(m.Bias[i%m.Output.Out]))
		}
	}
	return res
}
