package vk

/*
#include "ext_calls.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// readMatrices reads the cooperative-matrix shapes of a device that has announced the extensions.
func (in *instance) readMatrices(a *Adapter) error {
	if a.offered.has(flagMatrix) && in.functions.matrices != nil {
		if err := in.readShapes(a); err != nil {
			return err
		}
	}
	if a.offered.has(flagMatrix, flagMatrixFlexible) && in.functions.matrices2 != nil {
		if err := in.readFlexibleShapes(a); err != nil {
			return err
		}
	}
	m := &a.Caps.Matrix2
	m.WorkgroupScope = a.offered.has(flagMatrixWorkgroup)
	m.Reductions = a.offered.has(flagMatrixReduce)
	m.Conversions = a.offered.has(flagMatrixConvert)
	m.PerElement = a.offered.has(flagMatrixElement)
	m.TensorAddressing = a.offered.has(flagMatrixTensor)
	m.BlockLoads = a.offered.has(flagMatrixBlock)
	return nil
}

func (in *instance) readShapes(a *Adapter) error {
	const op = "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"
	device := unsafe.Pointer(a.handle)
	var count C.uint32_t
	if err := check(op, vulkan.Result(C.vkmoe_adapter_matrices(in.functions, device, &count, nil))); err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	list := make([]C.vkmoe_adapter_matrix_shape, count)
	for i := range list {
		list[i]._type = 1000506001
	}
	if err := check(op, vulkan.Result(C.vkmoe_adapter_matrices(in.functions, device, &count, &list[0]))); err != nil {
		return err
	}
	for _, s := range list[:count] {
		a.Caps.CooperativeMatrix = append(a.Caps.CooperativeMatrix, CooperativeMatrixShape{
			M: uint32(s.m), N: uint32(s.n), K: uint32(s.k),
			A: componentName(uint32(s.a)), B: componentName(uint32(s.b)),
			C: componentName(uint32(s.c)), D: componentName(uint32(s.d)),
			Scope: scopeName(uint32(s.scope)), Saturating: s.saturating != 0,
		})
	}
	return nil
}

func (in *instance) readFlexibleShapes(a *Adapter) error {
	const op = "vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV"
	device := unsafe.Pointer(a.handle)
	var count C.uint32_t
	if err := check(op, vulkan.Result(C.vkmoe_adapter_matrices2(in.functions, device, &count, nil))); err != nil {
		return err
	}
	if count == 0 {
		return nil
	}
	list := make([]C.vkmoe_adapter_flexible_shape, count)
	for i := range list {
		list[i]._type = 1000593001
	}
	if err := check(op, vulkan.Result(C.vkmoe_adapter_matrices2(in.functions, device, &count, &list[0]))); err != nil {
		return err
	}
	for _, s := range list[:count] {
		a.Caps.CooperativeMatrix2 = append(a.Caps.CooperativeMatrix2, FlexibleMatrixShape{
			MGranularity: uint32(s.m), NGranularity: uint32(s.n), KGranularity: uint32(s.k),
			A: componentName(uint32(s.a)), B: componentName(uint32(s.b)),
			C: componentName(uint32(s.c)), D: componentName(uint32(s.d)),
			Scope: scopeName(uint32(s.scope)), Invocations: uint32(s.invocations), Saturating: s.saturating != 0,
		})
	}
	return nil
}

// componentNames names VkComponentTypeKHR.
var componentNames = map[uint32]string{
	0: "f16", 1: "f32", 2: "f64",
	3: "s8", 4: "s16", 5: "s32", 6: "s64",
	7: "u8", 8: "u16", 9: "u32", 10: "u64",
	1000141000: "bf16", 1000491002: "f8e4m3", 1000491003: "f8e5m2",
}

func componentName(t uint32) string {
	if name, ok := componentNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type(%d)", t)
}

// scopeNames names VkScopeKHR.
var scopeNames = map[uint32]string{1: "device", 2: "workgroup", 3: "subgroup", 5: "queue-family"}

func scopeName(s uint32) string {
	if name, ok := scopeNames[s]; ok {
		return name
	}
	return fmt.Sprintf("scope(%d)", s)
}
