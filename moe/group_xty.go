package moe

import (
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// operand is a matrix whose rows belong to slots: row p when grouped, else row slot/fanIn.
type operand struct {
	t       *vk.Tensor
	grouped bool
	fanIn   int
}

// The bits of group_xty's and group_sum's flags.
const (
	xtyAGrouped   = 1
	xtyBGrouped   = 2
	xtyDense      = 4
	xtyAccumulate = 8
)

// xtyTile is how group_xty cuts its output, as Tile is for scatter2scatter.
func xtyTile(software bool, a, b int) Tile {
	side := func(width int) (block, each int) {
		switch {
		case width <= 16:
			return 8, 4
		case software:
			return 32, 8
		case width <= 48:
			return 32, 4
		}
		return 64, 4
	}
	t := Tile{BK: 16}
	t.BM, t.TM = side(a)
	t.BN, t.TN = side(b)
	if !software && t.BM == 64 {
		t.TM = 8
	}
	return t
}

// groupXTY records c[e] (+)= Σ gate·aᵀ·b over each expert's rows, c being [E, width of a, width of b]. Without a routing
// there is one expert, which owns all rows of a and b.
func groupXTY(rec *vk.Recorder, r *Routing, a, b operand, gates, c *vk.Tensor, accumulate bool, label string) error {
	m, n, experts, rows := a.t.Dim(1), b.t.Dim(1), 1, a.t.Dim(0)
	push := shaders.GroupXtyPush{A: a.t.Address(), B: b.t.Address(), C: c.Address(), Gates: gates.Address(),
		AWidth: uint32(m), BWidth: uint32(n), AFanIn: uint32(a.fanIn), BFanIn: uint32(b.fanIn)}
	reads := []*vk.Tensor{a.t, b.t, gates}
	if r == nil {
		push.Flags = xtyDense
		push.Rows = uint32(rows)
	} else {
		experts, rows = r.Experts, r.Slots()
		push.Order, push.Offsets = r.Order.Address(), r.Offsets.Address()
		reads = append(reads, r.Order, r.Offsets)
	}
	push.Experts = uint32(experts)
	push.Flags |= bit(xtyAGrouped, a.grouped) | bit(xtyBGrouped, b.grouped) | bit(xtyAccumulate, accumulate)
	writes := []*vk.Tensor{c}
	if accumulate {
		reads = append(reads, c)
	}
	tile := xtyTile(rec.Device().Adapter().Type == vk.Software, m, n)
	return record(rec, vk.Dispatch{
		Kernel: shaders.GroupXtyF32,
		Spec: shaders.GroupXtySpec{Threads: uint32(tile.Threads()), BM: uint32(tile.BM), BN: uint32(tile.BN),
			BK: uint32(tile.BK), TM: uint32(tile.TM), TN: uint32(tile.TN), AQuads: quads(a.t, m), BQuads: quads(b.t, n),
			CQuads: quads(c, n)}.Values(),
		Push:  push.Bytes(),
		Reads: reads, Writes: writes, Label: label + " dW",
		FLOPs: 2 * float64(rows) * float64(m) * float64(n),
	}, uint64(experts)*uint64(ceilDiv(m, tile.BM))*uint64(ceilDiv(n, tile.BN)))
}

const (
	sumColumns = 32 // work-group shape of group_sum
	sumRows    = 8
)

// groupSum records sum[e] (+)= Σ gate·y over each expert's rows, sum being [E, width of y].
func groupSum(rec *vk.Recorder, r *Routing, y operand, gates, sum *vk.Tensor, accumulate bool, label string) error {
	width, experts, rows := y.t.Dim(1), 1, y.t.Dim(0)
	push := shaders.GroupSumPush{Y: y.t.Address(), Sum: sum.Address(), Gates: gates.Address(), Width: uint32(width),
		FanIn: uint32(y.fanIn)}
	reads := []*vk.Tensor{y.t, gates}
	if r == nil {
		push.Flags = xtyDense
		push.Rows = uint32(rows)
	} else {
		experts, rows = r.Experts, r.Slots()
		push.Order, push.Offsets = r.Order.Address(), r.Offsets.Address()
		reads = append(reads, r.Order, r.Offsets)
	}
	push.Experts = uint32(experts)
	push.Flags |= bit(xtyAGrouped, y.grouped) | bit(xtyAccumulate, accumulate)
	if accumulate {
		reads = append(reads, sum)
	}
	return record(rec, vk.Dispatch{
		Kernel: shaders.GroupSumF32,
		Spec:   shaders.GroupSumSpec{Columns: sumColumns, Rows: sumRows}.Values(),
		Push:   push.Bytes(),
		Reads:  reads, Writes: []*vk.Tensor{sum}, Label: label + " db",
		FLOPs: float64(rows) * float64(width),
	}, uint64(experts)*uint64(ceilDiv(width, sumColumns)))
}

// bit returns flag when on, else 0.
func bit(flag uint32, on bool) uint32 {
	if on {
		return flag
	}
	return 0
}
