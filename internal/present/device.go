package present

/*
#include <stdlib.h>
#include "present.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/vkmoe/vkmoe/vk"
)

// Device extensions.
const (
	swapchainExtension   = "VK_KHR_swapchain"
	portabilityExtension = "VK_KHR_portability_subset" // must be enabled where it is offered
)

// orderAdapters puts the device that computes first, and keeps the order of the others.
func orderAdapters(list []*vk.Adapter, computes *vk.Adapter) []*vk.Adapter {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *vk.Adapter) int {
		rank := func(a *vk.Adapter) int {
			if computes != nil && a.Same(computes) {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	return list
}

// chooseDevice opens a device on the first adapter that can draw to the surface.
func (p *Presenter) chooseDevice(computes *vk.Adapter) error {
	list, err := p.instance.Adapters()
	if err != nil {
		return err
	}
	refused := &NoPresenterError{}
	for _, a := range orderAdapters(list, computes) {
		reason, err := p.tryDevice(a)
		if err != nil {
			return err
		}
		if reason == "" {
			p.adapter = a
			return nil
		}
		refused.Reasons = append(refused.Reasons, a.Name+" "+reason)
	}
	return refused
}

// tryDevice opens a device on the adapter and returns "", or says what is in the way.
func (p *Presenter) tryDevice(a *vk.Adapter) (reason string, err error) {
	if !a.HasExtension(swapchainExtension) {
		return "has no " + swapchainExtension, nil
	}
	p.v.gpu = C.pv_handle(uintptr(a.PhysicalDevice()))
	family, ok, err := p.presentingFamily()
	if err != nil || !ok {
		return "has no queue that draws to this window", err
	}
	p.v.family = family
	format, ok, err := p.chooseFormat()
	if err != nil || !ok {
		return "shows no 8-bit RGBA in this window", err
	}
	p.format = format

	names := []string{swapchainExtension}
	if a.HasExtension(portabilityExtension) {
		names = append(names, portabilityExtension)
	}
	list := (**C.char)(C.calloc(C.size_t(len(names)), C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(list))
	for i, name := range names {
		text := C.CString(name)
		defer C.free(unsafe.Pointer(text))
		unsafe.Slice(list, len(names))[i] = text
	}
	if err := check("vkCreateDevice", C.pv_open_device(p.v, list, C.uint32_t(len(names)))); err != nil {
		return fmt.Sprintf("cannot be opened (%v)", err), nil
	}
	return "", nil
}

// presentingFamily is a queue family that does graphics and presents to the surface.
func (p *Presenter) presentingFamily() (family C.uint32_t, ok bool, err error) {
	var count C.uint32_t
	C.pv_families(p.v, &count, nil)
	list := make([]C.pv_family, max(count, 1))
	C.pv_families(p.v, &count, &list[0])
	const graphics = 1
	for i, f := range list[:count] {
		if f.flags&graphics == 0 || f.count == 0 {
			continue
		}
		var yes C.uint32_t
		r := C.pv_surface_supported(p.v, C.uint32_t(i), p.surface, &yes)
		if err := check("vkGetPhysicalDeviceSurfaceSupportKHR", r); err != nil {
			return 0, false, err
		}
		if yes != 0 {
			return C.uint32_t(i), true, nil
		}
	}
	return 0, false, nil
}

// The formats that a canvas' colours can be shown in without conversion, best first: BGRA8, RGBA8 and ABGR8 in one word. None
// of them is sRGB-encoded by the device, as canvas mixes colours as they are stored.
var unormFormats = []C.uint32_t{44, 37, 51}

// chooseFormat returns the surface's first format of unormFormats in the sRGB colour space.
func (p *Presenter) chooseFormat() (format C.uint32_t, ok bool, err error) {
	var list []C.pv_format
	for {
		var count C.uint32_t
		r := C.pv_surface_formats(p.v, p.surface, &count, nil)
		if err := check("vkGetPhysicalDeviceSurfaceFormatsKHR", r); err != nil {
			return 0, false, err
		}
		list = make([]C.pv_format, max(count, 1))
		r = C.pv_surface_formats(p.v, p.surface, &count, &list[0])
		if err := check("vkGetPhysicalDeviceSurfaceFormatsKHR", r); err != nil {
			return 0, false, err
		}
		list = list[:count]
		if r != incomplete {
			break
		}
	}
	if len(list) == 1 && list[0].format == 0 { // any is fine
		return unormFormats[0], true, nil
	}
	for _, want := range unormFormats {
		if slices.ContainsFunc(list, func(f C.pv_format) bool { return f.format == want && f.space == 0 }) {
			return want, true, nil
		}
	}
	return 0, false, nil
}
