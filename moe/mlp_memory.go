package moe

import "github.com/vkmoe/vkmoe/internal/check"

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's
// bytes, w·(E·D + E·D·(H or 2H) + E·H·D) and the biases and shared experts. Their gradients (NewGrads) take as much, but for
// CorrectionBias, which has none.
func (c MLPConfig) WeightBytes() uint64 {
	m := MLP{Config: c}
	n := uint64(0)
	for _, part := range m.parts() {
		p := part.cfg
		n += tensorBytes(c.DType.Bytes(), p.Experts, p.In, p.Out)
		if p.Bias {
			n += tensorBytes(c.DType.Bytes(), p.Experts, p.Out)
		}
	}
	if c.CorrectionBias {
		n += tensorBytes(4, c.Experts)
	}
	if c.OutputBias {
		n += tensorBytes(c.DType.Bytes(), c.Width)
	}
	return n
}

// tensorBytes is what a tensor takes: elements rounded up to 256 bytes.
func tensorBytes(element uint64, shape ...int) uint64 {
	n := element
	for _, s := range shape {
		n *= uint64(s)
	}
	return (n + 255) / 256 * 256
}

// A Pass is what PassBytes estimates.
type Pass struct {
	Save     Save
	Routed   bool // the caller chose the experts
	Backward bool // the backward pass follows in the same recorder, for all gradients
	// Workspace says that the gradient of Up's weights is overwritten, so that the backward pass uses it, and that it is the
	// forward pass's Workspace too.
	Workspace bool
}

// PassBytes is the device memory that a pass of a layer takes from its recorder for T tokens, in bytes; x, y, weights and
// gradients are the caller's. blockM is Routing.BlockM. With w the dtype's bytes and each tensor rounded up to 256 bytes:
//
//	router     4·T·E + 8·T·K (logits, ids, gates), unless Routed
//	routing    8·T·K (order and inverse) + 8·tiles + 4·blocks·(E + 2) + 4·E and a little
//	Z          w·T·K·(H or 2H)
//	H          w·T·K·H
//	Slots      w·T·K·D
//	backward   4·T·E + 4·T·K (gradients of logits and gates) and 2·T·E for a 16-bit dtype, unless Routed
//
// tiles = ⌈T·K/blockM⌉ + min(E,T·K); blocks is ⌈T·K/512⌉, or what Route names where that is less. Save decides
// which of Z, H and Slots stay after the forward pass, not which it needs, with one exception: with SaveNothing, Z and H
// share memory for an activation that is not gated, and Z and Slots for a gated one. The backward pass finds its room in H
// and Slots, or in Slots alone after SaveAll; only where H > D does it then take w·T·K·H bytes more. A Workspace takes H and
// Slots as far as it holds them. Memory that a recorder reuses by chance, and the shared experts, which take
// w·T·(3 or 4)·SharedHidden bytes, are not counted.
//
// Compared with vk.MemoryStats it tells beforehand whether a batch fits.
func (c MLPConfig) PassBytes(tokens, blockM int, p Pass) uint64 {
	w, slots := c.DType.Bytes(), tokens*c.TopK
	n := RouteBytes(tokens, c.TopK, c.Experts, blockM, p.Routed)
	if !p.Routed && p.Backward {
		n += tensorBytes(4, tokens, c.Experts) + tensorBytes(4, slots)
		if w < 4 {
			n += tensorBytes(w, tokens, c.Experts)
		}
	}
	space := 0 // elements left in the workspace
	if p.Workspace {
		space = c.Experts * c.Width * c.Activation.columns(c.Hidden)
	}
	take := func(width int) {
		if elements := slots * width; elements <= space {
			space -= check.CeilDiv(elements, workspaceAlign) * workspaceAlign
			return
		}
		n += tensorBytes(w, slots, width)
	}
	columns := c.Activation.columns(c.Hidden)
	switch p.Save {
	case SaveNothing:
		if c.Activation.Gated() {
			take(max(columns, c.Width))
			take(c.Hidden)
		} else {
			take(columns)
			take(c.Width)
		}
	case RecomputeActivation:
		n += tensorBytes(w, slots, columns)
		take(c.Hidden)
		take(c.Width)
	default:
		n += tensorBytes(w, slots, columns) + tensorBytes(w, slots, c.Hidden) + tensorBytes(w, slots, c.Width)
		if p.Backward && c.Hidden > c.Width {
			n += tensorBytes(w, slots, c.Hidden)
		}
	}
	return n
}

// RouteBytes is the device memory that Route takes for T·K = slots from its recorder, in bytes, ids and gates included, and the
// logits F32 [T,E] that it reads; or RouteIDs, which is given all of these, where routed.
func RouteBytes(tokens, topK, experts, blockM int, routed bool) uint64 {
	n := groupBytes(tokens*topK, experts, blockM)
	if !routed {
		n += tensorBytes(4, tokens, experts) + 2*tensorBytes(4, tokens, topK)
	}
	return n
}

// groupBytes is the scratch of the grouping of slots by expert.
func groupBytes(slots, experts, blockM int) uint64 {
	_, blocks := sortBlocks(slots, experts)
	tiles := check.CeilDiv(slots, blockM) + min(experts, slots)
	return 2*tensorBytes(4, slots) + tensorBytes(4, experts+1) + tensorBytes(4, tiles, 2) + 2*tensorBytes(4, 4) +
		tensorBytes(4, blocks, experts+2)
}

// ScratchBytes is PassBytes of Forward.
func (m *MLP) ScratchBytes(tokens int) uint64 {
	slots := tokens * m.Config.TopK
	return m.Config.PassBytes(tokens, chooseBlockM(m.Router.Weight.Device(), slots, m.Config.Experts), Pass{})
}
