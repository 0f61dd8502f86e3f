// Package present shows a canvas in a window: it owns a Vulkan device that can draw to the window's surface, a swapchain and
// one graphics pipeline for the canvas' triangles. It knows surfaces, not window systems: package window brings those.
//
// What package vk has, it takes from there: the loader, the instance with its validation, the list of devices, the errors.
// Graphics needs a device and a queue of its own, which vk's compute-only queue is not; its calls are in device.c and
// draw.c.
//
// A Presenter belongs to one goroutine.
package present

//go:generate sh -c "for stage in vert frag; do \"${DOLLAR}{VKMOE_GLSLANG:-../../.tools/bin/glslangValidator}\" --quiet --target-env vulkan1.1 -V canvas.${DOLLAR}stage -o canvas.${DOLLAR}stage.spv; done"

import (
	_ "embed"
	"encoding/binary"
)

var (
	//go:embed canvas.vert.spv
	vertexCode []byte
	//go:embed canvas.frag.spv
	fragmentCode []byte
)

// words are a module's 32-bit words.
func words(code []byte) []uint32 {
	list := make([]uint32, len(code)/4)
	for i := range list {
		list[i] = binary.LittleEndian.Uint32(code[4*i:])
	}
	return list
}
