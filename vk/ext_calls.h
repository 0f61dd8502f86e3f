// Vulkan functions over the types of ext.h, resolved by name and called through static inline functions: cgo cannot
// call a function pointer itself.

#ifndef VKMOE_ADAPTER_EXT_CALLS_H
#define VKMOE_ADAPTER_EXT_CALLS_H

#include "ext.h"

// The functions that take no instance, then the ones that take one or a physical device.

typedef struct {
	int32_t(VKMOE_ADAPTER_CALL *version)(uint32_t *version);
	int32_t(VKMOE_ADAPTER_CALL *layers)(uint32_t *count, vkmoe_adapter_layer *layers);
	int32_t(VKMOE_ADAPTER_CALL *extensions)(const char *layer, uint32_t *count, vkmoe_adapter_extension *extensions);
} vkmoe_adapter_global;

typedef struct {
	int32_t(VKMOE_ADAPTER_CALL *extensions)(
	    void *device, const char *layer, uint32_t *count, vkmoe_adapter_extension *extensions);
	void(VKMOE_ADAPTER_CALL *families)(void *device, uint32_t *count, vkmoe_adapter_family *families);
	void(VKMOE_ADAPTER_CALL *memory)(void *device, vkmoe_adapter_memory *memory);
	void(VKMOE_ADAPTER_CALL *features2)(void *device, vkmoe_adapter_features *features);
	void(VKMOE_ADAPTER_CALL *properties2)(void *device, vkmoe_adapter_properties *properties);
	void(VKMOE_ADAPTER_CALL *memory2)(void *device, vkmoe_adapter_memory2 *memory);
	int32_t(VKMOE_ADAPTER_CALL *matrices)(void *device, uint32_t *count, vkmoe_adapter_matrix_shape *shapes);
	int32_t(VKMOE_ADAPTER_CALL *matrices2)(void *device, uint32_t *count, vkmoe_adapter_flexible_shape *shapes);
	int32_t(VKMOE_ADAPTER_CALL *create_messenger)(
	    void *instance, const vkmoe_adapter_messenger_info *info, const void *allocator, uint64_t *messenger);
} vkmoe_adapter_functions;

#define VKMOE_ADAPTER_LOAD(gipa, instance, field, name) \
	*(vkmoe_adapter_proc *)&(field) = (gipa)((instance), (name))

static inline void vkmoe_adapter_load_global(void *symbol, vkmoe_adapter_global *f) {
	vkmoe_adapter_gipa gipa = (vkmoe_adapter_gipa)symbol;
	VKMOE_ADAPTER_LOAD(gipa, NULL, f->version, "vkEnumerateInstanceVersion");
	VKMOE_ADAPTER_LOAD(gipa, NULL, f->layers, "vkEnumerateInstanceLayerProperties");
	VKMOE_ADAPTER_LOAD(gipa, NULL, f->extensions, "vkEnumerateInstanceExtensionProperties");
}

static inline void vkmoe_adapter_load(void *symbol, void *instance, vkmoe_adapter_functions *f) {
	vkmoe_adapter_gipa gipa = (vkmoe_adapter_gipa)symbol;
	VKMOE_ADAPTER_LOAD(gipa, instance, f->extensions, "vkEnumerateDeviceExtensionProperties");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->families, "vkGetPhysicalDeviceQueueFamilyProperties");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->memory, "vkGetPhysicalDeviceMemoryProperties");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->features2, "vkGetPhysicalDeviceFeatures2");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->properties2, "vkGetPhysicalDeviceProperties2");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->memory2, "vkGetPhysicalDeviceMemoryProperties2");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->matrices, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
	VKMOE_ADAPTER_LOAD(
	    gipa, instance, f->matrices2, "vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV");
	VKMOE_ADAPTER_LOAD(gipa, instance, f->create_messenger, "vkCreateDebugUtilsMessengerEXT");
}

static inline int32_t vkmoe_adapter_version(vkmoe_adapter_global *f, uint32_t *version) {
	return f->version(version);
}

