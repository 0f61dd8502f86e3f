// Command vkmoe-bench times the library on this machine's Vulkan device.
//
//	vkmoe-bench [flags] [CASE…]
//
// momha, or momha/K, times a mixture of attention against grouped-query attention instead; the paper's unit on a GPU, a small
// one on a software device.
//
// A case is a layer and a number of tokens, such as paper/512 or qwen3/8; "paper" alone stands for all of its sizes, and
// no case for all there are. --op says what is timed of each:
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
// decoder times whole models with random weights instead: --work train or generate, --shape paper, mixtral or small. Their
// results are judged elsewhere (vkmoe-conform golden); here only the gradients' norm has to be a number.
//
// Results are checked against a float64 reference before anything is timed. Times are GPU timestamps after at least 0.3 s
// of warm-up: the median of the runs, with the fastest and slowest tenth. --parts also prints the time of each kernel.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
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
	Device  string   `json:"device"`
	Driver  string   `json:"driver"`
	API     string   `json:"api"`
	Date    string   `json:"date"`
	DType   string   `json:"dtype"`
	Weights string   `json:"weights,omitempty"` // int8 or q4 where they are quantized
	Results []result `json:"results"`

	Mixtures []momhaResult `json:"mixtures,omitempty"`
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "decoder" {
		return runDecoder(ctx, args[1:])
	}
	flags := flag.NewFlagSet("vkmoe-bench", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	dtype := flags.String("dtype", "bf16", "storage: f32, f16 or bf16")
	weights := flags.String("weights", "full", "how forward's weights are stored: full, int8 or q4")
	operation := flags.String("op", "forward", "what is timed: "+operationNames)
	parts := flags.Bool("parts", false, "print the time of each kernel")
	reps := flags.Int("reps", 50, "timed runs of a case")
	out := flags.String("json", "", "write the results to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	storage, err := parseDType(*dtype)
	if err != nil {
		return err
	}
	format, err := parseWeights(*weights)
	if err != nil {
		return err
	}
	if format != moe.WeightsFull && *operation != "forward" {
		return fmt.Errorf("quantized weights are for the operation forward, not %s", *operation)
	}
	mixtures, err := chooseMomha(flags.Args())
	if err != nil {
		return err
	}
	var chosen []benchCase
	if mixtures == nil {
		chosen, err = chooseCases(flags.Args())
	}
	if err != nil {
		return err
	}
	if operations[*operation] == nil {
		return fmt.Errorf("there is no operation %q; there are %s", *operation, operationNames)
	}
	dev, err := vk.Open(vk.Options{Device: *device, Timestamps: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	if !dev.Caps().Has(vk.FeatureTimestamps) {
		return &vk.UnsupportedError{Feature: vk.FeatureTimestamps, Need: "vkmoe-bench", Device: dev.Adapter().Name}
	}
	a := dev.Adapter()
	fmt.Println(a)
	r := report{Device: a.Name, Driver: a.DriverName + " " + a.DriverInfo, API: a.API.String(), DType: *dtype,
		Date: time.Now().UTC().Format(time.DateOnly)}
	if format != moe.WeightsFull {
		r.Weights = format.String()
	}
	if mixtures != nil {
		if r.Mixtures, err = runMomha(ctx, dev, mixtures, storage, *reps, *parts); err != nil {
			return err
		}
		return r.write(*out)
	}
	fmt.Printf("%s in %s, %v weights\n\n", *operation, *dtype, format)
	fmt.Printf("%-14s %-22s %10s %21s %9s %8s %8s %9s\n", "case", "shape", "median", "10 % … 90 %", "TFLOP/s", "weights",
		"extra MB", "error")
	for _, c := range chosen {
		res, err := measure(ctx, newBench(dev, c, storage, format), *operation, *reps)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		fmt.Print(res)
		if *parts {
			fmt.Print(res.parts())
		}
		fmt.Println()
		r.Results = append(r.Results, res)
	}
	return r.write(*out)
}

// write writes the report to a file, if one is asked for.
func (r report) write(file string) error {
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(r, "", "\t")
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

// chooseCases finds the cases of the names given, all of them for none.
func chooseCases(names []string) ([]benchCase, error) {
	if len(names) == 0 {
		return cases, nil
	}
	var chosen []benchCase
	for _, name := range names {
		known := false
		for _, c := range cases {
			if c.Name() != name && c.layer != name {
				continue
			}
			known = true
			if !slices.Contains(chosen, c) {
				chosen = append(chosen, c)
			}
		}
		if !known {
			return nil, fmt.Errorf("there is no case %q; there are %s", name, caseNames())
		}
	}
	return chosen, nil
}
