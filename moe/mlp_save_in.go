package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// The backward pass of a layer whose Z lies in the gradient of Down's weights (ForwardOptions.SaveIn). That gradient is then written
// last, and h, which it is made of, has no room beside it. So it is made in two halves of h's columns, which are columns of the
// gradient [E,D,H] as well. The first half of h is in scratch from the beginning; the other is in the gradient, where h's rows lie as
// its own do, so that it stays while the first half of the gradient is written. Then it moves to where the first was.

// hiddenAtOnce is how many columns of h then are in scratch: all where half of them is no multiple of slotColumns, or where hidden
// units are rows of the gradient.
func (c MLPConfig) hiddenAtOnce() int {
	if c.InOut {
		return c.Hidden
	}
	return halfOfColumns(c.Hidden)
}

// rowOfH is the row of the gradient of Down's weights that h then begins at, after Z.
func (c MLPConfig) rowOfH(slots int) int {
	return check.CeilDiv(slots*c.Activation.columns(c.Hidden)/c.Hidden, workspaceAlign) * workspaceAlign
}

// hFits reports whether h has room in a gradient of Down's weights of so many elements, beside Z.
func (c MLPConfig) hFits(slots, elements int) bool {
	return c.hiddenAtOnce() < c.Hidden && (c.rowOfH(slots)+slots)*c.Hidden <= elements
}

// savedInDown reports whether Z lies in the first tensor of the gradient of Down's weights, and may.
func (m *MLP) savedInDown(s *MLPSaved, g MLPGrads) bool {
	w := g.Down.Weight
	if w == nil || g.AccumulateWeights || s.Save != RecomputeActivation || s.Z == nil || s.Z.Bytes() == 0 {
		return false
	}
	from, to := w.parts[0].Address(), w.parts[0].Address()+w.parts[0].Bytes()
	return w.DType() == s.Z.DType() && from <= s.Z.Address() && s.Z.Address()+s.Z.Bytes() <= to
}

// spaceOfH is where h then lies in the gradient of Down's weights, or nil where it has no room.
func (m *MLP) spaceOfH(rec *vk.Recorder, s *MLPSaved, g MLPGrads) *vk.Tensor {
	part, slots := g.Down.Weight.parts[0], s.Routing.Slots()
	if s.Z.Address() != part.Address() || !m.Config.hFits(slots, part.Elements()) {
		return nil
	}
	t, err := part.View(m.Config.rowOfH(slots)*m.Config.Hidden, slots, m.Config.Hidden)
	if err != nil {
		rec.Fail(err)
	}
	return t
}

// lastGradient records the gradient of Down's weights from the first columns of h, which are in left, and from the others, which are
// in h where that lies in the gradient.
func (m *MLP) lastGradient(rec *vk.Recorder, r *Routing, left, h *vk.Tensor, dys operand, gates *vk.Tensor, down LinearGrads) error {
	width := left.Dim(1)
	if err := m.Down.groupXTY(rec, r, dys, operand{left, true, 1}, gates, down.Weight, 0, false); err != nil {
		return err
	}
	right, err := left.View(0, r.Slots(), m.Config.Hidden-width)
	if err != nil {
		return rec.Fail(err)
	}
	if err := copyColumns(rec, h, width, right); err != nil {
		return err
	}
	return m.Down.groupXTY(rec, r, dys, operand{right, true, 1}, gates, down.Weight, width, false)
}
