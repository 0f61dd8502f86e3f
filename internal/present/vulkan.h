// The part of Vulkan that shows a picture: surfaces, swapchains, images, render passes and graphics pipelines. As in vk/ext.h
// only the binary layout matters: names are ours, so that no Vulkan header is needed and none can clash, and enumerations
// are plain uint32_t. The functions are resolved by name; see present.c.

#ifndef VKMOE_PRESENT_VULKAN_H
#define VKMOE_PRESENT_VULKAN_H

#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX != UINT64_MAX
#error "vkmoe needs a 64-bit system"
#endif

#if defined(_WIN32)
#define VKMOE_PRESENT_CALL __stdcall
#else
#define VKMOE_PRESENT_CALL
#endif

typedef uintptr_t pv_handle; // any Vulkan handle

// Every structure that creates something starts so.
#define PV_HEAD uint32_t type; const void *next

typedef struct { uint32_t width, height; } pv_extent;
typedef struct { int32_t x, y; uint32_t width, height; } pv_rect;
typedef struct { float x, y, width, height, least, most; } pv_viewport;

typedef struct {
	uint32_t min_images, max_images;
	pv_extent current, smallest, largest;
	uint32_t max_layers, transforms, transform, alphas, usages;
} pv_surface;

typedef struct { uint32_t format, space; } pv_format;

typedef struct { uint32_t flags, count, timestamp_bits, granularity[3]; } pv_family;

typedef struct {
	uint32_t type_count;
	struct { uint32_t flags, heap; } types[32];
	uint32_t heap_count;
	struct { uint64_t size; uint32_t flags; } heaps[16];
} pv_memory;

typedef struct { PV_HEAD; uint32_t flags, family, count; const float *priorities; } pv_queue_info;
typedef struct {
	PV_HEAD; uint32_t flags, queue_count; const pv_queue_info *queues;
	uint32_t layer_count; const char *const *layers;
	uint32_t extension_count; const char *const *extensions; const void *features;
} pv_device_info;

typedef struct {
	PV_HEAD; uint32_t flags; pv_handle surface;
	uint32_t min_images, format, space; pv_extent extent;
	uint32_t layers, usage, sharing, family_count; const uint32_t *families;
	uint32_t transform, alpha, mode, clipped; pv_handle old;
} pv_swapchain_info;

typedef struct {
	PV_HEAD; uint32_t wait_count; const pv_handle *waits;
	uint32_t count; const pv_handle *swapchains; const uint32_t *images; int32_t *results;
} pv_present_info;

typedef struct {
	PV_HEAD; uint32_t wait_count; const pv_handle *waits; const uint32_t *stages;
	uint32_t command_count; const pv_handle *commands; uint32_t signal_count; const pv_handle *signals;
} pv_submit_info;

typedef struct { PV_HEAD; uint32_t flags; } pv_flags_info; // fences and semaphores
typedef struct { PV_HEAD; uint64_t size; uint32_t memory_type; } pv_allocate_info;
typedef struct { uint64_t size, alignment; uint32_t types; } pv_requirements;
typedef struct {
	PV_HEAD; uint32_t flags; uint64_t size; uint32_t usage, sharing, family_count; const uint32_t *families;
} pv_buffer_info;
typedef struct {
	PV_HEAD; uint32_t flags, dimensions, format, width, height, depth, levels, layers, samples, tiling, usage, sharing,
		family_count;
	const uint32_t *families; uint32_t layout;
} pv_image_info;
typedef struct { uint32_t aspect, level, levels, layer, layers; } pv_range;
typedef struct {
	PV_HEAD; uint32_t flags; pv_handle image; uint32_t dimensions, format, swizzle[4]; pv_range range;
} pv_view_info;
typedef struct {
	PV_HEAD; uint32_t flags, magnify, minify, mipmaps, address[3]; float bias; uint32_t anisotropic; float anisotropy;
	uint32_t compares, compare; float least, most; uint32_t border, unnormalized;
} pv_sampler_info;

typedef struct {
	uint32_t flags, format, samples, load, store, stencil_load, stencil_store, before, after;
} pv_attachment;
typedef struct { uint32_t attachment, layout; } pv_reference;
typedef struct {
	uint32_t flags, point, input_count; const pv_reference *inputs;
	uint32_t color_count; const pv_reference *colors, *resolves, *depth;
	uint32_t kept_count; const uint32_t *kept;
} pv_subpass;
typedef struct { uint32_t from, to, from_stages, to_stages, from_accesses, to_accesses, flags; } pv_dependency;
typedef struct {
	PV_HEAD; uint32_t flags, attachment_count; const pv_attachment *attachments;
	uint32_t subpass_count; const pv_subpass *subpasses; uint32_t dependency_count; const pv_dependency *dependencies;
} pv_pass_info;
typedef struct {
	PV_HEAD; uint32_t flags; pv_handle pass; uint32_t count; const pv_handle *views; uint32_t width, height, layers;
} pv_framebuffer_info;

