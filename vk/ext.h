// The Vulkan types that vkmoe needs to find and open a device and that vulkan-go (Vulkan 1.1.88) lacks or cannot pass
// without allocating. Only the binary layout matters: names are ours, so that no other Vulkan header can clash, and
// enumerations are plain uint32_t. The functions are in ext_calls.h.

#ifndef VKMOE_ADAPTER_EXT_H
#define VKMOE_ADAPTER_EXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define VKMOE_ADAPTER_CALL __stdcall
#else
#define VKMOE_ADAPTER_CALL
#endif

typedef void (*vkmoe_adapter_proc)(void);
typedef vkmoe_adapter_proc(VKMOE_ADAPTER_CALL *vkmoe_adapter_gipa)(void *instance, const char *name);

// Extension and layer lists.

typedef struct {
	char name[256];
	uint32_t version;
} vkmoe_adapter_extension;

typedef struct {
	char name[256];
	uint32_t spec_version;
	uint32_t version;
	char description[256];
} vkmoe_adapter_layer;

// Structures that create an instance.

typedef struct {
	uint32_t type; // 0
	const void *next;
	const char *application;
	uint32_t application_version;
	const char *engine;
	uint32_t engine_version;
	uint32_t api_version;
} vkmoe_adapter_application_info;

typedef struct {
	uint32_t type; // 1
	const void *next;
	uint32_t flags;
	const vkmoe_adapter_application_info *application;
	uint32_t layer_count;
	const char *const *layers;
	uint32_t extension_count;
	const char *const *extensions;
} vkmoe_adapter_instance_info;

typedef struct {
	uint32_t type; // 1000247000
	const void *next;
	uint32_t enabled_count;
	const uint32_t *enabled;
	uint32_t disabled_count;
	const uint32_t *disabled;
} vkmoe_adapter_validation_features;

typedef struct {
	const char *layer;
	const char *name;
	uint32_t value_type; // 0: 32-bit boolean
	uint32_t value_count;
	const void *values;
} vkmoe_adapter_layer_setting;

typedef struct {
	uint32_t type; // 1000496000
	const void *next;
	uint32_t count;
	const vkmoe_adapter_layer_setting *settings;
} vkmoe_adapter_layer_settings;

// Debug messenger.

typedef struct {
	uint32_t type;
	const void *next;
	uint32_t object_type;
	uint64_t handle;
	const char *name;
} vkmoe_adapter_object_name;

typedef struct {
	uint32_t type;
	const void *next;
	uint32_t flags;
	const char *id_name;
	int32_t id;
	const char *text;
	uint32_t queue_label_count;
	const void *queue_labels;
	uint32_t command_label_count;
	const void *command_labels;
	uint32_t object_count;
	const vkmoe_adapter_object_name *objects;
} vkmoe_adapter_message;

typedef uint32_t(VKMOE_ADAPTER_CALL *vkmoe_adapter_message_proc)(
    uint32_t severity, uint32_t types, const vkmoe_adapter_message *message, uintptr_t user);

typedef struct {
	uint32_t type; // 1000128004
	const void *next;
	uint32_t flags;
	uint32_t severities;
	uint32_t types;
	vkmoe_adapter_message_proc callback;
	uintptr_t user; // a pointer to Vulkan, a runtime/cgo handle to us
} vkmoe_adapter_messenger_info;

// Structures that create a device.

typedef struct {
	uint32_t type; // 2
	const void *next;
	uint32_t flags;
	uint32_t family;
	uint32_t count;
	const float *priorities;
} vkmoe_adapter_queue_info;

typedef struct {
	uint32_t type; // 3
	const void *next;
	uint32_t flags;
	uint32_t queue_count;
	const vkmoe_adapter_queue_info *queues;
	uint32_t layer_count;
	const char *const *layers;
	uint32_t extension_count;
	const char *const *extensions;
	const void *features;
} vkmoe_adapter_device_info;

// What a physical device answers.

// Any feature structure: a header and then nothing but 32-bit booleans. The longest, VkPhysicalDeviceFeatures2, has 55
// of them; a longer tail than the driver knows is never touched.
typedef struct {
	uint32_t type;
	void *next;
	uint32_t flags[60];
} vkmoe_adapter_features;

// VkPhysicalDeviceProperties2, of which only the chain is read here; the body is larger than any driver writes.
typedef struct {
	uint32_t type; // 1000059001
	void *next;
	uint64_t body[160];
} vkmoe_adapter_properties;

typedef struct {
	uint32_t type; // 1000071004
	void *next;
	uint8_t device_uuid[16];
	uint8_t driver_uuid[16];
	uint8_t device_luid[8];
	uint32_t node_mask;
	uint32_t luid_valid;
} vkmoe_adapter_id_properties;

typedef struct {
	uint32_t type; // 1000094000
	void *next;
	uint32_t size;
	uint32_t stages;
	uint32_t operations;
	uint32_t quad_all_stages;
} vkmoe_adapter_subgroup_properties;

