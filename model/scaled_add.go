package model

import (
	"maps"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var scaledAddKernels = check.ByStorage{shaders.ScaledAddF32, shaders.ScaledAddF16, shaders.ScaledAddBf16}

const addThreads = 64 // work-group size of scaled_add; each invocation takes 4 elements

// ScaledAdd records y = alpha·a + beta·b for tensors of one shape and storage dtype, or y = alpha·a where b is nil: residual
// connections with Granite's multipliers, scalings, sums of gradients. y may be a or b, but not overlap them otherwise.
// Errors: see the package.
func ScaledAdd(rec *vk.Recorder, a, b, y *vk.Tensor, alpha, beta float32) error {
	const op = "ScaledAdd"
	err := check.Storage(op, "a", a)
	if err == nil {
		err = check.First(
			check.Tensor(rec.Device(), op, "a", a, a.DType(), a.Shape()...),
			check.Optional(rec.Device(), op, "b", b, a.DType(), a.Shape()...),
			check.Tensor(rec.Device(), op, "y", y, a.DType(), a.Shape()...),
			check.Elements(op, "a", a),
		)
	}
	if err == nil {
		inputs := check.Inputs{"a": a, "b": b}
		maps.DeleteFunc(inputs, func(_ string, in *vk.Tensor) bool { return in.Address() == y.Address() })
		err = check.Apart(op, "y", y, inputs)
	}
	if err != nil {
		return rec.Fail(err)
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: scaledAddKernels[a.DType()],
		Spec:   shaders.ScaledAddSpec{Threads: addThreads, Quads: check.Quads(a, b, y), Binary: b != nil}.Values(),
		Push: shaders.ScaledAddPush{A: a.Address(), B: b.Address(), Y: y.Address(), Count: uint32(a.Elements()), Alpha: alpha,
			Beta: beta}.Bytes(),
		Linear: uint64(check.CeilDiv(a.Elements(), 4*addThreads)),
		Reads:  []*vk.Tensor{a, b},
		Writes: []*vk.Tensor{y},
		FLOPs:  3 * float64(a.Elements()),
	})
	return rec.Err()
}
