package vk

/*
#include "ext_calls.h"
*/
import "C"

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// Adapters lists every Vulkan device of the system in the loader's order, usable or not (see Adapter.Unusable), with
// VKMOE_DISABLE applied. It opens none of them.
//
// Errors: ErrNoLoader, ErrNoDevice when there is no device at all, *UnknownFeatureError for VKMOE_DISABLE,
// *SettingError and *MissingLayerError for VKMOE_VALIDATION.
func Adapters() ([]*Adapter, error) {
	in, err := acquireInstance(false)
	if err != nil {
		return nil, err
	}
	return in.adapters()
}

// adapters describes every physical device, with VKMOE_DISABLE applied.
func (in *instance) adapters() ([]*Adapter, error) {
	off, err := parseFeatures(disableVariable, os.Getenv(disableVariable))
	if err != nil {
		return nil, err
	}
	handles, err := in.physicalDevices()
	if err != nil {
		return nil, err
	}
	if len(handles) == 0 {
		return nil, fmt.Errorf("%w: the loader lists no device at all; %s", ErrNoDevice, deviceHint(runtime.GOOS))
	}
	list := make([]*Adapter, len(handles))
	for i, handle := range handles {
		a := in.describe(handle)
		a.Index = i
		a.disable(off)
		list[i] = a
	}
	return list, nil
}

func (in *instance) physicalDevices() ([]vulkan.PhysicalDevice, error) {
	for {
		var count uint32
		result := vulkan.EnumeratePhysicalDevices(in.handle, &count, nil)
		if result == vulkan.ErrorInitializationFailed || result == vulkan.ErrorIncompatibleDriver {
			return nil, nil // how some loaders say that every driver declined
		}
		if err := check("vkEnumeratePhysicalDevices", result); err != nil || count == 0 {
			return nil, err
		}
		handles := make([]vulkan.PhysicalDevice, count)
		result = vulkan.EnumeratePhysicalDevices(in.handle, &count, handles)
		if result == vulkan.Incomplete {
			continue
		}
		return handles[:count], check("vkEnumeratePhysicalDevices", result)
	}
}

// describe asks a physical device for everything in Adapter and Capabilities. A device that does not answer is listed
// as unusable: it must not keep the others from being found.
func (in *instance) describe(handle vulkan.PhysicalDevice) *Adapter {
	a := &Adapter{handle: handle, queueFamily: noFamily, Caps: Capabilities{Features: map[Feature]bool{}}}
	a.readLimits()
	a.version = min(in.version, apiVersion(uint32(a.API.Major), uint32(a.API.Minor)))
	if a.version < apiVersion(1, 1) {
		need := fmt.Sprintf("Vulkan 1.1, and there is %d.%d", a.version>>22, a.version>>12&0x3ff)
		a.Unusable = &UnsupportedError{Need: need, Device: a.Name}
		return a
	}
	var err error
	a.extensions, err = extensionNames("vkEnumerateDeviceExtensionProperties",
		func(count *C.uint32_t, list *C.vkmoe_adapter_extension) C.int32_t {
			return C.vkmoe_adapter_device_extensions(in.functions, unsafe.Pointer(handle), count, list)
		})
	if err != nil {
		a.Unusable = fmt.Errorf("vk: %s: %w", a.Name, err)
		return a
	}
	in.readFeatures(a)
	subgroups := in.readProperties(a)
	in.readMemory(a)
	in.readFamilies(a)
	if err := in.readMatrices(a); err != nil {
		a.Unusable = fmt.Errorf("vk: %s: %w", a.Name, err)
		return a
	}
	a.chooseFeatures(subgroups)
	a.chooseFamily()
	a.Unusable = a.judge()
	return a
}

