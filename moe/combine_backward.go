package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
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

var combineBackwardKernels = byStorage{shaders.CombineBackwardF32, shaders.CombineBackwardF16, shaders.CombineBackwardBf16}

// The bits of combine_backward's flags.
const (
	addGates  = 1
	addScaled = 2
	biasTable = 4
)

// CombineGrads are the gradients of Combine; a nil tensor is not computed.
type CombineGrads struct {
	Y     *vk.Tensor // [T·K,D] in y's layout and dtype; it may be y itself
	Gates *vk.Tensor // F32 [T,K]

	AccumulateGates bool // add to Gates instead of overwriting it
}

// CombineBackward records the gradients of Combine from dOut [T,D] of y's dtype, in one pass (arXiv 2403.08245, algorithm 2):
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
		err = check.First(
			check.InRange(op, "layout", int(layout), 0, int(Grouped)),
			check.InRange(op, "width", width, 1, maxWidth),
			r.check(dev, op),
			check.Storage(op, "dOut", dOut),
			check.Tensor(dev, op, "y", y, dOut.DType(), r.Slots(), width),
			check.Tensor(dev, op, "dOut", dOut, dOut.DType(), r.Tokens, width),
			check.Tensor(dev, op, "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K),
			check.Optional(dev, op, "gates", gates, vk.F32, r.Tokens, r.K),
			check.Optional(dev, op, "grads.Y", g.Y, dOut.DType(), r.Slots(), width),
			check.Optional(dev, op, "grads.Gates", g.Gates, vk.F32, r.Tokens, r.K),
		)
	}
	if err == nil && g.Y != nil {
		inputs := check.Inputs{"gates": gates, "dOut": dOut, "routing.Inverse": r.Inverse}
		if g.Y.Address() != y.Address() {
			inputs["y"] = y
		}
		err = check.Apart(op, "grads.Y", g.Y, inputs)
	}
	if err == nil && g.Gates != nil {
		err = check.Apart(op, "grads.Gates", g.Gates, check.Inputs{"y": y, "gates": gates, "dOut": dOut, "grads.Y": g.Y,
			"routing.Inverse": r.Inverse})
	}
	if err != nil {
		return rec.Fail(err)
	}
	rows := rowsOf(layout, 1)
	return gateBackward(rec, r, slotRows{dOut, rowsByToken}, slotRows{y, rows}, slotRows{g.Y, rows}, gates, g.Gates,
		bit(addGates, g.AccumulateGates))
}

// gateBackward records dgates[s] (+)= a·b and c (+)= gates[s]·a; flags are the kernel's.
func gateBackward(rec *vk.Recorder, r *Routing, a, b, c slotRows, gates, dgates *vk.Tensor, flags uint32) error {
	if c.t == nil && dgates == nil {
		return nil
	}
	wide := quads(b.t, a.t.Dim(1)) && (c.t == nil || quads(c.t, a.t.Dim(1)))
	push := shaders.CombineBackwardPush{B: b.t.Address(), C: c.t.Address(), Gates: gates.Address(), Flags: flags}
	return gateDispatch(rec, r, a, [2]uint32{b.rows, c.rows}, wide, push, dgates, []*vk.Tensor{b.t, c.t, gates}, c.t)
}

// biasGateBackward records dgates[s] += a·bias[e], e the expert of s.
func biasGateBackward(rec *vk.Recorder, r *Routing, a slotRows, bias *ExpertBank, dgates *vk.Tensor) error {
	address, table := bias.operand()
	push := shaders.CombineBackwardPush{B: address, Flags: addGates | bit(biasTable, table)}
	return gateDispatch(rec, r, a, [2]uint32{rowsByExpert, rowsBySlot}, bias.quads(a.t.Dim(1)), push, dgates, bias.tensors(), nil)
}

// gateDispatch records the kernel; rows are those of b and c, wide says whether these can be read by quads.
func gateDispatch(rec *vk.Recorder, r *Routing, a slotRows, rows [2]uint32, wide bool, push shaders.CombineBackwardPush,
	dgates *vk.Tensor, reads []*vk.Tensor, c *vk.Tensor) error {
	width := a.t.Dim(1)
	wide = wide && quads(a.t, width)
	team := chooseTeam(software(rec.Device()), width, wide)
	push.A, push.Dgates, push.Ids, push.Inverse = a.t.Address(), dgates.Address(), r.IDs.Address(), r.Inverse.Address()
	push.Slots, push.Width, push.K = uint32(r.Slots()), uint32(width), uint32(r.K)
	return check.Record(rec, vk.Dispatch{
		Kernel: combineBackwardKernels[a.t.DType()],
		Spec: shaders.CombineBackwardSpec{Lanes: uint32(team.lanes), Rows: uint32(team.rows), Quads: wide, ARows: a.rows,
			BRows: rows[0], CRows: rows[1]}.Values(),
		Push:   push.Bytes(),
		Reads:  append(reads, a.t, dgates, r.IDs, r.Inverse),
		Writes: []*vk.Tensor{c, dgates},
		FLOPs:  3 * float64(r.Slots()) * float64(width),
	}, uint64(check.CeilDiv(r.Slots(), team.rows)))
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
		most = 16 // maxWidth/16 is below maxLoop
	}
	t := team{lanes: 1}
	for t.lanes < most && t.lanes < items {
		t.lanes *= 2
	}
	t.rows = threads / t.lanes
	return t
}
