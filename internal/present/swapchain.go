package present

/*
#include "present.h"
*/
import "C"

// renew makes a swapchain of the window's present size in place of the one there is. It reports false while the window shows
// nothing.
func (p *Presenter) renew(width, height int) (ok bool, err error) {
	var s C.pv_surface
	result := p.call("vkGetPhysicalDeviceSurfaceCapabilitiesKHR", func() C.int32_t { return C.pv_surface_of(p.v, p.surface, &s) })
	if result == surfaceLost {
		return false, p.replaceSurface()
	}
	if err := check("vkGetPhysicalDeviceSurfaceCapabilitiesKHR", result); err != nil {
		return false, err
	}
	extent := s.current
	if extent.width == ^C.uint32_t(0) { // the swapchain decides
		extent.width = min(max(C.uint32_t(width), s.smallest.width), s.largest.width)
		extent.height = min(max(C.uint32_t(height), s.smallest.height), s.largest.height)
	}
	if extent.width == 0 || extent.height == 0 {
		return false, nil
	}
	// The old images are neither drawn nor shown once the device is idle.
	if err := check("vkDeviceWaitIdle", C.pv_idle(p.v)); err != nil {
		return false, err
	}
	info := C.pv_chain{
		surface: p.surface, old: p.chain, images: imageCount(&s), format: p.format, width: extent.width, height: extent.height,
		transform: s.transform, alpha: compositeAlpha(s.alphas),
	}
	if s.transforms&1 != 0 {
		info.transform = 1 // none
	}
	var chain C.pv_handle
	result = p.call("vkCreateSwapchainKHR", func() C.int32_t { return C.pv_new_swapchain(p.v, &info, &chain) })
	p.dropSwapchain() // also when the new one failed: it retires the old one
	p.chain = chain
	switch {
	case result == surfaceLost:
		return false, p.replaceSurface()
	case result == outOfDate: // the window changed in between
		return false, nil
	}
	if err := check("vkCreateSwapchainKHR", result); err != nil {
		return false, err
	}
	p.width, p.height = int(extent.width), int(extent.height)
	if err := p.newImages(); err != nil {
		return false, err
	}
	p.stale = false
	return true, nil
}

// imageCount asks for one image more than the least, so that drawing does not wait for the one on the screen.
func imageCount(s *C.pv_surface) C.uint32_t {
	count := s.min_images + 1
	if s.max_images != 0 {
		count = min(count, s.max_images)
	}
	return count
}

// compositeAlpha is opaque where the window system has it, and otherwise the first way it has.
func compositeAlpha(ways C.uint32_t) C.uint32_t {
	return ways & -ways // the flags' order is that of preference
}

func (p *Presenter) newImages() error {
	var count C.uint32_t
	if err := check("vkGetSwapchainImagesKHR", C.pv_chain_images(p.v, p.chain, &count, nil)); err != nil {
		return err
	}
	handles := make([]C.pv_handle, max(count, 1))
	if err := check("vkGetSwapchainImagesKHR", C.pv_chain_images(p.v, p.chain, &count, &handles[0])); err != nil {
		return err
	}
	for _, handle := range handles[:count] {
		p.images = append(p.images, image{})
		i := &p.images[len(p.images)-1]
		if err := check("vkCreateImageView", C.pv_new_view(p.v, handle, p.format, &i.view)); err != nil {
			return err
		}
		r := C.pv_new_framebuffer(p.v, &p.program, i.view, C.uint32_t(p.width), C.uint32_t(p.height), &i.framebuffer)
		if err := check("vkCreateFramebuffer", r); err != nil {
			return err
		}
		if err := check("vkCreateSemaphore", C.pv_new_semaphore(p.v, &i.drawn)); err != nil {
			return err
		}
	}
	return nil
}

// dropSwapchain frees the swapchain and what belongs to it; the device must be idle.
func (p *Presenter) dropSwapchain() {
	for _, i := range p.images {
		C.pv_drop(p.v, p.v.destroy_framebuffer, i.framebuffer)
		C.pv_drop(p.v, p.v.destroy_view, i.view)
		C.pv_drop(p.v, p.v.destroy_semaphore, i.drawn)
	}
	p.images = nil
	if p.chain != 0 {
		C.pv_drop(p.v, p.v.destroy_swapchain, p.chain)
	}
	p.chain, p.stale = 0, true
}

// replaceSurface makes a new surface where the window system took the old one away.
func (p *Presenter) replaceSurface() error {
	if err := check("vkDeviceWaitIdle", C.pv_idle(p.v)); err != nil {
		return err
	}
	p.dropSwapchain()
	C.pv_drop_surface(p.v, p.surface)
	p.surface = 0
	if err := p.newSurface(); err != nil {
		return err
	}
	var yes C.uint32_t
	r := C.pv_surface_supported(p.v, p.v.family, p.surface, &yes)
	if err := check("vkGetPhysicalDeviceSurfaceSupportKHR", r); err != nil {
		return err
	}
	if yes == 0 {
		return &NoPresenterError{Reasons: []string{p.adapter.Name + " no longer draws to this window"}}
	}
	return nil
}
