package attention

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
)

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's bytes,
// w·(D·E + 2·E·D·h·d + 2·D·h·d), and the biases and sinks. Their gradients (NewGrads) take as much.
func (c MixtureConfig) WeightBytes() uint64 {
	m := Mixture{Config: c}
	n := uint64(0)
	for _, part := range m.parts() {
		p := part.cfg
		n += check.TensorBytes(c.DType.Bytes(), p.Experts, p.In, p.Out)
		if p.Bias {
			n += check.TensorBytes(c.DType.Bytes(), p.Experts, p.Out)
		}
	}
	if c.OutputBias {
		n += check.TensorBytes(c.DType.Bytes(), c.Width)
	}
	if c.Sinks {
		n += check.TensorBytes(4, c.heads())
	}
	return n
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
//	block      w·T·K·h·d where Query and KeyValue are saved, for the experts' results and the gradient of Heads
//	backward   w·T·K·h·d + w·T·2·h·d (gradients of Query and KeyValue) + 4·T·K·h (FlashBackward's, and 4·⌈T/1024⌉·K·h with
//	           sinks), and with a router 4·T·E + 4·T·K, and w·T·E for a 16-bit dtype
//
// Nothing is grouped or copied, and nothing grows with T². The experts' results before their sum are K times as large as y,
// but only those of some tokens are there at a time: in the block, or where Query and KeyValue are not saved in their place,
// which is w·min(T, 1024)·K·D bytes at least. The tokens' part of the routing is made anew for them (moe.RouteBytes for so
// many). With one choice, the router's, and no output bias they are y itself. A backward pass that finds no Query and KeyValue
// computes them once more, in w·T·(K + 2)·h·d. Memory that a recorder reuses by chance is not counted.
//
// Compared with vk.MemoryStats it tells beforehand whether a batch fits.
func (c MixtureConfig) PassBytes(tokens, blockM int, p MixturePass) uint64 {
	w, rows := c.DType.Bytes(), tokens*c.TopK
	n := moe.RouteBytes(tokens, c.TopK, c.Experts, blockM, p.Routed)
	if p.Positions && tokens > 0 {
		n += check.TensorBytes(4, tokens) + check.TensorBytes(4, 2)
	}
	direct := c.TopK == 1 && !p.Routed && !c.OutputBias
	projections := check.TensorBytes(w, rows, c.columns()) + check.TensorBytes(w, tokens, 2*c.columns())
	n += check.TensorBytes(w, rows, c.columns()) // Heads
	if p.Save != moe.SaveNothing {
		n += check.TensorBytes(4, tokens, c.heads())
	}
	block := c.blockElements(tokens, p.Save, direct)
	if p.Save == moe.SaveAll {
		n += projections
	}
	if per := c.tokensPerBlock(tokens, block); per < tokens && !direct {
		n += moe.RouteBytes(per, c.TopK, c.Experts, blockM, true)
	}
	if p.Save == moe.SaveAll && direct && !p.Backward {
		block = 0
	}
	if p.Backward {
		n += projections + check.TensorBytes(4, tokens, c.heads())
		if p.Save == moe.RecomputeActivation {
			n += projections
		}
		if c.Sinks {
			n += check.TensorBytes(4, check.CeilDiv(tokens, sinkBlock), c.heads())
		}
		if !p.Routed {
			n += check.TensorBytes(4, tokens, c.Experts) + check.TensorBytes(4, rows)
		}
		if !p.Routed && w < 4 {
			n += check.TensorBytes(w, tokens, c.Experts)
		}
	}
	return n + check.TensorBytes(w, block)
}

// leastPerBlock is the number of tokens whose results a block always holds, so that parts are not too small for a device.
const leastPerBlock = 1024

// blockElements is the size of the block that a pass takes: for the gradient of Heads, for queries, keys and values that are not
// saved, and for the experts' results of some tokens.
func (c MixtureConfig) blockElements(tokens int, save moe.Save, direct bool) int {
	n := tokens * c.TopK * c.columns()
	if save != moe.SaveAll {
		n = aligned(n) + tokens*2*c.columns()
	}
	if direct {
		return n
	}
	return max(n, min(tokens, leastPerBlock)*c.TopK*c.Width)
}

// tokensPerBlock is how many tokens' results are in a block at a time: as few times as it must be, and about as many each time.
func (c MixtureConfig) tokensPerBlock(tokens, elements int) int {
	most := max(1, elements/(c.TopK*c.Width))
	return max(1, check.CeilDiv(tokens, max(1, check.CeilDiv(tokens, most))))
}
