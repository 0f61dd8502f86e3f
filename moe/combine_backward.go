package moe

import (
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// How combine_backward finds a slot's row: the kernel's A_ROWS, B_ROWS and C_ROWS.
const (
	rowsByToken = iota
	rowsBySlot
	rowsByPosition
	rowsByExpert
)

// rowsOf is how the rows of an operand are found.
func rowsOf(layout Layout, fanIn int) uint32 {
	switch {
	case layout == Grouped:
		return rowsByPosition
	case fanIn > 1:
		return rowsByToken
	}
	return rowsBySlot
}

// slotRows is an operand of combine_backward.
type slotRows struct {
	t    *vk.Tensor
	rows uint32
}

// CombineGrads are the gradients of Combine; a nil tensor is not computed.
type CombineGrads struct {
	Y     *vk.Tensor // F32 [T·K,D] in y's layout; it may be y itself
	Gates *vk.Tensor // F32 [T,K]

	AccumulateGates bool // add to Gates instead of overwriting it
}

// CombineBackward records the gradients of Combine from dOut F32 [T,D], in one pass (arXiv 2403.08245, algorithm 2):
//
//	dY[row of s] = gates[s]·dOut[t]    dGates[s] = dOut[t]·y[row of s]
//
// y, gates and layout are those of Combine. A slot without an expert has a gate gradient of 0. Errors: see the package.
func CombineBackward(rec *vk.Recorder, r *Routing, y, gates, dOut *vk.Tensor, g CombineGrads, layout Layout) error {
	const op = "CombineBackward"
	if r == nil {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"})
	}
	dev := rec.Device()
	_, width, err := matrix(op, "dOut", dOut)
	if err == nil {
		err = firstError(
			inRange(op, "layout", int(layout), 0, int(Grouped)),
			inRange(op, "width", width, 1, maxWidth),
			r.check(dev, op),
			checkTensor(dev, op, "y", y, vk.F32, r.Slots(), width),
			checkTensor(dev, op, "dOut", dOut, vk.F32, r.Tokens, width),
			checkOptional(dev, op, "gates", gates, vk.F32, r.Tokens, r.K),
			checkOptional(dev, op, "grads.Y", g.Y, vk.F32, r.Slots(), width),
			checkOptional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
		)
	}
	if err == nil && g.Y != nil {
		inputs := map[string]*vk.Tensor{"gates": gates, "dOut": dOut, "routing.Inverse": r.Inverse}
		if g.Y.Address() != y.Address() {
			inputs["y"] = y
		}
		err = checkApart(op, "grads.Y", g.Y, inputs)
	}
	if err == nil && g.Gates != nil {
		err = checkApart(op, "grads.Gates", g.Gates, map[string]*vk.Tensor{"y": y, "gates": gates, "dOut": dOut, "grads.Y": g.Y,
			"routing.Inverse": r.Inverse})
	}
	if err != nil {
		return rec.Fail(err)
	}
	rows := rowsOf(layout, 1)
	return gateBackward(rec, r, slotRows{dOut, rowsByToken}, slotRows{y, rows}, slotRows{g.Y, rows}, gates, g.Gates,
		bit(1, g.AccumulateGates))
}

// checkOptional is checkTensor for arguments that may be nil.
func checkOptional(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType, shape ...int) error {
	if t == nil {
		return nil
	}
	return checkTensor(dev, op, arg, t, dtype, shape...)
}

// gateBackward records dgates[s] (+)= a·b and c (+)= gates[s]·a; flags are the kernel's.
func gateBackward(rec *vk.Recorder, r *Routing, a, b, c slotRows, gates, dgates *vk.Tensor, flags uint32) error {
	if c.t == nil && dgates == nil {
		return nil
	}
	width := a.t.Dim(1)
	wide := quads(a.t, width) && quads(b.t, width) && (c.t == nil || quads(c.t, width))
	team := chooseTeam(rec.Device().Adapter().Type == vk.Software, width, wide)
	return record(rec, vk.Dispatch{
		Kernel: shaders.CombineBackwardF32,
		Spec: shaders.CombineBackwardSpec{Lanes: uint32(team.lanes), Rows: uint32(team.rows), Quads: wide, ARows: a.rows,
			BRows: b.rows, CRows: c.rows}.Values(),
		Push: shaders.CombineBackwardPush{A: a.t.Address(), B: b.t.Address(), C: c.t.Address(), Gates: gates.Address(),
			Dgates: dgates.Address(), Ids: r.IDs.Address(), Inverse: r.Inverse.Address(), Slots: uint32(r.Slots()),
			Width: uint32(width), K: uint32(r.K), Flags: flags}.Bytes(),
		Reads:  []*vk.Tensor{a.t, b.t, c.t, gates, dgates, r.IDs, r.Inverse},
		Writes: []*vk.Tensor{c.t, dgates},
		Label:  "combine_backward",
		FLOPs:  3 * float64(r.Slots()) * float64(width),
	}, uint64(ceilDiv(r.Slots(), team.rows)))
}

// team is the work-group of kernels that give a row to several invocations.
type team struct{ lanes, rows int }

// chooseTeam shares a row among as many invocations as it has loads for, up to a work-group.
func chooseTeam(software bool, width int, quads bool) team {
	const threads = 64
	items, most := width, threads
	if quads {
		items = width / 4
	}
	if software {
		most = 8
	}
	t := team{lanes: 1}
	for t.lanes < most && t.lanes < items {
		t.lanes *= 2
	}
	t.rows = threads / t.lanes
	return t
}
