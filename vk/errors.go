package vk

import (
	"errors"
	"fmt"
	"strings"

	vulkan "github.com/vulkan-go/vulkan"
)

// Sentinels for errors.Is. The errors that match them say more.
var (
	// ErrNoLoader: the system has no Vulkan loader library.
	ErrNoLoader = errors.New("vk: no Vulkan loader")
	// ErrNoDevice: there is a loader, but no device vkmoe can use.
	ErrNoDevice = errors.New("vk: no usable Vulkan device")
	// ErrDeviceLost: the device stopped answering; everything that belongs to it is gone.
	ErrDeviceLost = errors.New("vk: device lost")
	// ErrOutOfMemory: the device or the host cannot give the memory asked for.
	ErrOutOfMemory = errors.New("vk: out of memory")
	// ErrCompileOnly: the device was opened with Options.CompileOnly and runs nothing.
	ErrCompileOnly = errors.New("vk: the device was opened to compile only")
	// ErrClosed: the device, tensor or recorder was closed before the call.
	ErrClosed = errors.New("vk: closed")
)

// A ResultError is a Vulkan call that returned an error code. errors.Is matches it with ErrDeviceLost or ErrOutOfMemory
// where the code means that.
type ResultError struct {
	Op   string // the Vulkan function, for example "vkQueueSubmit"
	Code int32  // its VkResult
}

func (e *ResultError) Error() string { return fmt.Sprintf("vk: %s: %s", e.Op, resultName(e.Code)) }

// Is reports whether the code means target, which is ErrDeviceLost or ErrOutOfMemory.
func (e *ResultError) Is(target error) bool {
	switch e.Code {
	case -4:
		return target == ErrDeviceLost
	case -1, -2, -1000069000:
		return target == ErrOutOfMemory
	}
	return false
}

// check makes an error of a Vulkan error code. The codes that are not errors (VK_INCOMPLETE, VK_TIMEOUT and the like,
// all positive) pass.
func check(op string, r vulkan.Result) error {
	if r >= 0 {
		return nil
	}
	return &ResultError{Op: op, Code: int32(r)}
}

// resultNames has the names of the VkResult codes; vulkan-go knows the ones of Vulkan 1.1 only.
var resultNames = map[int32]string{
	0:           "VK_SUCCESS",
	1:           "VK_NOT_READY",
	2:           "VK_TIMEOUT",
	3:           "VK_EVENT_SET",
	4:           "VK_EVENT_RESET",
	5:           "VK_INCOMPLETE",
	-1:          "VK_ERROR_OUT_OF_HOST_MEMORY",
	-2:          "VK_ERROR_OUT_OF_DEVICE_MEMORY",
	-3:          "VK_ERROR_INITIALIZATION_FAILED",
	-4:          "VK_ERROR_DEVICE_LOST",
	-5:          "VK_ERROR_MEMORY_MAP_FAILED",
	-6:          "VK_ERROR_LAYER_NOT_PRESENT",
	-7:          "VK_ERROR_EXTENSION_NOT_PRESENT",
	-8:          "VK_ERROR_FEATURE_NOT_PRESENT",
	-9:          "VK_ERROR_INCOMPATIBLE_DRIVER",
	-10:         "VK_ERROR_TOO_MANY_OBJECTS",
	-11:         "VK_ERROR_FORMAT_NOT_SUPPORTED",
	-12:         "VK_ERROR_FRAGMENTED_POOL",
	-13:         "VK_ERROR_UNKNOWN",
	-1000000000: "VK_ERROR_SURFACE_LOST_KHR",
	-1000000001: "VK_ERROR_NATIVE_WINDOW_IN_USE_KHR",
	1000001003:  "VK_SUBOPTIMAL_KHR",
	-1000001004: "VK_ERROR_OUT_OF_DATE_KHR",
	-1000003001: "VK_ERROR_INCOMPATIBLE_DISPLAY_KHR",
	-1000011001: "VK_ERROR_VALIDATION_FAILED",
	-1000012000: "VK_ERROR_INVALID_SHADER_NV",
	-1000023000: "VK_ERROR_IMAGE_USAGE_NOT_SUPPORTED_KHR",
	-1000023001: "VK_ERROR_VIDEO_PICTURE_LAYOUT_NOT_SUPPORTED_KHR",
	-1000023002: "VK_ERROR_VIDEO_PROFILE_OPERATION_NOT_SUPPORTED_KHR",
	-1000023003: "VK_ERROR_VIDEO_PROFILE_FORMAT_NOT_SUPPORTED_KHR",
	-1000023004: "VK_ERROR_VIDEO_PROFILE_CODEC_NOT_SUPPORTED_KHR",
	-1000023005: "VK_ERROR_VIDEO_STD_VERSION_NOT_SUPPORTED_KHR",
	-1000069000: "VK_ERROR_OUT_OF_POOL_MEMORY",
	-1000072003: "VK_ERROR_INVALID_EXTERNAL_HANDLE",
	-1000158000: "VK_ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT",
	-1000161000: "VK_ERROR_FRAGMENTATION",
	-1000174001: "VK_ERROR_NOT_PERMITTED",
	-1000208000: "VK_ERROR_PRESENT_TIMING_QUEUE_FULL_EXT",
	-1000255000: "VK_ERROR_FULL_SCREEN_EXCLUSIVE_MODE_LOST_EXT",
	-1000257000: "VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS",
	1000268000:  "VK_THREAD_IDLE_KHR",
	1000268001:  "VK_THREAD_DONE_KHR",
	1000268002:  "VK_OPERATION_DEFERRED_KHR",
	1000268003:  "VK_OPERATION_NOT_DEFERRED_KHR",
	1000297000:  "VK_PIPELINE_COMPILE_REQUIRED",
	-1000299000: "VK_ERROR_INVALID_VIDEO_STD_PARAMETERS_KHR",
	-1000338000: "VK_ERROR_COMPRESSION_EXHAUSTED_EXT",
	1000482000:  "VK_INCOMPATIBLE_SHADER_BINARY_EXT",
	1000483000:  "VK_PIPELINE_BINARY_MISSING_KHR",
	-1000483000: "VK_ERROR_NOT_ENOUGH_SPACE_KHR",
}