// readLimits reads VkPhysicalDeviceProperties.
func (a *Adapter) readLimits() {
	var p vulkan.PhysicalDeviceProperties
	vulkan.GetPhysicalDeviceProperties(a.handle, &p)
	defer p.Free()
	p.Deref()
	p.Limits.Deref()                                      // shares the memory of p
	version := vulkan.Version(p.ApiVersion & (1<<29 - 1)) // the top bits are a variant
	a.Name = vulkan.ToString(p.DeviceName[:])
	a.Type = AdapterType(p.DeviceType)
	a.VendorID, a.DeviceID, a.DriverVersion = p.VendorID, p.DeviceID, p.DriverVersion
	a.CacheUUID = p.PipelineCacheUUID
	a.API = Version{Major: version.Major(), Minor: version.Minor(), Patch: version.Patch()}

	c := &a.Caps
	c.MaxWorkgroupInvocations = p.Limits.MaxComputeWorkGroupInvocations
	c.MaxWorkgroupSize = p.Limits.MaxComputeWorkGroupSize
	c.MaxWorkgroupCount = p.Limits.MaxComputeWorkGroupCount
	c.SharedMemoryBytes = p.Limits.MaxComputeSharedMemorySize
	c.PushConstantBytes = p.Limits.MaxPushConstantsSize
	if period := float64(p.Limits.TimestampPeriod); !math.IsInf(period, 0) { // RADV without hardware divides by zero
		c.TimestampPeriod = period
	}
}

// readFeatures reads the feature structures that the device has announced into a.offered.
func (in *instance) readFeatures(a *Adapter) {
	var mem cMemory
	defer mem.free()
	var blocks [blockCount]*C.vkmoe_adapter_features
	var next unsafe.Pointer
	for i := blockCount - 1; i >= 0; i-- { // the core block comes last and heads the chain
		if !featureBlocks[i].present(a.version, a.extensions) {
			continue
		}
		b := (*C.vkmoe_adapter_features)(mem.alloc(C.sizeof_vkmoe_adapter_features))
		b._type, b.next = C.uint32_t(featureBlocks[i].structure), next
		blocks[i], next = b, unsafe.Pointer(b)
	}
	C.vkmoe_adapter_features_of(in.functions, unsafe.Pointer(a.handle), blocks[blockCore])
	for i, b := range blocks {
		if b == nil {
			continue
		}
		for position, on := range b.flags {
			if on != 0 {
				a.offered.add(featureFlag{i, position})
			}
		}
	}
}

// subgroupAbilities says what subgroups do in compute shaders.
type subgroupAbilities struct {
	operations   uint32 // VkSubgroupFeatureFlags
	requiredSize bool   // a pipeline may require its subgroup size
	matrices     bool   // cooperative matrices
}

// readProperties reads names, identifiers and limits that VkPhysicalDeviceProperties lacks.
func (in *instance) readProperties(a *Adapter) subgroupAbilities {
	var mem cMemory
	defer mem.free()
	present := func(block int) C.int {
		if featureBlocks[block].present(a.version, a.extensions) {
			return 1
		}
		return 0
	}
	driver := C.int(0)
	if a.version >= apiVersion(1, 2) || a.extensions[driverPropertiesExtension] {
		driver = 1
	}
	p := (*C.vkmoe_adapter_answers)(mem.alloc(C.sizeof_vkmoe_adapter_answers))
	C.vkmoe_adapter_ask(in.functions, unsafe.Pointer(a.handle), p, driver,
		present(blockMaintenance4), present(blockSubgroupSize), present(blockMatrix), present(blockMatrix2))

	c := &a.Caps
	a.DeviceUUID = *(*[16]byte)(unsafe.Pointer(&p.id.device_uuid))
	a.DriverUUID = *(*[16]byte)(unsafe.Pointer(&p.id.driver_uuid))
	a.DriverName, a.DriverInfo = C.GoString(&p.driver.name[0]), C.GoString(&p.driver.info[0])
	c.SubgroupSize = uint32(p.subgroup.size)
	c.MinSubgroupSize = cmp.Or(uint32(p.sizes.min_size), c.SubgroupSize)
	c.MaxSubgroupSize = cmp.Or(uint32(p.sizes.max_size), c.SubgroupSize)
	c.MaxAllocationBytes = uint64(p.limits.max_allocation)
	c.MaxBufferBytes = cmp.Or(uint64(p.buffers.max_buffer), c.MaxAllocationBytes)
	c.Matrix2.MaxWorkgroupInvocations = uint32(p.matrix2.max_workgroup)
	c.Matrix2.MaxDimension = uint32(p.matrix2.max_dimension)
	c.Matrix2.ReservedSharedBytes = uint32(p.matrix2.reserved_shared)

	const compute = 0x20 // VK_SHADER_STAGE_COMPUTE_BIT
	able := subgroupAbilities{requiredSize: p.sizes.stages&compute != 0, matrices: p.matrix.stages&compute != 0}
	if p.subgroup.stages&compute != 0 {
		able.operations = uint32(p.subgroup.operations)
	}
	return able
}

