package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// TopKBackward records the gradient of a routing's gates with respect to its logits: from dGates F32 [T,K], the gradient of
// a loss with respect to Routing.Gates, it computes dLogits F32 [T,E], overwriting it or adding to it. logits F32 [T,E]
// are those that Route was given. The choice itself has no gradient, so neither has a correction bias. With c the scale,
// g the gates before scaling and D = Σ_j dGates_j·g_j, for each expert e:
//
//	SoftmaxTopK                   c·p_e·(dGates_e − D), p the softmax over all experts, dGates_e = 0 unless chosen
//	SoftmaxTopKNorm, TopKSoftmax  c·g_e·(dGates_e − D) if chosen, else 0
//	SigmoidTopK                   c·(1 − s_e)·g_e·dGates_e if chosen, else 0; s the score
//	SigmoidTopKNorm               c·(1 − s_e)·g_e·(dGates_e − D) if chosen, else 0
//
// A row whose logits make its gates NaN has NaN gradients where this is not 0. A routing of the caller's ids has no router to
// differentiate and is refused.
func TopKBackward(rec *vk.Recorder, r *Routing, logits, dGates, dLogits *vk.Tensor, accumulate bool) error {
	const op = "TopKBackward"
	if r == nil || r.Router == nil {
		return rec.Fail(&vk.ShapeError{Op: op, Arg: "routing", Want: "a routing of Route", Got: "another"})
	}
	dev := rec.Device()
	err := check.First(
		check.Tensor(dev, op, "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K),
		check.Tensor(dev, op, "logits", logits, vk.F32, r.Tokens, r.Experts),
		check.Tensor(dev, op, "dGates", dGates, vk.F32, r.Tokens, r.K),
		check.Tensor(dev, op, "dLogits", dLogits, vk.F32, r.Tokens, r.Experts),
	)
	if err == nil {
		err = check.Apart(op, "dLogits", dLogits, check.Inputs{"routing.IDs": r.IDs, "logits": logits, "dGates": dGates})
	}
	if err != nil {
		return rec.Fail(err)
	}
	topKBackward(rec, r, logits, dGates, dLogits, accumulate, topKLanes(software(dev), r.Experts))
	return rec.Err()
}

// topKBackward records the kernel with a number of lanes per row.
func topKBackward(rec *vk.Recorder, r *Routing, logits, dGates, dLogits *vk.Tensor, accumulate bool, lanes int) {
	reads := []*vk.Tensor{r.IDs, logits, dGates, dLogits}
	if !accumulate {
		reads = reads[:3]
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.TopkGatesBackward,
		Spec: shaders.TopkGatesBackwardSpec{Threads: topKThreads, Lanes: uint32(lanes), Mode: uint32(r.Router.Mode),
			Accumulate: accumulate}.Values(),
		Push: shaders.TopkGatesBackwardPush{Logits: logits.Address(), Ids: r.IDs.Address(), DGates: dGates.Address(),
			DLogits: dLogits.Address(), Tokens: uint32(r.Tokens), Experts: uint32(r.Experts), K: uint32(r.K),
			Scale: r.Router.scale()}.Bytes(),
		Linear: uint64(check.CeilDiv(r.Tokens, topKThreads/lanes)),
		Reads:  reads,
		Writes: []*vk.Tensor{dLogits},
		FLOPs:  40 * float64(r.Tokens) * float64(r.Experts+r.K),
	})
}
