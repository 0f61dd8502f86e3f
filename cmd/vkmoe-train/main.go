// Command vkmoe-train trains a small byte-level language model on a text: four layers of a mixture of attention and a sparse
// mixture of MLP experts, 8 experts of which each byte uses 2. With --dense the experts of the MLP give way to one MLP of equal
// active parameters, everything else being the same.
//
//	vkmoe-train [flags] [TEXT]
//
//	vkmoe-train --plot FILE.svg CURVE.csv…
//
// Without TEXT it takes Isaac Newton's Opticks, which the Go distribution carries among its test data. The last tenth of the
// text is held out. --curve writes the losses as CSV, --out a checkpoint that --resume continues from, bit for bit.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/vk"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vkmoe-train:", err)
		os.Exit(1)
	}
}

// options are the command's flags.
type options struct {
	device, text, curve, out, resume string
	plot                             string
	curves                           []string
	dense                            bool
	steps, batch, length, every      int
	rate, balance                    float64
	limit                            time.Duration
	prompt                           string
	sample                           int
	seed                             uint64
	sizes                            sizes
}

func parse(args []string) (options, error) {
	o := options{sizes: defaultSizes}
	flags := flag.NewFlagSet("vkmoe-train", flag.ContinueOnError)
	flags.StringVar(&o.device, "device", "", "index or part of the name of the device")
	flags.BoolVar(&o.dense, "dense", false, "one MLP of equal active parameters instead of experts")
	flags.IntVar(&o.steps, "steps", 700, "steps of the whole run")
	flags.IntVar(&o.batch, "batch", 32, "sequences of a step")
	flags.IntVar(&o.length, "length", 64, "bytes of a sequence")
	flags.IntVar(&o.every, "every", 50, "steps between two looks at held-out text")
	flags.Float64Var(&o.rate, "rate", 2e-3, "largest learning rate")
	flags.Float64Var(&o.balance, "balance", 0.00125, "weight of each router's load balancing loss")
	flags.DurationVar(&o.limit, "limit", 0, "stop after this time; 0 for never")
	flags.StringVar(&o.curve, "curve", "", "file for the losses, CSV")
	flags.StringVar(&o.out, "out", "", "folder for a checkpoint at the end")
	flags.StringVar(&o.resume, "resume", "", "folder of a checkpoint to go on from")
	flags.StringVar(&o.plot, "plot", "", "draw the curves named instead of training, as SVG into this file")
	flags.IntVar(&o.sample, "sample", 0, "bytes to write in the end")
	flags.StringVar(&o.prompt, "prompt", "The Rays of Light ", "what they follow")
	flags.Uint64Var(&o.seed, "seed", 1, "of weights, batches and what is written")
	flags.IntVar(&o.sizes.width, "width", o.sizes.width, "of the model")
	flags.IntVar(&o.sizes.heads, "heads", o.sizes.heads, "of one expert of attention, each of 32 values")
	flags.IntVar(&o.sizes.hidden, "hidden", o.sizes.hidden, "of one expert")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.plot != "" {
		o.curves = flags.Args()
		return o, nil
	}
	switch flags.NArg() {
	case 0:
		path, err := opticks()
		o.text = path
		return o, err
	case 1:
		o.text = flags.Arg(0)
		return o, nil
	}
	return o, fmt.Errorf("one text, not %d", flags.NArg())
}

// opticks finds the text in the Go distribution.
func opticks() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT, to find a text: %w; name one", err)
	}
	path := filepath.Join(strings.TrimSpace(string(root)), "src", "testdata", "Isaac.Newton-Opticks.txt")
	_, err = os.Stat(path)
	return path, err
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.plot != "" {
		return runPlot(o.plot, o.curves)
	}
	text, err := os.ReadFile(o.text)
	if err != nil {
		return err
	}
	dev, err := vk.Open(vk.Options{Device: o.device})
	if err != nil {
		return err
	}
	defer dev.Close()
	s, err := newSession(ctx, dev, o, train.Bytes(text))
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.train(ctx); err != nil {
		return err
	}
	if o.out != "" {
		if err := s.trainer.Save(ctx, o.out); err != nil {
			return err
		}
	}
	return s.write(ctx, os.Stdout)
}
