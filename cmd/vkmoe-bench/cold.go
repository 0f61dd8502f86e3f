package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// coldChild is the subcommand by which cold runs itself.
const coldChild = "cold-child"

// A coldResult is what a new process takes until it has its first results, in milliseconds.
type coldResult struct {
	Fresh     bool    `json:"fresh_cache"` // no pipeline cache, neither ours nor the driver's
	Process   float64 `json:"process_ms"`  // from the start of the process to its end, as its parent sees it
	Open      float64 `json:"open_ms"`     // the device
	Layer     float64 `json:"layer_ms"`    // the layer's weights, zeros, and its tensors
	First     float64 `json:"first_forward_ms"`
	Second    float64 `json:"second_forward_ms"` // once everything is compiled
	Pipelines int     `json:"pipelines"`
}

// A coldReport is what --json writes.
type coldReport struct {
	Device string       `json:"device"`
	Driver string       `json:"driver"`
	Date   string       `json:"date"`
	DType  string       `json:"dtype"`
	Case   string       `json:"case"`
	Runs   []coldResult `json:"runs"`
}

// runCold is the subcommand cold: it times the first forward pass of a routed sparse MLP in new processes, first with no
// compiled pipelines anywhere, then with those that the process before left.
func runCold(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("vkmoe-bench cold", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	dtype := flags.String("dtype", "bf16", "storage: f32, f16 or bf16")
	runs := flags.Int("runs", 3, "fresh caches, each followed by a process that uses it")
	out := flags.String("json", "", "write the results to this file too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	storage, err := parseDType(*dtype)
	if err != nil {
		return err
	}
	dev, err := vk.Open(vk.Options{Device: *device, NoCache: true})
	if err != nil {
		return err
	}
	described, name := newReport(dev, storage), coldCase(dev).Name()
	fmt.Println(dev.Adapter())
	if err := dev.Close(); err != nil {
		return err
	}
	r := coldReport{Device: described.Device, Driver: described.Driver, Date: described.Date, DType: *dtype, Case: name}
	fmt.Printf("first forward pass of a new process: routed MLP of %s in %s\n%-10s %9s %9s %9s %9s %9s %9s\n", name, *dtype, "cache",
		"process", "open", "layer", "first", "second", "pipelines")
	for range *runs {
		dir, err := os.MkdirTemp("", "vkmoe-cold-")
		if err != nil {
			return err
		}
		for _, fresh := range []bool{true, false} {
			c, childErr := startCold(ctx, dir, *device, *dtype)
			if err = childErr; err != nil {
				break
			}
			c.Fresh = fresh
			r.Runs = append(r.Runs, c)
			fmt.Printf("%-10s %6.0f ms %6.0f ms %6.0f ms %6.0f ms %6.1f ms %9d\n", map[bool]string{true: "fresh", false: "used"}[fresh], c.Process,
				c.Open, c.Layer, c.First, c.Second, c.Pipelines)
		}
		if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
	}
	return writeJSON(*out, r)
}

// startCold runs one process whose caches are in dir.
func startCold(ctx context.Context, dir, device, dtype string) (c coldResult, err error) {
	// Not os.Executable: a program that a driver's own loader has started would be that loader.
	cmd := exec.CommandContext(ctx, os.Args[0], coldChild, "--device", device, "--dtype", dtype, "--cache", filepath.Join(dir, "ours"))
	// Where drivers keep what they compiled: Mesa, NVIDIA.
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+dir, "MESA_SHADER_CACHE_DIR="+dir, "__GL_SHADER_DISK_CACHE_PATH="+dir, "VKMOE_QUIET=1")
	cmd.Stderr = os.Stderr
	start := time.Now()
	data, err := cmd.Output()
	took := milliseconds(start)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	c.Process = took
	return c, err
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1e3 }

// coldCase is what is timed: the paper's unit, or a small one on a software device.
func coldCase(dev *vk.Device) benchCase {
	name := "paper/512"
	if dev.Adapter().Type == vk.Software {
		name = "small/64"
	}
	return cases[slices.IndexFunc(cases, func(c benchCase) bool { return c.Name() == name })]
}

// runColdChild is the process that is timed. It prints a coldResult as JSON.
func runColdChild(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("vkmoe-bench "+coldChild, flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	dtype := flags.String("dtype", "bf16", "storage")
	cache := flags.String("cache", "", "folder of the pipeline cache")
	if err := flags.Parse(args); err != nil {
		return err
	}
	storage, err := parseDType(*dtype)
	if err != nil {
		return err
	}
	c := coldResult{}
	start := time.Now()
	dev, err := vk.Open(vk.Options{Device: *device, CacheDir: *cache})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	c.Open = milliseconds(start)
	if err := c.forward(ctx, dev, storage); err != nil {
		return err
	}
	c.Pipelines = dev.Stats().Pipelines
	data, err := json.Marshal(c)
	fmt.Println(string(data))
	return err
}

// forward times the two passes.
func (c *coldResult) forward(ctx context.Context, dev *vk.Device, dtype vk.DType) (err error) {
	shape := coldCase(dev)
	start := time.Now()
	layer, err := moe.NewMLP(dev, moe.MLPConfig{Experts: shape.experts, TopK: shape.k, Width: shape.in, Hidden: shape.out,
		Activation: shape.activation, DType: dtype})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, layer.Close()) }()
	var tensors [2]*vk.Tensor
	for i := range tensors {
		if tensors[i], err = dev.NewTensor(dtype, shape.t, shape.in); err != nil {
			return err
		}
		defer tensors[i].Close()
	}
	x := make([]float32, shape.t*shape.in)
	if err := vk.Upload(ctx, tensors[0], x); err != nil {
		return err
	}
	c.Layer = milliseconds(start)
	start = time.Now()
	rec, err := dev.NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	for _, bank := range []*moe.ExpertBank{layer.Router.Weight, layer.Up.Weight, layer.Down.Weight} {
		for e := range bank.Experts() {
			w, err := bank.Expert(e)
			if err != nil {
				return err
			}
			rec.Fill(w, 0)
		}
	}
	if _, err := layer.Forward(rec, tensors[0], tensors[1]); err != nil {
		return err
	}
	for _, took := range []*float64{&c.First, &c.Second} {
		if err := rec.Run(ctx); err != nil {
			return err
		}
		y, err := vk.Download[float32](ctx, tensors[1])
		if err != nil {
			return err
		}
		if y[0] != 0 || y[len(y)-1] != 0 {
			return fmt.Errorf("zero weights gave %v", y[0])
		}
		*took = milliseconds(start)
		start = time.Now()
	}
	return nil
}
