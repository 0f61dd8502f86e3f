package moe

import (
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// operand is a matrix whose rows belong to slots: row p when grouped, else row slot/fanIn.
type operand struct {
	t       *vk.Tensor
	grouped bool
	fanIn   int
}

// groupXTYKernels and groupSumKernels are the variants by the dtypes of the rows and of the result.
var (
	groupXTYKernels = check.NewByTypes(shaders.GroupXtyF32, shaders.GroupXtyF16, shaders.GroupXtyF16F32,
		shaders.GroupXtyBf16, shaders.GroupXtyBf16F32)
	groupSumKernels = check.NewByTypes(shaders.GroupSumF32, shaders.GroupSumF16, shaders.GroupSumF16F32,
		shaders.GroupSumBf16, shaders.GroupSumBf16F32)
)

// The bits of group_xty's and group_sum's flags.
const (
	xtyAGrouped   = 1
	xtyBGrouped   = 2
	xtyDense      = 4
	xtyAccumulate = 8
	xtyTable      = 16
)

// xtyTile is how group_xty cuts its output, as Tile is for scatter2scatter.
func xtyTile(software bool, a, b int) Tile {
	side := func(width int) (block, each int) {
		switch {
		case width <= 16:
			return 8, 4
		case software || width <= 48:
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

// maxRows is how many rows of an expert one dispatch of group_xty or group_sum adds up on a software device: lavapipe ends
// loops early (see maxLoop), and group_xty loops 17 times for 16 rows. A longer expert takes several dispatches, each adding
// to what the one before left.
const maxRows = 32768

// byRows records a kernel for experts of at most so many rows: once, or once for each per rows of them.
func byRows(rows, per int, accumulate bool, dispatch func(skip, most uint32, accumulate bool) error) error {
	for skip := 0; skip == 0 || skip < rows; skip += per {
		if err := dispatch(uint32(skip), uint32(per), accumulate || skip > 0); err != nil {
			return err
		}
	}
	return nil
}

// rowsPer is how many rows a dispatch takes.
func rowsPer(dev *vk.Device) int {
	if software(dev) {
		return maxRows
	}
	return math.MaxInt32
}

// longest is the largest number of rows that an expert may have.
func (r *Routing) longest() int {
	if r.Router != nil { // each token chooses an expert once
		return r.Tokens
	}
	return r.Slots()
}

// groupXTY records c[e] (+)= Σ gate·aᵀ·b over each expert's rows, c being [E, width of a, width of b], or wider: then these are its
// columns from first on, which is a multiple of columnsAlign, and the others stay. Without a routing
// there is one expert, which owns all rows of a and b. On the tensor path gate·a is rounded to a's dtype.
func (l *ParallelLinear) groupXTY(rec *vk.Recorder, r *Routing, a, b operand, gates *vk.Tensor, c *ExpertBank, first int,
	accumulate bool) error {
	m, n, experts, rows := a.t.Dim(1), b.t.Dim(1), 1, a.t.Dim(0)
	rowWidth := c.shape[2]
	total := rows
	address, table := c.operand()
	push := shaders.GroupXtyPush{A: a.t.Address(), B: b.t.Address(), C: address, Gates: gates.Address(),
		AWidth: uint32(m), BWidth: uint32(n), AFanIn: uint32(a.fanIn), BFanIn: uint32(b.fanIn),
		CWidth: uint32(rowWidth), CFirst: uint32(first)}
	reads := []*vk.Tensor{a.t, b.t, gates}
	if r == nil {
		push.Flags = xtyDense
		push.Rows = uint32(rows)
	} else {
		experts, rows, total = r.Experts, r.longest(), r.Slots()
		push.Order, push.Offsets = r.Order.Address(), r.Offsets.Address()
		reads = append(reads, r.Order, r.Offsets)
	}
	push.Experts = uint32(experts)
	flags := push.Flags | bit(xtyAGrouped, a.grouped) | bit(xtyBGrouped, b.grouped) | bit(xtyTable, table)
	tile := xtyTile(software(rec.Device()), m, n)
	d := vk.Dispatch{
		Kernel: groupXTYKernels[[2]vk.DType{a.t.DType(), c.DType()}],
		Spec: shaders.GroupXtySpec{Threads: uint32(tile.Threads()), BM: uint32(tile.BM), BN: uint32(tile.BN),
			BK: uint32(tile.BK), TM: uint32(tile.TM), TN: uint32(tile.TN), AQuads: quads(a.t, m), BQuads: quads(b.t, n),
			CQuads: n%4 == 0 && c.quads(rowWidth)}.Values(),
		Reads: append(reads, c.tensors()...), Writes: c.parts, Label: l.label() + " dW",
	}
	blockM, blockN := tile.BM, tile.BN
	if t, ok := l.tensorXTY(rec.Device(), a.t, b.t, gates, c, &d); ok {
		blockM, blockN = t.BM, t.BN
	} else if l.Config.Path == PathCoopMat {
		return rec.Fail(l.noTensorPath(rec.Device()))
	}
	return byRows(rows, rowsPer(rec.Device()), accumulate, func(skip, most uint32, accumulate bool) error {
		push.Skip, push.Most, push.Flags = skip, most, flags|bit(xtyAccumulate, accumulate)
		d.Push, d.FLOPs = push.Bytes(), 2*float64(min(total, int(most)))*float64(m)*float64(n)
		return check.Record(rec, d, uint64(experts)*uint64(check.CeilDiv(m, blockM))*uint64(check.CeilDiv(n, blockN)))
	})
}

const (
	sumColumns = 32 // work-group shape of group_sum
	sumRows    = 8
)

// groupSum records sum[e] (+)= Σ gate·y over each expert's rows, sum being [E, width of y].
func groupSum(rec *vk.Recorder, r *Routing, y operand, gates *vk.Tensor, sum *ExpertBank, accumulate bool, label string) error {
	width, experts, rows := y.t.Dim(1), 1, y.t.Dim(0)
	total := rows
	address, table := sum.operand()
	push := shaders.GroupSumPush{Y: y.t.Address(), Sum: address, Gates: gates.Address(), Width: uint32(width),
		FanIn: uint32(y.fanIn)}
	reads := []*vk.Tensor{y.t, gates}
	if r == nil {
		push.Flags = xtyDense
		push.Rows = uint32(rows)
	} else {
		experts, rows, total = r.Experts, r.longest(), r.Slots()
		push.Order, push.Offsets = r.Order.Address(), r.Offsets.Address()
		reads = append(reads, r.Order, r.Offsets)
	}
	push.Experts = uint32(experts)
	flags := push.Flags | bit(xtyAGrouped, y.grouped) | bit(xtyTable, table)
	return byRows(rows, rowsPer(rec.Device()), accumulate, func(skip, most uint32, accumulate bool) error {
		push.Skip, push.Most, push.Flags = skip, most, flags|bit(xtyAccumulate, accumulate)
		return check.Record(rec, vk.Dispatch{
			Kernel: groupSumKernels[[2]vk.DType{y.t.DType(), sum.DType()}],
			Spec:   shaders.GroupSumSpec{Columns: sumColumns, Rows: sumRows}.Values(),
			Push:   push.Bytes(),
			Reads:  append(reads, sum.tensors()...), Writes: sum.parts, Label: label + " db",
			FLOPs: float64(min(total, int(most))) * float64(width),
		}, uint64(experts)*uint64(check.CeilDiv(width, sumColumns)))
	})
}

// bit returns flag when on, else 0.
func bit(flag uint32, on bool) uint32 {
	if on {
		return flag
	}
	return 0
}
