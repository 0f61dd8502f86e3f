package kernel

// A Feature names one optional capability of a device. The same names switch a feature off in VKMOE_DISABLE and
// appear in errors and skips.
type Feature string

// The optional features. A kernel lists the ones it needs; vk reports which a device has.
const (
	F16             Feature = "f16"              // 16-bit float arithmetic in shaders
	BF16            Feature = "bf16"             // VK_KHR_shader_bfloat16 types
	Int8            Feature = "int8"             // 8-bit integer arithmetic
	Int16           Feature = "int16"            // 16-bit integer arithmetic
	Int64           Feature = "int64"            // 64-bit integer arithmetic
	Storage8        Feature = "storage8"         // 8-bit loads and stores
	Storage16       Feature = "storage16"        // 16-bit loads and stores
	IntegerDot      Feature = "dot"              // VK_KHR_shader_integer_dot_product
	SubgroupSize    Feature = "subgroup-size"    // a pipeline may require its subgroup size
	SubgroupBallot  Feature = "subgroup-ballot"  // ballots in compute
	SubgroupShuffle Feature = "subgroup-shuffle" // shuffles in compute
	SubgroupArith   Feature = "subgroup-arith"   // reductions and scans in compute
	Timeline        Feature = "timeline"         // timeline semaphores; fences are used without them
	Timestamps      Feature = "timestamps"       // GPU timestamps on the compute queue
	MemoryBudget    Feature = "budget"           // VK_EXT_memory_budget
	MemoryModel     Feature = "memory-model"     // Vulkan memory model
	CoopMat         Feature = "coopmat"          // VK_KHR_cooperative_matrix
	CoopMat2        Feature = "coopmat2"         // VK_NV_cooperative_matrix2
	ExplicitLayout  Feature = "explicit-layout"  // VK_KHR_workgroup_memory_explicit_layout
	ExecutableInfo  Feature = "executable-info"  // VK_KHR_pipeline_executable_properties
	DeviceFault     Feature = "device-fault"     // VK_EXT_device_fault
	DirectMap       Feature = "direct-map"       // device-local memory the host may map (unified memory)
	ComputeQueue    Feature = "compute-queue"    // a queue family with compute and no graphics
)

// Features lists every feature, in the order in which reports print them.
var Features = []Feature{
	F16, BF16, Int8, Int16, Int64, Storage8, Storage16, IntegerDot,
	SubgroupSize, SubgroupBallot, SubgroupShuffle, SubgroupArith,
	Timeline, Timestamps, MemoryBudget, MemoryModel,
	CoopMat, CoopMat2, ExplicitLayout, ExecutableInfo, DeviceFault, DirectMap, ComputeQueue,
}
