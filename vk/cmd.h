// The part of Vulkan that the submission path needs and github.com/vulkan-go/vulkan either lacks (everything after
// Vulkan 1.1) or calls through helpers that allocate C memory. Handles travel as uintptr_t: dispatchable handles are
// pointers and, on the 64-bit systems this package supports, non-dispatchable ones are as wide.
#ifndef VKMOE_CMD_H
#define VKMOE_CMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if UINTPTR_MAX != UINT64_MAX
#error "vkmoe needs a 64-bit system"
#endif

#if defined(_WIN32)
#define VKMOE_CALL __stdcall
#else
#define VKMOE_CALL
#endif

typedef uintptr_t vkh; // any Vulkan handle

typedef struct { int32_t sType; const void *pNext; } vkmoe_link;

typedef struct {
	int32_t sType; const void *pNext;
	uint32_t waitCount; const vkh *waits; const uint32_t *waitStages;
	uint32_t commandCount; const vkh *commands;
	uint32_t signalCount; const vkh *signals;
} vkmoe_submit_info;

typedef struct {
	int32_t sType; const void *pNext;
	uint32_t waitCount; const uint64_t *waitValues;
	uint32_t signalCount; const uint64_t *signalValues;
} vkmoe_timeline_submit;

typedef struct { int32_t sType; const void *pNext; uint32_t type; uint64_t initial; } vkmoe_semaphore_type;
typedef struct { int32_t sType; const void *pNext; uint32_t flags; } vkmoe_semaphore_create;
typedef struct {
	int32_t sType; const void *pNext; uint32_t flags;
	uint32_t count; const vkh *semaphores; const uint64_t *values;
} vkmoe_semaphore_wait;
typedef struct { int32_t sType; const void *pNext; uint32_t src, dst; } vkmoe_memory_barrier;
typedef struct { int32_t sType; const void *pNext; vkh buffer; } vkmoe_address_info;
typedef struct { int32_t sType; const void *pNext; uint32_t flags, mask; } vkmoe_allocate_flags;
typedef struct { int32_t sType; const void *pNext; uint64_t size; uint32_t type; } vkmoe_allocate_info;
typedef struct { uint64_t src, dst, size; } vkmoe_copy_region;
typedef struct { int32_t sType; const void *pNext; uint32_t size; } vkmoe_subgroup_size;
typedef struct { uint32_t id, offset; size_t size; } vkmoe_spec_entry;
typedef struct { uint32_t count; const vkmoe_spec_entry *entries; size_t bytes; const void *data; } vkmoe_spec_info;
typedef struct {
	int32_t sType; const void *pNext; uint32_t flags;
	uint32_t stage; vkh module; const char *name; const vkmoe_spec_info *spec;
} vkmoe_stage_info;
typedef struct {
	int32_t sType; const void *pNext; uint32_t flags;
	vkmoe_stage_info stage; vkh layout; vkh base; int32_t baseIndex;
} vkmoe_compute_info;
typedef struct { int32_t sType; const void *pNext; uint32_t flags; size_t bytes; const uint32_t *words; } vkmoe_module_info;

typedef struct { uint32_t stages, offset, size; } vkmoe_push_range;
typedef struct {
	int32_t sType; const void *pNext; uint32_t flags;
	uint32_t setCount; const vkh *sets; uint32_t rangeCount; const vkmoe_push_range *ranges;
} vkmoe_layout_info;

// vkmoe_cmds holds one device's entry points, fetched with vkGetDeviceProcAddr so that calls skip the loader.
typedef struct {
	vkh device, queue;
	int32_t (VKMOE_CALL *queueSubmit)(vkh, uint32_t, const vkmoe_submit_info *, vkh);
	int32_t (VKMOE_CALL *createSemaphore)(vkh, const vkmoe_semaphore_create *, const void *, vkh *);
	int32_t (VKMOE_CALL *waitSemaphores)(vkh, const vkmoe_semaphore_wait *, uint64_t);
	int32_t (VKMOE_CALL *semaphoreValue)(vkh, vkh, uint64_t *);
	uint64_t (VKMOE_CALL *bufferAddress)(vkh, const vkmoe_address_info *);
	int32_t (VKMOE_CALL *allocate)(vkh, const vkmoe_allocate_info *, const void *, vkh *);
	int32_t (VKMOE_CALL *createModule)(vkh, const vkmoe_module_info *, const void *, vkh *);
	void (VKMOE_CALL *destroyModule)(vkh, vkh, const void *);
	int32_t (VKMOE_CALL *createPipelines)(vkh, vkh, uint32_t, const vkmoe_compute_info *, const void *, vkh *);
	int32_t (VKMOE_CALL *createLayout)(vkh, const vkmoe_layout_info *, const void *, vkh *);
	void (VKMOE_CALL *barrier)(vkh, uint32_t, uint32_t, uint32_t, uint32_t, const vkmoe_memory_barrier *, uint32_t,
		const void *, uint32_t, const void *);
	void (VKMOE_CALL *bindPipeline)(vkh, uint32_t, vkh);
	void (VKMOE_CALL *pushConstants)(vkh, vkh, uint32_t, uint32_t, uint32_t, const void *);
	void (VKMOE_CALL *dispatch)(vkh, uint32_t, uint32_t, uint32_t);
	void (VKMOE_CALL *dispatchIndirect)(vkh, vkh, uint64_t);
	void (VKMOE_CALL *fill)(vkh, vkh, uint64_t, uint64_t, uint32_t);
	void (VKMOE_CALL *copy)(vkh, vkh, vkh, uint32_t, const vkmoe_copy_region *);
	void (VKMOE_CALL *timestamp)(vkh, uint32_t, vkh, uint32_t);
	void *executables, *statistics; // NULL without VK_KHR_pipeline_executable_properties; typed in executable.go
} vkmoe_cmds;

