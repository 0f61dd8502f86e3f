package main

import (
	"fmt"
	"strings"
)

// A benchCase is one ParallelLinear forward, scattered to grouped, with tokens routed at random.
type benchCase struct {
	layer                  string
	experts, k, in, out, t int
}

// Name is "layer/tokens".
func (c benchCase) Name() string { return fmt.Sprintf("%s/%d", c.layer, c.t) }

// shape describes the case.
func (c benchCase) shape() string {
	return fmt.Sprintf("E=%d k=%d %d→%d", c.experts, c.k, c.in, c.out)
}

// cases are the layers that peers are measured on: ScatterMoE's own unit and the up projections of public models.
var cases = concat(
	sizes(benchCase{"paper", 32, 4, 4096, 2048, 0}, 1, 8, 64, 512, 2048, 8192, 61440),
	sizes(benchCase{"mixtral", 8, 2, 4096, 14336, 0}, 1, 8, 64, 512, 4096),
	sizes(benchCase{"qwen3", 128, 8, 2048, 768, 0}, 1, 8, 64, 512, 4096),
	sizes(benchCase{"olmoe", 64, 8, 2048, 1024, 0}, 1, 512, 4096),
	sizes(benchCase{"dense", 1, 1, 4096, 4096, 0}, 8192),
	sizes(benchCase{"small", 8, 2, 512, 1024, 0}, 64, 512),
)

func sizes(c benchCase, tokens ...int) []benchCase {
	var list []benchCase
	for _, c.t = range tokens {
		list = append(list, c)
	}
	return list
}

func concat(lists ...[]benchCase) []benchCase {
	var all []benchCase
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// caseNames lists every case.
func caseNames() string {
	var names []string
	for _, c := range cases {
		names = append(names, c.Name())
	}
	return strings.Join(names, ", ")
}
