// Entry points, the logical device, buffers and images.

#include "present.h"

#include <string.h>

#define LOAD(find, owner, field, name) *(void **)&(field) = (find)((owner), (name))

void pv_load_instance(pv *v, void *get_instance_proc, void *instance) {
	pv_find find = (pv_find)get_instance_proc;
	v->instance = (pv_handle)instance;
	LOAD(find, v->instance, v->surface_support, "vkGetPhysicalDeviceSurfaceSupportKHR");
	LOAD(find, v->instance, v->surface_of, "vkGetPhysicalDeviceSurfaceCapabilitiesKHR");
	LOAD(find, v->instance, v->formats, "vkGetPhysicalDeviceSurfaceFormatsKHR");
	LOAD(find, v->instance, v->families, "vkGetPhysicalDeviceQueueFamilyProperties");
	LOAD(find, v->instance, v->memory, "vkGetPhysicalDeviceMemoryProperties");
	LOAD(find, v->instance, v->create_device, "vkCreateDevice");
	LOAD(find, v->instance, v->destroy_surface, "vkDestroySurfaceKHR");
	LOAD(find, v->instance, v->find, "vkGetDeviceProcAddr");
}

static void load_device(pv *v) {
#define OF_DEVICE(field, name) LOAD(v->find, v->device, v->field, name)
#define MAKER(field, name) \
	OF_DEVICE(create_##field, "vkCreate" name); \
	OF_DEVICE(destroy_##field, "vkDestroy" name)
	OF_DEVICE(destroy_device, "vkDestroyDevice");
	OF_DEVICE(get_queue, "vkGetDeviceQueue");
	OF_DEVICE(device_idle, "vkDeviceWaitIdle");
	OF_DEVICE(submit, "vkQueueSubmit");
	OF_DEVICE(present, "vkQueuePresentKHR");
	OF_DEVICE(swapchain_images, "vkGetSwapchainImagesKHR");
	OF_DEVICE(acquire, "vkAcquireNextImageKHR");
	OF_DEVICE(wait_fences, "vkWaitForFences");
	OF_DEVICE(reset_fences, "vkResetFences");
	OF_DEVICE(buffer_needs, "vkGetBufferMemoryRequirements");
	OF_DEVICE(image_needs, "vkGetImageMemoryRequirements");
	OF_DEVICE(bind_buffer, "vkBindBufferMemory");
	OF_DEVICE(bind_image, "vkBindImageMemory");
	OF_DEVICE(map, "vkMapMemory");
	OF_DEVICE(allocate, "vkAllocateMemory");
	OF_DEVICE(free_memory, "vkFreeMemory");
	OF_DEVICE(create_pipelines, "vkCreateGraphicsPipelines");
	OF_DEVICE(destroy_pipeline, "vkDestroyPipeline");
	OF_DEVICE(allocate_sets, "vkAllocateDescriptorSets");
	OF_DEVICE(update_sets, "vkUpdateDescriptorSets");
	OF_DEVICE(allocate_commands, "vkAllocateCommandBuffers");
	OF_DEVICE(begin, "vkBeginCommandBuffer");
	OF_DEVICE(end, "vkEndCommandBuffer");
	MAKER(swapchain, "SwapchainKHR");
	MAKER(fence, "Fence");
	MAKER(semaphore, "Semaphore");
	MAKER(buffer, "Buffer");
	MAKER(image, "Image");
	MAKER(view, "ImageView");
	MAKER(sampler, "Sampler");
	MAKER(pass, "RenderPass");
	MAKER(framebuffer, "Framebuffer");
	MAKER(set_layout, "DescriptorSetLayout");
	MAKER(pool, "DescriptorPool");
	MAKER(layout, "PipelineLayout");
	MAKER(module, "ShaderModule");
	MAKER(command_pool, "CommandPool");
	OF_DEVICE(begin_pass, "vkCmdBeginRenderPass");
	OF_DEVICE(end_pass, "vkCmdEndRenderPass");
	OF_DEVICE(bind_pipeline, "vkCmdBindPipeline");
	OF_DEVICE(bind_sets, "vkCmdBindDescriptorSets");
	OF_DEVICE(bind_vertices, "vkCmdBindVertexBuffers");
	OF_DEVICE(push, "vkCmdPushConstants");
	OF_DEVICE(set_viewport, "vkCmdSetViewport");
	OF_DEVICE(set_scissor, "vkCmdSetScissor");
	OF_DEVICE(draw, "vkCmdDraw");
	OF_DEVICE(barrier, "vkCmdPipelineBarrier");
	OF_DEVICE(copy_to_image, "vkCmdCopyBufferToImage");
}

int32_t pv_surface_supported(const pv *v, uint32_t family, pv_handle surface, uint32_t *yes) {
	return v->surface_support(v->gpu, family, surface, yes);
}

int32_t pv_surface_of(const pv *v, pv_handle surface, pv_surface *out) { return v->surface_of(v->gpu, surface, out); }

int32_t pv_surface_formats(const pv *v, pv_handle surface, uint32_t *count, pv_format *out) {
	return v->formats(v->gpu, surface, count, out);
}

void pv_families(const pv *v, uint32_t *count, pv_family *out) { v->families(v->gpu, count, out); }

int32_t pv_open_device(pv *v, const char *const *extensions, uint32_t count) {
	const float priority = 1;
	pv_queue_info queue = {.type = 2, .family = v->family, .count = 1, .priorities = &priority};
	pv_device_info info = {
		.type = 3, .queue_count = 1, .queues = &queue, .extension_count = count, .extensions = extensions};
	int32_t r = v->create_device(v->gpu, &info, NULL, &v->device);
	if (r != 0) return r;
	load_device(v);
	v->get_queue(v->device, v->family, 0, &v->queue);
	return 0;
}

void pv_close_device(pv *v) {
	if (v->device) v->destroy_device(v->device, NULL);
	v->device = 0;
}

void pv_drop_surface(const pv *v, pv_handle surface) { v->destroy_surface(v->instance, surface, NULL); }

int32_t pv_idle(const pv *v) { return v->device_idle(v->device); }

void pv_drop(const pv *v, pv_destroy how, pv_handle made) { how(v->device, made, NULL); }

// allocate takes memory of the first type that is allowed and has the flags, or any type of flags 0.
static int32_t allocate(const pv *v, const pv_requirements *need, uint32_t flags, uint32_t wish, pv_handle *made) {
	pv_memory memory;
	v->memory(v->gpu, &memory);
	int found = -1;
	for (uint32_t i = 0; i < memory.type_count; i++) {
		uint32_t has = memory.types[i].flags;
		if (!(need->types >> i & 1) || (has & flags) != flags) continue;
		if (found < 0) found = (int)i;
		if ((has & wish) == wish) {
			found = (int)i;
			break;
		}
	}
	if (found < 0) return -2; // VK_ERROR_OUT_OF_DEVICE_MEMORY
	pv_allocate_info info = {.type = 5, .size = need->size, .memory_type = (uint32_t)found};
	return v->allocate(v->device, &info, NULL, made);
}

enum { DEVICE_LOCAL = 1, HOST_VISIBLE = 2, HOST_COHERENT = 4 };

int32_t pv_new_buffer(const pv *v, uint64_t bytes, uint32_t usage, pv_buffer *made) {
	memset(made, 0, sizeof *made);
	pv_buffer_info info = {.type = 12, .size = bytes, .usage = usage};
	pv_requirements need;
	int32_t r = v->create_buffer(v->device, &info, NULL, &made->buffer);
	if (r == 0) {
		v->buffer_needs(v->device, made->buffer, &need);
		r = allocate(v, &need, HOST_VISIBLE | HOST_COHERENT, 0, &made->memory);
	}
	if (r == 0) r = v->bind_buffer(v->device, made->buffer, made->memory, 0);
	if (r == 0) r = v->map(v->device, made->memory, 0, ~(uint64_t)0, 0, &made->mapped);
	if (r != 0) pv_free_buffer(v, made);
	return r;
}

void pv_free_buffer(const pv *v, pv_buffer *b) {
	v->destroy_buffer(v->device, b->buffer, NULL); // what is 0 is left alone
	v->free_memory(v->device, b->memory, NULL);
	memset(b, 0, sizeof *b);
}

int32_t pv_new_view(const pv *v, pv_handle image, uint32_t format, pv_handle *made) {
	pv_view_info info = {.type = 15, .image = image, .dimensions = 1, .format = format, .range = {1, 0, 1, 0, 1}};
	return v->create_view(v->device, &info, NULL, made);
}

int32_t pv_new_atlas(const pv *v, uint32_t width, uint32_t height, pv_image *made) {
	memset(made, 0, sizeof *made);
	pv_image_info info = {.type = 14, .dimensions = 1, .format = 9 /* R8_UNORM */, .width = width, .height = height,
		.depth = 1, .levels = 1, .layers = 1, .samples = 1, .usage = 2 | 4 /* transfer target, sampled */};
	pv_requirements need;
	int32_t r = v->create_image(v->device, &info, NULL, &made->image);
	if (r == 0) {
		v->image_needs(v->device, made->image, &need);
		r = allocate(v, &need, 0, DEVICE_LOCAL, &made->memory);
	}
	if (r == 0) r = v->bind_image(v->device, made->image, made->memory, 0);
	if (r == 0) r = pv_new_view(v, made->image, info.format, &made->view);
	if (r != 0) pv_free_image(v, made);
	return r;
}

void pv_free_image(const pv *v, pv_image *i) {
	v->destroy_view(v->device, i->view, NULL);
	v->destroy_image(v->device, i->image, NULL);
	v->free_memory(v->device, i->memory, NULL);
	memset(i, 0, sizeof *i);
}

int32_t pv_new_fence(const pv *v, pv_handle *made) {
	pv_flags_info info = {.type = 8, .flags = 1};
	return v->create_fence(v->device, &info, NULL, made);
}

int32_t pv_new_semaphore(const pv *v, pv_handle *made) {
	pv_flags_info info = {.type = 9};
	return v->create_semaphore(v->device, &info, NULL, made);
}
