package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/tests/conform"
	"github.com/vkmoe/vkmoe/tests/conform/report"
	"github.com/vkmoe/vkmoe/tests/conform/worker"
)

// selectionFlags choose cases.
type selectionFlags struct {
	include, exclude []string
	required         bool
	shard            string
}

func (f *selectionFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.include, "include", nil, "glob of cases to take, beside those of the command line; may be repeated")
	cmd.Flags().StringArrayVar(&f.exclude, "exclude", nil, "glob of cases to leave out; may be repeated")
	cmd.Flags().BoolVar(&f.required, "required", false, "only the required list")
	cmd.Flags().StringVar(&f.shard, "shard", "", "N/M: the Nth of M nearly equal parts")
}

func (f *selectionFlags) selection(globs []string) (conform.Selection, error) {
	s := conform.Selection{Include: append(globs, f.include...), Exclude: f.exclude, Required: f.required}
	var err error
	if f.shard != "" {
		s.Shard, err = conform.ParseShard(f.shard)
	}
	return s, err
}

// cases are what the flags and globs select.
func (f *selectionFlags) cases(globs []string) (s conform.Selection, cases []conform.Case, err error) {
	if s, err = f.selection(globs); err == nil {
		cases, err = conform.Select(s)
	}
	return s, cases, err
}

// everything reports whether all cases are selected, or all required ones.
func (f *selectionFlags) everything(globs []string) bool {
	return len(globs)+len(f.include)+len(f.exclude) == 0 && f.shard == ""
}

