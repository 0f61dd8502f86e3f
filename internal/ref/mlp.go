package ref

// An MLP is a sparse mixture of two-layer experts:
//
//	out[t] = Σ_j gate[t,j] · (Down[e]·act(Up[e]·x[t] + b) + b') + OutputBias,  e = ids[t,j]
//
// with Up: D → H, or D → 2H (gate rows first) when Gated, and Down: H → D.
type MLP[F Float] struct {
	Gating     Router // Scale, Bias, Groups and TopGroups; its other fields are ignored
	Mode       RouterMode
	K          int
	Router     Linear[F] // one expert, D → E
	Up, Down   Linear[F]
	Activation Activation
	Gated      bool
	Clamp      *Clamp     // ActivateClamped in place of Activation and Gated
	Shared     *Shared[F] // adds its output, nil for none
	OutputBias []F        // [D], nil for none
}

// An MLPResult holds every stage of MLP.Forward, so that a device can be compared stage by stage.
type MLPResult struct {
	Logits  Result    // [T,E]
	IDs     []int32   // [T,K]
	Gates   []float64 // [T,K]
	Routing *Routing
	Up      Result // [T·K, H or 2H] grouped
	Hidden  Result // [T·K, H] grouped
	Slots   Result // [T·K, D] scattered, before the gates
	Out     Result // [T,D]
	Shared  SharedResult
}

// Forward runs the layer on x [T,D].
func Forward[F, X Float](m MLP[F], x []X, tokens int) MLPResult {
	logits := DenseLinear(m.Router, x, tokens)
	ids := Select(m.Rules(), logits.Y, tokens)
	return ForwardChosen(m, x, tokens, logits, ids)
}

// ForwardChosen runs the layer on x [T,D] with the experts ids [T,K] already chosen and gates from the given logits
// [T,E]. It judges a device that broke a near tie differently.
func ForwardChosen[F, X Float](m MLP[F], x []X, tokens int, logits Result, ids []int32) MLPResult {
	res := MLPResult{Logits: logits, IDs: ids, Gates: RouterGates(m.Rules(), logits.Y, ids, tokens)}
	res.Routing = Route(ids, tokens, m.Router.Out, m.K)
	noGates := []float64(nil)
	res.Up = Scatter2scatter(m.Up, x, res.Routing, Layout{GroupedOut: true}, noGates)
	res.Hidden = m.activate(res.Up.Y, res.Routing.Slots(), m.Down.In)
	res.Slots = Scatter2scatter(m.Down, res.Hidden.Y, res.Routing, Layout{GroupedIn: true}, noGates)
	res.Out = Combine(res.Slots.Y, res.Gates, res.Routing, m.Down.Out, false)
	if m.Shared != nil {
		res.Shared = sharedForward(m, x, tokens)
		for i, v := range res.Shared.Out.Y {
			res.Out.Y[i] += v
			res.Out.Abs[i] += res.Shared.Out.Abs[i]
		}
	}
	if m.OutputBias != nil {
		requireLen("Forward", "OutputBias", len(m.OutputBias), m.Down.Out)
		for i := range res.Out.Y {
			b := float64(m.OutputBias[i%m.Down.Out])
			res.Out.Y[i] += b
			res.Out.Abs[i] += max(b, -b)
		}
	}
	return res
}
