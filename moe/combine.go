package moe

import (
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// Combine records the gate-weighted sum over each token's choices:
//
//	out[t] = Σ_j gates[t,j] · y[row of slot t·K + j],  j ascending, in f32
//
// for y [T·K,D] in the given layout, gates F32 [T,K] or nil for 1, and out [T,D] of y's dtype: F32, F16 or BF16. A slot
// without an expert adds 0. Errors: see the package.
func Combine(rec *vk.Recorder, r *Routing, y, gates, out *vk.Tensor, layout Layout) error {
	return combine(rec, r, y, gates, out, layout, combineOptions{})
}

// combineOptions are what Combine has no arguments for.
type combineOptions struct {
	bias       *vk.Tensor // [D] of out's dtype, added to every token; nil for none
	accumulate bool       // add to what out holds
}

// combine is Combine with options.
func combine(rec *vk.Recorder, r *Routing, y, gates, out *vk.Tensor, layout Layout, o combineOptions) error {
	const op = "Combine"
	if r == nil {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"})
	}
	_, width, err := matrix(op, "out", out)
	if err == nil {
		err = firstError(
			inRange(op, "layout", int(layout), 0, int(Grouped)),
			inRange(op, "width", width, 1, maxWidth),
			r.check(rec.Device(), op),
			checkStorage(op, "out", out),
			checkTensor(rec.Device(), op, "y", y, out.DType(), r.Slots(), width),
			checkTensor(rec.Device(), op, "out", out, out.DType(), r.Tokens, width),
		)
	}
	if err == nil && gates != nil {
		err = checkTensor(rec.Device(), op, "gates", gates, vk.F32, r.Tokens, r.K)
	}
	if err == nil {
		err = checkApart(op, "out", out, map[string]*vk.Tensor{"y": y, "gates": gates, "routing.Inverse": r.Inverse})
	}
	if err != nil {
		return rec.Fail(err)
	}
	shape := chooseElementwise(width, quads(y, width) && quads(out, width) && (o.bias == nil || quads(o.bias, width)))
	return record(rec, vk.Dispatch{
		Kernel: combineKernels[out.DType()],
		Spec: shaders.CombineSpec{Columns: uint32(shape.columns), Rows: uint32(shape.rows), Quads: shape.quads,
			Grouped: layout == Grouped, Accumulate: o.accumulate, Biased: o.bias != nil}.Values(),
		Push: shaders.CombinePush{Y: y.Address(), Gates: gates.Address(), Inverse: r.Inverse.Address(), Result: out.Address(),
			Bias: o.bias.Address(), Tokens: uint32(r.Tokens), Width: uint32(width), K: uint32(r.K)}.Bytes(),
		Reads:  []*vk.Tensor{y, gates, r.Inverse, o.bias, out},
		Writes: []*vk.Tensor{out},
		FLOPs:  2 * float64(r.Slots()) * float64(width),
	}, shape.groups(r.Tokens, width))
}
