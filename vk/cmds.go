package vk

/*
#include <stdlib.h>
#include "cmd.h"

typedef void *(VKMOE_CALL *vkmoe_proc_fn)(vkh, const char *);

static void *vkmoe_proc(vkmoe_proc_fn device_proc, vkh device, const char *a, const char *b) {
	void *p = device_proc(device, a);
	return p || !b ? p : device_proc(device, b);
}

static vkmoe_cmds *vkmoe_load(void *instance_proc, vkh instance, vkh device, vkh queue) {
	vkmoe_proc_fn dp = (vkmoe_proc_fn)((vkmoe_proc_fn)instance_proc)(instance, "vkGetDeviceProcAddr");
	if (!dp) return NULL;
	vkmoe_cmds *t = calloc(1, sizeof *t);
	if (!t) return NULL;
	t->device = device;
	t->queue = queue;
	*(void **)&t->queueSubmit = vkmoe_proc(dp, device, "vkQueueSubmit", NULL);
	*(void **)&t->createSemaphore = vkmoe_proc(dp, device, "vkCreateSemaphore", NULL);
	*(void **)&t->waitSemaphores = vkmoe_proc(dp, device, "vkWaitSemaphores", "vkWaitSemaphoresKHR");
	*(void **)&t->semaphoreValue = vkmoe_proc(dp, device, "vkGetSemaphoreCounterValue", "vkGetSemaphoreCounterValueKHR");
	*(void **)&t->bufferAddress = vkmoe_proc(dp, device, "vkGetBufferDeviceAddress", "vkGetBufferDeviceAddressKHR");
	*(void **)&t->allocate = vkmoe_proc(dp, device, "vkAllocateMemory", NULL);
	*(void **)&t->createModule = vkmoe_proc(dp, device, "vkCreateShaderModule", NULL);
	*(void **)&t->destroyModule = vkmoe_proc(dp, device, "vkDestroyShaderModule", NULL);
	*(void **)&t->createPipelines = vkmoe_proc(dp, device, "vkCreateComputePipelines", NULL);
	*(void **)&t->createLayout = vkmoe_proc(dp, device, "vkCreatePipelineLayout", NULL);
	*(void **)&t->barrier = vkmoe_proc(dp, device, "vkCmdPipelineBarrier", NULL);
	*(void **)&t->bindPipeline = vkmoe_proc(dp, device, "vkCmdBindPipeline", NULL);
	*(void **)&t->pushConstants = vkmoe_proc(dp, device, "vkCmdPushConstants", NULL);
	*(void **)&t->dispatch = vkmoe_proc(dp, device, "vkCmdDispatch", NULL);
	*(void **)&t->dispatchIndirect = vkmoe_proc(dp, device, "vkCmdDispatchIndirect", NULL);
	*(void **)&t->fill = vkmoe_proc(dp, device, "vkCmdFillBuffer", NULL);
	*(void **)&t->copy = vkmoe_proc(dp, device, "vkCmdCopyBuffer", NULL);
	t->executables = vkmoe_proc(dp, device, "vkGetPipelineExecutablePropertiesKHR", NULL);
	t->statistics = vkmoe_proc(dp, device, "vkGetPipelineExecutableStatisticsKHR", NULL);
	*(void **)&t->timestamp = vkmoe_proc(dp, device, "vkCmdWriteTimestamp", NULL);
	return t;
}
*/
import "C"

