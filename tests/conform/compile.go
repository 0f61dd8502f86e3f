package conform

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Compiled is what a driver's compiler made of one pipeline.
type Compiled struct {
	Kernel       string   `json:"kernel"`
	Constants    []uint32 `json:"constants"`
	SubgroupSize uint32   `json:"subgroup_size,omitempty"`

	VGPRs   int `json:"vgprs"`
	SGPRs   int `json:"sgprs"`
	Spills  int `json:"spills"`  // spilled vector and scalar registers
	Scratch int `json:"scratch"` // bytes of memory per invocation or subgroup
	LDS     int `json:"lds"`     // bytes of shared memory per work-group
	Code    int `json:"code"`    // bytes

	Error string `json:"error,omitempty"`
}

// Pipelines records cases, without running any, on a device opened to compile only, and returns the pipelines that they use,
// each once in the order of first use. Cases that the device does not support are left out and counted.
func Pipelines(ctx context.Context, dev *vk.Device, cases []Case, seed uint64) (specs []vk.PipelineSpec, unsupported int, err error) {
	seen := map[string]bool{}
	for _, c := range cases {
		if dev.Caps().Missing(c.Needs...) != "" {
			unsupported++
			continue
		}
		e := &execution{ctx: ctx, dev: dev, c: c, o: Options{Seed: seed}, found: &findings{wants: map[string][]float64{}}}
		k, _, err := e.record(0)
		var missing *vk.UnsupportedError
		switch {
		case errors.As(err, &missing):
			unsupported++
		case err != nil:
			return nil, 0, errors.Join(fmt.Errorf("%s: %w", c.Name, err), e.close())
		default:
			for _, s := range k.Rec.Pipelines() {
				key := fmt.Sprint(s.Kernel.Name(), s.Spec, s.SubgroupSize)
				if !seen[key] {
					seen[key] = true
					specs = append(specs, s)
				}
			}
		}
		if err := e.close(); err != nil {
			return nil, 0, err
		}
	}
	return specs, unsupported, nil
}

// Unused lists the library's kernels that a device can take and that no pipeline is of.
func Unused(dev *vk.Device, specs []vk.PipelineSpec) []string {
	used := map[string]bool{}
	for _, s := range specs {
		used[s.Kernel.Name()] = true
	}
	var list []string
	for _, k := range shaders.All {
		if !used[k.Name()] && dev.Caps().Has(k.Needs...) {
			list = append(list, k.Name())
		}
	}
	return list
}

// Measure compiles pipelines and reads what the driver says of each. A pipeline that does not compile has an Error.
func Measure(dev *vk.Device, specs []vk.PipelineSpec) []Compiled {
	var list []Compiled
	for _, s := range specs {
		c := Compiled{Kernel: s.Kernel.Name(), Constants: s.Spec, SubgroupSize: s.SubgroupSize}
		executables, err := dev.Executables(s)
		if err != nil {
			c.Error = err.Error()
		}
		for _, e := range executables {
			for _, x := range e.Statistics {
				c.count(strings.ToLower(x.Name), int(x.Value))
			}
		}
		list = append(list, c)
	}
	return list
}

// count takes one statistic under the names that Mesa's drivers give them. A pipeline in several executables is as large as
// its largest.
func (c *Compiled) count(name string, value int) {
	for _, f := range []struct {
		to    *int
		names string
	}{
		{&c.VGPRs, "vgprs"}, {&c.SGPRs, "sgprs"}, {&c.LDS, "lds size"}, {&c.Code, "code size"}, {&c.Scratch, "scratch size"},
	} {
		if name == f.names {
			*f.to = max(*f.to, value)
		}
	}
	if strings.HasPrefix(name, "spilled ") {
		c.Spills += value
	}
}

// A Budget is the most that the pipelines of one kernel may take on one device. Nothing may spill.
type Budget struct {
	VGPRs int `json:"vgprs"`
	LDS   int `json:"lds"`
}

// Budgets are the budgets of one device by kernel.
type Budgets map[string]Budget

// BudgetsOf returns the least budgets that hold what was compiled.
func BudgetsOf(list []Compiled) Budgets {
	b := Budgets{}
	for _, c := range list {
		o := b[c.Kernel]
		b[c.Kernel] = Budget{max(o.VGPRs, c.VGPRs), max(o.LDS, c.LDS)}
	}
	return b
}

// Over lists what is over budget, spilled, or did not compile.
func (b Budgets) Over(list []Compiled) []string {
	var faults []string
	for _, c := range list {
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Sprintf("%s %v: ", c.Kernel, c.Constants)+fmt.Sprintf(format, args...))
		}
		limit, known := b[c.Kernel]
		switch {
		case c.Error != "":
			fault("%s", c.Error)
		case !known:
			fault("no budget for this kernel")
		}
		if c.Spills > 0 || c.Scratch > 0 {
			fault("%d registers spilled, %d bytes of scratch", c.Spills, c.Scratch)
		}
		if known && c.VGPRs > limit.VGPRs {
			fault("%d VGPRs, the budget is %d", c.VGPRs, limit.VGPRs)
		}
		if known && c.LDS > limit.LDS {
			fault("%d bytes of shared memory, the budget is %d", c.LDS, limit.LDS)
		}
	}
	return faults
}
