package vk

import "unsafe"

// A SurfaceInstance is a VkInstance with the extensions that a window system needs, for programs that show results on the
// GPU: the raw handles of Vulkan, to be used with Vulkan's own functions. Package vk itself neither draws nor presents.
//
// The instance is shared by the process, beside the one that computes, and stays until the process ends.
type SurfaceInstance struct{ in *instance }

// OpenSurfaceInstance returns the process's instance with these instance extensions, such as "VK_KHR_surface" and
// "VK_KHR_xcb_surface", making it on first use. VKMOE_VALIDATION applies to it; messages arrive in ValidationMessages.
//
// Errors: ErrNoLoader, ErrNoDevice, *MissingLayerError, *SettingError, and *ResultError for an extension that neither the
// loader nor a driver has.
func OpenSurfaceInstance(extensions ...string) (*SurfaceInstance, error) {
	in, err := acquireInstance(false, extensions...)
	if err != nil {
		return nil, err
	}
	return &SurfaceInstance{in}, nil
}

// Handle is the VkInstance.
func (s *SurfaceInstance) Handle() unsafe.Pointer { return unsafe.Pointer(s.in.handle) }

// ProcAddr is the loader's vkGetInstanceProcAddr.
func (s *SurfaceInstance) ProcAddr() unsafe.Pointer {
	loader.Lock()
	defer loader.Unlock()
	return loader.getInstanceProcAddr
}

// Adapters lists the devices of this instance as Adapters does, in the same order. Adapter.Same finds the one that
// another instance's adapter stands for.
func (s *SurfaceInstance) Adapters() ([]*Adapter, error) { return s.in.adapters() }

// PhysicalDevice is the adapter's VkPhysicalDevice, which belongs to the instance that listed it.
func (a *Adapter) PhysicalDevice() unsafe.Pointer { return unsafe.Pointer(a.handle) }

// Same reports whether two adapters, of any instances of this process, are one physical device.
func (a *Adapter) Same(b *Adapter) bool {
	return a.Index == b.Index && a.Name == b.Name && a.DeviceUUID == b.DeviceUUID && a.DriverUUID == b.DriverUUID
}

// HasExtension reports whether the device has a device extension, such as "VK_KHR_swapchain".
func (a *Adapter) HasExtension(name string) bool { return a.extensions[name] }
