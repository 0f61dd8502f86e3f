// The swapchain, the pipeline and the commands of a frame.

#include "present.h"

#include <string.h>

enum { LAYOUT_ATTACHMENT = 2, LAYOUT_READ = 5, LAYOUT_TARGET = 7, LAYOUT_PRESENT = 1000001002 };
enum { STAGE_TOP = 1, STAGE_FRAGMENT = 0x80, STAGE_OUTPUT = 0x400, STAGE_TRANSFER = 0x1000 };
enum { ACCESS_READ = 0x20, ACCESS_OUTPUT_READ = 0x80, ACCESS_OUTPUT_WRITE = 0x100, ACCESS_TRANSFER_WRITE = 0x1000 };
enum { SHADER_VERTEX = 1, SHADER_FRAGMENT = 0x10 };

int32_t pv_new_swapchain(const pv *v, const pv_chain *c, pv_handle *made) {
	pv_swapchain_info info = {.type = 1000001000, .surface = c->surface, .min_images = c->images, .format = c->format,
		.space = c->space, .extent = {c->width, c->height}, .layers = 1, .usage = 0x10 /* colour attachment */,
		.transform = c->transform, .alpha = c->alpha, .mode = 2 /* FIFO: every device has it */, .clipped = 1,
		.old = c->old};
	return v->create_swapchain(v->device, &info, NULL, made);
}

int32_t pv_chain_images(const pv *v, pv_handle chain, uint32_t *count, pv_handle *images) {
	return v->swapchain_images(v->device, chain, count, images);
}

static int32_t new_pass(const pv *v, uint32_t format, pv_handle *made) {
	pv_attachment color = {.format = format, .samples = 1, .load = 1 /* clear */, .stencil_load = 2, .stencil_store = 1,
		.after = LAYOUT_PRESENT};
	pv_reference reference = {0, LAYOUT_ATTACHMENT};
	pv_subpass subpass = {.color_count = 1, .colors = &reference};
	// The image is free once the acquire semaphore, which the submission waits for at the same stage, is signalled.
	pv_dependency acquired = {.from = ~0u, .from_stages = STAGE_OUTPUT, .to_stages = STAGE_OUTPUT,
		.to_accesses = ACCESS_OUTPUT_READ | ACCESS_OUTPUT_WRITE};
	pv_pass_info info = {.type = 38, .attachment_count = 1, .attachments = &color, .subpass_count = 1,
		.subpasses = &subpass, .dependency_count = 1, .dependencies = &acquired};
	return v->create_pass(v->device, &info, NULL, made);
}

static int32_t new_layouts(const pv *v, pv_program *p) {
	pv_sampler_info sampler = {.type = 31, .address = {2, 2, 2} /* clamp to edge */};
	int32_t r = v->create_sampler(v->device, &sampler, NULL, &p->sampler);
	if (r != 0) return r;
	pv_binding binding = {.type = 1 /* image with sampler */, .count = 1, .stages = SHADER_FRAGMENT};
	pv_set_layout_info sets = {.type = 32, .count = 1, .bindings = &binding};
	r = v->create_set_layout(v->device, &sets, NULL, &p->set_layout);
	if (r != 0) return r;
	pv_pool_size size = {1, 1};
	pv_pool_info pool = {.type = 33, .sets = 1, .size_count = 1, .sizes = &size};
	r = v->create_pool(v->device, &pool, NULL, &p->pool);
	if (r != 0) return r;
	pv_set_info set = {.type = 34, .pool = p->pool, .count = 1, .layouts = &p->set_layout};
	r = v->allocate_sets(v->device, &set, &p->set);
	if (r != 0) return r;
	pv_push_range range = {SHADER_VERTEX, 0, 8};
	pv_layout_info layout = {.type = 30, .set_count = 1, .sets = &p->set_layout, .range_count = 1, .ranges = &range};
	return v->create_layout(v->device, &layout, NULL, &p->layout);
}

static int32_t new_module(const pv *v, const uint32_t *words, size_t bytes, pv_handle *made) {
	pv_module_info info = {.type = 16, .bytes = bytes, .words = words};
	return v->create_module(v->device, &info, NULL, made);
}

