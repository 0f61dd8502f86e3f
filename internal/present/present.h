// What package present asks of Vulkan, one function a step. Results are VkResult codes; what is made is returned through the
// last argument. pv holds the entry points of one instance and, once there is one, of one device.

#ifndef VKMOE_PRESENT_H
#define VKMOE_PRESENT_H

#include "vulkan.h"

typedef int32_t(VKMOE_PRESENT_CALL *pv_create)(pv_handle device, const void *info, const void *allocator, pv_handle *made);
typedef void(VKMOE_PRESENT_CALL *pv_destroy)(pv_handle device, pv_handle made, const void *allocator);
typedef void *(VKMOE_PRESENT_CALL *pv_find)(pv_handle owner, const char *name);

typedef struct {
	pv_handle instance, gpu, device, queue;
	uint32_t family;

	// Of the instance.
	int32_t(VKMOE_PRESENT_CALL *surface_support)(pv_handle gpu, uint32_t family, pv_handle surface, uint32_t *yes);
	int32_t(VKMOE_PRESENT_CALL *surface_of)(pv_handle gpu, pv_handle surface, pv_surface *out);
	int32_t(VKMOE_PRESENT_CALL *formats)(pv_handle gpu, pv_handle surface, uint32_t *count, pv_format *out);
	void(VKMOE_PRESENT_CALL *families)(pv_handle gpu, uint32_t *count, pv_family *out);
	void(VKMOE_PRESENT_CALL *memory)(pv_handle gpu, pv_memory *out);
	int32_t(VKMOE_PRESENT_CALL *create_device)(pv_handle gpu, const pv_device_info *, const void *, pv_handle *made);
	pv_destroy destroy_surface; // takes the instance
	pv_find find;               // vkGetDeviceProcAddr

	// Of the device.
	void(VKMOE_PRESENT_CALL *destroy_device)(pv_handle device, const void *);
	void(VKMOE_PRESENT_CALL *get_queue)(pv_handle device, uint32_t family, uint32_t index, pv_handle *queue);
	int32_t(VKMOE_PRESENT_CALL *device_idle)(pv_handle device);
	int32_t(VKMOE_PRESENT_CALL *submit)(pv_handle queue, uint32_t count, const pv_submit_info *, pv_handle fence);
	int32_t(VKMOE_PRESENT_CALL *present)(pv_handle queue, const pv_present_info *);
	int32_t(VKMOE_PRESENT_CALL *swapchain_images)(pv_handle device, pv_handle chain, uint32_t *count, pv_handle *images);
	int32_t(VKMOE_PRESENT_CALL *acquire)(pv_handle device, pv_handle chain, uint64_t ns, pv_handle semaphore,
		pv_handle fence, uint32_t *index);
	int32_t(VKMOE_PRESENT_CALL *wait_fences)(pv_handle device, uint32_t count, const pv_handle *, uint32_t all, uint64_t ns);
	int32_t(VKMOE_PRESENT_CALL *reset_fences)(pv_handle device, uint32_t count, const pv_handle *);
	void(VKMOE_PRESENT_CALL *buffer_needs)(pv_handle device, pv_handle buffer, pv_requirements *);
	void(VKMOE_PRESENT_CALL *image_needs)(pv_handle device, pv_handle image, pv_requirements *);
	int32_t(VKMOE_PRESENT_CALL *bind_buffer)(pv_handle device, pv_handle buffer, pv_handle memory, uint64_t offset);
	int32_t(VKMOE_PRESENT_CALL *bind_image)(pv_handle device, pv_handle image, pv_handle memory, uint64_t offset);
	int32_t(VKMOE_PRESENT_CALL *map)(pv_handle device, pv_handle memory, uint64_t at, uint64_t size, uint32_t, void **out);
	int32_t(VKMOE_PRESENT_CALL *create_pipelines)(pv_handle device, pv_handle cache, uint32_t count, const void *infos,
		const void *, pv_handle *made);
	int32_t(VKMOE_PRESENT_CALL *allocate_sets)(pv_handle device, const pv_set_info *, pv_handle *sets);
	void(VKMOE_PRESENT_CALL *update_sets)(pv_handle device, uint32_t count, const pv_write *, uint32_t, const void *);
	int32_t(VKMOE_PRESENT_CALL *allocate_commands)(pv_handle device, const pv_commands_info *, pv_handle *commands);
	int32_t(VKMOE_PRESENT_CALL *begin)(pv_handle commands, const pv_begin_info *);
	int32_t(VKMOE_PRESENT_CALL *end)(pv_handle commands);

	pv_create create_swapchain, create_fence, create_semaphore, create_buffer, create_image, create_view, create_sampler,
		create_pass, create_framebuffer, create_set_layout, create_pool, create_layout, create_module, create_command_pool,
		allocate;
	pv_destroy destroy_swapchain, destroy_fence, destroy_semaphore, destroy_buffer, destroy_image, destroy_view,
		destroy_sampler, destroy_pass, destroy_framebuffer, destroy_set_layout, destroy_pool, destroy_layout,
		destroy_module, destroy_pipeline, destroy_command_pool, free_memory;

	// Commands.
	void(VKMOE_PRESENT_CALL *begin_pass)(pv_handle commands, const pv_pass_begin *, uint32_t contents);
	void(VKMOE_PRESENT_CALL *end_pass)(pv_handle commands);
	void(VKMOE_PRESENT_CALL *bind_pipeline)(pv_handle commands, uint32_t point, pv_handle pipeline);
	void(VKMOE_PRESENT_CALL *bind_sets)(pv_handle commands, uint32_t point, pv_handle layout, uint32_t first, uint32_t count,
		const pv_handle *sets, uint32_t, const uint32_t *);
	void(VKMOE_PRESENT_CALL *bind_vertices)(pv_handle commands, uint32_t first, uint32_t count, const pv_handle *buffers,
		const uint64_t *offsets);
	void(VKMOE_PRESENT_CALL *push)(pv_handle commands, pv_handle layout, uint32_t stages, uint32_t at, uint32_t size,
		const void *);
	void(VKMOE_PRESENT_CALL *set_viewport)(pv_handle commands, uint32_t first, uint32_t count, const pv_viewport *);
	void(VKMOE_PRESENT_CALL *set_scissor)(pv_handle commands, uint32_t first, uint32_t count, const pv_rect *);
	void(VKMOE_PRESENT_CALL *draw)(pv_handle commands, uint32_t vertices, uint32_t instances, uint32_t first, uint32_t);
	void(VKMOE_PRESENT_CALL *barrier)(pv_handle commands, uint32_t from, uint32_t to, uint32_t flags, uint32_t, const void *,
		uint32_t, const void *, uint32_t count, const pv_image_barrier *);
	void(VKMOE_PRESENT_CALL *copy_to_image)(pv_handle commands, pv_handle buffer, pv_handle image, uint32_t layout,
		uint32_t count, const pv_image_copy *);
} pv;