func newListCommand() *cobra.Command {
	var flags selectionFlags
	cmd := &cobra.Command{
		Use:   "list [GLOB…]",
		Short: "List cases, one name a line",
		Long:  globHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, cases, err := flags.cases(args)
			if err != nil {
				return err
			}
			for _, c := range cases {
				fmt.Fprintln(cmd.OutOrStdout(), c.Name)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

const globHelp = `In a GLOB, * stands for any characters, dots included, and ? for one; a name without either also
means everything below it. Without a GLOB all cases are meant but those of selftest, which crash, hang and fail on purpose.`

// runFlags are the flags of run.
type runFlags struct {
	selectionFlags
	device, validation, plant string
	json, junit, html, label  string
	waivers, evidence         string
	seed                      uint64
	timeout                   time.Duration
	jobs, retries             int
	faults, quiet             bool
}

func newRunCommand() *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run [GLOB…]",
		Short: "Run cases on a device and report what is right",
		Long: globHelp + `

Every case runs in a worker process, which is restarted when the driver crashes, hangs or loses its device. A bad case is run
again in a process of its own to tell whether it is flaky. --evidence DIR keeps a bad case's inputs and outputs, error
histogram, SPIR-V and specialization constants.

Exit code 0: what ran passes. 1: a case fails, crashes, hangs or loses the device, or a planted fault goes unnoticed.
2: nothing could be run.`,
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd, args) },
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.device, "device", "", "index or part of the name of the device; default VKMOE_DEVICE, else the best one")
	f.StringVar(&flags.validation, "validation", "", "core: Khronos validation, core and synchronization; gpu: GPU-assisted too; any message fails a case")
	f.Lookup("validation").NoOptDefVal = "core"
	f.Uint64Var(&flags.seed, "seed", 1, "base seed of all data")
	f.DurationVar(&flags.timeout, "timeout", time.Minute, "how long a case may take")
	f.IntVar(&flags.jobs, "jobs", 0, "worker processes at once; default 1 on a GPU, one per processor on a CPU driver")
	f.IntVar(&flags.retries, "retries", 2, "how often a bad case is run again to tell flakes")
	f.StringVar(&flags.json, "json", "", "write the report as JSON to this file, compressed where it ends in .gz")
	f.StringVar(&flags.junit, "junit", "", "write it as JUnit XML")
	f.StringVar(&flags.html, "html", "", "write it as one HTML page")
	f.StringVar(&flags.label, "label", "", "what the device and driver are called in tables")
	f.StringVar(&flags.waivers, "waivers", "", "JSON list of known faults: see doc/conformance.md")
	f.StringVar(&flags.evidence, "evidence", "", "folder for the evidence of bad cases")
	f.StringVar(&flags.plant, "plant", "", "plant this fault in a kernel (see vkmoe-conform faults): the run should fail")
	f.BoolVar(&flags.faults, "faults", false, "then plant every fault in turn and see that its cases find it")
	f.BoolVar(&flags.quiet, "quiet", false, "print no progress")
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command, args []string) error {
	selection, cases, err := f.cases(args)
	if err != nil {
		return err
	}
	if f.plant != "" {
		if _, err := conform.FindFault(f.plant); err != nil {
			return err
		}
	}
	pool, err := f.pool(cmd)
	if err != nil {
		return err
	}
	r := report.New()
	r.Label = f.label
	r.Run = report.Run{Include: selection.Include, Exclude: selection.Exclude, Required: f.required, Shard: f.shard, Seed: f.seed,
		Validation: f.validation, Planted: f.plant}
	begin := time.Now()
	pool.Warn = func(format string, a ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, a...)) }
	progress := f.progress(cmd.ErrOrStderr(), len(cases))
	pool.Done = progress
	if r.Device, r.Cases, err = pool.Run(cmd.Context(), cases); err != nil {
		return err
	}
	if f.faults && cmd.Context().Err() == nil {
		if r.Faults, err = plantAll(cmd.Context(), f, pool, cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	r.Seconds = time.Since(begin).Seconds()
	if err := f.write(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	if code := r.Exit(); code != report.ExitPass {
		return exitError(code)
	}
	return nil
}

// pool makes the pool of workers, which are this program again.
func (f *runFlags) pool(cmd *cobra.Command) (*worker.Pool, error) {
	p := &worker.Pool{Jobs: f.jobs, Timeout: f.timeout, Retries: f.retries, Seed: f.seed, Evidence: f.evidence, Repro: f.repro}
	// Argument 0, not the executable's path: the program may have been started through another run-time linker.
	p.Command = []string{os.Args[0], "worker"}
	if f.device != "" {
		p.Command = append(p.Command, "--device", f.device)
	}
	if f.plant != "" {
		p.Command = append(p.Command, "--plant", f.plant)
		p.Retries = 0
	}
	p.Env = []string{"VKMOE_QUIET=1"}
	switch f.validation {
	case "":
	case "core":
		p.Env = append(p.Env, "VKMOE_VALIDATION=1")
	case "gpu":
		p.Env = append(p.Env, "VKMOE_VALIDATION=gpu")
	default:
		return nil, fmt.Errorf("--validation %q: want core or gpu", f.validation)
	}
	if f.waivers != "" {
		var err error
		if p.Waivers, err = conform.ReadWaivers(f.waivers); err != nil {
			return nil, err
		}
	}
	if f.evidence != "" {
		return p, os.MkdirAll(f.evidence, 0o755)
	}
	return p, nil
}

// repro is the command that runs one case once more.
func (f *runFlags) repro(name string) string {
	words := []string{"vkmoe-conform run", name, fmt.Sprintf("--seed %d --evidence evidence", f.seed)}
	for _, w := range [][2]string{{"--device", f.device}, {"--validation", f.validation}, {"--plant", f.plant}} {
		if w[1] != "" {
			words = append(words, fmt.Sprintf("%s=%q", w[0], w[1]))
		}
	}
	return strings.Join(words, " ")
}

// progress prints each bad case at once and a line now and then.
func (f *runFlags) progress(w io.Writer, all int) func(conform.Result) {
	done, last := 0, time.Now()
	if !f.quiet {
		fmt.Fprintf(w, "%d cases, seed %d\n", all, f.seed)
	}
	return func(r conform.Result) {
		done++
		if f.quiet {
			return
		}
		if r.Status.Bad() {
			fmt.Fprintf(w, "%s  %s: %s\n", r.Status, r.Name, r.Reason)
		}
		if time.Since(last) > 15*time.Second {
			last = time.Now()
			fmt.Fprintf(w, "%d of %d\n", done, all)
		}
	}
}

// write writes the report in all forms that were asked for.
func (f *runFlags) write(w io.Writer, r *report.Report) error {
	err := r.WriteText(w)
	if f.json != "" {
		err = errors.Join(err, r.WriteFile(f.json))
	}
	for path, write := range map[string]func(io.Writer) error{f.junit: r.WriteJUnit, f.html: r.WriteHTML} {
		if path != "" {
			err = errors.Join(err, toFile(path, write))
		}
	}
	return err
}

func toFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// plantAll plants every fault, one at a time.
func plantAll(ctx context.Context, f *runFlags, base *worker.Pool, w io.Writer) ([]report.Fault, error) {
	var list []report.Fault
	for _, fault := range conform.Faults() {
		cases, err := conform.Select(conform.Selection{Include: fault.Cases})
		if err != nil {
			return nil, err
		}
		p := &worker.Pool{Command: append(append([]string(nil), base.Command...), "--plant", fault.Name), Env: base.Env, Jobs: 1,
			Timeout: base.Timeout, Seed: base.Seed}
		_, results, err := p.Run(ctx, cases)
		if err != nil {
			return nil, fmt.Errorf("fault %s: %w", fault.Name, err)
		}
		found := report.JudgeFault(fault, results)
		if !f.quiet {
			fmt.Fprintf(w, "fault %s: %s\n", found.Name, found.Verdict())
		}
		list = append(list, found)
	}
	return list, nil
}
