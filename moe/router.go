package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// TopK records the choice of experts from router logits F32 [T,E]: ids I32 [T,K], best first, ties to the lower id, and
// gates F32 [T,K], both scratch of rec.
//
// NaN ranks below −Inf, so the ids of a row are always K different experts. In the softmax modes a row that holds a NaN or
// +Inf, or whose logits are all −Inf (the K chosen ones for TopKSoftmax), has NaN gates; other −Inf logits have gate 0, and
// gates smaller than e^−87 times the largest are 0. In the sigmoid modes a row has NaN gates when a logit or a corrected
// score is NaN, and only then; scores below e^−87 are 0.
// Errors: see the package.
func TopK(rec *vk.Recorder, logits *vk.Tensor, cfg RouterConfig) (ids, gates *vk.Tensor, err error) {
	tokens, experts, err := matrix("TopK", "logits", logits)
	if err == nil {
		err = check.First(check.Tensor(rec.Device(), "TopK", "logits", logits, vk.F32, tokens, experts), cfg.Validate(experts))
	}
	if err == nil && cfg.CorrectionBias != nil {
		err = check.Tensor(rec.Device(), "TopK", "CorrectionBias", cfg.CorrectionBias, vk.F32, experts)
	}
	if err != nil {
		return nil, nil, rec.Fail(err)
	}
	ids = rec.Scratch(vk.I32, tokens, cfg.TopK)
	gates = rec.Scratch(vk.F32, tokens, cfg.TopK)
	if rec.Err() != nil {
		return nil, nil, rec.Err()
	}
	lanes := topKLanes(software(rec.Device()), experts)
	if rankTopK(software(rec.Device()), tokens, experts, cfg) {
		lanes = byRanks
	}
	topK(rec, logits, ids, gates, cfg, lanes)
	return ids, gates, rec.Err()
}

// topK records the kernel with a number of lanes per row, or byRanks.
func topK(rec *vk.Recorder, logits, ids, gates *vk.Tensor, cfg RouterConfig, lanes int) {
	tokens, experts := logits.Dim(0), logits.Dim(1)
	spec := topKSpec(experts, cfg, lanes)
	rows := int(spec.Threads / spec.Lanes)
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.TopkGates,
		Spec:   spec.Values(),
		Push: shaders.TopkGatesPush{Logits: logits.Address(), Ids: ids.Address(), Gates: gates.Address(),
			Bias: cfg.CorrectionBias.Address(), Tokens: uint32(tokens), Experts: uint32(experts), K: uint32(cfg.TopK),
			Groups: uint32(cfg.Groups), TopGroups: uint32(cfg.TopGroups), Scale: cfg.scale()}.Bytes(),
		Linear: uint64(check.CeilDiv(tokens, rows)),
		Reads:  []*vk.Tensor{logits, cfg.CorrectionBias},
		Writes: []*vk.Tensor{ids, gates},
		FLOPs:  float64(tokens) * float64(experts) * float64(cfg.TopK),
	})
}

// topKSpec returns the kernel's specialization constants.
func topKSpec(experts int, cfg RouterConfig, lanes int) shaders.TopkGatesSpec {
	spec := shaders.TopkGatesSpec{Mode: uint32(cfg.Mode), Limited: cfg.Groups > 0, Lanes: uint32(lanes)}
	if lanes == byRanks {
		spec.Ranked, spec.Keys, spec.Lanes = true, 1, 1
		for int(4*spec.Lanes) < experts {
			spec.Lanes *= 2
		}
		spec.Threads = max(topKThreads, spec.Lanes)
		return spec
	}
	rows := topKRows(lanes, experts+cfg.Groups)
	spec.Threads, spec.Keys = uint32(rows*lanes), uint32(rows*(experts+cfg.Groups))
	return spec
}

// rankTopK reports whether comparing all experts with each other takes less time than choosing one after the other.
func rankTopK(software bool, tokens, experts int, cfg RouterConfig) bool {
	return !software && cfg.Groups == 0 && cfg.TopK > 1 && tokens*experts*experts <= maxTopKRanked
}

const (
	topKThreads = 64   // work-group size of topk_gates
	topKKeys    = 3072 // words of shared memory for keys: 12 KiB

	byRanks       = 0       // instead of a number of lanes
	maxTopKRanked = 1 << 25 // comparisons
)

// topKRows is how many rows of logits a work-group takes when a row has this many keys.
func topKRows(lanes, keys int) int { return max(1, min(topKThreads/lanes, topKKeys/keys)) }

// topKLanes is how many invocations share a row of logits. A software device runs one row per invocation, since its
// barriers cost more than they save.
func topKLanes(software bool, experts int) int {
	if software {
		if experts <= topKKeys/16 {
			return 1
		}
		return 8
	}
	lanes := 1
	for lanes < 32 && lanes*8 < experts {
		lanes *= 2
	}
	return lanes
}

// matrix returns the two dimensions of a matrix argument.
func matrix(op, arg string, t *vk.Tensor) (rows, columns int, err error) {
	if t == nil {
		return 0, 0, &vk.ShapeError{Op: op, Arg: arg, Want: "a matrix", Got: "nil"}
	}
	if t.Rank() != 2 {
		return 0, 0, &vk.ShapeError{Op: op, Arg: arg, Want: "a matrix", Got: t.String()}
	}
	return t.Dim(0), t.Dim(1), nil
}