func (in *instance) readMemory(a *Adapter) {
	var memory C.vkmoe_adapter_memory
	C.vkmoe_adapter_memory_of(in.functions, unsafe.Pointer(a.handle), &memory)
	for _, t := range memory.types[:memory.type_count] {
		a.memoryTypes = append(a.memoryTypes,
			memoryType{flags: vulkan.MemoryPropertyFlags(t.flags), heap: uint32(t.heap)})
	}
	for _, h := range memory.heaps[:memory.heap_count] {
		a.heaps = append(a.heaps, memoryHeap{size: uint64(h.size), deviceLocal: h.flags&1 != 0})
	}
}

func (in *instance) readFamilies(a *Adapter) {
	var count C.uint32_t
	C.vkmoe_adapter_families(in.functions, unsafe.Pointer(a.handle), &count, nil)
	list := make([]C.vkmoe_adapter_family, max(int(count), 1))
	C.vkmoe_adapter_families(in.functions, unsafe.Pointer(a.handle), &count, &list[0])
	for _, f := range list[:count] {
		a.families = append(a.families, queueFamily{
			compute:       f.flags&2 != 0 && f.count > 0,
			graphics:      f.flags&1 != 0,
			timestampBits: uint32(f.timestamp_bits),
		})
	}
}

// readBudget reads, per heap, the bytes this process may use in all and the bytes it uses now. It reports false where
// the driver does not tell (no MemoryBudget). It allocates nothing.
func (a *Adapter) readBudget(in *instance, budget, usage *[16]uint64) bool {
	if !a.Caps.Features[kernel.MemoryBudget] {
		return false
	}
	C.vkmoe_adapter_read_budget(in.functions, unsafe.Pointer(a.handle),
		(*C.uint64_t)(&budget[0]), (*C.uint64_t)(&usage[0]))
	return true
}

// judge returns why vkmoe cannot run on the device, or nil.
func (a *Adapter) judge() error {
	var needs []string
	need := func(ok bool, format string, args ...any) {
		if !ok {
			needs = append(needs, fmt.Sprintf(format, args...))
		}
	}
	c := &a.Caps
	need(a.offered.has(baseRule.need...), "bufferDeviceAddress (Vulkan 1.2 or VK_KHR_buffer_device_address)")
	need(c.PushConstantBytes >= 128, "128 bytes of push constants, and there are %d", c.PushConstantBytes)
	need(c.SharedMemoryBytes >= 16<<10, "16 KiB of shared memory, and there are %s", byteCount(uint64(c.SharedMemoryBytes)))
	need(c.MaxWorkgroupInvocations >= 128, "128 invocations in a work-group, and there are %d", c.MaxWorkgroupInvocations)
	need(a.queueFamily != noFamily, "a queue family that computes")
	a.compiles = len(needs) == 0
	need(a.LocalBytes() > 0, "device-local memory") // drivers made to run without their hardware have none
	if len(needs) == 0 {
		return nil
	}
	return &UnsupportedError{Need: strings.Join(needs, "; "), Device: a.Name}
}
