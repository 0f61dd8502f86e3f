package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var copyColumnsKernels = byStorage{shaders.CopyHeadsF32, shaders.CopyHeadsF16, shaders.CopyHeadsBf16}

// copyColumns records y = the columns of x from first on, as many as y has, for x [rows,…] and y [rows,…] of one dtype and apart. The
// kernel sees rows of one head each.
func copyColumns(rec *vk.Recorder, x *vk.Tensor, first int, y *vk.Tensor) error {
	rows, width, bytes := y.Dim(0), y.Dim(1), y.DType().Bytes()
	wide := quads(x, x.Dim(1)) && quads(y, width) && first%4 == 0
	team := chooseTeam(software(rec.Device()), width, true)
	return check.Record(rec, vk.Dispatch{
		Kernel: copyColumnsKernels[y.DType()],
		Spec:   shaders.CopyHeadsSpec{Columns: uint32(team.lanes), Rows: uint32(team.rows), Quads: wide}.Values(),
		Push: shaders.CopyHeadsPush{X: x.Address() + uint64(first)*bytes, Y: y.Address(), Rows: uint32(rows), Heads: 1,
			Width: uint32(width), XToken: uint32(uint64(x.Dim(1)) * bytes), YToken: uint32(uint64(width) * bytes)}.Bytes(),
		Reads:  []*vk.Tensor{x},
		Writes: []*vk.Tensor{y},
		FLOPs:  float64(rows) * float64(width),
	}, uint64(check.CeilDiv(rows, team.rows))*uint64(check.CeilDiv(width, 4*team.lanes)))
}
