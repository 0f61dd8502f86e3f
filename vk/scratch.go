package vk

import (
	"fmt"
	"unsafe"
)

// scratch owns a recorder's temporary tensors. Released ones are handed out again within the recorder; the hazards
// put a barrier between the two uses, so no waiting is needed.
type scratch struct {
	rec  *Recorder
	all  []*allocation
	live map[*tensorMemory]bool
	free []*allocation
}

// Scratch makes a tensor that lives until the recorder is closed. On failure it returns nil and sets Err. The contents
// are undefined, and anew with every submission.
func (r *Recorder) Scratch(dtype DType, shape ...int) *Tensor {
	if r.err != nil {
		return nil
	}
	n, err := countElements("Scratch", shape)
	if err != nil {
		r.Fail(err)
		return nil
	}
	t := &Tensor{dev: r.dev, dtype: dtype, shape: append([]int(nil), shape...), mem: &tensorMemory{}, view: true}
	if n == 0 {
		return t
	}
	t.mem.alloc, err = r.scratch.take(n * dtype.Bytes())
	if err != nil {
		r.Fail(fmt.Errorf("scratch %v: %w", t, err))
		return nil
	}
	if r.scratch.live == nil {
		r.scratch.live = map[*tensorMemory]bool{}
	}
	r.scratch.live[t.mem] = true
	return t
}

// Release lets later Scratch calls of the recorder reuse the memory of t, which must not be recorded again. It
// ignores tensors that are not the recorder's scratch.
func (r *Recorder) Release(t *Tensor) {
	if t == nil || !r.scratch.live[t.mem] {
		return
	}
	delete(r.scratch.live, t.mem)
	r.scratch.free = append(r.scratch.free, t.mem.alloc)
}

// reuse takes the smallest of the released ranges that is large enough, unless it is more than twice too large; nil is none.
func reuse(free *[]*allocation, bytes uint64) *allocation {
	best := -1
	for i, a := range *free {
		if a.bytes >= bytes && a.bytes <= 2*max(bytes, allocAlign) && (best < 0 || a.bytes < (*free)[best].bytes) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	a := (*free)[best]
	*free = append((*free)[:best], (*free)[best+1:]...)
	return a
}

func (s *scratch) take(bytes uint64) (*allocation, error) {
	if a := reuse(&s.free, bytes); a != nil {
		return a, nil
	}
	s.rec.dev.collect()
	a, err := s.rec.dev.memory.alloc("Scratch", bytes)
	if err == nil {
		s.all = append(s.all, a)
	}
	return a, err
}

func (s *scratch) close() {
	for m := range s.live {
		m.closed.Store(true)
	}
	for _, a := range s.all {
		s.rec.dev.retire(a, s.rec.dev.memory)
	}
	s.all, s.free, s.live = nil, nil, nil
}

// A ScratchPlan adds up what a recorder would take from its device for calls of Scratch and Release, without either, so that a
// recording's memory can be told beforehand. Its zero value is a new recorder's.
type ScratchPlan struct {
	Bytes uint64 // what is taken so far; a recorder gives it back when it is closed

	free []*allocation
}

// Take counts a Scratch of a tensor whose elements can be counted, and returns the size in bytes of the range that it would be
// in, which Release takes back: 0 for an empty tensor.
func (p *ScratchPlan) Take(dtype DType, shape ...int) uint64 {
	bytes := dtype.Bytes()
	for _, n := range shape {
		bytes *= uint64(n)
	}
	if bytes == 0 {
		return 0
	}
	if a := reuse(&p.free, bytes); a != nil {
		return a.bytes
	}
	bytes = (bytes + allocAlign - 1) / allocAlign * allocAlign
	p.Bytes += bytes
	return bytes
}

// Release counts a Release of what Take returned.
func (p *ScratchPlan) Release(sizes ...uint64) {
	for _, bytes := range sizes {
		if bytes > 0 {
			p.free = append(p.free, &allocation{bytes: bytes})
		}
	}
}

// maxCheckBytes bounds what a Check may bring to the host.
const maxCheckBytes = 256

// resultCheck looks at a small tensor after each submission.
type resultCheck struct {
	tensor *Tensor
	host   *allocation
	judge  func(words []uint32) error
}

// Check copies t, of at most 256 bytes, to the host at the end of every submission; Wait returns the error that judge
// makes of its words. When submissions of one recorder overlap, judge sees the newest finished one.
func (r *Recorder) Check(t *Tensor, judge func(words []uint32) error) {
	if r.err != nil || t.Bytes() == 0 {
		return
	}
	if t.Bytes() > maxCheckBytes || t.Bytes()%4 != 0 {
		r.Fail(&ShapeError{Op: "Check", Arg: "tensor", Want: "whole words, at most 256 bytes", Got: t.String()})
		return
	}
	host, err := r.dev.staging.alloc("Check", maxCheckBytes)
	if r.Fail(err) != nil {
		return
	}
	r.checks = append(r.checks, resultCheck{t, host, judge})
}

func (c *resultCheck) record(r *Recorder) {
	cb, ok := r.access([]*Tensor{c.tensor}, nil, 0, false)
	if !ok {
		return
	}
	a := c.tensor.mem.alloc
	r.dev.cmds.copy(cb, handleOf(a.block.buffer), a.offset+c.tensor.offset, handleOf(c.host.block.buffer), c.host.offset, c.tensor.Bytes())
}

// evaluate runs the checks on what the last finished submission left.
func (r *Recorder) evaluate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	for _, c := range r.checks {
		words := unsafe.Slice((*uint32)(c.host.mapped()), c.tensor.Bytes()/4)
		if err := c.judge(append([]uint32(nil), words...)); err != nil {
			return err
		}
	}
	return nil
}
