package vk

/*
#include "ext_calls.h"

extern uint32_t vkmoeAdapterMessage(uint32_t, uint32_t, vkmoe_adapter_message *, uintptr_t);
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/cgo"
	"slices"
	"strings"
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// Instance extensions and the layer.
const (
	debugUtilsExtension         = "VK_EXT_debug_utils"
	portabilityExtension        = "VK_KHR_portability_enumeration"
	layerSettingsExtension      = "VK_EXT_layer_settings"
	validationFeaturesExtension = "VK_EXT_validation_features"

	validationLayer = "VK_LAYER_KHRONOS_validation"
)

// The Vulkan versions asked for, newest first. What a device can do beyond its own version comes as extensions.
var apiVersions = []uint32{apiVersion(1, 3), apiVersion(1, 2), apiVersion(1, 1), apiVersion(1, 0)}

func apiVersion(major, minor uint32) uint32 { return major<<22 | minor<<12 }

// An instance is a VkInstance shared by everything in the process that wants the same validation and the same surface
// extensions.
//
// vulkan-go keeps its function pointers in process-wide C variables. That is sound for several instances and devices
// because what vkGetInstanceProcAddr returns for core functions are the loader's dispatching entry points, the same for
// every instance; they are loaded once, with the first instance, so that no later acquireInstance writes what another
// goroutine may be calling through.
//
// Two habits of vulkan-go shape how it is called in this package. Structures passed by pointer are copied to C memory
// that lives until Free. Slices of structures or strings (also inside create-infos) are copied to C memory that a
// finalizer frees, possibly before the call that needs it has returned. So create-infos are built in our own C memory
// and handed over by reference, and functions that take slices of structures are called through ext_calls.h.
type instance struct {
	handle    vulkan.Instance
	version   uint32 // Vulkan version asked for: devices offer no more than this
	mode      validationMode
	functions *C.vkmoe_adapter_functions

	messages *messageLog // nil without validation
	user     cgo.Handle  // of messages; what the messenger's callback gets
}

// instances holds the live instances.
var instances struct {
	sync.Mutex
	live        map[instanceKey]*instance
	initialized bool // vulkan-go has its function pointers
}

// An instanceKey is what makes one instance serve another caller.
type instanceKey struct {
	mode     validationMode
	surfaces string // the surface extensions, sorted and joined by spaces
}

// acquireInstance returns the process's instance, making it on first use. validation asks for the validation layer, as
// does the environment (see validationMode); surfaces are the extensions that a window system needs, none for
// computing. The instance stays until the process ends: NVIDIA's driver (580.159 was seen) cannot be unloaded and
// loaded again more than about a dozen times before vkCreateInstance fails.
//
// Errors: ErrNoLoader, ErrNoDevice when there is a loader without any driver, *MissingLayerError, *SettingError,
// *ResultError for a surface extension that the loader lacks.
func acquireInstance(validation bool, surfaces ...string) (*instance, error) {
	mode, err := validationWanted(validation)
	if err != nil {
		return nil, err
	}
	symbol, err := openLoader()
	if err != nil {
		return nil, err
	}
	surfaces = slices.Compact(slices.Sorted(slices.Values(surfaces)))
	key := instanceKey{mode, strings.Join(surfaces, " ")}
	instances.Lock()
	defer instances.Unlock()
	if in := instances.live[key]; in != nil {
		return in, nil
	}
	in, err := createInstance(symbol, mode, surfaces)
	if err != nil {
		return nil, err
	}
	if instances.live == nil {
		instances.live = map[instanceKey]*instance{}
	}
	instances.live[key] = in
	return in, nil
}

func createInstance(symbol unsafe.Pointer, mode validationMode, surfaces []string) (_ *instance, failure error) {
	var mem cMemory
	defer mem.free()

	global := (*C.vkmoe_adapter_global)(mem.alloc(C.sizeof_vkmoe_adapter_global))
	C.vkmoe_adapter_load_global(symbol, global)
	in := &instance{version: loaderVersion(global), mode: mode}
	defer func() {
		if failure != nil {
			in.abandon()
		}
	}()

	extensions, err := instanceExtensions(global, "")
	if err != nil {
		return nil, err
	}
	info := (*C.vkmoe_adapter_instance_info)(mem.alloc(C.sizeof_vkmoe_adapter_instance_info))
	info._type = 1
	info.application = in.applicationInfo(&mem)
	enabled := slices.Clone(surfaces)
	for _, name := range surfaces {
		if !extensions[name] {
			refused := &ResultError{Op: "vkCreateInstance", Code: int32(vulkan.ErrorExtensionNotPresent)}
			return nil, fmt.Errorf("%w: neither the loader nor a driver has %s", refused, name)
		}
	}
	var layers []string
	if extensions[portabilityExtension] {
		enabled = append(enabled, portabilityExtension)
		info.flags = 1 // VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR
	}
	var messenger *C.vkmoe_adapter_messenger_info
	if mode != validationOff {
		settings, more, err := validationSettings(&mem, global, mode, extensions)
		if err != nil {
			return nil, err
		}
		layers, enabled = append(layers, validationLayer), append(enabled, more...)
		in.messages = newMessageLog(mode)
		in.user = cgo.NewHandle(in.messages)
		// In the chain too, so that messages about vkCreateInstance arrive.
		messenger = messengerInfo(&mem, in.user)
		messenger.next = settings
		info.next = unsafe.Pointer(messenger)
	}
	info.layers, info.layer_count = mem.strings(layers)
	info.extensions, info.extension_count = mem.strings(enabled)

	var handle vulkan.Instance // not a field: cgo would check everything that the instance points to
	result := vulkan.CreateInstance(vulkan.NewInstanceCreateInfoRef(unsafe.Pointer(info)), nil, &handle)
	if err := check("vkCreateInstance", result); err != nil {
		if result == vulkan.ErrorIncompatibleDriver {
			return nil, fmt.Errorf("%w: the loader found no driver (%w); %s", ErrNoDevice, err, deviceHint(runtime.GOOS))
		}
		return nil, err
	}
	in.handle = handle
	return in, in.load(symbol, messenger)
}

// abandon takes a half-made instance down.
func (in *instance) abandon() {
	if in.handle != nil {
		vulkan.DestroyInstance(in.handle, nil)
	}
	C.free(unsafe.Pointer(in.functions))
	if in.user != 0 {
		in.user.Delete()
	}
}

// load resolves the functions of a new instance and starts its messenger.
func (in *instance) load(symbol unsafe.Pointer, messenger *C.vkmoe_adapter_messenger_info) error {
	in.functions = (*C.vkmoe_adapter_functions)(C.calloc(1, C.sizeof_vkmoe_adapter_functions))
	if !instances.initialized {
		if err := vulkan.InitInstance(in.handle); err != nil {
			return fmt.Errorf("vk: vulkan-go: %w", err)
		}
		instances.initialized = true
	}
	C.vkmoe_adapter_load(symbol, unsafe.Pointer(in.handle), in.functions)
	if messenger == nil {
		return nil
	}
	if in.functions.create_messenger == nil {
		return errors.New("vk: validation: " + debugUtilsExtension + " was enabled but has no functions")
	}
	messenger.next = nil
	var created C.uint64_t // it is never destroyed, as the instance is not
	result := C.vkmoe_adapter_create_messenger(in.functions, unsafe.Pointer(in.handle), messenger, &created)
	return check("vkCreateDebugUtilsMessengerEXT", vulkan.Result(result))
}

func (in *instance) applicationInfo(mem *cMemory) *C.vkmoe_adapter_application_info {
	info := (*C.vkmoe_adapter_application_info)(mem.alloc(C.sizeof_vkmoe_adapter_application_info))
	info.application = mem.string("vkmoe")
	info.engine = mem.string("vkmoe")
	info.api_version = C.uint32_t(in.version)
	return info
}

// loaderVersion is the newest version of apiVersions that the loader knows.
func loaderVersion(global *C.vkmoe_adapter_global) uint32 {
	var offered C.uint32_t = C.uint32_t(apiVersion(1, 0))
	if global.version != nil { // a Vulkan 1.0 loader does not have it
		if C.vkmoe_adapter_version(global, &offered) < 0 {
			offered = C.uint32_t(apiVersion(1, 0))
		}
	}
	for _, version := range apiVersions {
		if version <= uint32(offered) {
			return version
		}
	}
	return apiVersion(1, 0)
}

// instanceExtensions lists the instance extensions of the loader and its drivers, or of one layer.
func instanceExtensions(global *C.vkmoe_adapter_global, layer string) (map[string]bool, error) {
	var mem cMemory
	defer mem.free()
	var name *C.char
	if layer != "" {
		name = mem.string(layer)
	}
	return extensionNames("vkEnumerateInstanceExtensionProperties",
		func(count *C.uint32_t, list *C.vkmoe_adapter_extension) C.int32_t {
			return C.vkmoe_adapter_instance_extensions(global, name, count, list)
		})
}

// extensionNames runs an enumeration until it is complete: the list may grow between asking for its length and
// reading it.
func extensionNames(
	op string, enumerate func(*C.uint32_t, *C.vkmoe_adapter_extension) C.int32_t,
) (map[string]bool, error) {
	for {
		var count C.uint32_t
		if err := check(op, vulkan.Result(enumerate(&count, nil))); err != nil {
			return nil, err
		}
		list := make([]C.vkmoe_adapter_extension, max(int(count), 1))
		result := vulkan.Result(enumerate(&count, &list[0]))
		if err := check(op, result); err != nil {
			return nil, err
		}
		if result == vulkan.Incomplete {
			continue
		}
		names := make(map[string]bool, int(count))
		for i := range list[:count] {
			names[C.GoString(&list[i].name[0])] = true
		}
		return names, nil
	}
}

// messengerInfo describes a messenger that sends warnings and errors of the validation layers to a message log.
func messengerInfo(mem *cMemory, user cgo.Handle) *C.vkmoe_adapter_messenger_info {
	info := (*C.vkmoe_adapter_messenger_info)(mem.alloc(C.sizeof_vkmoe_adapter_messenger_info))
	info._type = 1000128004
	info.severities = severityWarning | severityError
	info.types = 2 // VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT; general ones are the loader's, about other drivers
	info.callback = (C.vkmoe_adapter_message_proc)(C.vkmoeAdapterMessage)
	info.user = C.uintptr_t(user)
	return info
}

// cMemory is C memory that lives until free: Vulkan's structures point at each other, which Go memory handed to C must
// not do. Its zero value is empty and ready.
type cMemory struct{ blocks []unsafe.Pointer }

// alloc returns zeroed memory.
func (m *cMemory) alloc(size C.size_t) unsafe.Pointer {
	block := C.calloc(1, max(size, 1))
	m.blocks = append(m.blocks, block)
	return block
}

func (m *cMemory) string(s string) *C.char {
	text := C.CString(strings.ReplaceAll(s, "\x00", ""))
	m.blocks = append(m.blocks, unsafe.Pointer(text))
	return text
}

// strings returns an array of C strings and its length.
func (m *cMemory) strings(list []string) (**C.char, C.uint32_t) {
	if len(list) == 0 {
		return nil, 0
	}
	array := (**C.char)(m.alloc(C.size_t(len(list)) * C.size_t(unsafe.Sizeof(uintptr(0)))))
	slots := unsafe.Slice(array, len(list))
	for i, s := range list {
		slots[i] = m.string(s)
	}
	return array, C.uint32_t(len(list))
}

func (m *cMemory) free() {
	for _, block := range m.blocks {
		C.free(block)
	}
	m.blocks = nil
}