typedef struct {
	uint32_t type; // 1000168000
	void *next;
	uint32_t max_set_descriptors;
	uint64_t max_allocation;
} vkmoe_adapter_maintenance3_properties;

typedef struct {
	uint32_t type; // 1000413001
	void *next;
	uint64_t max_buffer;
} vkmoe_adapter_maintenance4_properties;

typedef struct {
	uint32_t type; // 1000196000
	void *next;
	uint32_t id;
	char name[256];
	char info[256];
	uint8_t conformance[4];
} vkmoe_adapter_driver_properties;

typedef struct {
	uint32_t type; // 1000225000
	void *next;
	uint32_t min_size;
	uint32_t max_size;
	uint32_t max_subgroups;
	uint32_t stages;
} vkmoe_adapter_size_properties;

typedef struct {
	uint32_t type; // 1000506002
	void *next;
	uint32_t stages;
} vkmoe_adapter_matrix_properties;

typedef struct {
	uint32_t type; // 1000593002
	void *next;
	uint32_t max_workgroup;
	uint32_t max_dimension;
	uint32_t reserved_shared;
} vkmoe_adapter_matrix2_properties;

typedef struct {
	uint32_t type; // 1000506001
	void *next;
	uint32_t m, n, k;
	uint32_t a, b, c, d;
	uint32_t saturating;
	uint32_t scope;
} vkmoe_adapter_matrix_shape;

typedef struct {
	uint32_t type; // 1000593001
	void *next;
	uint32_t m, n, k;
	uint32_t a, b, c, d;
	uint32_t saturating;
	uint32_t scope;
	uint32_t invocations;
} vkmoe_adapter_flexible_shape;

// Every property structure vkmoe asks for, to be chained as far as the device has announced them.
typedef struct {
	vkmoe_adapter_properties head;
	vkmoe_adapter_id_properties id;
	vkmoe_adapter_subgroup_properties subgroup;
	vkmoe_adapter_maintenance3_properties limits;
	vkmoe_adapter_driver_properties driver;
	vkmoe_adapter_maintenance4_properties buffers;
	vkmoe_adapter_size_properties sizes;
	vkmoe_adapter_matrix_properties matrix;
	vkmoe_adapter_matrix2_properties matrix2;
} vkmoe_adapter_answers;

typedef struct {
	uint32_t flags;
	uint32_t count;
	uint32_t timestamp_bits;
	uint32_t granularity[3];
} vkmoe_adapter_family;

typedef struct {
	uint32_t flags;
	uint32_t heap;
} vkmoe_adapter_memory_type;

typedef struct {
	uint64_t size;
	uint32_t flags;
} vkmoe_adapter_memory_heap;

typedef struct {
	uint32_t type_count;
	vkmoe_adapter_memory_type types[32];
	uint32_t heap_count;
	vkmoe_adapter_memory_heap heaps[16];
} vkmoe_adapter_memory;

typedef struct {
	uint32_t type; // 1000059006
	void *next;
	vkmoe_adapter_memory memory;
} vkmoe_adapter_memory2;

typedef struct {
	uint32_t type; // 1000237000
	void *next;
	uint64_t budget[16];
	uint64_t usage[16];
} vkmoe_adapter_budget;

// The sizes of Vulkan's own structures on 64-bit systems.
#if UINTPTR_MAX == 0xffffffffffffffff
#define VKMOE_ADAPTER_SIZE(name, bytes) _Static_assert(sizeof(vkmoe_adapter_##name) == (bytes), #name)
VKMOE_ADAPTER_SIZE(extension, 260);
VKMOE_ADAPTER_SIZE(layer, 520);
VKMOE_ADAPTER_SIZE(application_info, 48);
VKMOE_ADAPTER_SIZE(instance_info, 64);
VKMOE_ADAPTER_SIZE(validation_features, 48);
VKMOE_ADAPTER_SIZE(layer_setting, 32);
VKMOE_ADAPTER_SIZE(object_name, 40);
VKMOE_ADAPTER_SIZE(message, 96);
VKMOE_ADAPTER_SIZE(messenger_info, 48);
VKMOE_ADAPTER_SIZE(queue_info, 40);
VKMOE_ADAPTER_SIZE(device_info, 72);
VKMOE_ADAPTER_SIZE(id_properties, 64);
VKMOE_ADAPTER_SIZE(driver_properties, 536);
VKMOE_ADAPTER_SIZE(matrix_shape, 56);
VKMOE_ADAPTER_SIZE(flexible_shape, 56);
VKMOE_ADAPTER_SIZE(family, 24);
VKMOE_ADAPTER_SIZE(memory, 520);
VKMOE_ADAPTER_SIZE(memory2, 536);
VKMOE_ADAPTER_SIZE(budget, 272);
#undef VKMOE_ADAPTER_SIZE
#endif

#endif