import (
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// cmds is one device's table of entry points; see cmd.h.
type cmds struct{ t *C.vkmoe_cmds }

// vkHandle is any Vulkan handle as a number.
type vkHandle = C.vkh

// handleOf turns a vulkan-go handle, which is a pointer type on 64-bit systems, into the number cmd.h takes.
func handleOf[H any](h H) vkHandle { return *(*vkHandle)(unsafe.Pointer(&h)) }

func loadCmds(instanceProc unsafe.Pointer, instance vulkan.Instance, device vulkan.Device, queue vulkan.Queue) (*cmds, error) {
	t := C.vkmoe_load(instanceProc, handleOf(instance), handleOf(device), handleOf(queue))
	if t == nil {
		return nil, &ResultError{Op: "vkGetDeviceProcAddr", Code: int32(vulkan.ErrorInitializationFailed)}
	}
	return &cmds{t}, nil
}

func (c *cmds) free() {
	C.free(unsafe.Pointer(c.t))
	c.t = nil
}

func (c *cmds) submit(commands []vkHandle, semaphore vkHandle, value uint64, fence vkHandle) error {
	r := C.vkmoe_submit(c.t, unsafe.SliceData(commands), C.uint32_t(len(commands)), semaphore, C.uint64_t(value), fence)
	return check("vkQueueSubmit", vulkan.Result(r))
}

func (c *cmds) createTimeline() (vkHandle, error) {
	var s vkHandle
	r := C.vkmoe_create_timeline(c.t, &s)
	return s, check("vkCreateSemaphore", vulkan.Result(r))
}

// waitTimeline waits at most ns nanoseconds; done is false when they ran out first.
func (c *cmds) waitTimeline(semaphore vkHandle, value, ns uint64) (done bool, err error) {
	r := vulkan.Result(C.vkmoe_wait_timeline(c.t, semaphore, C.uint64_t(value), C.uint64_t(ns)))
	if r == vulkan.Timeout {
		return false, nil
	}
	return r == vulkan.Success, check("vkWaitSemaphores", r)
}

func (c *cmds) timelineValue(semaphore vkHandle) (uint64, error) {
	var v C.uint64_t
	r := C.vkmoe_timeline_value(c.t, semaphore, &v)
	return uint64(v), check("vkGetSemaphoreCounterValue", vulkan.Result(r))
}

func (c *cmds) bufferAddress(b vulkan.Buffer) uint64 {
	return uint64(C.vkmoe_buffer_address(c.t, handleOf(b)))
}

func (c *cmds) allocate(bytes uint64, memoryType uint32, addressed bool) (vulkan.DeviceMemory, vulkan.Result) {
	var m vkHandle
	flag := C.int(0)
	if addressed {
		flag = 1
	}
	r := C.vkmoe_allocate(c.t, C.uint64_t(bytes), C.uint32_t(memoryType), flag, &m)
	return *(*vulkan.DeviceMemory)(unsafe.Pointer(&m)), vulkan.Result(r)
}

func (c *cmds) computePipeline(cache vulkan.PipelineCache, layout vulkan.PipelineLayout, words, ids, values []uint32,
	subgroup uint32, full bool, flags uint32) (vkHandle, error) {
	var p vkHandle
	fullFlag := C.int(0)
	if full {
		fullFlag = 1
	}
	// The entries are scratch for C alone; C memory keeps them out of the pointer-passing rules.
	scratch := C.calloc(C.size_t(len(ids)+1), C.size_t(unsafe.Sizeof(C.vkmoe_spec_entry{})))
	defer C.free(scratch)
	r := C.vkmoe_compute_pipeline(c.t, handleOf(cache), handleOf(layout),
		(*C.uint32_t)(unsafe.SliceData(words)), C.size_t(4*len(words)),
		(*C.uint32_t)(unsafe.SliceData(ids)), (*C.uint32_t)(unsafe.SliceData(values)), C.uint32_t(len(ids)),
		C.uint32_t(subgroup), fullFlag, C.uint32_t(flags), (*C.vkmoe_spec_entry)(scratch), &p)
	return p, check("vkCreateComputePipelines", vulkan.Result(r))
}

// pipelineLayout makes a layout of one push-constant range and nothing else.
func (c *cmds) pipelineLayout(pushBytes uint32) (vulkan.PipelineLayout, error) {
	var l vkHandle
	r := C.vkmoe_pipeline_layout(c.t, C.uint32_t(pushBytes), &l)
	return *(*vulkan.PipelineLayout)(unsafe.Pointer(&l)), check("vkCreatePipelineLayout", vulkan.Result(r))
}

// barrier orders everything before it with everything after it; the reading of counts of indirect dispatches only on request.
func (c *cmds) barrier(cb vkHandle, counts bool) {
	request := C.int(0)
	if counts {
		request = 1
	}
	C.vkmoe_barrier(c.t, cb, request)
}

func (c *cmds) hostBarrier(cb vkHandle) { C.vkmoe_host_barrier(c.t, cb) }

func (c *cmds) dispatch(cb, pipeline, layout vkHandle, push []byte, groups [3]uint32) {
	C.vkmoe_dispatch(c.t, cb, pipeline, layout, unsafe.Pointer(unsafe.SliceData(push)), C.uint32_t(len(push)),
		C.uint32_t(groups[0]), C.uint32_t(groups[1]), C.uint32_t(groups[2]))
}

func (c *cmds) dispatchIndirect(cb, pipeline, layout vkHandle, push []byte, buffer vkHandle, offset uint64) {
	C.vkmoe_dispatch_indirect(c.t, cb, pipeline, layout, unsafe.Pointer(unsafe.SliceData(push)), C.uint32_t(len(push)),
		buffer, C.uint64_t(offset))
}

func (c *cmds) fill(cb, buffer vkHandle, offset, bytes uint64, word uint32) {
	C.vkmoe_fill(c.t, cb, buffer, C.uint64_t(offset), C.uint64_t(bytes), C.uint32_t(word))
}

func (c *cmds) copy(cb, src vkHandle, srcOffset uint64, dst vkHandle, dstOffset, bytes uint64) {
	C.vkmoe_copy(c.t, cb, src, C.uint64_t(srcOffset), dst, C.uint64_t(dstOffset), C.uint64_t(bytes))
}

func (c *cmds) timestamp(cb, pool vkHandle, query uint32) {
	C.vkmoe_timestamp(c.t, cb, pool, C.uint32_t(query))
}

// semaphoreOf is handleOf the other way around, for the calls made through vulkan-go.
func semaphoreOf(h vkHandle) vulkan.Semaphore { return *(*vulkan.Semaphore)(unsafe.Pointer(&h)) }
func pipelineOf(h vkHandle) vulkan.Pipeline   { return *(*vulkan.Pipeline)(unsafe.Pointer(&h)) }
func commandBufferOf(h vkHandle) vulkan.CommandBuffer {
	return *(*vulkan.CommandBuffer)(unsafe.Pointer(&h))
}

// cBytes copies data to C memory, to be given back with cFree.
func cBytes(data []byte) unsafe.Pointer { return C.CBytes(data) }
func cFree(p unsafe.Pointer)            { C.free(p) }
