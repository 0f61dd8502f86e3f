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

// linearTypes are the dtypes of x, of the layer and of y, and the format of the weights.
type linearTypes struct {
	x, w, y vk.DType
	format  WeightFormat
}

// linearVariants are those that the kernels of linear maps come in.
var linearVariants = [...]linearTypes{
	{vk.F32, vk.F32, vk.F32, WeightsFull},
	{vk.F16, vk.F16, vk.F16, WeightsFull},
	{vk.F16, vk.F16, vk.F32, WeightsFull},
	{vk.F32, vk.F16, vk.F16, WeightsFull},
	{vk.F32, vk.F16, vk.F32, WeightsFull},
	{vk.BF16, vk.BF16, vk.BF16, WeightsFull},
	{vk.BF16, vk.BF16, vk.F32, WeightsFull},
	{vk.F32, vk.BF16, vk.BF16, WeightsFull},
	{vk.F32, vk.BF16, vk.F32, WeightsFull},
	{vk.F32, vk.F32, vk.F32, WeightsInt8},
	{vk.F16, vk.F16, vk.F16, WeightsInt8},
	{vk.BF16, vk.BF16, vk.BF16, WeightsInt8},
	{vk.F32, vk.F32, vk.F32, WeightsQ4},
	{vk.F16, vk.F16, vk.F16, WeightsQ4},
	{vk.BF16, vk.BF16, vk.BF16, WeightsQ4},
}

// newLinearKernels lists a kernel's variants by what they are for, in the order of linearVariants.
func newLinearKernels(kernels [len(linearVariants)]*vk.Kernel) map[linearTypes]*vk.Kernel {
	list := map[linearTypes]*vk.Kernel{}
	for i, k := range kernels {
		list[linearVariants[i]] = k
	}
	return list
}

// linearKernels are the variants of scatter2scatter.
var linearKernels = newLinearKernels([...]*vk.Kernel{
	shaders.Scatter2scatterF32, shaders.Scatter2scatterF16, shaders.Scatter2scatterF16F16F32,
	shaders.Scatter2scatterF32F16F16, shaders.Scatter2scatterF32F16F32,
	shaders.Scatter2scatterBf16, shaders.Scatter2scatterBf16Bf16F32,
	shaders.Scatter2scatterF32Bf16Bf16, shaders.Scatter2scatterF32Bf16F32,
	shaders.Scatter2scatterF32Int8, shaders.Scatter2scatterF16Int8, shaders.Scatter2scatterBf16Int8,
	shaders.Scatter2scatterF32Q4, shaders.Scatter2scatterF16Q4, shaders.Scatter2scatterBf16Q4,
})

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
