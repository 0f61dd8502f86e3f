package vk

// hazards remembers what the commands since the last barrier touch.
type hazards struct{ touched []touch }

// touch is one access to the device addresses [lo, hi).
type touch struct {
	lo, hi uint64
	write  bool
}

func (h *hazards) clear() { h.touched = h.touched[:0] }

// conflict adds a command's accesses and reports whether it needs a barrier before it: whether it reads what an
// earlier command wrote, or writes what an earlier one read or wrote; or whether it reads counts of work-groups, for which only a
// barrier that names them helps: see Recorder.access.
func (h *hazards) conflict(reads, writes []*Tensor, counts bool) bool {
	need := counts || h.overlaps(reads, false) || h.overlaps(writes, true)
	if need {
		h.clear()
	}
	h.add(reads, false)
	h.add(writes, true)
	return need
}

func (h *hazards) overlaps(tensors []*Tensor, write bool) bool {
	for _, t := range tensors {
		if t == nil || t.mem.alloc == nil {
			continue
		}
		lo, hi := t.extent()
		for _, o := range h.touched {
			if (write || o.write) && lo < o.hi && o.lo < hi {
				return true
			}
		}
	}
	return false
}

func (h *hazards) add(tensors []*Tensor, write bool) {
	for _, t := range tensors {
		if t == nil || t.mem.alloc == nil {
			continue
		}
		lo, hi := t.extent()
		h.touched = append(h.touched, touch{lo, hi, write})
	}
}
