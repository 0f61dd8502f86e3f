package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A benchCase is a layer and a number of tokens, each routed to k random experts.
type benchCase struct {
	layer                  string
	experts, k, in, out, t int
	activation             moe.Activation // of the MLP whose width is in and whose hidden width is out
}

// Name is "layer/tokens".
func (c benchCase) Name() string { return fmt.Sprintf("%s/%d", c.layer, c.t) }

// shape describes the case.
func (c benchCase) shape() string {
	return fmt.Sprintf("E=%d k=%d %d→%d", c.experts, c.k, c.in, c.out)
}

// cases are the layers that peers are measured on: ScatterMoE's own unit, its sweeps over granularity and sparsity, and
// public models.
var cases = concat(
	sizes(benchCase{"paper", 32, 4, 4096, 2048, 0, moe.GELU}, 1, 8, 64, 512, 2048, 8192, 61440),
	sizes(benchCase{"mixtral", 8, 2, 4096, 14336, 0, moe.SwiGLU}, 1, 8, 64, 512, 4096),
	sizes(benchCase{"qwen3", 128, 8, 2048, 768, 0, moe.SwiGLU}, 1, 8, 64, 512, 4096, 8192),
	sizes(benchCase{"olmoe", 64, 8, 2048, 1024, 0, moe.SwiGLU}, 1, 512, 4096),
	sizes(benchCase{"dense", 1, 1, 4096, 4096, 0, moe.GELU}, 8192),
	sizes(benchCase{"small", 8, 2, 512, 1024, 0, moe.GELU}, 64, 512),
	sizes(benchCase{"granularity1", 8, 1, 4096, 8192, 0, moe.GELU}, 8192),
	sizes(benchCase{"granularity4", 32, 4, 4096, 2048, 0, moe.GELU}, 8192),
	sizes(benchCase{"granularity16", 128, 16, 4096, 512, 0, moe.GELU}, 8192),
	sparsity(1, 2, 4, 8, 16, 32),
)

func sizes(c benchCase, tokens ...int) []benchCase {
	var list []benchCase
	for _, c.t = range tokens {
		list = append(list, c)
	}
	return list
}

// sparsity is 64 experts of which more and more are active.
func sparsity(active ...int) []benchCase {
	var list []benchCase
	for _, k := range active {
		list = append(list, benchCase{fmt.Sprintf("sparsity%d", k), 64, k, 4096, 512, 8192, moe.GELU})
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

// A job is what is timed of a case.
type job interface {
	// prepare makes what the job works on.
	prepare(ctx context.Context) error
	// record records the job once.
	record(rec *vk.Recorder) error
	// check compares samples of the results with a float64 reference and returns their relative error. It fails when they
	// are beyond what the dtype explains.
	check(ctx context.Context) (float64, error)
	// cost is the job's arithmetic, and the bytes that it has to read of weights or write of their gradients.
	cost() (flops, bytes float64)
	// memory is what the job takes beside its operands, in bytes.
	memory() uint64
	// repeats is how often the job is recorded at most in one submission.
	repeats() int
	close() error
}

// operations are the jobs by name.
var operations = map[string]func(b *bench) job{
	"forward":  func(b *bench) job { return &linear{bench: b} },
	"dx":       func(b *bench) job { return &linear{bench: b, backward: true} },
	"dw":       func(b *bench) job { return &weightGradient{linear{bench: b}} },
	"mlp":      func(b *bench) job { return &mlp{bench: b} },
	"training": func(b *bench) job { return &mlp{bench: b, training: true} },
	"route":    func(b *bench) job { return &route{bench: b} },
}

// operationNames lists the operations.
const operationNames = "forward, dx, dw, mlp, training, route"