static inline int32_t vkmoe_adapter_layers(vkmoe_adapter_global *f, uint32_t *count, vkmoe_adapter_layer *layers) {
	return f->layers(count, layers);
}

static inline int32_t vkmoe_adapter_instance_extensions(
    vkmoe_adapter_global *f, const char *layer, uint32_t *count, vkmoe_adapter_extension *extensions) {
	return f->extensions(layer, count, extensions);
}

static inline int32_t vkmoe_adapter_device_extensions(
    vkmoe_adapter_functions *f, void *device, uint32_t *count, vkmoe_adapter_extension *extensions) {
	return f->extensions(device, NULL, count, extensions);
}

static inline void vkmoe_adapter_families(
    vkmoe_adapter_functions *f, void *device, uint32_t *count, vkmoe_adapter_family *families) {
	f->families(device, count, families);
}

static inline void vkmoe_adapter_memory_of(vkmoe_adapter_functions *f, void *device, vkmoe_adapter_memory *memory) {
	f->memory(device, memory);
}

static inline void vkmoe_adapter_features_of(
    vkmoe_adapter_functions *f, void *device, vkmoe_adapter_features *features) {
	f->features2(device, features);
}

// Asks for the properties of Vulkan 1.1 and, where the flags say so, for the others; the rest of answers stays zero.
static inline void vkmoe_adapter_ask(vkmoe_adapter_functions *f, void *device, vkmoe_adapter_answers *a, int driver,
    int buffers, int sizes, int matrix, int matrix2) {
	void **tail = &a->head.next;
#define VKMOE_ADAPTER_CHAIN(on, member, structure) \
	if (on) { \
		a->member.type = structure; \
		*tail = &a->member; \
		tail = &a->member.next; \
	}
	a->head.type = 1000059001;
	VKMOE_ADAPTER_CHAIN(1, id, 1000071004)
	VKMOE_ADAPTER_CHAIN(1, subgroup, 1000094000)
	VKMOE_ADAPTER_CHAIN(1, limits, 1000168000)
	VKMOE_ADAPTER_CHAIN(driver, driver, 1000196000)
	VKMOE_ADAPTER_CHAIN(buffers, buffers, 1000413001)
	VKMOE_ADAPTER_CHAIN(sizes, sizes, 1000225000)
	VKMOE_ADAPTER_CHAIN(matrix, matrix, 1000506002)
	VKMOE_ADAPTER_CHAIN(matrix2, matrix2, 1000593002)
#undef VKMOE_ADAPTER_CHAIN
	f->properties2(device, &a->head);
}

static inline int32_t vkmoe_adapter_matrices(
    vkmoe_adapter_functions *f, void *device, uint32_t *count, vkmoe_adapter_matrix_shape *shapes) {
	return f->matrices(device, count, shapes);
}

static inline int32_t vkmoe_adapter_matrices2(
    vkmoe_adapter_functions *f, void *device, uint32_t *count, vkmoe_adapter_flexible_shape *shapes) {
	return f->matrices2(device, count, shapes);
}

// Reads budget and usage of all 16 possible heaps into two arrays of 16; everything else stays on the C stack, so the
// call may be made as often as wanted.
static inline void vkmoe_adapter_read_budget(
    vkmoe_adapter_functions *f, void *device, uint64_t *budget, uint64_t *usage) {
	vkmoe_adapter_budget chained = {1000237000, NULL, {0}, {0}};
	vkmoe_adapter_memory2 memory;
	memset(&memory, 0, sizeof memory);
	memory.type = 1000059006;
	memory.next = &chained;
	f->memory2(device, &memory);
	memcpy(budget, chained.budget, sizeof chained.budget);
	memcpy(usage, chained.usage, sizeof chained.usage);
}

static inline int32_t vkmoe_adapter_create_messenger(
    vkmoe_adapter_functions *f, void *instance, const vkmoe_adapter_messenger_info *info, uint64_t *messenger) {
	return f->create_messenger(instance, info, NULL, messenger);
}

#endif
