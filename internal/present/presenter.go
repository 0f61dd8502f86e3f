package present

/*
#include <stdlib.h>
#include "present.h"
*/
import "C"

import (
	"unsafe"

	"github.com/vkmoe/vkmoe/internal/canvas"
	"github.com/vkmoe/vkmoe/vk"
)

// A Target is the window that a presenter draws to.
type Target interface {
	// NewSurface makes a VkSurfaceKHR of the window with the given VkInstance. It is called again when a surface is lost.
	NewSurface(instance unsafe.Pointer) (uint64, error)
	// Pixels is the present size of what the window shows; 0 × 0 while it is minimized.
	Pixels() (width, height int)
}

// A Presenter draws canvases into a window.
type Presenter struct {
	instance *vk.SurfaceInstance
	target   Target
	adapter  *vk.Adapter

	v       *C.pv // in C memory
	surface C.pv_handle
	format  C.uint32_t
	program C.pv_program
	pool    C.pv_handle

	chain         C.pv_handle
	width, height int // of the swapchain's images
	images        []image
	stale         bool // the swapchain no longer suits the window

	frames [framesInFlight]frame
	next   int // frame
	atlas  atlas

	fault func(op string) int32 // set by tests: a result other than 0 takes the place of the call
}

// framesInFlight is how many frames the host may be ahead of the device.
const framesInFlight = 2

// An image is one of the swapchain's. drawn is signalled when it may be presented; it belongs to the image because only
// acquiring the image again proves that presenting it no longer waits.
type image struct{ view, framebuffer, drawn C.pv_handle }

// A frame is what the host writes for a picture while the device may still read that of the one before.
type frame struct {
	commands, acquired, done C.pv_handle
	vertices, upload         C.pv_buffer
	room, uploadRoom         int // bytes
}

// An atlas is the device's copy of a canvas' atlas.
type atlas struct {
	image         C.pv_image
	width, height int
	of            *canvas.Atlas
	generation    uint64
}

// New makes the window's surface and opens a device that can draw to it: computes, if that can, and otherwise another one (see
// Adapter). computes may be nil.
//
// Errors: what NewSurface returns, *NoPresenterError, *vk.ResultError.
func New(instance *vk.SurfaceInstance, target Target, computes *vk.Adapter) (*Presenter, error) {
	p := &Presenter{instance: instance, target: target, stale: true}
	p.v = (*C.pv)(C.calloc(1, C.sizeof_pv))
	C.pv_load_instance(p.v, instance.ProcAddr(), instance.Handle())
	err := p.newSurface()
	if err == nil {
		err = p.chooseDevice(computes)
	}
	if err == nil {
		err = p.prepare()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Adapter is the device that draws.
func (p *Presenter) Adapter() *vk.Adapter { return p.adapter }

// call makes a call that a window system may refuse at any time, unless a test answers in its place.
func (p *Presenter) call(op string, f func() C.int32_t) int32 {
	if p.fault != nil {
		if result := p.fault(op); result != 0 {
			return result
		}
	}
	return int32(f())
}

func (p *Presenter) newSurface() error {
	s, err := p.target.NewSurface(p.instance.Handle())
	p.surface = C.pv_handle(s)
	return err
}

// prepare makes what depends on neither the window's size nor its content.
func (p *Presenter) prepare() error {
	vertex, fragment := words(vertexCode), words(fragmentCode)
	err := check("vkCreateGraphicsPipelines", C.pv_new_program(p.v, p.format,
		(*C.uint32_t)(&vertex[0]), C.size_t(len(vertexCode)),
		(*C.uint32_t)(&fragment[0]), C.size_t(len(fragmentCode)), &p.program))
	if err != nil {
		return err
	}
	var commands [framesInFlight]C.pv_handle
	r := C.pv_new_commands(p.v, framesInFlight, &p.pool, &commands[0])
	if err := check("vkAllocateCommandBuffers", r); err != nil {
		return err
	}
	for i := range p.frames {
		f := &p.frames[i]
		f.commands = commands[i]
		if err := check("vkCreateFence", C.pv_new_fence(p.v, &f.done)); err != nil {
			return err
		}
		if err := check("vkCreateSemaphore", C.pv_new_semaphore(p.v, &f.acquired)); err != nil {
			return err
		}
	}
	return nil
}

// Close waits for the device and frees everything, the surface last; the window must still be there. Closing twice does
// nothing.
func (p *Presenter) Close() error {
	if p.v == nil {
		return nil
	}
	var err error
	if p.v.device != 0 {
		err = check("vkDeviceWaitIdle", C.pv_idle(p.v))
		p.dropSwapchain()
		for i := range p.frames {
			f := &p.frames[i]
			p.freeBuffer(&f.vertices)
			p.freeBuffer(&f.upload)
			C.pv_drop(p.v, p.v.destroy_fence, f.done)
			C.pv_drop(p.v, p.v.destroy_semaphore, f.acquired)
		}
		C.pv_drop(p.v, p.v.destroy_command_pool, p.pool)
		C.pv_free_image(p.v, &p.atlas.image)
		C.pv_free_program(p.v, &p.program)
		C.pv_close_device(p.v)
	}
	if p.surface != 0 {
		C.pv_drop_surface(p.v, p.surface)
	}
	C.free(unsafe.Pointer(p.v))
	p.v = nil
	return err
}
