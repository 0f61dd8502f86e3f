package present

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestTheComputingDeviceIsTriedFirst(t *testing.T) {
	a, b, c := &vk.Adapter{Index: 0, Name: "A"}, &vk.Adapter{Index: 1, Name: "B"}, &vk.Adapter{Index: 2, Name: "C"}
	list := []*vk.Adapter{a, b, c}
	require.Equal(t, []*vk.Adapter{c, a, b}, orderAdapters(list, &vk.Adapter{Index: 2, Name: "C"}))
	require.Equal(t, list, orderAdapters(list, nil))
	require.Equal(t, list, orderAdapters(list, &vk.Adapter{Index: 1, Name: "C"}), "another one of that name")
}

func TestErrorsSayWhatIsInTheWay(t *testing.T) {
	err := error(&NoPresenterError{Reasons: []string{"A has no VK_KHR_swapchain", "B cannot be opened"}})
	require.EqualError(t, err, "no device can show a window here: A has no VK_KHR_swapchain; B cannot be opened")

	require.NoError(t, check("vkQueuePresentKHR", int32(suboptimal)))
	lost := check("vkQueueSubmit", int32(-4))
	require.ErrorIs(t, lost, vk.ErrDeviceLost)
	require.EqualError(t, lost, "window: vk: vkQueueSubmit: VK_ERROR_DEVICE_LOST")
	var result *vk.ResultError
	require.True(t, errors.As(check("vkCreateSwapchainKHR", int32(surfaceLost)), &result))
	require.EqualValues(t, surfaceLost, result.Code)
}

// tries is a window that cannot have a surface.
type tries struct{ Target }

var errTries = errors.New("no surface for this window")

func (tries) NewSurface(unsafe.Pointer) (uint64, error) { return 0, errTries }

func TestNoSurface(t *testing.T) {
	instance, err := vk.OpenSurfaceInstance("VK_KHR_surface")
	if err != nil {
		t.Skipf("needs a driver with surfaces: %v", err)
	}
	p, err := New(instance, tries{}, nil)
	require.ErrorIs(t, err, errTries)
	require.Nil(t, p)
}