// vkmoe_submit submits count command buffers as separate batches of one vkQueueSubmit, so that a driver's watchdog
// judges each by itself. The last batch signals the timeline semaphore with value, or the fence when semaphore is 0.
static inline int32_t vkmoe_submit(const vkmoe_cmds *t, const vkh *commands, uint32_t count, vkh semaphore,
	uint64_t value, vkh fence) {
	vkmoe_submit_info infos[16];
	vkmoe_timeline_submit timeline = {1000207003, NULL, 0, NULL, 1, &value};
	uint32_t done = 0;
	while (done < count) {
		uint32_t n = count - done < 16 ? count - done : 16;
		memset(infos, 0, sizeof infos);
		for (uint32_t i = 0; i < n; i++) {
			infos[i].sType = 4;
			infos[i].commandCount = 1;
			infos[i].commands = commands + done + i;
		}
		done += n;
		int last = done == count;
		if (last && semaphore) {
			infos[n - 1].pNext = &timeline;
			infos[n - 1].signalCount = 1;
			infos[n - 1].signals = &semaphore;
		}
		int32_t r = t->queueSubmit(t->queue, n, infos, last ? fence : 0);
		if (r != 0) return r;
	}
	return 0;
}

static inline int32_t vkmoe_create_timeline(const vkmoe_cmds *t, vkh *out) {
	vkmoe_semaphore_type type = {1000207002, NULL, 1, 0};
	vkmoe_semaphore_create info = {9, &type, 0};
	return t->createSemaphore(t->device, &info, NULL, out);
}

static inline int32_t vkmoe_wait_timeline(const vkmoe_cmds *t, vkh semaphore, uint64_t value, uint64_t ns) {
	vkmoe_semaphore_wait info = {1000207004, NULL, 0, 1, &semaphore, &value};
	return t->waitSemaphores(t->device, &info, ns);
}

static inline int32_t vkmoe_timeline_value(const vkmoe_cmds *t, vkh semaphore, uint64_t *value) {
	return t->semaphoreValue(t->device, semaphore, value);
}

static inline uint64_t vkmoe_buffer_address(const vkmoe_cmds *t, vkh buffer) {
	vkmoe_address_info info = {1000244001, NULL, buffer};
	return t->bufferAddress(t->device, &info);
}

static inline int32_t vkmoe_allocate(const vkmoe_cmds *t, uint64_t size, uint32_t type, int addressed, vkh *out) {
	vkmoe_allocate_flags flags = {1000060000, NULL, 2, 0};
	vkmoe_allocate_info info = {5, addressed ? &flags : NULL, size, type};
	return t->allocate(t->device, &info, NULL, out);
}

// vkmoe_compute_pipeline compiles one module (entry point "main") and drops the module again. Specialization value
// i has constant id ids[i]. subgroup 0 leaves the subgroup size to the driver; otherwise it is required, and full
// when fullSubgroups is set. flags are VkPipelineCreateFlags.
static inline int32_t vkmoe_compute_pipeline(const vkmoe_cmds *t, vkh cache, vkh layout, const uint32_t *words,
	size_t bytes, const uint32_t *ids, const uint32_t *values, uint32_t count, uint32_t subgroup, int fullSubgroups,
	uint32_t flags, vkmoe_spec_entry *scratch, vkh *out) {
	vkmoe_module_info moduleInfo = {16, NULL, 0, bytes, words};
	vkh module = 0;
	int32_t r = t->createModule(t->device, &moduleInfo, NULL, &module);
	if (r != 0) return r;
	for (uint32_t i = 0; i < count; i++) {
		scratch[i].id = ids[i];
		scratch[i].offset = 4 * i;
		scratch[i].size = 4;
	}
	vkmoe_spec_info spec = {count, scratch, 4 * (size_t)count, values};
	vkmoe_subgroup_size required = {1000225001, NULL, subgroup};
	vkmoe_compute_info info;
	memset(&info, 0, sizeof info);
	info.sType = 29;
	info.flags = flags;
	info.stage.sType = 18;
	info.stage.pNext = subgroup ? &required : NULL;
	info.stage.flags = fullSubgroups ? 2 : 0; // REQUIRE_FULL_SUBGROUPS
	info.stage.stage = 0x20;                  // COMPUTE
	info.stage.module = module;
	info.stage.name = "main";
	info.stage.spec = &spec;
	info.layout = layout;
	info.baseIndex = -1;
	r = t->createPipelines(t->device, cache, 1, &info, NULL, out);
	t->destroyModule(t->device, module, NULL);
	return r;
}

