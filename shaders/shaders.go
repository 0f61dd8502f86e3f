// Package shaders holds the compute kernels of the library: their GLSL sources, the SPIR-V made of them, which is
// embedded, and Go descriptions of their interfaces, which are generated from the SPIR-V.
//
// A stem names a kernel everywhere: scatter2scatter.comp is the source, spv/scatter2scatter.f32.spv the module of its
// f32 variant, Scatter2scatterF32 its description, Scatter2scatterPush and Scatter2scatterSpec its push and
// specialization constants, and internal/ref/scatter2scatter.go its oracle.
//
// The package needs no GPU, no cgo and no compiler. After a change of a source run go generate, which needs glslang 16
// or newer (scripts/glslang.sh obtains it).
package shaders

//go:generate go run ./gen
//go:generate go run ./gen -mutants ../tests/conform/faults

import (
	"encoding/binary"
	"sync"
)

// decodeOnce returns a function that turns a blob into words on its first call.
func decodeOnce(blob *[]byte) func() []uint32 {
	return sync.OnceValue(func() []uint32 {
		words := make([]uint32, len(*blob)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32((*blob)[4*i:])
		}
		return words
	})
}
