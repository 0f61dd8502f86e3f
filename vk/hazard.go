package vk

// hazards remembers what the commands since the last barrier touch. There are two kinds of barriers: those among dispatches, and full
// ones, which also order copies, fills and the reading of indirect counts.
type hazards struct {
	touched   []touch // since the last barrier
	sinceFull []touch // since the last full one, which is what other commands than dispatches have to know
	transfers bool    // a copy or fill is among them
}

// touch is one access to the device addresses [lo, hi).
type touch struct {
	lo, hi uint64
	write  bool
}

// A stage is what of the device a command uses.
type stage uint8

const (
	stageCompute  stage = iota // a dispatch
	stageIndirect              // a dispatch that reads its counts first
	stageTransfer              // a copy or a fill
)

// A barrier is what has to go before a command.
type barrier uint8

const (
	barrierNone barrier = iota
	barrierCompute
	barrierFull
)

func (h *hazards) clear() { *h = hazards{touched: h.touched[:0], sinceFull: h.sinceFull[:0]} }

// conflict adds a command's accesses and returns the barrier that it needs before it: one if it reads what an earlier command
// wrote, or writes what an earlier one read or wrote.
func (h *hazards) conflict(by stage, reads, writes []*Tensor) barrier {
	before := h.touched
	if by != stageCompute {
		before = h.sinceFull
	}
	need := barrierNone
	switch {
	case !overlaps(before, reads, false) && !overlaps(before, writes, true):
	case by != stageCompute || h.transfers:
		need = barrierFull
		h.clear()
	default:
		need = barrierCompute
		h.touched = h.touched[:0]
	}
	h.add(reads, false)
	h.add(writes, true)
	h.transfers = h.transfers || by == stageTransfer
	return need
}

func overlaps(touched []touch, tensors []*Tensor, write bool) bool {
	for _, t := range tensors {
		if t == nil || t.mem.alloc == nil {
			continue
		}
		lo, hi := t.extent()
		for _, o := range touched {
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
		h.sinceFull = append(h.sinceFull, touch{lo, hi, write})
	}
}
