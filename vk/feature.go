package vk

import (
	"slices"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// The optional features of a device, for Capabilities.Has, Options.Disable and UnsupportedError. Their string values
// are the names that VKMOE_DISABLE takes.
const (
	FeatureF16             = kernel.F16             // 16-bit float arithmetic in shaders
	FeatureBF16            = kernel.BF16            // VK_KHR_shader_bfloat16 types
	FeatureInt8            = kernel.Int8            // 8-bit integer arithmetic
	FeatureInt16           = kernel.Int16           // 16-bit integer arithmetic
	FeatureInt64           = kernel.Int64           // 64-bit integer arithmetic
	FeatureStorage8        = kernel.Storage8        // 8-bit loads and stores
	FeatureStorage16       = kernel.Storage16       // 16-bit loads and stores
	FeatureIntegerDot      = kernel.IntegerDot      // VK_KHR_shader_integer_dot_product
	FeatureSubgroupSize    = kernel.SubgroupSize    // a pipeline may require its subgroup size
	FeatureSubgroupBallot  = kernel.SubgroupBallot  // ballots in compute
	FeatureSubgroupShuffle = kernel.SubgroupShuffle // shuffles in compute
	FeatureSubgroupArith   = kernel.SubgroupArith   // reductions and scans in compute
	FeatureTimeline        = kernel.Timeline        // timeline semaphores; fences are used without them
	FeatureTimestamps      = kernel.Timestamps      // GPU timestamps on the compute queue
	FeatureMemoryBudget    = kernel.MemoryBudget    // VK_EXT_memory_budget
	FeatureMemoryModel     = kernel.MemoryModel     // Vulkan memory model
	FeatureCoopMat         = kernel.CoopMat         // VK_KHR_cooperative_matrix
	FeatureCoopMat2        = kernel.CoopMat2        // VK_NV_cooperative_matrix2
	FeatureExplicitLayout  = kernel.ExplicitLayout  // VK_KHR_workgroup_memory_explicit_layout
	FeatureExecutableInfo  = kernel.ExecutableInfo  // VK_KHR_pipeline_executable_properties
	FeatureDeviceFault     = kernel.DeviceFault     // VK_EXT_device_fault
	FeatureDirectMap       = kernel.DirectMap       // device-local memory the host may map (unified memory)
	FeatureComputeQueue    = kernel.ComputeQueue    // a queue family with compute and no graphics
)

// checkFeatures refuses names that are no feature.
func checkFeatures(features []Feature) error {
	for _, f := range features {
		if !slices.Contains(kernel.Features, f) {
			return &UnknownFeatureError{Name: string(f), Source: "Options.Disable", Valid: kernel.Features}
		}
	}
	return nil
}
