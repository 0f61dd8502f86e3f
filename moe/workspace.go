package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// A workspace hands out temporary tensors of one dtype: from memory of the caller as long as that lasts, else from the
// recorder's scratch.
type workspace struct {
	rec     *vk.Recorder
	space   *vk.Tensor
	dtype   vk.DType
	used    int // elements of space
	scratch []*vk.Tensor
}

// workspaceAlign is the alignment of what a workspace hands out, in elements: 256 bytes or more.
const workspaceAlign = 128

func newWorkspace(rec *vk.Recorder, space *vk.Tensor, dtype vk.DType) *workspace {
	return &workspace{rec: rec, space: space, dtype: dtype}
}

// take returns a tensor with undefined contents, or nil with the recorder's error set.
func (w *workspace) take(shape ...int) *vk.Tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	if w.space != nil && w.used+n <= w.space.Elements() {
		t, err := w.space.View(w.used, shape...)
		if err != nil {
			w.rec.Fail(err)
			return nil
		}
		w.used += check.CeilDiv(n, workspaceAlign) * workspaceAlign
		return t
	}
	t := w.rec.Scratch(w.dtype, shape...)
	w.scratch = append(w.scratch, t)
	return t
}

// release gives the recorder's scratch back.
func (w *workspace) release() {
	for _, t := range w.scratch {
		w.rec.Release(t)
	}
	w.scratch, w.used = nil, 0
}

// checkWorkspace checks a workspace argument, which may be nil.
func checkWorkspace(dev *vk.Device, op, arg string, t *vk.Tensor, dtype vk.DType) error {
	if t == nil {
		return nil
	}
	return check.Tensor(dev, op, arg, t, dtype, t.Shape()...)
}