// new_pipeline draws lists of canvas.Vertex, mixed over what is there by their alpha.
static int32_t new_pipeline(const pv *v, pv_program *p, pv_handle vertex, pv_handle fragment) {
	pv_stage_info stages[] = {{.type = 18, .stage = SHADER_VERTEX, .module = vertex, .name = "main"},
		{.type = 18, .stage = SHADER_FRAGMENT, .module = fragment, .name = "main"}};
	pv_vertex_binding binding = {0, 20, 0};
	pv_vertex_attribute attributes[] = {{0, 0, 103 /* two floats */, 0}, {1, 0, 103, 8}, {2, 0, 37 /* RGBA8 */, 16}};
	pv_vertex_info vertices = {.type = 19, .binding_count = 1, .bindings = &binding, .attribute_count = 3,
		.attributes = attributes};
	pv_assembly_info assembly = {.type = 20, .topology = 3 /* triangles */};
	pv_viewport_info viewport = {.type = 22, .viewport_count = 1, .scissor_count = 1};
	pv_raster_info raster = {.type = 23, .line_width = 1};
	pv_samples_info samples = {.type = 24, .samples = 1};
	// The result's alpha stays 1: the window is opaque to the system that composes it.
	pv_blend blend = {.on = 1, .source = 6, .target = 7, .source_alpha = 0, .target_alpha = 1, .mask = 0xf};
	pv_blend_info blending = {.type = 26, .count = 1, .blends = &blend};
	uint32_t states[] = {0, 1}; // viewport, scissor
	pv_dynamic_info dynamic = {.type = 27, .count = 2, .states = states};
	pv_pipeline_info info = {.type = 28, .stage_count = 2, .stages = stages, .vertices = &vertices, .assembly = &assembly,
		.viewport = &viewport, .raster = &raster, .samples = &samples, .blend = &blending, .dynamic = &dynamic,
		.layout = p->layout, .pass = p->pass, .base_index = -1};
	return v->create_pipelines(v->device, 0, 1, &info, NULL, &p->pipeline);
}

int32_t pv_new_program(const pv *v, uint32_t format, const uint32_t *vertex, size_t vertex_bytes, const uint32_t *fragment,
	size_t fragment_bytes, pv_program *p) {
	memset(p, 0, sizeof *p);
	pv_handle modules[2] = {0, 0};
	int32_t r = new_pass(v, format, &p->pass);
	if (r == 0) r = new_layouts(v, p);
	if (r == 0) r = new_module(v, vertex, vertex_bytes, &modules[0]);
	if (r == 0) r = new_module(v, fragment, fragment_bytes, &modules[1]);
	if (r == 0) r = new_pipeline(v, p, modules[0], modules[1]);
	v->destroy_module(v->device, modules[0], NULL);
	v->destroy_module(v->device, modules[1], NULL);
	if (r != 0) pv_free_program(v, p);
	return r;
}

void pv_free_program(const pv *v, pv_program *p) {
	v->destroy_pipeline(v->device, p->pipeline, NULL);
	v->destroy_layout(v->device, p->layout, NULL);
	v->destroy_pool(v->device, p->pool, NULL);
	v->destroy_set_layout(v->device, p->set_layout, NULL);
	v->destroy_sampler(v->device, p->sampler, NULL);
	v->destroy_pass(v->device, p->pass, NULL);
	memset(p, 0, sizeof *p);
}

void pv_use_atlas(const pv *v, const pv_program *p, const pv_image *atlas) {
	pv_sampled sampled = {p->sampler, atlas->view, LAYOUT_READ};
	pv_write write = {.type = 35, .set = p->set, .count = 1, .kind = 1, .images = &sampled};
	v->update_sets(v->device, 1, &write, 0, NULL);
}

int32_t pv_new_framebuffer(const pv *v, const pv_program *p, pv_handle view, uint32_t width, uint32_t height,
	pv_handle *made) {
	pv_framebuffer_info info = {.type = 37, .pass = p->pass, .count = 1, .views = &view, .width = width, .height = height,
		.layers = 1};
	return v->create_framebuffer(v->device, &info, NULL, made);
}

