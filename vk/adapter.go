package vk

import (
	"fmt"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// An AdapterType says what kind of device an adapter is.
type AdapterType uint8

// The adapter types, in Vulkan's numbering.
const (
	Other AdapterType = iota
	Integrated
	Discrete
	Virtual
	Software
)

func (t AdapterType) String() string {
	names := [...]string{"other", "integrated", "discrete", "virtual", "software"}
	if int(t) >= len(names) {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return names[t]
}

// A Version is a Vulkan API version, such as 1.2.0.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// An Adapter is one physical device as its driver describes it. It is plain data and stays valid without any open
// device.
type Adapter struct {
	Index         int          // position in Adapters, the number VKMOE_DEVICE takes
	Name          string       // the driver's name for the device
	Type          AdapterType  // Software where the driver computes on the CPU
	VendorID      uint32       // PCI vendor, or a Khronos number above 0xffff
	DeviceID      uint32       // the vendor's number of the device
	DriverName    string       // for example "llvmpipe"
	DriverInfo    string       // the driver's own version text
	DriverVersion uint32       // as the driver encodes it
	DriverUUID    [16]byte     // tells builds of drivers apart
	DeviceUUID    [16]byte     // tells devices of one machine apart
	CacheUUID     [16]byte     // pipelineCacheUUID
	API           Version      // the Vulkan version that the device offers
	Caps          Capabilities // what it can do, after VKMOE_DISABLE

	// Unusable holds why vkmoe cannot run here; nil when it can.
	Unusable error

	handle      vulkan.PhysicalDevice
	version     uint32          // Vulkan version in force: the lower of the device's and the instance's
	extensions  map[string]bool // device extensions
	offered     featureSet      // feature booleans that the device has
	memoryTypes []memoryType
	heaps       []memoryHeap
	families    []queueFamily
	compiles    bool   // it has all that a pipeline needs
	queueFamily uint32 // the family vkmoe submits to, or noFamily: compute-only where there is one
}

// queueFamily is one VkQueueFamilyProperties.
type queueFamily struct {
	compute, graphics bool
	timestampBits     uint32
}

// memoryType is one VkMemoryType: its property flags and the heap it lives in.
type memoryType struct {
	flags vulkan.MemoryPropertyFlags
	heap  uint32
}

// memoryHeap is one VkMemoryHeap: its size in bytes and whether it is device-local.
type memoryHeap struct {
	size        uint64
	deviceLocal bool
}

// Capabilities are the features and limits of an adapter, after VKMOE_DISABLE.
type Capabilities struct {
	Features map[Feature]bool // what the device has and nothing has switched off
	Disabled []Feature        // what the device has and VKMOE_DISABLE or Options.Disable switched off

	// SubgroupSize is the usual number of invocations of a subgroup; with FeatureSubgroupSize a pipeline may ask for any power
	// of two from MinSubgroupSize to MaxSubgroupSize.
	SubgroupSize, MinSubgroupSize, MaxSubgroupSize uint32

	FullSubgroups bool // a pipeline may require that every subgroup is full

	MaxWorkgroupInvocations uint32    // of one work-group
	MaxWorkgroupSize        [3]uint32 // invocations of one work-group along each axis
	MaxWorkgroupCount       [3]uint32 // work-groups of one dispatch along each axis
	SharedMemoryBytes       uint32    // of one work-group
	PushConstantBytes       uint32    // of one dispatch
	MaxAllocationBytes      uint64    // largest single memory allocation
	MaxBufferBytes          uint64    // largest single buffer
	TimestampPeriod         float64   // nanoseconds per timestamp tick
	TimestampBits           uint32    // valid bits of a timestamp, 0 when there are none

	CooperativeMatrix  []CooperativeMatrixShape // of VK_KHR_cooperative_matrix; empty without
	CooperativeMatrix2 []FlexibleMatrixShape    // of VK_NV_cooperative_matrix2; empty without
	Matrix2            Matrix2                  // what else that extension offers
}

// Feature names one optional capability; see the constants of this package.
type Feature = kernel.Feature

// Has reports whether the device has every one of the features given.
func (c *Capabilities) Has(features ...Feature) bool { return c.Missing(features...) == "" }

// Missing returns the first of the features that the device lacks, or "".
func (c *Capabilities) Missing(features ...Feature) Feature {
	for _, f := range features {
		if !c.Features[f] {
			return f
		}
	}
	return ""
}

// A CooperativeMatrixShape is one entry of VK_KHR_cooperative_matrix: D[M,N] = A[M,K]·B[K,N] + C[M,N].
type CooperativeMatrixShape struct {
	M, N, K    uint32 // rows of A, C and D; columns of B, C and D; columns of A
	A, B, C, D string // component types: "f16", "bf16", "f32", "s8", "u8", "s32", "u32", or "type(N)"
	Scope      string // "subgroup", "workgroup", …: the invocations that hold a matrix together
	Saturating bool   // integer sums stop at the type's limits
}

// A FlexibleMatrixShape is one entry of VK_NV_cooperative_matrix2: any M, N and K that are multiples of the
// granularity, in work-groups of Invocations.
type FlexibleMatrixShape struct {
	MGranularity, NGranularity, KGranularity uint32 // what M, N and K are multiples of
	A, B, C, D                               string // component types, as CooperativeMatrixShape's
	Scope                                    string // likewise
	Invocations                              uint32 // of a work-group, for the scope "workgroup"; else 0
	Saturating                               bool   // integer sums stop at the type's limits
}

// Matrix2 says which parts of VK_NV_cooperative_matrix2 a device has besides flexible dimensions, and its limits.
type Matrix2 struct {
	WorkgroupScope   bool // matrices shared by a whole work-group
	Reductions       bool // of rows, columns or 2×2 blocks
	Conversions      bool // between component types and between uses
	PerElement       bool // functions applied to each element
	TensorAddressing bool // tensor layouts and views
	BlockLoads       bool // decoding loads

	MaxWorkgroupInvocations uint32 // of a work-group with work-group-scope matrices
	MaxDimension            uint32 // largest M, N or K
	ReservedSharedBytes     uint32 // shared memory that work-group-scope matrices take from the limit
}
