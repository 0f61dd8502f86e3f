package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's
// bytes, w·(E·D + E·D·(H or 2H) + E·H·D) and the biases and shared experts; of quantized matrices WeightFormat.ExpertBytes for each
// expert. Their gradients (NewGrads) take as much, but for
// CorrectionBias, which has none.
func (c MLPConfig) WeightBytes() uint64 {
	m := MLP{Config: c}
	n := uint64(0)
	for _, part := range m.parts() {
		p := part.cfg
		n += check.TensorBytes(p.Weights.ExpertBytes(c.DType, p.In, p.Out), p.Experts)
		if p.Bias {
			n += check.TensorBytes(c.DType.Bytes(), p.Experts, p.Out)
		}
	}
	if c.CorrectionBias {
		n += check.TensorBytes(4, c.Experts)
	}
	if c.OutputBias {
		n += check.TensorBytes(c.DType.Bytes(), c.Width)
	}
	return n
}

// A Pass is what PassBytes estimates.
type Pass struct {
	Save     Save
	Routed   bool // the caller chose the experts
	Backward bool // the backward pass follows in the same recorder, for all gradients
	// Workspace says that the gradient of Up's weights is overwritten, so that the backward pass uses it, and that it is the
	// forward pass's Workspace too.
	Workspace bool
	// SaveIn says so of the gradient of Down's weights, which lies in one tensor, and that it is the forward pass's SaveIn.
	SaveIn bool
}

// PassBytes is the device memory that a pass of a layer takes from its recorder for T tokens, in bytes; x, y, weights and
// gradients are the caller's. blockM is Routing.BlockM. With w the dtype's bytes, S = SharedHidden and each tensor rounded up to
// 256 bytes:
//
//	router     4·T·E + 8·T·K (logits, ids, gates), unless Routed
//	routing    8·T·K (order and inverse) + 8·tiles + 4·blocks·(E + 2) + 4·E and a little
//	shared     w·T·(S or 2S), unless SaveNothing, and w·T·S, and 8·T for a SharedGate
//	Z          w·T·K·(H or 2H), unless SaveNothing
//	H          w·T·K·H
//	Slots      w·T·K·D; unless SaveAll half of it where that is more than 128 MiB: see below
//	backward   4·T·E + 4·T·K (gradients of logits and gates) and 2·T·E for a 16-bit dtype, unless Routed; for the shared
//	           experts w·T·S, and 4·T and 2·T for a SharedGate
//
// tiles = ⌈T·K/blockM⌉ + min(E,T·K); blocks is ⌈T·K/512⌉, or what Route names where that is less. Save decides
// which of Z, H and Slots and of the shared experts' stay after the forward pass; Z, which the activation reads while it is in
// registers, is in memory only where it stays, and Slots is there in full only then. Otherwise slots' rows of more than 128 MiB are made
// and added up in two halves of the columns, the first rounded up to a multiple of 256, and so are their gradients. The backward pass
// finds its room in H and Slots, or in Slots alone after SaveAll; only where H is wider than what is there of Slots does it then take
// up to w·T·K·H bytes more. A
// Workspace takes H and Slots as far as it holds them, and the shared experts' before. With SaveIn, Z takes nothing after
// RecomputeActivation, and the backward pass w·T·K·H/2 instead, H/2 rounded up to a multiple of 256, where Z and H find room in the gradient
// of Down's weights: rows of H values, a multiple of 128 for Z and T·K for H, in E·D. Where they do not, where H is at most 256 or InOut is
// set, it takes w·T·K·H; where Z does not, all is as without SaveIn. What one part of a pass is done with,
// the recorder hands to the next where the sizes are alike (vk.Recorder.Scratch), so that the sum of the above is the most:
// PassBytes is what is taken of a recorder with nothing else in it. Noise on the router's input (ForwardOptions.Jitter) is not
// counted.
//
// Compared with vk.MemoryStats it tells beforehand whether a batch fits.
func (c MLPConfig) PassBytes(tokens, blockM int, p Pass) uint64 {
	m := passMemory{MLPConfig: c, Pass: p, tokens: tokens, slots: tokens * c.TopK}
	if !p.Routed {
		m.plan.Take(vk.F32, tokens, c.Experts)
		m.plan.Take(vk.I32, tokens, c.TopK)
		m.plan.Take(vk.F32, tokens, c.TopK)
	}
	planGroup(&m.plan, m.slots, c.Experts, blockM)
	m.sharedForward()
	m.expertsForward()
	if p.Backward {
		m.backward()
	}
	return m.plan.Bytes
}

// RouteBytes is the device memory that Route takes for T·K = slots from its recorder, in bytes, ids and gates included, and the
// logits F32 [T,E] that it reads; or RouteIDs, which is given all of these, where routed.
func RouteBytes(tokens, topK, experts, blockM int, routed bool) uint64 {
	var plan vk.ScratchPlan
	if !routed {
		plan.Take(vk.F32, tokens, experts)
		plan.Take(vk.I32, tokens, topK)
		plan.Take(vk.F32, tokens, topK)
	}
	planGroup(&plan, tokens*topK, experts, blockM)
	return plan.Bytes
}

// ScratchBytes is PassBytes of Forward.
func (m *MLP) ScratchBytes(tokens int) uint64 {
	slots := tokens * m.Config.TopK
	return m.Config.PassBytes(tokens, chooseBlockM(m.Router.Weight.Device(), slots, m.Config.Experts), Pass{})
}
