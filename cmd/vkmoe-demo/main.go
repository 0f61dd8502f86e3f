// Command vkmoe-demo routes a real text through a real Mixture-of-Experts layer on a Vulkan device, prints what
// happened and draws it as routing.png.
//
//	vkmoe-demo [--model NAME|FOLDER] [--layer N] [--text FILE] [--device D] [--out DIR] [--steps N] [--json]
//
// It exits with 0 when the device agrees with the float64 reference, 1 when it does not or a run fails, and 2 when the
// model, the text, the output folder or the device cannot be used.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/vk"
)

// The exit codes.
const (
	exitPass     = 0
	exitFail     = 1
	exitUnusable = 2
)

// options are the command line's flags.
type options struct {
	Model       string
	Layer       int
	Text        string
	Context     float64
	Device      string
	Out         string
	Steps       int
	Batch       int
	Check       int
	JSON        bool
	Headless    bool
	ListDevices bool
}

// validate reports the first flag that makes no sense.
func (o *options) validate() error {
	switch {
	case o.Layer < 0:
		return fmt.Errorf("--layer %d: layers are numbered from 0", o.Layer)
	case !(o.Context >= 0 && o.Context < 1):
		return fmt.Errorf("--context %g: want a number from 0 up to, but not including, 1", o.Context)
	case o.Steps < 1:
		return fmt.Errorf("--steps %d: want at least 1", o.Steps)
	case o.Batch < 1:
		return fmt.Errorf("--batch %d: want at least 1", o.Batch)
	case o.Check < 1:
		return fmt.Errorf("--check %d: want at least 1", o.Check)
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errDisagrees ends a run whose results are not the reference's; the report has already said so.
var errDisagrees = errors.New("the device does not agree with the reference")

// unusableError marks an error of the input, as opposed to one of the run.
type unusableError struct{ error }

func (e unusableError) Unwrap() error { return e.error }

// run runs the command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	started := false
	cmd := &cobra.Command{
		Use:           "vkmoe-demo",
		Short:         "Route a text through a Mixture-of-Experts layer on a Vulkan device",
		Long:          help,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			started = true
			if o.ListDevices {
				return listDevices(stdout)
			}
			return demo(cmd.Context(), &o, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Model, "model", "olmoe", "one of the built-in models, or a checkpoint folder")
	f.IntVar(&o.Layer, "layer", 0, "layer of the model, from 0")
	f.StringVar(&o.Text, "text", "", "text file to route instead of the built-in one")
	f.Float64Var(&o.Context, "context", 0.5, "share of what came before that is mixed into each character's input; 0 for none")
	f.StringVar(&o.Device, "device", "", "index or part of the name of the device (default: VKMOE_DEVICE, else the best one)")
	f.StringVar(&o.Out, "out", ".", "folder for routing.png; made if it does not exist")
	f.IntVar(&o.Steps, "steps", 20, "passes over the text")
	f.IntVar(&o.Batch, "batch", 1024, "most tokens in one submission")
	f.IntVar(&o.Check, "check", 4096, "most tokens to compare with the reference, spread over the text")
	f.BoolVar(&o.JSON, "json", false, "print one JSON object instead of the report")
	f.BoolVar(&o.Headless, "headless", false, "open no window; the only form there is so far")
	f.BoolVar(&o.ListDevices, "list-devices", false, "list the Vulkan devices and exit")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitPass
	}
	fmt.Fprintln(stderr, "vkmoe-demo:", err)
	var unusable unusableError
	if !started || errors.As(err, &unusable) {
		return exitUnusable
	}
	return exitFail
}

// listDevices prints every Vulkan device, usable or not.
func listDevices(stdout io.Writer) error {
	adapters, err := vk.Adapters()
	if err != nil {
		return unusableError{err}
	}
	if len(adapters) == 0 {
		return unusableError{vk.ErrNoDevice}
	}
	for _, a := range adapters {
		fmt.Fprintln(stdout, a)
		if a.Unusable != nil {
			fmt.Fprintln(stdout, "   ", a.Unusable)
		}
	}
	return nil
}

// demo does the whole job. Everything that can be refused is looked at before the device is opened, and the picture's
// file is made first, so that a folder that cannot be written to is known before the work is done.
func demo(ctx context.Context, o *options, stdout, stderr io.Writer) (err error) {
	if err := o.validate(); err != nil {
		return unusableError{err}
	}
	text, err := loadText(o.Text)
	if err != nil {
		return unusableError{err}
	}
	layer, err := loadLayer(o.Model, o.Layer)
	if err != nil {
		return unusableError{err}
	}
	out, err := createPicture(o.Out)
	if err != nil {
		return unusableError{err}
	}
	defer out.discard()

	dev, err := vk.Open(vk.Options{Device: o.Device, Timestamps: true})
	if err != nil {
		return unusableError{err}
	}
	defer func() { err = errors.Join(err, dev.Close()) }()

	r, err := route(ctx, dev, layer, text, o, newProgress(stderr))
	if err != nil {
		return err
	}
	if r.Agreement, err = compare(layer, r.sample); err != nil {
		return err
	}
	return r.publish(out, o.JSON, stdout)
}

// publish writes the picture and the report, and judges the run.
func (r *result) publish(out *outputPicture, asJSON bool, stdout io.Writer) error {
	if err := out.commit(figure(r)); err != nil {
		return err
	}
	r.Picture = out.path
	write := r.writeText
	if asJSON {
		write = r.writeJSON
	}
	if err := write(stdout); err != nil {
		return err
	}
	if !r.Agreement.Pass {
		return errDisagrees
	}
	return nil
}
