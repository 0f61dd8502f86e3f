// Command vkmoe-conform checks that a device computes what it should.
//
//	vkmoe-conform list [GLOB…]      the cases of the suite, one a line
//	vkmoe-conform run [GLOB…]       runs them: --device, --required, --shard, --seed, --json, --junit, --html, --evidence, …
//	vkmoe-conform diff A B          compares two reports
//	vkmoe-conform report FILE…      prints a report, or the support matrix of several
//	vkmoe-conform faults            lists the faults that can be planted to try the suite itself
//	vkmoe-conform golden DIR        holds layers against recorded models
//
// It exits with 0 when all that was asked for passes, 1 when something fails, and 2 when the input or the device cannot
// be used. It needs nothing beside itself but a C library and a Vulkan driver.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/tests/golden"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exitError carries the exit code of a subcommand that has already said what it found.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run runs the command line and returns its exit code. Any error that is not a verdict makes the input unusable.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "vkmoe-conform",
		Short:         "Check that a Vulkan device computes what it should",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q; see vkmoe-conform --help", args[0])
			}
			return errors.New("a command is needed; see vkmoe-conform --help")
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	root.AddCommand(newListCommand(), newRunCommand(), newDiffCommand(), newReportCommand(), newFaultsCommand(), newCompileCommand(), newWorkerCommand(),
		newGoldenCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return golden.ExitPass
	case errors.As(err, &exit):
		return int(exit)
	}
	fmt.Fprintln(stderr, "vkmoe-conform:", err)
	return golden.ExitUnusable
}
