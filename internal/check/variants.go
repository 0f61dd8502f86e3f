package check

import "github.com/vkmoe/vkmoe/vk"

// ByStorage is a kernel's variants for the storage types: F32, F16 and BF16.
type ByStorage [3]*vk.Kernel

// ByTypes is a kernel's variants by the dtype of what it reads and that of its result.
type ByTypes map[[2]vk.DType]*vk.Kernel

// NewByTypes lists the variants whose result is of the storage type that is read, or F32.
func NewByTypes(f32, f16, f16f32, bf16, bf16f32 *vk.Kernel) ByTypes {
	return ByTypes{
		{vk.F32, vk.F32}:   f32,
		{vk.F16, vk.F16}:   f16,
		{vk.F16, vk.F32}:   f16f32,
		{vk.BF16, vk.BF16}: bf16,
		{vk.BF16, vk.F32}:  bf16f32,
	}
}
