package conform

import (
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

func suffix(i int) string { return fmt.Sprintf(" %d", i) }

// Shapes have odd and even widths, widths of whole quads and not, ragged tiles, one token, more experts than slots, k of all
// experts, and inputs longer than several steps of every tile. What the CPU drivers take long for is left to package moe.
var (
	forwardShapes = []shape{
		{1, 1, 1, 1, 1}, {8, 2, 1, 33, 7}, {3, 2, 7, 3, 1}, {4, 3, 33, 1, 3}, {5, 2, 20, 36, 40}, {8, 4, 70, 100, 25},
		{64, 8, 9, 24, 12}, {2, 1, 129, 128, 64}, {4, 4, 40, 65, 33},
	}
	optionShapes   = []shape{{6, 3, 50, 61, 34}, {5, 2, 37, 48, 72}}
	backwardShapes = []shape{{3, 2, 7, 3, 1}, {5, 2, 20, 36, 40}, {8, 4, 70, 33, 25}, {16, 1, 40, 12, 50}}
	coopMatShapes  = []shape{{1, 1, 1, 8, 8}, {3, 2, 37, 24, 16}, {8, 4, 70, 104, 72}, {4, 2, 130, 64, 128}, {16, 4, 9, 136, 40},
		{4, 2, 130, 200, 128}, {3, 2, 37, 264, 72}} // the last two have several steps of 64 or 128 inputs and a tail
)

// forwardOptions of cases that vary nothing else; odd addresses come last, and then results in parts.
var forwardOptions = []string{"bias", "gates", "bias_gates", "inout", "inout_bias_gates", "accumulate", "accumulate_gates",
	"banks_bias", "banks_inout", "exact_bias_gates", "exact_inout", "odd", "odd_inout_bias",
	"parts_bias_gates", "parts_inout", "odd_parts"}

// linearName joins the parts of a case's name.
func linearName(op string, c linearCase, types, layout, option string) string {
	return strings.Join([]string{"parallel_linear", op, types, c.path.String(), layout, c.shape.String(), c.spread.name, option}, ".")
}

func uniform(dtype vk.DType) linearCase {
	return linearCase{x: dtype, w: dtype, y: dtype, path: moe.PathPortable}
}

func linearForward(add func(Case)) {
	emit := func(c linearCase, dtype vk.DType, layout int, option string, required bool) {
		c.layout = layouts[layout].layout
		c = c.withOption(option)
		add(Case{Name: linearName("forward", c, dtype.String(), layouts[layout].name, option), Required: required, Record: c.forward})
	}
	for _, dtype := range storages {
		for l := range layouts {
			for i, s := range forwardShapes {
				for j, sp := range spreads {
					c := uniform(dtype)
					c.shape, c.spread = s, sp
					emit(c, dtype, l, "plain", (i == 4 || i == 5) && j == (l+i)%len(spreads))
				}
			}
			for i, s := range optionShapes {
				for j, option := range forwardOptions {
					c := uniform(dtype)
					c.shape, c.spread = s, spreads[(i+j+l)%len(spreads)]
					emit(c, dtype, l, option, j%6 == l && i == j%2)
				}
			}
		}
	}
}

// linearMixed are the layers whose 16-bit weights serve f32 activations.
func linearMixed(add func(Case)) {
	for _, w := range storages[1:] {
		for mask := 1; mask < 4; mask++ {
			c := uniform(w)
			if mask&1 != 0 {
				c.x = vk.F32
			}
			if mask&2 != 0 {
				c.y = vk.F32
			}
			types := fmt.Sprintf("%v_%v_%v", c.x, c.w, c.y)
			for l := range layouts {
				for i, s := range optionShapes {
					for j, option := range []string{"plain", "bias_gates", "inout_bias", "accumulate", "odd"} {
						c := c
						c.shape, c.spread, c.layout = s, spreads[(i+j+l)%len(spreads)], layouts[l].layout
						c = c.withOption(option)
						add(Case{Name: linearName("forward", c, types, layouts[l].name, option), Record: c.forward,
							Required: l == mask && i == 0 && (j == 0 || j == 4)})
					}
				}
			}
		}
	}
}

func linearCoopMat(add func(Case)) {
	for _, dtype := range storages[1:] {
		for l := range layouts {
			for i, s := range coopMatShapes {
				for j, sp := range spreads {
					for n, option := range []string{"plain", "bias", "gates", "bias_gates", "banks_bias", "exact_bias_gates",
						"parts_bias_gates", "parts_inout"} {
						if n > 0 && (i+j+n+l)%6 != 0 {
							continue
						}
						c := uniform(dtype)
						c.path, c.shape, c.spread, c.layout = moe.PathCoopMat, s, sp, layouts[l].layout
						c = c.withOption(option)
						add(Case{Name: linearName("forward", c, dtype.String(), layouts[l].name, option), Record: c.forward,
							Needs: []vk.Feature{vk.FeatureCoopMat}, Required: (i == 2 || i == 5) && j == (l+i)%len(spreads)})
					}
				}
			}
		}
	}
}

// linearDecode are a few rows per expert on the path that reads weights in whole pieces of 16 bytes.
func linearDecode(add func(Case)) {
	shapes := []shape{{1, 1, 1, 8, 1}, {8, 2, 1, 264, 40}, {4, 2, 3, 24, 17}, {16, 4, 8, 1032, 30}, {3, 2, 37, 64, 33}, {64, 8, 9, 136, 5},
		{4, 2, 1, 4096, 12}} // the last in one load of whole rows
	options := []string{"plain", "bias", "gates", "bias_gates", "banks_bias", "exact_bias_gates", "accumulate"}
	emit := func(c linearCase, types string, l int, option string, required bool) {
		c.path, c.layout = moe.PathDecode, layouts[l].layout
		c = c.withOption(option)
		add(Case{Name: linearName("forward", c, types, layouts[l].name, option), Record: c.forward, Required: required})
	}
	for d, dtype := range storages {
		for l := range layouts {
			for i, s := range shapes {
				for j, sp := range spreads {
					c := uniform(dtype)
					c.shape, c.spread = s, sp
					emit(c, dtype.String(), l, options[(i+j+l)%len(options)], (l+d)%3 == i%3 && i > 0 && (i < 4 || i == 6) && j == (l+i)%len(spreads))
				}
			}
			for mask := 1; mask < 4 && dtype != vk.F32; mask++ { // rows in f32, in or out or both
				c := uniform(dtype)
				if mask&1 != 0 {
					c.x = vk.F32
				}
				if mask&2 != 0 {
					c.y = vk.F32
				}
				c.shape, c.spread = shapes[1+(l+mask)%4], spreads[(l+mask)%len(spreads)]
				emit(c, fmt.Sprintf("%v_%v_%v", c.x, c.w, c.y), l, "exact_bias_gates", l == mask)
			}
		}
	}
}

var gradients = []string{"dx", "dw", "db", "dgates", "all"}

func linearBackward(add func(Case)) {
	emit := func(c linearCase, dtype vk.DType, layout int, op, option string, required bool) {
		c.layout = layouts[layout].layout
		c = c.withOption(option)
		if op == "db" || op == "all" {
			c.bias = true
		}
		add(Case{Name: linearName("backward_"+op, c, dtype.String(), layouts[layout].name, option), Required: required,
			Record: func(k *Kit) func() { return c.backward(k, op) }})
	}
	options := []string{"gates", "inout", "inout_gates_bias", "accumulate", "accumulate_gates", "banks_gates", "odd_gates", "exact",
		"wide_accumulate"}
	for _, dtype := range storages {
		for o, op := range gradients {
			for l := range layouts {
				for i, s := range backwardShapes {
					for j, sp := range spreads {
						if (i+j+l+o)%2 == 1 {
							continue
						}
						c := uniform(dtype)
						c.shape, c.spread = s, sp
						emit(c, dtype, l, op, "plain", false)
					}
				}
				for j, option := range options {
					if (j+l+o)%2 == 1 {
						continue
					}
					c := uniform(dtype)
					c.shape, c.spread = optionShapes[(j+l)%2], spreads[(j+l+o)%len(spreads)]
					if option == "exact" {
						c.spread = spreads[l%3]
					}
					required := op == "all" && (j == l || j == l+5) || op == "db" && option == "wide_accumulate" && l == 0
					emit(c, dtype, l, op, option, required)
				}
			}
		}
	}
}

// linearCoopMatBackward are gradients by cooperative matrices: of the input, with the weights transposed or not, and of the
// weights.
func linearCoopMatBackward(add func(Case)) {
	options := []string{"plain", "inout", "gates", "inout_gates", "accumulate", "banks_gates"}
	emit := func(c linearCase, layout int, op, option string, required bool) {
		c.path, c.layout = moe.PathCoopMat, layouts[layout].layout
		c = c.withOption(option)
		c.bias = c.bias || op == "all"
		add(Case{Name: linearName("backward_"+op, c, c.w.String(), layouts[layout].name, option), Needs: []vk.Feature{vk.FeatureCoopMat},
			Required: required, Record: func(k *Kit) func() { return c.backward(k, op) }})
	}
	for _, dtype := range storages[1:] {
		for l := range layouts {
			for i, option := range []string{"wide", "wide_gates", "wide_accumulate"} { // 16-bit weights whose gradients are f32
				c := uniform(dtype)
				c.shape, c.spread = coopMatShapes[1+(l+i)%3], spreads[(l+i)%len(spreads)]
				emit(c, l, "dw", option, l == i && i > 0)
			}
		}
		for o, op := range []string{"dx", "dw", "all"} {
			for l := range layouts {
				for i, s := range coopMatShapes[1:] {
					for j, sp := range spreads {
						if (i+j+l+o)%3 != 0 {
							continue
						}
						c := uniform(dtype)
						c.shape, c.spread = s, sp
						emit(c, l, op, options[(i+2*j+l)%len(options)], i == 1 && j < 3)
					}
				}
			}
		}
	}
}

// linearAuto leave the path to the selector: what users get, from one token on.
func linearAuto(add func(Case)) {
	shapes := []shape{{8, 2, 1, 64, 40}, {8, 2, 4, 72, 48}, {32, 4, 2, 128, 64}, {4, 2, 33, 40, 24}, {4, 1, 300, 16, 8}, {8, 8, 3, 33, 17}}
	for _, dtype := range storages {
		for l := range layouts {
			for i, s := range shapes {
				for j, option := range []string{"plain", "bias_gates", "inout_gates"} {
					c := uniform(dtype)
					c.path, c.shape, c.spread, c.layout = moe.PathAuto, s, spreads[(i+j+l)%len(spreads)], layouts[l].layout
					c = c.withOption(option)
					required := j == i%3 && l == i
					add(Case{Name: linearName("forward", c, dtype.String(), layouts[l].name, option), Record: c.forward, Required: required})
					c.bias = true
					add(Case{Name: linearName("backward_all", c, dtype.String(), layouts[l].name, option), Required: required,
						Record: func(k *Kit) func() { return c.backward(k, "all") }})
				}
			}
		}
	}
}
