package main

import (
	"context"
	"fmt"
	"slices"
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
// public models, with the small numbers of tokens of decoding; and some of our own.
var cases = concat(
	sizes(benchCase{"paper", 32, 4, 4096, 2048, 0, moe.GELU}, 1, 2, 4, 8, 16, 32, 64, 512, 2048, 8192, 61440),
	sizes(benchCase{"mixtral", 8, 2, 4096, 14336, 0, moe.SwiGLU}, 1, 2, 4, 8, 16, 32, 64, 512, 4096),
	sizes(benchCase{"qwen3", 128, 8, 2048, 768, 0, moe.SwiGLU}, 1, 2, 4, 8, 16, 32, 64, 512, 4096, 8192),
	sizes(benchCase{"olmoe", 64, 8, 2048, 1024, 0, moe.SwiGLU}, 1, 2, 4, 8, 16, 32, 64, 512, 4096),
	sizes(benchCase{"dense", 1, 1, 4096, 4096, 0, moe.GELU}, 8192),
	sizes(benchCase{"small", 8, 2, 512, 1024, 0, moe.GELU}, 64, 512),
	granularity(1, 2, 4, 8, 16),
	sparsity(1, 2, 4, 8, 16, 32),
)

// A caseGroup is a name for several cases.
type caseGroup struct {
	name, about string
	has         func(c benchCase) bool
}

// groups are the named groups; a layer's name stands for its cases likewise.
var groups = []caseGroup{
	{"anchors", "the rows that peers were measured on", func(c benchCase) bool {
		return publicRow(c, 1, 8, 64, 512, 2048, 4096, 8192, 61440) && c.Name() != "olmoe/8" && c.Name() != "olmoe/64"
	}},
	{"granularity", "8·G experts of 8192/G hidden units, G of them active, 8,192 tokens", func(c benchCase) bool {
		return strings.HasPrefix(c.layer, "granularity")
	}},
	{"sparsity", "k of 64 experts active, 8,192 tokens", func(c benchCase) bool { return strings.HasPrefix(c.layer, "sparsity") }},
	{"gradients", "the rows that peers' gradients of weights were measured on", func(c benchCase) bool {
		return publicRow(c, 4096, 8192, 61440)
	}},
	{"layers", "the rows that peers' sparse MLPs were measured on, beside granularity and sparsity", func(c benchCase) bool {
		return publicRow(c, 2048, 4096, 61440) || c.Name() == "mixtral/512"
	}},
	{"token", "a single token of the same layers", func(c benchCase) bool { return c.t == 1 }},
	{"decode", "few tokens", func(c benchCase) bool { return c.t <= 32 }},
	{"routing", "tokens that choose 8 of 128 experts", func(c benchCase) bool {
		return c.layer == "qwen3" && (c.t == 512 || c.t == 8192)
	}},
}

// defaultCases are the names that stand for no name, by operation: the rows that peers were measured on.
var defaultCases = map[string][]string{
	"forward": {"anchors"}, "dx": {"gradients"}, "dw": {"gradients"}, "mlp": {"layers", "granularity", "sparsity"},
	"training": {"layers", "granularity", "sparsity"}, "route": {"routing"},
}

// publicRow says whether a case is a layer of ScatterMoE's unit or of a public model with so many tokens.
func publicRow(c benchCase, tokens ...int) bool {
	public := []string{"paper", "mixtral", "qwen3", "olmoe"}
	return slices.Contains(public, c.layer) && slices.Contains(tokens, c.t) && c.Name() != "qwen3/8192"
}

func sizes(c benchCase, tokens ...int) []benchCase {
	var list []benchCase
	for _, c.t = range tokens {
		list = append(list, c)
	}
	return list
}

// granularity is as many weights and as much arithmetic in more and more, smaller and smaller experts.
func granularity(levels ...int) []benchCase {
	var list []benchCase
	for _, g := range levels {
		list = append(list, benchCase{fmt.Sprintf("granularity%d", g), 8 * g, g, 4096, 8192 / g, 8192, moe.GELU})
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

// chooseCases finds the cases of the names given, those of the group anchors for none.
func chooseCases(names []string) ([]benchCase, error) {
	if len(names) == 0 {
		names = []string{"anchors"}
	}
	var chosen []benchCase
	for _, name := range names {
		found := casesOf(name)
		if len(found) == 0 {
			return nil, fmt.Errorf("there is no case %q; vkmoe-bench list shows those there are", name)
		}
		for _, c := range found {
			if !slices.Contains(chosen, c) {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen, nil
}

// A task is a case and what is timed of it.
type task struct {
	operation string
	benchCase
}

// chooseTasks finds the cases of the names given, the operation's own for none. A name may carry another operation: dw:paper/8192.
func chooseTasks(names []string, operation string) ([]task, error) {
	if err := checkOperation(operation); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = defaultCases[operation]
	}
	var chosen []task
	for _, name := range names {
		t := task{operation: operation}
		if before, after, found := strings.Cut(name, ":"); found {
			t.operation, name = before, after
		}
		if err := checkOperation(t.operation); err != nil {
			return nil, err
		}
		found, err := chooseCases([]string{name})
		if err != nil {
			return nil, err
		}
		for _, t.benchCase = range found {
			if !slices.Contains(chosen, t) {
				chosen = append(chosen, t)
			}
		}
	}
	return chosen, nil
}

func checkOperation(name string) error {
	if operations[name] == nil {
		return fmt.Errorf("there is no operation %q; there are %s", name, operationNames)
	}
	return nil
}

// casesOf are the cases that a case's, a layer's or a group's name stands for.
func casesOf(name string) []benchCase {
	var found []benchCase
	for _, c := range cases {
		in := func(g caseGroup) bool { return g.name == name && g.has(c) }
		if c.Name() == name || c.layer == name || slices.ContainsFunc(groups, in) {
			found = append(found, c)
		}
	}
	return found
}

// listCases prints every name that can be asked for.
func listCases() {
	fmt.Println("operations (--op), and what they are timed on where nothing is named:")
	for _, name := range strings.Split(operationNames, ", ") {
		fmt.Printf("  %-14s %s\n", name, strings.Join(defaultCases[name], ", "))
	}
	fmt.Println("\ngroups:")
	for _, g := range groups {
		fmt.Printf("  %-14s %3d cases: %s\n", g.name, len(casesOf(g.name)), g.about)
	}
	fmt.Printf("  %-14s %3d cases: mixtures of attention, by themselves: momha/1 …\n", "momha", len(momhaChoices))
	fmt.Println("\ncases, and their layers:")
	for _, c := range cases {
		fmt.Printf("  %-16s %s\n", c.Name(), c.shape())
	}
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
	// memory is that of the job's results, in bytes.
	memory() uint64
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
