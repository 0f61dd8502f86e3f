package present

/*
#include "present.h"
*/
import "C"

import (
	stdimage "image"
	"unsafe"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// The longest waits, in nanoseconds: for an image, which a window that is covered may never get, and for the device to end a
// frame, after which it counts as hanging.
const (
	acquireWait = 100_000_000
	frameWait   = 20_000_000_000
)

// Draw shows the canvas. It reports false where nothing was shown, which is no error: the window is minimized, it is being
// resized, or the window system gives no image now. Draw blocks until the display has room for another picture.
//
// Errors: *vk.ResultError (errors.Is tells vk.ErrDeviceLost), after which the presenter can only be closed, and those of
// NewSurface.
func (p *Presenter) Draw(c *canvas.Canvas) (shown bool, err error) {
	width, height := p.target.Pixels()
	if width <= 0 || height <= 0 {
		return false, nil
	}
	f := &p.frames[p.next]
	result := p.call("vkWaitForFences", func() C.int32_t { return C.pv_wait(p.v, f.done, frameWait) })
	if result == timedOut {
		result = -4 // VK_ERROR_DEVICE_LOST: it may as well be
	}
	if err := check("vkWaitForFences", result); err != nil {
		return false, err
	}
	index, ok, err := p.acquire(f, width, height)
	if err != nil || !ok {
		return false, err
	}
	if err := p.record(f, c, &p.images[index]); err != nil {
		return false, err
	}
	p.next = (p.next + 1) % framesInFlight
	result = p.call("vkQueuePresentKHR", func() C.int32_t { return C.pv_present(p.v, p.chain, C.uint32_t(index), p.images[index].drawn) })
	switch result {
	case suboptimal, outOfDate:
		p.stale = true
		return result == suboptimal, nil
	case surfaceLost:
		return false, p.replaceSurface()
	}
	return true, check("vkQueuePresentKHR", result)
}

// acquire gets an image of a swapchain that suits the window, making one where there is none.
func (p *Presenter) acquire(f *frame, width, height int) (index int, ok bool, err error) {
	for range 3 { // the window may change between the steps
		if p.stale || p.width != width || p.height != height {
			if ok, err := p.renew(width, height); err != nil || !ok {
				return 0, false, err
			}
		}
		var image C.uint32_t
		result := p.call("vkAcquireNextImageKHR", func() C.int32_t { return C.pv_acquire(p.v, p.chain, acquireWait, f.acquired, &image) })
		switch result {
		case success:
			return int(image), true, nil
		case suboptimal: // acquired all the same: the next frame gets a better one
			p.stale = true
			return int(image), true, nil
		case timedOut, notReady:
			return 0, false, nil
		case outOfDate:
			p.stale = true
		case surfaceLost:
			return 0, false, p.replaceSurface()
		default:
			return 0, false, check("vkAcquireNextImageKHR", result)
		}
	}
	return 0, false, nil
}

// record writes and submits the commands of a picture.
func (p *Presenter) record(f *frame, c *canvas.Canvas, to *image) error {
	if err := p.fill(f, c); err != nil {
		return err
	}
	if err := check("vkResetFences", C.pv_reset(p.v, f.done)); err != nil {
		return err
	}
	if err := check("vkBeginCommandBuffer", C.pv_begin_commands(p.v, f.commands)); err != nil {
		return err
	}
	if err := p.updateAtlas(f, c.Atlas()); err != nil {
		return err
	}
	var background [4]C.float
	r, g, b, _ := c.Background().Channels()
	for i, channel := range [4]uint8{r, g, b, 0xff} {
		background[i] = C.float(channel) / 255
	}
	C.pv_begin_pass(p.v, &p.program, f.commands, to.framebuffer, C.uint32_t(p.width), C.uint32_t(p.height), &background[0],
		f.vertices.buffer)
	whole := stdimage.Rect(0, 0, p.width, p.height)
	for _, batch := range c.Batches() {
		clip := batch.Clip.Intersect(whole) // the window may have shrunk since the canvas was drawn
		if clip.Empty() {
			continue
		}
		scissor := C.pv_rect{x: C.int32_t(clip.Min.X), y: C.int32_t(clip.Min.Y), width: C.uint32_t(clip.Dx()), height: C.uint32_t(clip.Dy())}
		C.pv_draw(p.v, f.commands, scissor, C.uint32_t(batch.First), C.uint32_t(batch.Count))
	}
	return check("vkQueueSubmit", p.call("vkQueueSubmit", func() C.int32_t {
		return C.pv_finish(p.v, f.commands, f.acquired, to.drawn, f.done)
	}))
}

// fill copies the vertices to the frame's buffer, which grows as needed.
func (p *Presenter) fill(f *frame, c *canvas.Canvas) error {
	vertices := c.Vertices()
	if len(vertices) == 0 {
		return nil
	}
	bytes := len(vertices) * canvas.VertexBytes
	const vertexBuffer = 0x80
	if err := p.grow(&f.vertices, &f.room, bytes, vertexBuffer); err != nil {
		return err
	}
	copy(unsafe.Slice((*canvas.Vertex)(f.vertices.mapped), len(vertices)), vertices)
	return nil
}

// grow makes a buffer hold at least bytes bytes. The device must be done with it.
func (p *Presenter) grow(b *C.pv_buffer, room *int, bytes int, usage C.uint32_t) error {
	if bytes <= *room {
		return nil
	}
	p.freeBuffer(b)
	*room = 0
	size := max(bytes+bytes/2, 64<<10)
	var made C.pv_buffer // alone: cgo looks at all that it is part of
	if err := check("vkAllocateMemory", C.pv_new_buffer(p.v, C.uint64_t(size), usage, &made)); err != nil {
		return err
	}
	*b, *room = made, size
	return nil
}

// freeBuffer frees a buffer that the device is done with; one that was never made is left alone.
func (p *Presenter) freeBuffer(b *C.pv_buffer) {
	old := *b
	C.pv_free_buffer(p.v, &old)
	*b = C.pv_buffer{}
}

// updateAtlas records the copy of the canvas' atlas to the device where it has changed.
func (p *Presenter) updateAtlas(f *frame, from *canvas.Atlas) error {
	a := &p.atlas
	if a.of == from && a.generation == from.Generation() {
		return nil
	}
	alpha := from.Image()
	width, height := alpha.Rect.Dx(), alpha.Rect.Dy()
	if width != a.width || height != a.height {
		// Earlier frames may still read the old one.
		if err := check("vkDeviceWaitIdle", C.pv_idle(p.v)); err != nil {
			return err
		}
		C.pv_free_image(p.v, &a.image)
		*a = atlas{}
		r := C.pv_new_atlas(p.v, C.uint32_t(width), C.uint32_t(height), &a.image)
		if err := check("vkCreateImage", r); err != nil {
			return err
		}
		a.width, a.height = width, height
		C.pv_use_atlas(p.v, &p.program, &a.image)
	}
	const transferSource = 1
	if err := p.grow(&f.upload, &f.uploadRoom, width*height, transferSource); err != nil {
		return err
	}
	pixels := unsafe.Slice((*byte)(f.upload.mapped), width*height)
	for y := range height {
		copy(pixels[y*width:(y+1)*width], alpha.Pix[y*alpha.Stride:])
	}
	C.pv_upload_atlas(p.v, f.commands, f.upload.buffer, &a.image, C.uint32_t(width), C.uint32_t(height))
	a.of, a.generation = from, from.Generation()
	return nil
}
