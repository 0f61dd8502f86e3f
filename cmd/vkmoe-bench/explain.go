package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// runExplain is the subcommand explain: it prints what the library chooses for cases, without running anything.
func runExplain(_ context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("vkmoe-bench explain", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	dtype := flags.String("dtype", "bf16", "storage: f32, f16 or bf16")
	weights := flags.String("weights", "full", "how weights are stored: full, int8 or q4")
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
	chosen, err := chooseCases(flags.Args())
	if err != nil {
		return err
	}
	// Tensors of such a device have addresses but no memory, so the largest layers fit.
	dev, err := vk.Open(vk.Options{Device: *device, CompileOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	status := moe.TuningOf(dev)
	fmt.Printf("%v\ntuning table: %s\n", dev.Adapter(), status.Source)
	if status.Ignored != nil {
		fmt.Println("ignored:", status.Ignored)
	}
	for _, c := range chosen {
		text, err := explain(dev, c, storage, format)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		fmt.Printf("%-16s %-22s %s\n", c.Name(), c.shape(), text)
	}
	return nil
}

// explain says what a case's forward pass takes.
func explain(dev *vk.Device, c benchCase, dtype vk.DType, weights moe.WeightFormat) (text string, err error) {
	l, err := moe.NewParallelLinear(dev, moe.ParallelLinearConfig{Experts: c.experts, In: c.in, Out: c.out, DType: dtype,
		Weights: weights})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	choice, err := l.Choice(dev, c.t*c.k)
	return fmt.Sprintf("%d rows per expert: %v path, %s, %s", choice.MeanRows, choice.Path, choice.Kernel, choice.Tile), err
}