// Instance and device.
void pv_load_instance(pv *, void *get_instance_proc, void *instance);
int32_t pv_surface_supported(const pv *, uint32_t family, pv_handle surface, uint32_t *yes);
int32_t pv_surface_of(const pv *, pv_handle surface, pv_surface *out);
int32_t pv_surface_formats(const pv *, pv_handle surface, uint32_t *count, pv_format *out);
void pv_families(const pv *, uint32_t *count, pv_family *out);
int32_t pv_open_device(pv *, const char *const *extensions, uint32_t count);
void pv_close_device(pv *);
void pv_drop_surface(const pv *, pv_handle surface);
int32_t pv_idle(const pv *);

// Resources.
typedef struct { pv_handle buffer, memory; void *mapped; } pv_buffer;
typedef struct { pv_handle image, memory, view; } pv_image;
int32_t pv_new_buffer(const pv *, uint64_t bytes, uint32_t usage, pv_buffer *made);
void pv_free_buffer(const pv *, pv_buffer *);
int32_t pv_new_atlas(const pv *, uint32_t width, uint32_t height, pv_image *made);
void pv_free_image(const pv *, pv_image *);
int32_t pv_new_view(const pv *, pv_handle image, uint32_t format, pv_handle *made);
int32_t pv_new_fence(const pv *, pv_handle *made); // signalled
int32_t pv_new_semaphore(const pv *, pv_handle *made);

// Swapchain.
typedef struct {
	pv_handle surface, old;
	uint32_t images, format, space, width, height, transform, alpha;
} pv_chain;
int32_t pv_new_swapchain(const pv *, const pv_chain *, pv_handle *made);

// Drawing. pv_program is what does not depend on the window's size.
typedef struct { pv_handle pass, set_layout, pool, set, layout, pipeline, sampler; } pv_program;
int32_t pv_new_program(const pv *, uint32_t format, const uint32_t *vertex, size_t vertex_bytes, const uint32_t *fragment,
	size_t fragment_bytes, pv_program *made);
void pv_free_program(const pv *, pv_program *);
void pv_use_atlas(const pv *, const pv_program *, const pv_image *atlas);
int32_t pv_new_framebuffer(const pv *, const pv_program *, pv_handle view, uint32_t width, uint32_t height, pv_handle *made);
int32_t pv_new_commands(const pv *, uint32_t count, pv_handle *pool, pv_handle *commands);

int32_t pv_begin_commands(const pv *, pv_handle commands);
// Copies the alpha bytes at the start of from into an atlas that earlier frames may still be reading.
void pv_upload_atlas(const pv *, pv_handle commands, pv_handle from, const pv_image *to, uint32_t width, uint32_t height);
void pv_begin_pass(const pv *, const pv_program *, pv_handle commands, pv_handle framebuffer, uint32_t width, uint32_t height,
	const float background[4], pv_handle vertices);
void pv_draw(const pv *, pv_handle commands, pv_rect clip, uint32_t first, uint32_t count);
int32_t pv_finish(const pv *, pv_handle commands, pv_handle acquired, pv_handle drawn, pv_handle fence);
int32_t pv_present(const pv *, pv_handle chain, uint32_t image, pv_handle drawn);

// Calls through the table: cgo cannot call a function pointer itself.
int32_t pv_acquire(const pv *, pv_handle chain, uint64_t ns, pv_handle semaphore, uint32_t *index);
int32_t pv_chain_images(const pv *, pv_handle chain, uint32_t *count, pv_handle *images);
int32_t pv_wait(const pv *, pv_handle fence, uint64_t ns);
int32_t pv_reset(const pv *, pv_handle fence);
void pv_drop(const pv *, pv_destroy how, pv_handle made);

#endif
