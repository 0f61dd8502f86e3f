// Command vkmoe-demo trains a small mixture-of-experts language model on whatever Vulkan device is in the machine while one
// watches, and lets it write. It opens a window where there is a display, and works without one otherwise: then it shows its
// progress on the terminal and writes the same dashboard as a picture, and a log.
//
//	vkmoe-demo [--steps N] [--text FILE] [--device D] [--out DIR] [--resume FILE] [--headless|--window] …
//	vkmoe-demo --model FOLDER        reads a text with a checkpoint and shows its routing
//
// Exit codes: 0 success, 1 the run failed, 2 something that was asked for cannot be used, 130 interrupted.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/internal/session"
	"github.com/vkmoe/vkmoe/vk"
)

// The exit codes.
const (
	exitPass        = 0
	exitFail        = 1
	exitUnusable    = 2
	exitInterrupted = 130
)

// options are the command line's flags.
type options struct {
	Device, DType, Text, Model, Resume string
	Out, Animate, Prompt               string
	Steps, Frames, K                   int
	Dense, Headless, Window            bool
	Seed                               uint64
	Limit                              time.Duration
	ListDevices                        bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// unusableError marks an error of what was asked for, as opposed to one of the run.
type unusableError struct{ error }

func (e unusableError) Unwrap() error { return e.error }

// errInterrupted ends a run that a signal ended.
var errInterrupted = errors.New("interrupted")

// unusable marks an error, if it is one.
func unusable(err error) error {
	if err == nil {
		return nil
	}
	return unusableError{err}
}

// run runs the command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	started := false
	cmd := &cobra.Command{
		Use:           "vkmoe-demo",
		Short:         "Watch a mixture of experts learn to write",
		Long:          help,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			started = true
			if o.ListDevices {
				return unusable(listDevices(stdout))
			}
			return demo(cmd.Context(), &o, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Device, "device", "", "index or part of the name of the device (default: VKMOE_DEVICE, else the best one)")
	f.StringVar(&o.DType, "dtype", "f32", "storage of weights and activations: f32, f16 or bf16")
	f.StringVar(&o.Text, "text", "", "text file to learn from (default: Newton's Opticks)")
	f.StringVar(&o.Model, "model", "", "folder of a Hugging Face checkpoint to read the text with, instead of training")
	f.StringVar(&o.Resume, "resume", "", "file of a saved run to go on from")
	f.StringVar(&o.Out, "out", ".", "folder for what is written; made if it does not exist")
	f.StringVar(&o.Animate, "animate", "", "file for an animation of the run, GIF (without a window)")
	f.StringVar(&o.Prompt, "prompt", "The Rays of Light ", "what the model goes on from when it writes")
	f.IntVar(&o.Steps, "steps", 400, "training steps of the whole run; 0 for no end")
	f.IntVar(&o.Frames, "frames", 0, "frames that the window draws before it closes; 0 for no end")
	f.IntVar(&o.K, "k", 2, "experts per byte")
	f.BoolVar(&o.Dense, "dense", false, "begin with a dense MLP in place of the experts")
	f.BoolVar(&o.Headless, "headless", false, "open no window")
	f.BoolVar(&o.Window, "window", false, "open a window, and fail where there is no display")
	f.Uint64Var(&o.Seed, "seed", 1, "of weights, batches and what is written")
	f.DurationVar(&o.Limit, "limit", 0, "end a run without a window after this time, steps done or not; 0 for never")
	f.BoolVar(&o.ListDevices, "list-devices", false, "list the Vulkan devices and exit")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return exitCode(cmd.ExecuteContext(ctx), started, stderr)
}

// exitCode tells an error and turns it into the exit code.
func exitCode(err error, started bool, stderr io.Writer) int {
	var cannot unusableError
	if err == nil {
		return exitPass
	}
	fmt.Fprintln(stderr, "vkmoe-demo:", err)
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case !started || errors.As(err, &cannot):
		return exitUnusable
	}
	return exitFail
}

// listDevices prints every Vulkan device, usable or not.
func listDevices(stdout io.Writer) error {
	adapters, err := vk.Adapters()
	if err != nil {
		return err
	}
	if len(adapters) == 0 {
		return vk.ErrNoDevice
	}
	for _, a := range adapters {
		fmt.Fprintln(stdout, a)
		if a.Unusable != nil {
			fmt.Fprintln(stdout, "   ", a.Unusable)
		}
	}
	return nil
}

