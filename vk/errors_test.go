package vk

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

func TestCheck(t *testing.T) {
	for _, r := range []vulkan.Result{vulkan.Success, vulkan.Incomplete, vulkan.Timeout, vulkan.NotReady} {
		require.NoError(t, check("vkAnything", r))
	}
	err := fmt.Errorf("while testing: %w", check("vkQueueSubmit", vulkan.ErrorDeviceLost))
	require.ErrorIs(t, err, ErrDeviceLost)
	require.NotErrorIs(t, err, ErrOutOfMemory)
	var result *ResultError
	require.ErrorAs(t, err, &result)
	require.Equal(t, ResultError{Op: "vkQueueSubmit", Code: -4}, *result)
	require.EqualError(t, result, "vk: vkQueueSubmit: VK_ERROR_DEVICE_LOST")

	for _, r := range []vulkan.Result{vulkan.ErrorOutOfHostMemory, vulkan.ErrorOutOfDeviceMemory} {
		require.ErrorIs(t, check("vkAllocateMemory", r), ErrOutOfMemory)
		require.NotErrorIs(t, check("vkAllocateMemory", r), ErrDeviceLost)
	}
	require.EqualError(t, check("vkX", -12345), "vk: vkX: VkResult -12345")
}

func TestResultNamesAgreeWithVulkanGo(t *testing.T) {
	for code, name := range map[vulkan.Result]string{
		vulkan.ErrorFragmentedPool:     "VK_ERROR_FRAGMENTED_POOL",
		vulkan.ErrorOutOfPoolMemory:    "VK_ERROR_OUT_OF_POOL_MEMORY",
		vulkan.ErrorValidationFailed:   "VK_ERROR_VALIDATION_FAILED",
		vulkan.ErrorIncompatibleDriver: "VK_ERROR_INCOMPATIBLE_DRIVER",
		vulkan.ErrorTooManyObjects:     "VK_ERROR_TOO_MANY_OBJECTS",
		vulkan.ErrorFeatureNotPresent:  "VK_ERROR_FEATURE_NOT_PRESENT",
		vulkan.ErrorFragmentation:      "VK_ERROR_FRAGMENTATION",
	} {
		require.Equal(t, name, resultName(int32(code)))
	}
}

func TestErrorTexts(t *testing.T) {
	require.EqualError(t, &UnsupportedError{Need: "Vulkan 1.1, and there is 1.0", Device: "Old GPU"},
		"vk: Old GPU cannot run vkmoe: it needs Vulkan 1.1, and there is 1.0")
	require.EqualError(t, &UnsupportedError{Feature: kernel.F16, Need: "kernel mlp.f16", Device: "GPU"},
		"vk: GPU has no f16, or it is switched off (VKMOE_DISABLE); kernel mlp.f16 needs it")
	require.EqualError(t, &ShapeError{Op: "Upload", Arg: "values", Want: "6 elements", Got: "5 elements"},
		"vk: Upload: values is 5 elements, want 6 elements")

	full := &OutOfMemoryError{Op: "NewTensor", Bytes: 3 << 30, Budget: 1 << 29, Limit: 2 << 30}
	require.ErrorIs(t, full, ErrOutOfMemory)
	require.EqualError(t, full, "vk: NewTensor: out of memory: 3.0 GiB asked for, 512.0 MiB left in the budget, "+
		"2.0 GiB at most in one allocation")
	require.EqualError(t, &OutOfMemoryError{Op: "NewTensor", Bytes: 100},
		"vk: NewTensor: out of memory: 100 B asked for")
	require.Equal(t, "2048.0 TiB", byteCount(2<<50))
}
