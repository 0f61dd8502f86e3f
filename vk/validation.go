package vk

/*
#include "ext_calls.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime/cgo"
	"slices"
	"strings"
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// A validationMode says which checks of the Khronos validation layer run. The environment variable VKMOE_VALIDATION
// sets it: 1 for core and synchronization validation, gpu to check addresses on the GPU too (slow), 0 or empty for
// none.
type validationMode uint8

const (
	validationOff  validationMode = iota
	validationSync                // core and synchronization
	validationGPU                 // the same and GPU-assisted
)

const validationVariable = "VKMOE_VALIDATION"

// validationWanted is the mode that the environment asks for, or the ordinary one when the program asks for validation.
func validationWanted(program bool) (validationMode, error) {
	mode, err := parseValidation(os.Getenv(validationVariable))
	if err == nil && mode == validationOff && program {
		mode = validationSync
	}
	return mode, err
}

func parseValidation(value string) (validationMode, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "0", "off", "false":
		return validationOff, nil
	case "1", "on", "true", "sync":
		return validationSync, nil
	case "gpu":
		return validationGPU, nil
	}
	return validationOff, &SettingError{Variable: validationVariable, Value: value, Want: "1, gpu or 0"}
}

// A MissingLayerError is a request for validation on a system without the validation layer, or with one too old.
type MissingLayerError struct {
	Layer string // the layer's name
	Need  string // the extension it lacks; empty when there is no such layer at all
}

func (e *MissingLayerError) Error() string {
	const hint = "install it with: apt install vulkan-validationlayers (Debian, Ubuntu), " +
		"dnf install vulkan-validation-layers (Fedora), pacman -S vulkan-validation-layers (Arch) or the Vulkan SDK; " +
		"VK_LAYER_PATH or VK_ADD_LAYER_PATH may name the folder of its .json file"
	if e.Need != "" {
		return fmt.Sprintf("vk: validation was asked for, but %s lacks %s; %s", e.Layer, e.Need, hint)
	}
	return fmt.Sprintf("vk: validation was asked for, but there is no %s; %s", e.Layer, hint)
}

// validationSettings finds the validation layer and returns the chain that configures it and the instance extensions
// that this takes.
func validationSettings(
	mem *cMemory, global *C.vkmoe_adapter_global, mode validationMode, loaderHas map[string]bool,
) (unsafe.Pointer, []string, error) {
	found, err := hasLayer(global, validationLayer)
	if err != nil {
		return nil, nil, err
	}
	if !found {
		return nil, nil, &MissingLayerError{Layer: validationLayer}
	}
	layerHas, err := instanceExtensions(global, validationLayer)
	if err != nil {
		return nil, nil, err
	}
	if !layerHas[debugUtilsExtension] && !loaderHas[debugUtilsExtension] {
		return nil, nil, &MissingLayerError{Layer: validationLayer, Need: debugUtilsExtension}
	}
	switch {
	case layerHas[layerSettingsExtension]: // since 1.3.272; the other one is deprecated there
		// Not enabled by name: the layer reads its settings all the same, and loaders older than the extension refuse
		// an instance that names it.
		return layerSettings(mem, mode), []string{debugUtilsExtension}, nil
	case layerHas[validationFeaturesExtension]:
		return validationFeatures(mem, mode), []string{debugUtilsExtension, validationFeaturesExtension}, nil
	}
	return nil, nil, &MissingLayerError{Layer: validationLayer, Need: layerSettingsExtension}
}

func hasLayer(global *C.vkmoe_adapter_global, name string) (bool, error) {
	for {
		var count C.uint32_t
		err := check("vkEnumerateInstanceLayerProperties", vulkan.Result(C.vkmoe_adapter_layers(global, &count, nil)))
		if err != nil {
			return false, err
		}
		list := make([]C.vkmoe_adapter_layer, max(int(count), 1))
		result := vulkan.Result(C.vkmoe_adapter_layers(global, &count, &list[0]))
		if err := check("vkEnumerateInstanceLayerProperties", result); err != nil {
			return false, err
		}
		if result == vulkan.Incomplete {
			continue
		}
		for i := range list[:count] {
			if C.GoString(&list[i].name[0]) == name {
				return true, nil
			}
		}
		return false, nil
	}
}

// layerSettings switches checks on and off by the layer's setting names. Shared memory races stay unchecked: the layer (1.4.3xx)
// takes barriers in loops for none, and reports invocation 0 as racing with invocation 0.
func layerSettings(mem *cMemory, mode validationMode) unsafe.Pointer {
	type choice struct {
		name string
		on   C.uint32_t
	}
	choices := []choice{{"validate_sync", 1}}
	if mode == validationGPU {
		choices = append(choices, choice{"gpuav_enable", 1}, choice{"gpuav_shared_memory_data_race", 0})
	}
	array := (*C.vkmoe_adapter_layer_setting)(
		mem.alloc(C.size_t(len(choices)) * C.sizeof_vkmoe_adapter_layer_setting))
	for i, c := range choices {
		value := (*C.uint32_t)(mem.alloc(C.sizeof_uint32_t))
		*value = c.on
		setting := &unsafe.Slice(array, len(choices))[i]
		setting.layer = mem.string(validationLayer)
		setting.name = mem.string(c.name)
		setting.value_count = 1
		setting.values = unsafe.Pointer(value)
	}
	info := (*C.vkmoe_adapter_layer_settings)(mem.alloc(C.sizeof_vkmoe_adapter_layer_settings))
	info._type = 1000496000
	info.count = C.uint32_t(len(choices))
	info.settings = array
	return unsafe.Pointer(info)
}

// validationFeatures switches checks on in layers that have no settings extension yet.
func validationFeatures(mem *cMemory, mode validationMode) unsafe.Pointer {
	features := []C.uint32_t{4} // synchronization
	if mode == validationGPU {
		features = append(features, 0, 1) // GPU-assisted, with a descriptor set reserved for it
	}
	array := (*C.uint32_t)(mem.alloc(C.size_t(len(features)) * C.sizeof_uint32_t))
	copy(unsafe.Slice(array, len(features)), features)
	info := (*C.vkmoe_adapter_validation_features)(mem.alloc(C.sizeof_vkmoe_adapter_validation_features))
	info._type = 1000247000
	info.enabled_count = C.uint32_t(len(features))
	info.enabled = array
	return unsafe.Pointer(info)
}

// layerChatter are the warnings in which the layer (1.4.3xx) tells about itself when GPU-assisted checks run: that
// other checks run beside them, and which device limits it lowers and features it enables for its own use. Nothing that
// the program does could avoid them.
var layerChatter = map[string]bool{
	"VALIDATION-SETTINGS":            true,
	"WARNING-Setting-Limit-Adjusted": true,
}

// newMessageLog is the log of an instance.
func newMessageLog(mode validationMode) *messageLog {
	log := &messageLog{}
	if mode == validationGPU {
		log.ignored = layerChatter
	}
	return log
}

// The message severities, as VK_EXT_debug_utils numbers them.
const (
	severityWarning = 0x100
	severityError   = 0x1000
)

// A ValidationMessage is one warning or error of the validation layer.
type ValidationMessage struct {
	Severity string   // "error" or "warning"
	ID       string   // what was violated, for example "VUID-vkCmdDispatch-None-02699"; may be empty
	Text     string   // the layer's explanation
	Objects  []string // the objects concerned: their debug names, or object type and handle
}

func (m ValidationMessage) String() string { return m.Severity + ": " + m.ID + ": " + m.Text }

// A ValidationError holds the error messages of the validation layer that a call caused.
type ValidationError struct{ Messages []ValidationMessage }

func (e *ValidationError) Error() string {
	if len(e.Messages) == 1 {
		return "vk: validation: " + e.Messages[0].String()
	}
	return fmt.Sprintf("vk: validation: %d messages, the first: %s", len(e.Messages), e.Messages[0])
}

// ValidationMessages returns the validation messages of all instances of this process so far, oldest first; of more
// than 1,024 the newest. A test suite run with VKMOE_VALIDATION=1 wants none.
func ValidationMessages() []ValidationMessage { return processLog.since(0) }

// processLog collects what every instance collects.
var processLog messageLog

// logCapacity bounds a log: one wrong dispatch in a loop would otherwise fill the memory.
const logCapacity = 1024

// A messageLog keeps the newest messages and numbers all of them from 0. It may be used from any goroutine; drivers and
// layers may report from threads of their own.
type messageLog struct {
	ignored map[string]bool // message ids to drop

	sync.Mutex
	messages []ValidationMessage
	dropped  uint64 // number of older messages no longer kept
}

func (l *messageLog) add(m ValidationMessage) {
	l.Lock()
	defer l.Unlock()
	if len(l.messages) == logCapacity {
		l.messages = slices.Delete(l.messages, 0, 1)
		l.dropped++
	}
	l.messages = append(l.messages, m)
}

// mark is the number of the next message.
func (l *messageLog) mark() uint64 {
	l.Lock()
	defer l.Unlock()
	return l.dropped + uint64(len(l.messages))
}

// since returns a copy of the messages from number mark on.
func (l *messageLog) since(mark uint64) []ValidationMessage {
	l.Lock()
	defer l.Unlock()
	first := uint64(0)
	if mark > l.dropped {
		first = min(mark-l.dropped, uint64(len(l.messages)))
	}
	return slices.Clone(l.messages[first:])
}

// mark is a point in the instance's message log, for validationError. Without validation it is 0.
func (in *instance) mark() uint64 {
	if in.messages == nil {
		return 0
	}
	return in.messages.mark()
}

// validationError returns a *ValidationError with the error messages since mark, or nil when there are none. Messages
// carry no device: with several devices on one instance they may come from any of them.
func (in *instance) validationError(mark uint64) error {
	if in.messages == nil {
		return nil
	}
	messages := slices.DeleteFunc(in.messages.since(mark), func(m ValidationMessage) bool { return m.Severity != "error" })
	if len(messages) == 0 {
		return nil
	}
	return &ValidationError{Messages: messages}
}

// vkmoeAdapterMessage is the debug messenger's callback. user is a cgo.Handle of the instance's log. It returns false:
// the call that caused the message goes on.
//
//export vkmoeAdapterMessage
func vkmoeAdapterMessage(severity, _ C.uint32_t, data *C.vkmoe_adapter_message, user C.uintptr_t) C.uint32_t {
	m := ValidationMessage{
		Severity: "warning",
		ID:       goString(data.id_name),
		Text:     goString(data.text),
	}
	if severity&severityError != 0 {
		m.Severity = "error"
	}
	for _, object := range unsafe.Slice(data.objects, int(data.object_count)) {
		name := goString(object.name)
		if name == "" {
			name = fmt.Sprintf("object type %d, handle %#x", uint32(object.object_type), uint64(object.handle))
		}
		m.Objects = append(m.Objects, name)
	}
	log := cgo.Handle(user).Value().(*messageLog)
	if !log.ignored[m.ID] {
		log.add(m)
		processLog.add(m)
	}
	return 0
}

func goString(s *C.char) string {
	if s == nil {
		return ""
	}
	return C.GoString(s)
}