// displayAvailable reports whether there is a display to open a window on.
func displayAvailable() bool {
	return os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// windowed decides between a window and none, or says why what was asked for cannot be.
func (o *options) windowed() (bool, error) {
	switch {
	case o.Window && o.Headless:
		return false, errors.New("--window and --headless exclude each other")
	case o.Window && !hasWindow:
		return false, errNoWindow
	case o.Window && !displayAvailable():
		return false, errors.New("--window: there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set; without --window the run shows itself as pictures")
	case o.Window && o.Animate != "":
		return false, errors.New("--animate records a run without a window; leave --window out")
	}
	return o.Window || hasWindow && !o.Headless && o.Animate == "" && displayAvailable(), nil
}

// dtypes are the storage types by their names.
var dtypes = map[string]vk.DType{"f32": vk.F32, "f16": vk.F16, "bf16": vk.BF16}

// config checks the flags and turns them into a session's configuration.
func (o *options) config() (session.Config, error) {
	dtype, known := dtypes[o.DType]
	switch {
	case !known:
		return session.Config{}, fmt.Errorf("--dtype %s: want f32, f16 or bf16", o.DType)
	case o.Steps < 0 || o.Frames < 0 || o.Limit < 0:
		return session.Config{}, errors.New("--steps, --frames and --limit are at least 0")
	case o.K < 1:
		return session.Config{}, fmt.Errorf("--k %d: want at least 1", o.K)
	case o.Model != "" && o.Resume != "":
		return session.Config{}, errors.New("--model reads a checkpoint, --resume goes on with a run: choose one")
	}
	text, name, err := loadText(o.Text)
	if err != nil {
		return session.Config{}, err
	}
	if o.Model != "" && o.Text == "" { // a checkpoint reads the beginning, which is a title page here
		text = text[max(0, bytes.Index(text, []byte(firstChapter))):]
	}
	return session.Config{Device: o.Device, DType: dtype, Text: text, TextName: name, Steps: o.Steps, K: o.K, Dense: o.Dense, Seed: o.Seed,
		Model: o.Model, Resume: o.Resume, File: filepath.Join(o.Out, session.FileName), Autosave: 30 * time.Second}, nil
}

// demo does the whole job. What can be refused is looked at before the device is opened, and the first picture is written
// before the first step, so that a folder that cannot be written to is known before the work is done.
func demo(ctx context.Context, o *options, stdout, stderr io.Writer) (err error) {
	inWindow, err := o.windowed()
	if err != nil {
		return unusable(err)
	}
	cfg, err := o.config()
	if err != nil {
		return unusable(err)
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return unusable(fmt.Errorf("cannot make the output folder: %w", err))
	}
	open := func() (*session.Session, error) {
		s, err := session.Open(ctx, cfg)
		return s, unusable(err)
	}
	s, err := show(ctx, open, o, inWindow, stdout, stderr)
	if s == nil {
		return err
	}
	// What has been learned is saved also where something else failed.
	err = errors.Join(err, s.Err(), s.Close())
	if ctx.Err() != nil {
		err = errors.Join(errInterrupted, err)
	}
	if o.Model == "" && s.Saved() {
		fmt.Fprintf(stdout, "the run is in %s: --resume goes on with it\n", cfg.File)
	}
	return err
}

// show opens a session and shows it in a window or without one, and returns it for the caller to close; nil where none could be
// opened. Where no window can be opened after all it does without, unless one was asked for.
func show(
	ctx context.Context, open func() (*session.Session, error), o *options, inWindow bool, stdout, stderr io.Writer,
) (*session.Session, error) {
	if inWindow {
		s, err := runWindow(ctx, open, windowOptions{Frames: o.Frames, Prompt: o.Prompt, Device: o.Device, DType: o.DType})
		if !errors.Is(err, errNoWindow) {
			return s, err
		}
		if o.Window {
			return nil, unusable(err)
		}
		fmt.Fprintf(stderr, "vkmoe-demo: %v; going on without a window\n", err)
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	return s, runHeadless(ctx, s, o, stdout, stderr)
}

const help = `Trains a small language model with a mixture of attention and a sparse mixture of MLP experts on a text, byte by byte,
on a Vulkan device: in a window where there is a display, otherwise with pictures and a log of the same.

What it writes to --out: dashboard.png, what a window would show; dashboard.jsonl, a line of JSON for each step; and
vkmoe-demo.safetensors, the run itself, from which --resume goes on.

Exit codes: 0 success, 1 the run failed, 2 something that was asked for cannot be used, 130 interrupted.`
