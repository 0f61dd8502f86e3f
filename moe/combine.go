package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
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
	return CombineWith(rec, r, y, gates, out, layout, CombineOptions{})
}

// CombineOptions are what Combine has no arguments for.
type CombineOptions struct {
	Bias       *vk.Tensor // [D] or [1,D] of out's dtype, added to every token; nil for none
	Accumulate bool       // add to what out holds
	// Columns are those of out that y has, and that are written; the others are left as they are. The zero value stands for all. Bias
	// has all of them always.
	Columns Columns
}

// CombineWith is Combine with options.
func CombineWith(rec *vk.Recorder, r *Routing, y, gates, out *vk.Tensor, layout Layout, o CombineOptions) error {
	const op = "Combine"
	if r == nil {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"})
	}
	_, rowWidth, err := matrix(op, "out", out)
	width := rowWidth
	if o.Columns.Count > 0 {
		width = o.Columns.Count
	}
	if err == nil {
		err = check.First(
			check.InRange(op, "layout", int(layout), 0, int(Grouped)),
			check.InRange(op, "width", rowWidth, 1, maxWidth),
			o.Columns.check("CombineOptions", rowWidth, false),
			r.check(rec.Device(), op),
			check.Storage(op, "out", out),
			check.Tensor(rec.Device(), op, "y", y, out.DType(), r.Slots(), width),
			check.Tensor(rec.Device(), op, "out", out, out.DType(), r.Tokens, rowWidth),
		)
	}
	if err == nil && gates != nil {
		err = check.Tensor(rec.Device(), op, "gates", gates, vk.F32, r.Tokens, r.K)
	}
	if err == nil {
		err = checkBias(rec.Device(), op, o.Bias, out.DType(), rowWidth)
	}
	if err == nil {
		err = check.Apart(op, "out", out, check.Inputs{"y": y, "gates": gates, "Bias": o.Bias, "routing.Inverse": r.Inverse})
	}
	if err != nil {
		return rec.Fail(err)
	}
	grid := check.NewGrid(width, quads(y, width) && quads(out, rowWidth) && (o.Bias == nil || quads(o.Bias, rowWidth)))
	first, bias := uint64(o.Columns.First)*out.DType().Bytes(), o.Bias.Address()
	if o.Bias != nil {
		bias += first
	}
	return check.Record(rec, vk.Dispatch{
		Kernel: combineKernels[out.DType()],
		Spec: shaders.CombineSpec{Columns: grid.Columns, Rows: grid.Rows, Quads: grid.Quads,
			Grouped: layout == Grouped, Accumulate: o.Accumulate, Biased: o.Bias != nil,
			Choices: uint32(choicesAtOnce(r.K))}.Values(),
		Push: shaders.CombinePush{Y: y.Address(), Gates: gates.Address(), Inverse: r.Inverse.Address(), Result: out.Address() + first,
			Bias: bias, Tokens: uint32(r.Tokens), Width: uint32(width), K: uint32(r.K), RowWidth: uint32(rowWidth)}.Bytes(),
		Reads:  []*vk.Tensor{y, gates, r.Inverse, o.Bias, out},
		Writes: []*vk.Tensor{out},
		FLOPs:  2 * float64(r.Slots()) * float64(width),
	}, grid.Groups(r.Tokens, width))
}

// choicesAtOnce is how many choices the kernel reads at once: as many as keep memory busy.
func choicesAtOnce(k int) int {
	if k > 2 {
		return 4
	}
	return k
}

// checkBias checks a bias [D] or [1,D], which may be nil.
func checkBias(dev *vk.Device, op string, bias *vk.Tensor, dtype vk.DType, width int) error {
	if bias != nil && bias.Rank() == 2 {
		return check.Tensor(dev, op, "Bias", bias, dtype, 1, width)
	}
	return check.Optional(dev, op, "Bias", bias, dtype, width)
}
