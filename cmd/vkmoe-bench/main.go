// Command vkmoe-bench times the library on this machine's Vulkan device.
//
//	vkmoe-bench [flags] [CASE…]
//	vkmoe-bench list | plot | report | explain | tune | cold | decoder [flags] …
//
// A case is a layer and a number of tokens, such as paper/512 or qwen3/8; "paper" alone stands for all of its sizes, anchors,
// granularity, sparsity, decode and others for groups of cases, and no case for those of the operation that peers were measured
// on. list prints all of them. --op, or OPERATION: before a case, says what is timed of it:
//
//	forward   ParallelLinear from tokens to grouped rows
//	dx, dw    the gradients of its input, per slot, and of its weights
//	mlp       the sparse MLP of that width and hidden width for given experts, with the grouping: SwiGLU for public models,
//	          else GELU
//	training  the same with its backward pass: gradients of input, gates and weights
//	route     top-k, gates, grouping and tile map from random logits
//
// momha, or momha/1, /2, /4 or /8, instead times a mixture of attention with that many experts per token against grouped-query
// attention of as many active parameters and the same cache, forward and with its backward pass: the ScatterMoE paper's unit,
// or on a software device a small one.
//
// Results are checked against a float64 reference before anything is timed. Times are GPU timestamps after at least 0.3 s
// of warm-up: the median of the runs, with the fastest and slowest tenth. What the device can do, the rate of copies and of
// arithmetic in registers, is measured in the same run, and results are given as shares of it too. --parts also prints the time
// of each kernel, --json writes everything to a file. --peer COMMAND times a peer on the same cases just before and prints
// how many times longer it takes; bench/peers holds such commands.
//
// The others: plot draws JSON files; report prints them as the tables of the project's README; explain CASE… says which kernel and tile
// the library takes; tune measures those there are and keeps the best for this device; cold times the first forward pass of new
// processes; decoder times whole models with random weights (--work train or generate, --shape paper, mixtral or small): their loss has
// to fall, and what is generated with a cache has to be what a pass over the whole text finds (vkmoe-conform golden holds models to
// recorded values). Each explains its flags with --help.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vkmoe-bench:", err)
		os.Exit(1)
	}
}

// report is what --json writes.
type report struct {
	Device   string    `json:"device"`
	Driver   string    `json:"driver"`
	API      string    `json:"api"`
	Date     string    `json:"date"`
	DType    string    `json:"dtype"`
	Weights  string    `json:"weights,omitempty"` // int8 or q4 where they are quantized
	Tuning   string    `json:"tuning,omitempty"`  // which table chose the kernels
	Ceilings *ceilings `json:"ceilings,omitempty"`
	Results  []result  `json:"results"`

	Mixtures []momhaResult `json:"mixtures,omitempty"`
	Peers    []peerReport  `json:"peers,omitempty"`

	file string // that it was read from
}

// newReport describes the device.
func newReport(dev *vk.Device, dtype vk.DType) report {
	a := dev.Adapter()
	return report{Device: a.Name, Driver: a.DriverName + " " + a.DriverInfo, API: a.API.String(), DType: dtype.String(),
		Date: time.Now().UTC().Format(time.DateOnly), Tuning: moe.TuningOf(dev).Source}
}

// subcommands are what the first argument may ask for.
var subcommands = map[string]func(ctx context.Context, args []string) error{
	"decoder": runDecoder,
	"list":    func(context.Context, []string) error { listCases(); return nil },
	"plot":    func(_ context.Context, args []string) error { return runPlot(args) },
	"report":  func(_ context.Context, args []string) error { return runReport(args) },
	"explain": runExplain,
	"tune":    runTune,
	"cold":    runCold,
	coldChild: runColdChild,
}

// runFlags are the flags of the timing of cases.
type runFlags struct {
	device, dtype, weights, operation, out *string

	parts, ceilings *bool
	reps, rounds    *int
	peers           peerCommands
}

