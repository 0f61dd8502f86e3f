package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// spaceAlign is the alignment of views of one block, in elements: 256 bytes or more.
const spaceAlign = 128

func aligned(elements int) int { return check.CeilDiv(elements, spaceAlign) * spaceAlign }

// view is a tensor within a block; a failure is the recorder's.
func view(rec *vk.Recorder, block *vk.Tensor, first int, shape ...int) *vk.Tensor {
	if rec.Err() != nil {
		return nil
	}
	t, err := block.View(first, shape...)
	if rec.Fail(err) != nil {
		return nil
	}
	return t
}

// clearable takes a matrix of scratch; whole is the same memory in whole words, which a fill asks for.
func clearable(rec *vk.Recorder, dtype vk.DType, rows, columns int) (matrix, whole *vk.Tensor) {
	whole = rec.Scratch(dtype, rows*columns+rows*columns%2)
	return view(rec, whole, 0, rows, columns), whole
}
