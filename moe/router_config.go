package moe

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// A RouterMode says how gates follow from router logits.
type RouterMode uint8

// The router modes. The softmax modes choose the k largest logits, the sigmoid modes the k largest corrected scores; ties
// go to the lower expert.
const (
	// SoftmaxTopK takes the softmax over all E logits; the gates are the k chosen probabilities (OLMoE, Qwen2-MoE).
	SoftmaxTopK RouterMode = iota
	// SoftmaxTopKNorm divides the gates of SoftmaxTopK by their sum (Mixtral, Qwen3).
	SoftmaxTopKNorm
	// TopKSoftmax takes the softmax over the k chosen logits only (JetMoE, GraniteMoE, gpt-oss).
	TopKSoftmax
	// SigmoidTopK scores each expert by the sigmoid of its logit; the gates are the k chosen scores.
	SigmoidTopK
	// SigmoidTopKNorm divides the gates of SigmoidTopK by their sum + 1e-20 (DeepSeek-V3).
	SigmoidTopKNorm
)

func (m RouterMode) String() string {
	names := [...]string{"softmax-topk", "softmax-topk-norm", "topk-softmax", "sigmoid-topk", "sigmoid-topk-norm"}
	if int(m) < len(names) {
		return names[m]
	}
	return fmt.Sprintf("router mode %d", uint8(m))
}

// Sigmoid reports whether the mode scores each expert on its own.
func (m RouterMode) Sigmoid() bool { return m == SigmoidTopK || m == SigmoidTopKNorm }

// MaxGroups is the largest number of groups of experts.
const MaxGroups = 128

// A RouterConfig says how tokens choose experts and how much each choice weighs.
type RouterConfig struct {
	TopK int // K, 1 to min(E, 64)
	Mode RouterMode

	// Scale multiplies every gate after any normalization (routed_scaling_factor); 0 means 1.
	Scale float32

	// CorrectionBias F32 [E] is added to the scores of a sigmoid mode for the choice, and only for that: the gates are the
	// scores themselves (DeepSeek-V3's e_score_correction_bias). nil means none.
	CorrectionBias *vk.Tensor

	// Groups and TopGroups limit the choice of a sigmoid mode as DeepSeek-V3 does (arXiv 2412.19437, section 2.1.2; n_group and
	// topk_group): the experts come in Groups runs of E/Groups, a group's score is the sum of its two largest corrected
	// scores, and experts outside the TopGroups best groups are never chosen. transformers instead gives those a corrected
	// score of 0, which is the same unless biases make scores of the best groups negative. Groups is at most MaxGroups; 0 means
	// no limit.
	Groups, TopGroups int
}

// Validate reports the first field that makes no sense for this many experts as a *ConfigError.
func (c RouterConfig) Validate(experts int) error {
	return check.First(
		check.InRange("RouterConfig", "experts", experts, 1, MaxExperts),
		check.InRange("RouterConfig", "TopK", c.TopK, 1, min(experts, MaxTopK)),
		check.InRange("RouterConfig", "Mode", int(c.Mode), 0, int(SigmoidTopKNorm)),
		c.validateScale(),
		c.validateGroups(experts),
	)
}

func (c RouterConfig) validateScale() error {
	if s := float64(c.Scale); math.IsNaN(s) || math.IsInf(s, 0) {
		return check.Config("RouterConfig", "Scale", "finite", fmt.Sprint(c.Scale))
	}
	return nil
}

func (c RouterConfig) validateGroups(experts int) error {
	fault := func(field, want string, got any) error {
		return check.Config("RouterConfig", field, want, fmt.Sprint(got))
	}
	switch {
	case c.CorrectionBias != nil && !c.Mode.Sigmoid():
		return fault("CorrectionBias", "nil for "+c.Mode.String(), "given")
	case c.Groups == 0 && c.TopGroups == 0:
		return nil
	case !c.Mode.Sigmoid():
		return fault("Groups", "0 for "+c.Mode.String(), c.Groups)
	case c.Groups < 1 || c.Groups > MaxGroups || experts%c.Groups != 0:
		return fault("Groups", fmt.Sprintf("a divisor of %d experts, at most %d", experts, MaxGroups), c.Groups)
	}
	size := experts / c.Groups
	return check.InRange("RouterConfig", "TopGroups", c.TopGroups, check.CeilDiv(c.TopK, size), c.Groups)
}

func (c RouterConfig) scale() float32 {
	if c.Scale == 0 {
		return 1
	}
	return c.Scale
}
