package vk_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestSurfaceInstance(t *testing.T) {
	adapters, err := vk.Adapters()
	if err != nil {
		openDevice(t, vk.Options{}) // skips where there is no device
	}
	s, err := vk.OpenSurfaceInstance()
	require.NoError(t, err)
	require.NotNil(t, s.Handle())
	require.NotNil(t, s.ProcAddr())
	again, err := vk.OpenSurfaceInstance()
	require.NoError(t, err)
	require.Equal(t, s.Handle(), again.Handle(), "the process has one instance for the same extensions")

	list, err := s.Adapters()
	require.NoError(t, err)
	require.Len(t, list, len(adapters))
	for i, a := range list {
		require.NotNil(t, a.PhysicalDevice())
		require.False(t, a.HasExtension("VK_VKMOE_nothing"))
		for j, b := range adapters {
			require.Equal(t, i == j, a.Same(b), "%s and %s", a.Name, b.Name)
		}
	}

	_, err = vk.OpenSurfaceInstance("VK_KHR_surface", "VK_VKMOE_nothing")
	var refused *vk.ResultError
	require.True(t, errors.As(err, &refused))
	require.ErrorContains(t, err, "VK_VKMOE_nothing")

	// Where surfaces are there, instances with and without them live side by side, and computing goes on in both.
	with, err := vk.OpenSurfaceInstance("VK_KHR_surface")
	if err != nil {
		t.Skipf("needs a driver with surfaces: %v", err)
	}
	require.NotEqual(t, s.Handle(), with.Handle())
	dev := openDevice(t, vk.Options{})
	x := newFloats(t, dev, 1, 2, 3)
	require.Equal(t, []float32{1, 2, 3}, download(t, x))
	require.Empty(t, vk.ValidationMessages())
}
