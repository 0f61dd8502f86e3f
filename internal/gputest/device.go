package gputest

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

// absent reports whether err says that there is no device to test on. VKMOE_REQUIRE_GPU=1 says that there must be one.
func absent(err error) bool {
	return (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1"
}

// Require fails the test for an error of what needs a device, and skips it where there is none.
func Require(t testing.TB, err error, what ...any) {
	t.Helper()
	if absent(err) {
		t.Skipf("needs a Vulkan device: %v", err)
	}
	require.NoError(t, err, what...)
}

// Need skips the test of a package whose Main found no device.
func Need(t testing.TB, dev *vk.Device) {
	t.Helper()
	if dev == nil {
		t.Skip("needs a Vulkan device")
	}
}

// Open opens a device that the end of the test closes, which fails where something was left open.
func Open(t testing.TB, opts vk.Options) *vk.Device {
	t.Helper()
	dev, err := vk.Open(opts)
	Require(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}