int32_t pv_new_commands(const pv *v, uint32_t count, pv_handle *pool, pv_handle *commands) {
	pv_command_pool_info info = {.type = 39, .flags = 2 /* each may be reset */, .family = v->family};
	int32_t r = v->create_command_pool(v->device, &info, NULL, pool);
	if (r != 0) return r;
	pv_commands_info buffers = {.type = 40, .pool = *pool, .count = count};
	return v->allocate_commands(v->device, &buffers, commands);
}

int32_t pv_begin_commands(const pv *v, pv_handle commands) {
	pv_begin_info info = {.type = 42, .flags = 1 /* submitted once */};
	return v->begin(commands, &info);
}

void pv_upload_atlas(const pv *v, pv_handle commands, pv_handle from, const pv_image *to, uint32_t width, uint32_t height) {
	pv_image_barrier barrier = {.type = 45, .to_accesses = ACCESS_TRANSFER_WRITE, .after = LAYOUT_TARGET, .from_family = ~0u,
		.to_family = ~0u, .image = to->image, .range = {1, 0, 1, 0, 1}};
	v->barrier(commands, STAGE_FRAGMENT, STAGE_TRANSFER, 0, 0, NULL, 0, NULL, 1, &barrier);
	pv_image_copy region = {.to = {1, 0, 0, 1}, .extent = {width, height, 1}};
	v->copy_to_image(commands, from, to->image, LAYOUT_TARGET, 1, &region);
	barrier.from_accesses = ACCESS_TRANSFER_WRITE;
	barrier.to_accesses = ACCESS_READ;
	barrier.before = LAYOUT_TARGET;
	barrier.after = LAYOUT_READ;
	v->barrier(commands, STAGE_TRANSFER, STAGE_FRAGMENT, 0, 0, NULL, 0, NULL, 1, &barrier);
}

void pv_begin_pass(const pv *v, const pv_program *p, pv_handle commands, pv_handle framebuffer, uint32_t width,
	uint32_t height, const float background[4], pv_handle vertices) {
	pv_pass_begin info = {.type = 43, .pass = p->pass, .framebuffer = framebuffer, .area = {0, 0, width, height},
		.clear_count = 1, .clears = (const float(*)[4])background};
	v->begin_pass(commands, &info, 0);
	if (!vertices) return; // nothing will be drawn
	pv_viewport viewport = {0, 0, (float)width, (float)height, 0, 1};
	v->set_viewport(commands, 0, 1, &viewport);
	v->bind_pipeline(commands, 0, p->pipeline);
	v->bind_sets(commands, 0, p->layout, 0, 1, &p->set, 0, NULL);
	float pixel[2] = {2 / (float)width, 2 / (float)height};
	v->push(commands, p->layout, SHADER_VERTEX, 0, sizeof pixel, pixel);
	uint64_t offset = 0;
	v->bind_vertices(commands, 0, 1, &vertices, &offset);
}

void pv_draw(const pv *v, pv_handle commands, pv_rect clip, uint32_t first, uint32_t count) {
	v->set_scissor(commands, 0, 1, &clip);
	v->draw(commands, count, 1, first, 0);
}

int32_t pv_finish(const pv *v, pv_handle commands, pv_handle acquired, pv_handle drawn, pv_handle fence) {
	v->end_pass(commands);
	int32_t r = v->end(commands);
	if (r != 0) return r;
	uint32_t stage = STAGE_OUTPUT;
	pv_submit_info info = {.type = 4, .wait_count = 1, .waits = &acquired, .stages = &stage, .command_count = 1,
		.commands = &commands, .signal_count = 1, .signals = &drawn};
	return v->submit(v->queue, 1, &info, fence);
}

int32_t pv_present(const pv *v, pv_handle chain, uint32_t image, pv_handle drawn) {
	pv_present_info info = {
		.type = 1000001001, .wait_count = 1, .waits = &drawn, .count = 1, .swapchains = &chain, .images = &image};
	return v->present(v->queue, &info);
}

int32_t pv_acquire(const pv *v, pv_handle chain, uint64_t ns, pv_handle semaphore, uint32_t *index) {
	return v->acquire(v->device, chain, ns, semaphore, 0, index);
}

int32_t pv_wait(const pv *v, pv_handle fence, uint64_t ns) { return v->wait_fences(v->device, 1, &fence, 1, ns); }

int32_t pv_reset(const pv *v, pv_handle fence) { return v->reset_fences(v->device, 1, &fence); }
