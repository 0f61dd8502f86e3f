package session

import (
	"math"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/vk"
)

// linears are the labels of the ParallelLinear layers of a model, as its recordings name them.
var linears = []string{"up", "down", "query", "key value", "output", "head"}

// group tells which group of kernels a command of a step belongs to.
func group(label string) int {
	name, _, _ := strings.Cut(label, ".")
	switch {
	case slices.Contains(linears, name):
		return dashboard.LinearForward
	case strings.HasPrefix(name, "router"), strings.HasPrefix(name, "expert_"), strings.HasPrefix(name, "combine"),
		strings.HasPrefix(name, "topk"), strings.HasPrefix(name, "route"):
		return dashboard.Routing
	case strings.HasSuffix(name, " dX"):
		return dashboard.LinearDX
	case strings.HasSuffix(name, " dW"), strings.HasSuffix(name, " db"):
		return dashboard.LinearDW
	case strings.HasPrefix(name, "flash_"), name == "rope", name == "positions":
		return dashboard.Attention
	}
	return dashboard.Other
}

// stepTime adds the times of a step's commands up by group; ok is false where the device takes none.
func stepTime(step int, timings []vk.Timing) (t dashboard.StepTime, ok bool) {
	t.Step = step
	for _, command := range timings {
		t.Seconds[group(command.Label)] += command.Duration.Seconds()
	}
	return t, len(timings) > 0
}

// stepFLOPs is how many floating-point operations the matrices of a training step take, two per multiplication and addition:
// forward once and backward twice what each token meets of
//
//	D·E + K·D·h·d + D·2·h·d + K·h·d·D    a mixture of attention: router, queries, keys and values, output
//	K·h·d·(L + 1)                        its attention over half of L tokens on average, scores and values
//	D·E + K·3·D·H  or  3·D·H             the MLP: router and experts, or the dense one
//	D·V                                  the head
func (c Config) stepFLOPs(v variant) float64 {
	s := c.Sizes
	d, heads := float64(s.Width), float64(s.Heads*s.HeadWidth)
	k, e := float64(v.k), float64(s.Experts)
	layer := d*e + 2*k*d*heads + 2*d*heads + k*heads*float64(s.Length+1)
	if v.dense {
		layer += 3 * d * float64(c.K*s.Hidden)
	} else {
		layer += d*e + 3*k*d*float64(s.Hidden)
	}
	perToken := float64(s.Layers)*layer + d*256
	return 3 * 2 * perToken * float64(s.Batch*s.Length)
}

// padBlock is the number of rows to whose multiples MegaBlocks pads an expert's share (arXiv 2211.15841, section 5.1).
const padBlock = 128

// padded is how many rows a router's slots take where each expert's are padded.
func padded(load []int) (rows, slots int) {
	for _, n := range load {
		rows += (n + padBlock - 1) / padBlock * padBlock
		slots += n
	}
	return rows, slots
}

// paddingBytes is the device memory that an implementation like MegaBlocks would need in a step beyond this one's, by the
// loads that the step really had. It computes experts on copies of their rows that are grouped by expert and padded, and keeps
// the copies for the backward pass. With w bytes a value, S slots of a router and P padded rows it takes
//
//	w·(P·D + (P − S)·(3·H + D))        for an MLP of gated experts: a copy of the input; and up, activation and down, padded
//	w·(P·(D + h·d) + (P − S)·(h·d + D)) for a mixture of attention: copies of the input and of the heads; and both results, padded
//
// more. What both need, and the gradients' own copies, which live for one layer at a time, are left out.
func (c Config) paddingBytes(v variant, loads [][]int) uint64 {
	s := c.Sizes
	d, heads, w := s.Width, s.Heads*s.HeadWidth, int(v.dtype.Bytes())
	total := 0
	for r, load := range loads {
		rows, slots := padded(load)
		if v.dense || r%2 == 0 {
			total += w * (rows*(d+heads) + (rows-slots)*(heads+d))
		} else {
			total += w * (rows*d + (rows-slots)*(3*s.Hidden+d))
		}
	}
	return uint64(total)
}

// spread is how evenly the loads of all routers lie.
func spread(step int, loads [][]int) dashboard.Spread {
	out := dashboard.Spread{Step: step}
	for _, load := range loads {
		most, sum, entropy := 0, 0, 0.0
		for _, n := range load {
			most, sum = max(most, n), sum+n
		}
		for _, n := range load {
			if n > 0 {
				p := float64(n) / float64(sum)
				entropy -= p * math.Log(p)
			}
		}
		if sum == 0 || len(load) < 2 {
			out.Balance++
			out.Entropy++
			continue
		}
		out.Balance += float64(most*len(load)) / float64(sum)
		out.Entropy += entropy / math.Log(float64(len(load)))
	}
	if n := float64(len(loads)); n > 0 {
		out.Balance /= n
		out.Entropy /= n
	}
	return out
}
