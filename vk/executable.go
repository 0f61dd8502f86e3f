package vk

/*
#include "cmd.h"

typedef struct { int32_t sType; const void *pNext; vkh pipeline; } vkmoe_pipeline_info;
typedef struct {
	int32_t sType; void *pNext; uint32_t stages; char name[256]; char description[256]; uint32_t subgroupSize;
} vkmoe_executable;
typedef struct { int32_t sType; const void *pNext; vkh pipeline; uint32_t index; } vkmoe_executable_info;
typedef struct {
	int32_t sType; void *pNext; char name[256]; char description[256]; uint32_t format; uint64_t value;
} vkmoe_statistic;
typedef int32_t (VKMOE_CALL *vkmoe_executables_fn)(vkh, const vkmoe_pipeline_info *, uint32_t *, vkmoe_executable *);
typedef int32_t (VKMOE_CALL *vkmoe_statistics_fn)(vkh, const vkmoe_executable_info *, uint32_t *, vkmoe_statistic *);

// vkmoe_executables lists at most *count executables of a pipeline.
static int32_t vkmoe_executables(void *fn, vkh device, vkh pipeline, uint32_t *count, vkmoe_executable *out) {
	vkmoe_pipeline_info info = {1000269001, NULL, pipeline};
	for (uint32_t i = 0; i < *count; i++) out[i].sType = 1000269002;
	return ((vkmoe_executables_fn)fn)(device, &info, count, out);
}

// vkmoe_statistics lists at most *count statistics of one executable.
static int32_t vkmoe_statistics(void *fn, vkh device, vkh pipeline, uint32_t index, uint32_t *count, vkmoe_statistic *out) {
	vkmoe_executable_info info = {1000269003, NULL, pipeline, index};
	for (uint32_t i = 0; i < *count; i++) out[i].sType = 1000269004;
	return ((vkmoe_statistics_fn)fn)(device, &info, count, out);
}
*/
import "C"

import (
	"math"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// An Executable is what a driver's compiler made of a pipeline.
type Executable struct {
	Name         string      // the driver's, for example "Compute Shader"
	SubgroupSize uint32      // invocations of a subgroup; 0 where the driver does not say
	Statistics   []Statistic // in the driver's order
}

// A Statistic is one number that a driver tells about an executable, under the driver's own name: registers, spilled
// registers, bytes of shared memory and so on. Booleans are 0 or 1.
type Statistic struct {
	Name  string
	Value float64
}

// captureStatistics is VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR.
const captureStatistics = 0x40

// Executables compiles a pipeline anew and returns what the driver tells about the result. It fails with an
// *UnsupportedError where the device lacks FeatureExecutableInfo or could not run the pipeline.
func (d *Device) Executables(spec PipelineSpec) ([]Executable, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	if !d.adapter.Caps.Has(kernel.ExecutableInfo) {
		return nil, &UnsupportedError{Feature: kernel.ExecutableInfo, Need: "Executables", Device: d.adapter.Name}
	}
	values, err := specValues(spec)
	if err != nil {
		return nil, err
	}
	if err := d.pipes.fits(spec, values); err != nil {
		return nil, err
	}
	pipeline, err := d.pipes.compile(spec, values, captureStatistics)
	if err != nil {
		return nil, err
	}
	defer vulkan.DestroyPipeline(d.handle, pipelineOf(pipeline), nil)
	list, err := d.executables(pipeline)
	return list, d.note(err)
}

func (d *Device) executables(pipeline vkHandle) ([]Executable, error) {
	const most = 8 // a compute pipeline has one, or one per variant the driver keeps
	var found [most]C.vkmoe_executable
	count := C.uint32_t(most)
	r := C.vkmoe_executables(d.cmds.t.executables, handleOf(d.handle), pipeline, &count, &found[0])
	if err := check("vkGetPipelineExecutablePropertiesKHR", vulkan.Result(r)); err != nil {
		return nil, err
	}
	list := make([]Executable, count)
	for i := range list {
		list[i] = Executable{Name: C.GoString(&found[i].name[0]), SubgroupSize: uint32(found[i].subgroupSize)}
		var err error
		if list[i].Statistics, err = d.statistics(pipeline, i); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (d *Device) statistics(pipeline vkHandle, index int) ([]Statistic, error) {
	const most = 64
	var found [most]C.vkmoe_statistic
	count := C.uint32_t(most)
	r := C.vkmoe_statistics(d.cmds.t.statistics, handleOf(d.handle), pipeline, C.uint32_t(index), &count, &found[0])
	if err := check("vkGetPipelineExecutableStatisticsKHR", vulkan.Result(r)); err != nil {
		return nil, err
	}
	list := make([]Statistic, count)
	for i := range list {
		s := &found[i]
		list[i] = Statistic{C.GoString(&s.name[0]), statisticValue(uint32(s.format), uint64(s.value))}
	}
	return list, nil
}

// statisticValue reads the 64 bits of a statistic by its VkPipelineExecutableStatisticFormatKHR.
func statisticValue(format uint32, bits uint64) float64 {
	const boolean, signed, unsigned = 0, 1, 2
	switch format {
	case boolean:
		return float64(uint32(bits))
	case signed:
		return float64(int64(bits))
	case unsigned:
		return float64(bits)
	}
	return math.Float64frombits(bits)
}
