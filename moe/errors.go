package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// MaxExperts is the largest number of experts of one layer.
const MaxExperts = 1024

// MaxTopK is the largest number of experts that a router chooses per token.
const MaxTopK = 64

// maxWidth bounds the widths of linear maps. A row's size in bytes must fit 32 bits, and lavapipe ends a shader's loops
// without a word after 65,535 iterations (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa), which is 16 inputs each.
const maxWidth = 1 << 19

// maxLoop is that number of iterations.
const maxLoop = 65535

// An ExpertIDError is an expert id outside [0, Experts). Of several it names the one with the lowest slot.
type ExpertIDError struct {
	Slot    int // t·K + j
	ID      int32
	Experts int
	Count   int // how many slots have such an id
}

func (e *ExpertIDError) Error() string {
	return fmt.Sprintf("moe: slot %d names expert %d of %d (%d such slots)", e.Slot, e.ID, e.Experts, e.Count)
}

// A ConfigError is a field of a layer's or router's configuration that makes no sense, or that does not fit the others: Config
// and Field name it, Want says what it may hold and Got what it holds.
type ConfigError = check.ConfigError

// quads reports whether a matrix of this width at this address can be read four values at a time.
func quads(t *vk.Tensor, width int) bool {
	return width%4 == 0 && t.Address()%(4*t.DType().Bytes()) == 0
}