func resultName(code int32) string {
	if name, ok := resultNames[code]; ok {
		return name
	}
	return fmt.Sprintf("VkResult %d", code)
}

// An UnsupportedError is something the device lacks, or that was switched off on it.
type UnsupportedError struct {
	Feature Feature // the optional feature, "" when a base requirement is missing
	Need    string  // what needs it, or what is required, in words
	Device  string  // the device's name
}

func (e *UnsupportedError) Error() string {
	if e.Feature == "" {
		return fmt.Sprintf("vk: %s cannot run vkmoe: it needs %s", e.Device, e.Need)
	}
	text := fmt.Sprintf("vk: %s has no %s, or it is switched off (VKMOE_DISABLE)", e.Device, e.Feature)
	if e.Need != "" {
		text += "; " + e.Need + " needs it"
	}
	return text
}

// A ShapeError is an argument of the wrong shape, length or type.
type ShapeError struct {
	Op, Arg   string // the call and the name of its argument
	Want, Got string // both in words or as shapes, for example "[128 64] f32"
}

func (e *ShapeError) Error() string {
	return fmt.Sprintf("vk: %s: %s is %s, want %s", e.Op, e.Arg, e.Got, e.Want)
}

// A SettingError is an environment variable with a value that means nothing.
type SettingError struct {
	Variable, Value string
	Want            string // the values there are
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("vk: %s=%s: want %s", e.Variable, e.Value, e.Want)
}

// An OutOfMemoryError says what an allocation asked for and what there was. errors.Is matches ErrOutOfMemory. Budget and
// Limit are 0 when they are not known.
type OutOfMemoryError struct {
	Op     string // the call
	Bytes  uint64 // what it asked for
	Budget uint64 // bytes the driver lets this process still allocate
	Limit  uint64 // largest single allocation of the device, bytes
}

func (e *OutOfMemoryError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vk: %s: out of memory: %s asked for", e.Op, byteCount(e.Bytes))
	if e.Budget > 0 {
		fmt.Fprintf(&b, ", %s left in the budget", byteCount(e.Budget))
	}
	if e.Limit > 0 {
		fmt.Fprintf(&b, ", %s at most in one allocation", byteCount(e.Limit))
	}
	return b.String()
}

// Is reports whether target is ErrOutOfMemory.
func (e *OutOfMemoryError) Is(target error) bool { return target == ErrOutOfMemory }

// byteCount writes a number of bytes with a binary unit.
func byteCount(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