typedef struct { uint32_t binding, type, count, stages; const pv_handle *samplers; } pv_binding;
typedef struct { PV_HEAD; uint32_t flags, count; const pv_binding *bindings; } pv_set_layout_info;
typedef struct { uint32_t type, count; } pv_pool_size;
typedef struct { PV_HEAD; uint32_t flags, sets, size_count; const pv_pool_size *sizes; } pv_pool_info;
typedef struct { PV_HEAD; pv_handle pool; uint32_t count; const pv_handle *layouts; } pv_set_info;
typedef struct { pv_handle sampler, view; uint32_t layout; } pv_sampled;
typedef struct {
	PV_HEAD; pv_handle set; uint32_t binding, element, count, kind;
	const pv_sampled *images; const void *buffers, *texels;
} pv_write;
typedef struct { uint32_t stages, offset, size; } pv_push_range;
typedef struct {
	PV_HEAD; uint32_t flags, set_count; const pv_handle *sets; uint32_t range_count; const pv_push_range *ranges;
} pv_layout_info;

typedef struct { PV_HEAD; uint32_t flags; size_t bytes; const uint32_t *words; } pv_module_info;
typedef struct { PV_HEAD; uint32_t flags, stage; pv_handle module; const char *name; const void *constants; } pv_stage_info;
typedef struct { uint32_t binding, stride, rate; } pv_vertex_binding;
typedef struct { uint32_t location, binding, format, offset; } pv_vertex_attribute;
typedef struct {
	PV_HEAD; uint32_t flags, binding_count; const pv_vertex_binding *bindings;
	uint32_t attribute_count; const pv_vertex_attribute *attributes;
} pv_vertex_info;
typedef struct { PV_HEAD; uint32_t flags, topology, restart; } pv_assembly_info;
typedef struct {
	PV_HEAD; uint32_t flags, viewport_count; const pv_viewport *viewports; uint32_t scissor_count; const pv_rect *scissors;
} pv_viewport_info;
typedef struct {
	PV_HEAD; uint32_t flags, clamp, discard, polygons, cull, front, biased; float bias[3], line_width;
} pv_raster_info;
typedef struct {
	PV_HEAD; uint32_t flags, samples, shading; float least; const uint32_t *mask; uint32_t to_coverage, to_one;
} pv_samples_info;
typedef struct { uint32_t on, source, target, op, source_alpha, target_alpha, alpha_op, mask; } pv_blend;
typedef struct {
	PV_HEAD; uint32_t flags, logic, logic_op, count; const pv_blend *blends; float constants[4];
} pv_blend_info;
typedef struct { PV_HEAD; uint32_t flags, count; const uint32_t *states; } pv_dynamic_info;
typedef struct {
	PV_HEAD; uint32_t flags, stage_count; const pv_stage_info *stages; const pv_vertex_info *vertices;
	const pv_assembly_info *assembly; const void *tessellation; const pv_viewport_info *viewport;
	const pv_raster_info *raster; const pv_samples_info *samples; const void *depth; const pv_blend_info *blend;
	const pv_dynamic_info *dynamic; pv_handle layout, pass; uint32_t subpass; pv_handle base; int32_t base_index;
} pv_pipeline_info;

typedef struct { PV_HEAD; uint32_t flags, family; } pv_command_pool_info;
typedef struct { PV_HEAD; pv_handle pool; uint32_t level, count; } pv_commands_info;
typedef struct { PV_HEAD; uint32_t flags; const void *inherited; } pv_begin_info;
typedef struct {
	PV_HEAD; pv_handle pass, framebuffer; pv_rect area; uint32_t clear_count; const float (*clears)[4];
} pv_pass_begin;
typedef struct {
	PV_HEAD; uint32_t from_accesses, to_accesses, before, after, from_family, to_family; pv_handle image; pv_range range;
} pv_image_barrier;
typedef struct {
	uint64_t offset; uint32_t row, rows; struct { uint32_t aspect, level, layer, layers; } to;
	int32_t at[3]; uint32_t extent[3];
} pv_image_copy;

// The sizes of Vulkan's own structures on 64-bit systems.
#define PV_SIZE(name, bytes) _Static_assert(sizeof(pv_##name) == (bytes), #name)
PV_SIZE(surface, 52);
PV_SIZE(memory, 520);
PV_SIZE(device_info, 72);
PV_SIZE(swapchain_info, 104);
PV_SIZE(present_info, 64);
PV_SIZE(submit_info, 72);
PV_SIZE(allocate_info, 32);
PV_SIZE(buffer_info, 56);
PV_SIZE(image_info, 88);
PV_SIZE(view_info, 80);
PV_SIZE(sampler_info, 80);
PV_SIZE(attachment, 36);
PV_SIZE(subpass, 72);
PV_SIZE(dependency, 28);
PV_SIZE(pass_info, 64);
PV_SIZE(framebuffer_info, 64);
PV_SIZE(binding, 24);
PV_SIZE(set_layout_info, 32);
PV_SIZE(pool_info, 40);
PV_SIZE(set_info, 40);
PV_SIZE(sampled, 24);
PV_SIZE(write, 64);
PV_SIZE(layout_info, 48);
PV_SIZE(module_info, 40);
PV_SIZE(stage_info, 48);
PV_SIZE(vertex_info, 48);
PV_SIZE(viewport_info, 48);
PV_SIZE(raster_info, 64);
PV_SIZE(samples_info, 48);
PV_SIZE(blend_info, 56);
PV_SIZE(dynamic_info, 32);
PV_SIZE(pipeline_info, 144);
PV_SIZE(command_pool_info, 24);
PV_SIZE(commands_info, 32);
PV_SIZE(begin_info, 32);
PV_SIZE(pass_begin, 64);
PV_SIZE(image_barrier, 72);
PV_SIZE(image_copy, 56);
#undef PV_SIZE

#endif