static inline int32_t vkmoe_pipeline_layout(const vkmoe_cmds *t, uint32_t bytes, vkh *out) {
	vkmoe_push_range range = {0x20, 0, bytes};
	vkmoe_layout_info info = {30, NULL, 0, 0, NULL, 1, &range};
	return t->createLayout(t->device, &info, NULL, out);
}

// Pipeline stages and accesses as Vulkan numbers them.
enum {
	VKMOE_STAGE_INDIRECT = 0x2, VKMOE_STAGE_COMPUTE = 0x800, VKMOE_STAGE_TRANSFER = 0x1000,
	VKMOE_STAGE_HOST = 0x4000, VKMOE_STAGE_BOTTOM = 0x2000,
	VKMOE_ACCESS_INDIRECT = 0x1, VKMOE_ACCESS_SHADER_READ = 0x20, VKMOE_ACCESS_SHADER_WRITE = 0x40,
	VKMOE_ACCESS_TRANSFER_READ = 0x800, VKMOE_ACCESS_TRANSFER_WRITE = 0x1000, VKMOE_ACCESS_HOST_READ = 0x2000,
};

// vkmoe_barrier orders everything the device did before it with everything it does after it, the reading of counts of indirect
// dispatches only on request.
static inline void vkmoe_barrier(const vkmoe_cmds *t, vkh commands, int counts) {
	vkmoe_memory_barrier b = {46, NULL, VKMOE_ACCESS_SHADER_WRITE | VKMOE_ACCESS_TRANSFER_WRITE,
		VKMOE_ACCESS_SHADER_READ | VKMOE_ACCESS_SHADER_WRITE | VKMOE_ACCESS_TRANSFER_READ | VKMOE_ACCESS_TRANSFER_WRITE |
			(counts ? VKMOE_ACCESS_INDIRECT : 0)};
	t->barrier(commands, VKMOE_STAGE_COMPUTE | VKMOE_STAGE_TRANSFER,
		VKMOE_STAGE_COMPUTE | VKMOE_STAGE_TRANSFER | (counts ? VKMOE_STAGE_INDIRECT : 0), 0, 1, &b, 0, NULL, 0, NULL);
}

// vkmoe_host_barrier makes the device's writes visible to the host once it has waited for the submission.
static inline void vkmoe_host_barrier(const vkmoe_cmds *t, vkh commands) {
	vkmoe_memory_barrier b = {46, NULL, VKMOE_ACCESS_SHADER_WRITE | VKMOE_ACCESS_TRANSFER_WRITE, VKMOE_ACCESS_HOST_READ};
	t->barrier(commands, VKMOE_STAGE_COMPUTE | VKMOE_STAGE_TRANSFER, VKMOE_STAGE_HOST, 0, 1, &b, 0, NULL, 0, NULL);
}

static inline void vkmoe_dispatch(const vkmoe_cmds *t, vkh commands, vkh pipeline, vkh layout, const void *push,
	uint32_t pushBytes, uint32_t x, uint32_t y, uint32_t z) {
	t->bindPipeline(commands, 1, pipeline);
	if (pushBytes) t->pushConstants(commands, layout, 0x20, 0, pushBytes, push);
	t->dispatch(commands, x, y, z);
}

static inline void vkmoe_dispatch_indirect(const vkmoe_cmds *t, vkh commands, vkh pipeline, vkh layout,
	const void *push, uint32_t pushBytes, vkh buffer, uint64_t offset) {
	t->bindPipeline(commands, 1, pipeline);
	if (pushBytes) t->pushConstants(commands, layout, 0x20, 0, pushBytes, push);
	t->dispatchIndirect(commands, buffer, offset);
}

static inline void vkmoe_fill(const vkmoe_cmds *t, vkh commands, vkh buffer, uint64_t offset, uint64_t size,
	uint32_t word) {
	t->fill(commands, buffer, offset, size, word);
}

static inline void vkmoe_copy(const vkmoe_cmds *t, vkh commands, vkh src, uint64_t srcOffset, vkh dst,
	uint64_t dstOffset, uint64_t size) {
	vkmoe_copy_region region = {srcOffset, dstOffset, size};
	t->copy(commands, src, dst, 1, &region);
}

static inline void vkmoe_timestamp(const vkmoe_cmds *t, vkh commands, vkh pool, uint32_t query) {
	t->timestamp(commands, VKMOE_STAGE_BOTTOM, pool, query);
}

#endif
