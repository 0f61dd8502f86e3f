package conform

import (
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
)

var modes = []moe.RouterMode{moe.SoftmaxTopK, moe.SoftmaxTopKNorm, moe.TopKSoftmax, moe.SigmoidTopK, moe.SigmoidTopKNorm}

func modeName(m moe.RouterMode) string { return strings.ReplaceAll(m.String(), "-", "_") }

// routerShapes are experts, choices and tokens.
var routerShapes = [][3]int{
	{8, 2, 0}, {1, 1, 1}, {1024, 64, 1}, {2, 2, 2}, {3, 2, 3}, {4, 4, 65}, {8, 2, 100}, {60, 4, 129}, {64, 8, 64}, {128, 8, 33}, {256, 8, 17},
	{1000, 6, 20},
}

func topKCases(add func(Case)) {
	for _, mode := range modes {
		for i, s := range routerShapes {
			for j, values := range []string{"normal", "ties", "mixed"} {
				c := topKCase{experts: s[0], k: s[1], tokens: s[2], mode: mode, values: values, odd: (i+j)%2 == 1}
				add(Case{Name: fmt.Sprintf("router.topk.%s.e%d_k%d_t%d.%s", modeName(mode), s[0], s[1], s[2], values),
					Required: j == i%3 && i > 4, Record: c.forward})
			}
			c := topKCase{experts: s[0], k: s[1], tokens: s[2], mode: mode, values: "mixed", scale: -2.5}
			add(Case{Name: fmt.Sprintf("router.topk.%s.e%d_k%d_t%d.scaled", modeName(mode), s[0], s[1], s[2]), Record: c.forward,
				Required: i == 6})
		}
	}
	for _, mode := range modes[3:] {
		for i, s := range []struct{ experts, k, tokens, groups, top int }{
			{8, 2, 40, 4, 2}, {256, 8, 33, 8, 4}, {60, 4, 50, 6, 3}, {16, 1, 20, 16, 1}, {12, 6, 70, 2, 1}, {128, 4, 9, 128, 4},
		} {
			for j, bias := range []bool{false, true} {
				c := topKCase{experts: s.experts, k: s.k, tokens: s.tokens, mode: mode, values: "normal", groups: s.groups, top: s.top,
					bias: bias, scale: 2.5}
				name := fmt.Sprintf("e%d_k%d_t%d.g%d_top%d", s.experts, s.k, s.tokens, s.groups, s.top)
				if bias {
					name += "_bias"
				}
				add(Case{Name: fmt.Sprintf("router.topk.%s.%s", modeName(mode), name), Required: i == j, Record: c.forward})
				if j == 1 {
					c.groups, c.top = 0, 0
					add(Case{Name: fmt.Sprintf("router.topk.%s.e%d_k%d_t%d.bias", modeName(mode), s.experts, s.k, s.tokens),
						Required: i == 0, Record: c.forward})
				}
			}
		}
	}
}

// topKUnusual are NaN, infinities and ties in every mode.
func topKUnusual(add func(Case)) {
	for _, mode := range modes {
		for _, k := range []int{1, 2, 4, 6} {
			c := topKCase{k: k, mode: mode, values: "unusual"}
			add(Case{Name: fmt.Sprintf("router.topk.%s.unusual.k%d", modeName(mode), k), Required: k == 2, Record: c.forward})
		}
	}
}

func topKBackwardCases(add func(Case)) {
	for _, mode := range modes {
		for i, s := range routerShapes {
			for j, accumulate := range []bool{false, true} {
				c := topKCase{experts: s[0], k: s[1], tokens: s[2], mode: mode, values: "mixed", accumulate: accumulate, scale: 1.5,
					odd: (i+j)%2 == 1}
				name := "overwrite"
				if accumulate {
					name = "accumulate"
				}
				add(Case{Name: fmt.Sprintf("router.topk_backward.%s.e%d_k%d_t%d.%s", modeName(mode), s[0], s[1], s[2], name),
					Required: (i == 5 || i == 7) && j == i/2%2, Record: c.backward})
			}
		}
	}
}
