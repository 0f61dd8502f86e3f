package attention

import "github.com/vkmoe/vkmoe/moe"

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's bytes,
// w·(D·E + 2·E·D·h·d + 2·D·h·d), and the biases and sinks. Their gradients (NewGrads) take as much.
func (c MixtureConfig) WeightBytes() uint64 {
	m := Mixture{Config: c}
	n := uint64(0)
	for _, part := range m.parts() {
		p := part.cfg
		n += tensorBytes(c.DType.Bytes(), p.Experts, p.In, p.Out)
		if p.Bias {
			n += tensorBytes(c.DType.Bytes(), p.Experts, p.Out)
		}
	}
	if c.OutputBias {
		n += tensorBytes(c.DType.Bytes(), c.Width)
	}
	if c.Sinks {
		n += tensorBytes(4, c.heads())
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

// A MixturePass is what MixtureConfig.PassBytes estimates.
type MixturePass struct {
	Save      moe.Save
	Routed    bool // the caller chose the experts
	Positions bool // the layer has a RoPE, and the caller does not give the positions
	Backward  bool // the backward pass follows in the same recorder, for all gradients
}

// PassBytes is the device memory that a pass of a layer takes from its recorder for T tokens, in bytes; x, y, weights and
// gradients are the caller's. blockM is Routing.BlockM. With w the dtype's bytes and each tensor rounded up to 256 bytes:
//
//	routing    moe.RouteBytes
//	positions  4·T + 8, where they are made
//	Query      w·T·K·h·d
//	KeyValue   w·T·2·h·d
//	Heads      w·T·K·h·d
//	LSE        4·T·K·h, unless nothing is saved
//	results    w·T·K·D, before the weighted sum; none where there is one choice, the router's, and no output bias
//	backward   w·T·K·h·d + w·T·2·h·d (gradients of Query and KeyValue) + 4·T·K·h (FlashBackward's, and 4·⌈T/1024⌉·K·h with
//	           sinks), and with a router 4·T·E + 4·T·K, and w·T·E for a 16-bit dtype
//
// Nothing is grouped or copied, and nothing grows with T². Unless Query and KeyValue are saved the results take their place, so
// that a pass needs the larger of the two; the backward pass then computes them once more in w·T·(K + 2)·h·d. The gradient of
// Heads takes the results' place, or w·T·K·h·d bytes where there is none. Memory that a recorder reuses by chance is not counted.
//
// Compared with vk.MemoryStats it tells beforehand whether a batch fits.
func (c MixtureConfig) PassBytes(tokens, blockM int, p MixturePass) uint64 {
	w, rows := c.DType.Bytes(), tokens*c.TopK
	n := moe.RouteBytes(tokens, c.TopK, c.Experts, blockM, p.Routed)
	if p.Positions && tokens > 0 {
		n += tensorBytes(4, tokens) + tensorBytes(4, 2)
	}
	direct := c.TopK == 1 && !p.Routed && !c.OutputBias
	projections := tensorBytes(w, rows, c.columns()) + tensorBytes(w, tokens, 2*c.columns())
	n += tensorBytes(w, rows, c.columns()) // Heads
	if p.Save != moe.SaveNothing {
		n += tensorBytes(4, tokens, c.heads())
	}
	block := 0
	switch {
	case p.Save != moe.SaveAll:
		block = c.forwardElements(tokens, direct)
	case !direct:
		block = rows * c.Width
	}
	if p.Save == moe.SaveAll {
		n += projections
	}
	if p.Backward {
		block = max(block, c.backwardElements(tokens, p.Save, direct))
		n += projections + tensorBytes(4, tokens, c.heads())
		if p.Save == moe.RecomputeActivation {
			n += projections
		}
		if c.Sinks {
			n += tensorBytes(4, ceilDiv(tokens, sinkBlock), c.heads())
		}
		if !p.Routed {
			n += tensorBytes(4, tokens, c.Experts) + tensorBytes(4, rows)
		}
		if !p.Routed && w < 4 {
			n += tensorBytes(w, tokens, c.Experts)
		}
	}
	return n + tensorBytes(w, block)
}

// forwardElements is the size of the memory that a pass takes which does not save queries, keys and values.
func (c MixtureConfig) forwardElements(tokens int, direct bool) int {
	n := aligned(tokens*c.TopK*c.columns()) + tokens*2*c.columns()
	if direct {
		return n
	}
	return max(n, tokens*c.TopK*c.Width)
}

// backwardElements is the size of the block that a backward pass takes first: for the gradient of Heads, and after it for the
// queries' part of x's gradient, slot by slot. It is what the forward pass gave back where that is large enough.
func (c MixtureConfig) backwardElements(tokens int, save moe.Save, direct bool) int {
	n := tokens * c.TopK * c.columns()
	if !direct {
		n = max(n, tokens*c.TopK*c.Width)
	}
	if save == moe.RecomputeActivation {
		n = max(n, c.forwardElements(tokens, direct))
	}
	return n
}
