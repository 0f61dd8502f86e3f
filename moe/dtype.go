package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// byStorage is a kernel's variants for F32, F16 and BF16.
type byStorage = check.ByStorage

var (
	activationKernels = byStorage{shaders.ActivationF32, shaders.ActivationF16, shaders.ActivationBf16}
	combineKernels    = byStorage{shaders.CombineF32, shaders.CombineF16, shaders.CombineBf16}
)

// linearTypes are the dtypes of x, of the weights and of y.
type linearTypes struct{ x, w, y vk.DType }

// newLinearKernels lists the variants of a kernel for linear maps, named after x, the weights and y, or one dtype for all three.
func newLinearKernels(f32, f16, f16f16f32, f32f16f16, f32f16f32, bf16, bf16bf16f32, f32bf16bf16, f32bf16f32 *vk.Kernel) map[linearTypes]*vk.Kernel {
	return map[linearTypes]*vk.Kernel{
		{vk.F32, vk.F32, vk.F32}:    f32,
		{vk.F16, vk.F16, vk.F16}:    f16,
		{vk.F16, vk.F16, vk.F32}:    f16f16f32,
		{vk.F32, vk.F16, vk.F16}:    f32f16f16,
		{vk.F32, vk.F16, vk.F32}:    f32f16f32,
		{vk.BF16, vk.BF16, vk.BF16}: bf16,
		{vk.BF16, vk.BF16, vk.F32}:  bf16bf16f32,
		{vk.F32, vk.BF16, vk.BF16}:  f32bf16bf16,
		{vk.F32, vk.BF16, vk.F32}:   f32bf16f32,
	}
}

// linearKernels are the variants of scatter2scatter.
var linearKernels = newLinearKernels(
	shaders.Scatter2scatterF32, shaders.Scatter2scatterF16, shaders.Scatter2scatterF16F16F32,
	shaders.Scatter2scatterF32F16F16, shaders.Scatter2scatterF32F16F32,
	shaders.Scatter2scatterBf16, shaders.Scatter2scatterBf16Bf16F32,
	shaders.Scatter2scatterF32Bf16Bf16, shaders.Scatter2scatterF32Bf16F32)

// convertKernels are the variants of convert by the dtypes of source and destination.
var convertKernels = map[[2]vk.DType]*vk.Kernel{
	{vk.F32, vk.F16}:  shaders.ConvertF32F16,
	{vk.F16, vk.F32}:  shaders.ConvertF16F32,
	{vk.F32, vk.BF16}: shaders.ConvertF32Bf16,
	{vk.BF16, vk.F32}: shaders.ConvertBf16F32,
}

const convertThreads = 64

// Convert records dst = src for tensors of one shape, one of them F32 and the other F16 or BF16. It rounds to nearest
// even; f16 overflows to infinity from 65,520 on; a NaN stays a NaN. Errors: see the package.
func Convert(rec *vk.Recorder, src, dst *vk.Tensor) error {
	const op = "Convert"
	if src == nil || dst == nil {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "src and dst", Want: "tensors", Got: "nil"})
	}
	k := convertKernels[[2]vk.DType{src.DType(), dst.DType()}]
	err := check.First(
		check.Tensor(rec.Device(), op, "src", src, src.DType(), src.Shape()...),
		check.Tensor(rec.Device(), op, "dst", dst, dst.DType(), src.Shape()...),
	)
	if err == nil && k == nil {
		err = &vk.ShapeError{Op: op, Arg: "dst", Want: "f32 from f16 or bf16, or the reverse",
			Got: src.DType().String() + " to " + dst.DType().String()}
	}
	if err == nil && uint64(src.Elements()) >= 1<<32-4*convertThreads {
		err = &vk.ShapeError{Op: op, Arg: "src", Want: "fewer than 2^32 elements", Got: src.String()}
	}
	if err == nil {
		err = check.Apart(op, "dst", dst, check.Inputs{"src": src})
	}
	if err != nil {
		return rec.Fail(err)
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: k,
		Spec:   shaders.ConvertSpec{Threads: convertThreads, Quads: quads(src, 4) && quads(dst, 4)}.Values(),
		Push:   shaders.ConvertPush{Src: src.Address(), Dst: dst.Address(), Count: uint32(src.Elements())}.Bytes(),
		Linear: uint64(check.CeilDiv(src.Elements(), 4*convertThreads)),
		Reads:  []*vk.Tensor{src},
		Writes: []*vk.Tensor{dst},
		FLOPs:  float64(src.Elements()),
	})
	return rec.Err()
}