func parseRun(args []string) (*runFlags, []string, error) {
	flags := flag.NewFlagSet("vkmoe-bench", flag.ContinueOnError)
	f := &runFlags{
		device:    flags.String("device", "", "index or part of the name of the device"),
		dtype:     flags.String("dtype", "bf16", "storage: f32, f16 or bf16"),
		weights:   flags.String("weights", "full", "how forward's weights are stored: full, int8 or q4"),
		operation: flags.String("op", "forward", "what is timed: "+operationNames),
		parts:     flags.Bool("parts", false, "print the time of each kernel"),
		ceilings:  flags.Bool("ceilings", true, "measure what the device can do first"),
		reps:      flags.Int("reps", 50, "timed runs of a case"),
		rounds:    flags.Int("rounds", 1, "time peers and cases so many times in turn and keep the least median of each: for machines with neighbours"),
		out:       flags.String("json", "", "write the results to this file too"),
	}
	flags.Var(&f.peers, "peer", "a command that times a peer on the same cases (again for more): see bench/peers")
	if err := flags.Parse(args); err != nil {
		return nil, nil, err
	}
	return f, flags.Args(), nil
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && subcommands[args[0]] != nil {
		return subcommands[args[0]](ctx, args[1:])
	}
	f, names, err := parseRun(args)
	if err != nil {
		return err
	}
	storage, err := parseDType(*f.dtype)
	if err != nil {
		return err
	}
	format, err := parseWeights(*f.weights)
	if err != nil {
		return err
	}
	mixtures, err := chooseMomha(names)
	if err != nil {
		return err
	}
	var chosen []task
	if mixtures == nil {
		if chosen, err = chooseTasks(names, *f.operation); err != nil {
			return err
		}
	}
	for _, t := range chosen {
		if format != moe.WeightsFull && t.operation != "forward" {
			return fmt.Errorf("quantized weights are for the operation forward, not %s", t.operation)
		}
	}
	dev, err := openTimed(*f.device)
	if err != nil {
		return err
	}
	defer dev.Close()
	r := newReport(dev, storage)
	if format != moe.WeightsFull {
		r.Weights = format.String()
	}
	if mixtures != nil {
		if err := r.runMixtures(ctx, dev, f, mixtures, storage); err != nil {
			return err
		}
		return r.write(*f.out)
	}
	if err := r.runCases(ctx, dev, f, storage, format, chosen); err != nil {
		return err
	}
	return r.write(*f.out)
}

// openTimed opens a device that has timestamps and says what it is.
func openTimed(name string) (*vk.Device, error) {
	dev, err := vk.Open(vk.Options{Device: name, Timestamps: true})
	if err != nil {
		return nil, err
	}
	if !dev.Caps().Has(vk.FeatureTimestamps) {
		err := &vk.UnsupportedError{Feature: vk.FeatureTimestamps, Need: "vkmoe-bench", Device: dev.Adapter().Name}
		return nil, errors.Join(err, dev.Close())
	}
	fmt.Println(dev.Adapter())
	status := moe.TuningOf(dev)
	fmt.Println("tuning table:", status.Source)
	if status.Ignored != nil {
		fmt.Println("ignored:", status.Ignored)
	}
	return dev, nil
}

// runCases times cases, after the peers where there are some, in rounds.
func (r *report) runCases(ctx context.Context, dev *vk.Device, f *runFlags, dtype vk.DType, format moe.WeightFormat,
	chosen []task) (err error) {
	var clocks *pace
	defer func() {
		if clocks != nil {
			err = errors.Join(err, clocks.close())
		}
	}()
	for round := range max(1, *f.rounds) {
		peers, err := f.peers.run(ctx, f, peerWords(chosen))
		if err != nil {
			return err
		}
		r.keep(peers)
		if *f.ceilings && round == 0 {
			c, err := measureCeilings(ctx, dev, dtype)
			if err != nil {
				return err
			}
			fmt.Println(c)
			r.Ceilings = &c
		}
		if clocks == nil && dev.Adapter().Type != vk.Software { // after what raises them
			if clocks, err = newPace(dev); err != nil {
				return err
			}
			if _, err := clocks.share(ctx); err != nil {
				return err
			}
		}
		for i, t := range chosen {
			if i == 0 || t.operation != chosen[i-1].operation {
				fmt.Printf("\n%s in %v, %v weights\n\n%s\n", t.operation, dtype, format, resultHeader)
			}
			res, err := measure(ctx, newBench(dev, t.benchCase, dtype, format), t.operation, *f.reps, clocks)
			if err != nil {
				return fmt.Errorf("%s: %w", t.Name(), err)
			}
			if r.Ceilings != nil {
				res.compareWith(*r.Ceilings)
			}
			fmt.Print(res)
			if *f.parts {
				fmt.Print(res.parts())
			}
			fmt.Println()
			if round == 0 {
				r.Results = append(r.Results, res)
			} else if res.Median < r.Results[i].Median {
				r.Results[i] = res
			}
			if err := r.write(*f.out); err != nil { // what there is so far, should a later case fail
				return err
			}
		}
	}
	fmt.Print(r.ratios())
	return nil
}

// write writes the report to a file, if one is asked for.
func (r report) write(file string) error { return writeJSON(file, r) }

// writeJSON writes results to a file, if one is asked for.
func writeJSON(file string, results any) error {
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func parseDType(name string) (vk.DType, error) {
	for _, t := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("there is no dtype %q; there are f32, f16 and bf16", name)
}

func parseWeights(name string) (moe.WeightFormat, error) {
	for _, f := range []moe.WeightFormat{moe.WeightsFull, moe.WeightsInt8, moe.WeightsQ4} {
		if f.String() == name {
			return f, nil
		}
	}
	return 0, fmt.Errorf("there are no weights %q; there are full, int8 and q4", name)
}
