package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// A passMemory follows the passes of an MLP through what they take from their recorder and release, in the same order.
type passMemory struct {
	MLPConfig
	Pass
	tokens, slots int
	plan          vk.ScratchPlan
}

// planGroup is Routing.group.
func planGroup(plan *vk.ScratchPlan, slots, experts, blockM int) {
	_, blocks := sortBlocks(slots, experts)
	plan.Take(vk.I32, slots)
	plan.Take(vk.I32, slots)
	plan.Take(vk.I32, experts+1)
	plan.Take(vk.I32, check.CeilDiv(slots, blockM)+min(experts, slots), 3)
	plan.Take(vk.U32, 4)
	counts := plan.Take(vk.U32, blocks, experts+2)
	plan.Take(vk.U32, 4)
	plan.Release(counts)
}

// A plannedSpace is a workspace of so many elements, which may be none.
type plannedSpace struct {
	m        *passMemory
	elements int
	used     int
	scratch  []uint64
}

func (w *plannedSpace) take(rows, width int) {
	if n := rows * width; w.used+n <= w.elements {
		w.used += check.CeilDiv(n, workspaceAlign) * workspaceAlign
		return
	}
	w.scratch = append(w.scratch, w.m.plan.Take(w.m.DType, rows, width))
}

func (w *plannedSpace) release() {
	w.m.plan.Release(w.scratch...)
	w.scratch, w.used = nil, 0
}

// upGradient is the size of the gradient of Up's weights.
func (m *passMemory) upGradient() int {
	return m.Experts * m.MLPConfig.Width * m.Activation.columns(m.Hidden)
}

// downGradient is the size of the gradient of Down's weights.
func (m *passMemory) downGradient() int { return m.Experts * m.MLPConfig.Width * m.Hidden }

// savedInDown is MLP.savedInDown.
func (m *passMemory) savedInDown() bool {
	return m.SaveIn && m.Save == RecomputeActivation && m.slots > 0 && m.slots*m.Activation.columns(m.Hidden) <= m.downGradient()
}

// forwardSpaces are where a part of the forward pass has what it needs and does not keep, what it keeps, and H and Slots.
func (m *passMemory) forwardSpaces() (space, saved, hs *plannedSpace) {
	space, saved = &plannedSpace{m: m}, &plannedSpace{m: m}
	if m.Workspace {
		space.elements = m.upGradient()
	}
	hs = space
	if m.Save == SaveAll {
		hs = saved
	}
	return space, saved, hs
}

// sharedForward is MLP.sharedForward.
func (m *passMemory) sharedForward() {
	if m.SharedHidden == 0 {
		return
	}
	space, saved, hs := m.forwardSpaces()
	if m.Save != SaveNothing {
		saved.take(m.tokens, m.Activation.columns(m.SharedHidden))
	}
	hs.take(m.tokens, m.SharedHidden)
	if m.SharedGate {
		m.plan.Take(vk.F32, m.tokens, 1)
		m.plan.Take(vk.F32, m.tokens, 1)
	}
	space.release()
}

// expertsForward is MLP.expertsForward.
func (m *passMemory) expertsForward() {
	space, saved, hs := m.forwardSpaces()
	if m.Save != SaveNothing && !m.savedInDown() {
		saved.take(m.slots, m.Activation.columns(m.Hidden))
	}
	hs.take(m.slots, m.Hidden)
	if m.Save == SaveAll {
		saved.take(m.slots, m.MLPConfig.Width)
	} else {
		m.sumSlots(space)
	}
	space.release()
}

// sumSlots is sumSlots.
func (m *passMemory) sumSlots(space *plannedSpace) {
	space.take(m.slots, columnsOfSlots(m.slots, m.MLPConfig.Width, m.DType))
}

// backward is MLP.Backward for all gradients.
func (m *passMemory) backward() {
	if !m.Routed {
		m.plan.Take(vk.F32, m.tokens, m.Experts)
		m.plan.Take(vk.F32, m.tokens, m.TopK)
	}
	space := &plannedSpace{m: m}
	if m.Save == SaveAll {
		space.elements = m.slots * m.MLPConfig.Width
	} else if m.Workspace || m.SaveIn {
		space.elements = m.upGradient()
	}
	m.expertsBackward(space)
	if !m.Routed {
		m.narrowBackward(m.Experts)
	}
	if m.SharedHidden == 0 {
		return
	}
	m.plan.Take(m.DType, m.tokens, m.SharedHidden)
	if m.SharedGate {
		m.plan.Take(vk.F32, m.tokens, 1)
		m.narrowBackward(1)
	}
}

// expertsBackward is MLP.expertsBackward.
func (m *passMemory) expertsBackward(space *plannedSpace) {
	last := m.savedInDown()
	halves := last && m.hFits(m.slots, m.downGradient())
	dhs := space
	if last {
		dhs = &plannedSpace{m: m}
	}
	left := uint64(0)
	if halves {
		left = m.plan.Take(m.DType, m.slots, m.hiddenAtOnce())
	} else {
		dhs.take(m.slots, m.Hidden)
	}
	space.release()
	if m.TopK > 1 || m.Routed {
		m.sumSlots(space)
	}
	space.release()
	m.plan.Release(left)
	if last {
		dhs.release()
	}
}

// narrowBackward is MLP.narrowBackward.
func (m *passMemory) narrowBackward(columns int) {
	if m.DType != vk.F32 {
		m.plan.Release(m.plan.Take(m.DType, m.tokens, columns))
	}
}
