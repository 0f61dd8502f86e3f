package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/tests/conform"
	"github.com/vkmoe/vkmoe/tests/conform/report"
	"github.com/vkmoe/vkmoe/vk"
)

// compileFlags are the flags of compile.
type compileFlags struct {
	selectionFlags
	device, budgets, json string
	update                bool
	seed                  uint64
}

// compileReport is what compile --json writes.
type compileReport struct {
	Device      conform.Device     `json:"device"`
	Unsupported int                `json:"unsupported"` // cases
	Pipelines   []conform.Compiled `json:"pipelines"`
	Faults      []string           `json:"faults,omitempty"`
}

func newCompileCommand() *cobra.Command {
	var flags compileFlags
	cmd := &cobra.Command{
		Use:   "compile [GLOB…]",
		Short: "Compile the pipelines of cases without running them, and hold registers and shared memory to budgets",
		Long: globHelp + `

It serves drivers that compile for hardware that is not there, such as RADV with RADV_FORCE_FAMILY, and needs
VK_KHR_pipeline_executable_properties. Exit code 1: a pipeline does not compile, spills registers, or is over its kernel's
budget, or a kernel of the library is used by no case of the whole or the required list.`,
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args) },
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&flags.device, "device", "", "index or part of the name of the device; default VKMOE_DEVICE, else the best one")
	cmd.Flags().StringVar(&flags.budgets, "budgets", "", "file of budgets by kernel")
	cmd.Flags().BoolVar(&flags.update, "update", false, "write the budgets anew from what is compiled; spills stay failures")
	cmd.Flags().StringVar(&flags.json, "json", "", "write every pipeline's registers, spills and shared memory to this file")
	cmd.Flags().Uint64Var(&flags.seed, "seed", 1, "base seed of all data")
	return cmd
}

func (f *compileFlags) run(cmd *cobra.Command, args []string) (err error) {
	_, cases, err := f.cases(args)
	if err != nil {
		return err
	}
	dev, err := vk.Open(vk.Options{Device: f.device, CompileOnly: true, NoCache: true})
	if err != nil {
		return err
	}
	r, err := f.compile(cmd, args, dev, cases)
	if closeErr := dev.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	f.summary(cmd.OutOrStdout(), r)
	if f.json != "" {
		if err := toFile(f.json, func(w io.Writer) error { return writeIndented(w, r) }); err != nil {
			return err
		}
	}
	if len(r.Faults) > 0 {
		return exitError(report.ExitFail)
	}
	return nil
}

func writeIndented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// compile compiles and judges.
func (f *compileFlags) compile(cmd *cobra.Command, args []string, dev *vk.Device, cases []conform.Case) (*compileReport, error) {
	if !dev.Caps().Has(vk.FeatureExecutableInfo) {
		return nil, &vk.UnsupportedError{Feature: vk.FeatureExecutableInfo, Need: "compile", Device: dev.Adapter().Name}
	}
	specs, unsupported, err := conform.Pipelines(cmd.Context(), dev, cases, f.seed)
	if err != nil {
		return nil, err
	}
	r := &compileReport{Device: conform.Describe(dev.Adapter()), Unsupported: unsupported, Pipelines: conform.Measure(dev, specs)}
	budgets := conform.BudgetsOf(r.Pipelines)
	switch {
	case f.budgets == "":
	case f.update:
		if err := toFile(f.budgets, func(w io.Writer) error { return writeIndented(w, budgets) }); err != nil {
			return nil, err
		}
	default:
		text, err := os.ReadFile(f.budgets)
		if err != nil {
			return nil, err
		}
		budgets = conform.Budgets{}
		if err := json.Unmarshal(text, &budgets); err != nil {
			return nil, fmt.Errorf("%s: %w", f.budgets, err)
		}
	}
	r.Faults = budgets.Over(r.Pipelines)
	if f.everything(args) {
		for _, kernel := range conform.Unused(dev, specs) {
			r.Faults = append(r.Faults, fmt.Sprintf("%s: no case uses this kernel", kernel))
		}
	}
	return r, nil
}

// summary prints one line, and one per fault.
func (f *compileFlags) summary(w io.Writer, r *compileReport) {
	var vgprs, lds, spilled int
	for _, p := range r.Pipelines {
		vgprs, lds = max(vgprs, p.VGPRs), max(lds, p.LDS)
		if p.Spills > 0 {
			spilled++
		}
	}
	fmt.Fprintf(w, "%s, %s: %d pipelines, at most %d VGPRs and %d bytes of shared memory, %d spill; %d cases unsupported\n",
		r.Device.Name, r.Device.DriverInfo, len(r.Pipelines), vgprs, lds, spilled, r.Unsupported)
	for _, fault := range r.Faults {
		fmt.Fprintln(w, "FAIL", fault)
	}
}
