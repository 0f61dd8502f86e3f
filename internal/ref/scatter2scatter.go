package ref

// A Linear holds the weights of E linear maps in → out. A dense layer has Experts = 1.
type Linear[F Float] struct {
	Experts, In, Out int

	Weight []F // [E,out,in], or [E,in,out] when InOut
	Bias   []F // [E,out], nil for none
	InOut  bool
}

// At returns W[e][o][i], whichever way the weights are stored.
func (l *Linear[F]) At(e, o, i int) float64 {
	if l.InOut {
		return float64(l.Weight[(e*l.In+i)*l.Out+o])
	}
	return float64(l.Weight[(e*l.Out+o)*l.In+i])
}

func (l *Linear[F]) check(op string) {
	requireLen(op, "Weight", len(l.Weight), l.Experts*l.Out*l.In)
	if l.Bias != nil {
		requireLen(op, "Bias", len(l.Bias), l.Experts*l.Out)
	}
}

// A Layout says in which order ParallelLinear reads and writes rows.
type Layout struct {
	GroupedIn  bool // x row = grouped position; otherwise scattered
	GroupedOut bool // y row = grouped position; otherwise y row = slot
	PerSlot    bool // scattered x has one row per slot, [T·K,in], instead of one per token, [T,in]; no effect when GroupedIn
}

// Layouts lists the four layouts, and the two scattered inputs once more with one row per slot.
var Layouts = []Layout{
	{}, {GroupedOut: true}, {GroupedIn: true}, {GroupedIn: true, GroupedOut: true},
	{PerSlot: true}, {PerSlot: true, GroupedOut: true},
}

func (l Layout) String() string {
	in, out := "scattered", "scattered"
	if l.GroupedIn {
		in = "grouped"
	} else if l.PerSlot {
		in = "per-slot"
	}
	if l.GroupedOut {
		out = "grouped"
	}
	return in + " to " + out
}

// InRow is the row of x that a valid slot reads.
func (l Layout) InRow(r *Routing, slot int) int {
	switch {
	case l.GroupedIn:
		return int(r.Inverse[slot])
	case l.PerSlot:
		return slot
	}
	return slot / r.K
}

// OutRow is the row of y that a valid slot writes.
func (l Layout) OutRow(r *Routing, slot int) int {
	if l.GroupedOut {
		return int(r.Inverse[slot])
	}
	return slot
}

// InRows is the number of rows of x.
func (l Layout) InRows(r *Routing) int {
	if l.GroupedIn || l.PerSlot {
		return r.Slots()
	}
	return r.Tokens
}

// Scatter2scatter is ParallelLinear (Tan et al., arXiv 2403.08245, section 3): for every valid slot s with expert e,
//
//	y[out row of s] = gate[s] · (W[e]·x[in row of s] + b[e])
//
// x is [T,in] or [T·K,in] by the layout; gates [T·K] scale the whole result, bias included, and nil means 1. Y is
// [T·K,out]; rows that belong to no valid slot are 0.
func Scatter2scatter[X, W, G Float](l Linear[W], x []X, r *Routing, layout Layout, gates []G) Result {
	l.check("Scatter2scatter")
	requireLen("Scatter2scatter", "x", len(x), layout.InRows(r)*l.In)
	if gates != nil {
		requireLen("Scatter2scatter", "gates", len(gates), r.Slots())
	}
	res := newResult(r.Slots() * l.Out)
	for s := 0; s < r.Slots(); s++ {
		if !r.Valid(s) {
			continue
		}
		gate := 1.0
		if gates != nil {
			gate = float64(gates[s])
		}
		in, out := layout.InRow(r, s)*l.In, layout.OutRow(r, s)*l.Out
		linearRow(&l, int(r.IDs[s]), x[in:in+l.In], gate, res.Y[out:out+l.Out], res.Abs[out:out+l.Out])
	}
	return res
}

// Scatter2scatterSlot computes the one row of y that a valid slot writes, [out]: for shapes at which all rows would take
// too long.
func Scatter2scatterSlot[X, W Float](l Linear[W], x []X, r *Routing, layout Layout, slot int, gate float64) Result {
	in := layout.InRow(r, slot) * l.In
	res := newResult(l.Out)
	linearRow(&l, int(r.IDs[slot]), x[in:in+l.In], gate, res.Y, res.Abs)
	return res
}

// linearRow writes gate·(W[e]·x + b[e]) and its absolute scale.
func linearRow[X, W Float](l *Linear[W], e int, x []X, gate float64, y, abs []float64) {
	for o := range y {
		var sum, scale float64
		// W[e][o][i] is Weight[first + i·stride].
		first, stride := (e*l.Out+o)*l.In, 1
		if l.InOut {
			first, stride = e*l.In*l.Out+o, l.Out
		}
		for i, v := range x {
			term := float64(v) * float64(l.Weight[first+i*stride])
			sum += term
			scale += max(term, -term)
		}
		if l.Bias != nil {
			b := float64(l.Bias[e*l.Out+o])
			sum += b
			scale += max(b, -b)
		}
		y[o] = sum * gate
		abs[o] = scale * max(gate, -gate)
	}
}

// DenseLinear is y = x·Wᵀ + b for x [rows,in] and one expert: the router, or any plain linear layer. Y is [rows,out].
func DenseLinear[X, W Float](l Linear[W], x []X, rows int) Result {
	return Scatter2scatter(l, x, Dense(rows), Layout{}, []float64(nil))
}
