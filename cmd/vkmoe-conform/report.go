package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/tests/conform"
	"github.com/vkmoe/vkmoe/tests/conform/report"
	"github.com/vkmoe/vkmoe/tests/conform/worker"
	"github.com/vkmoe/vkmoe/vk"
)

func newReportCommand() *cobra.Command {
	var junit, html, into string
	var matrix bool
	cmd := &cobra.Command{
		Use:   "report FILE…",
		Short: "Print a report that run --json has written, or the support matrix of several",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var reports []*report.Report
			for _, path := range args {
				r, err := report.Read(path)
				if err != nil {
					return err
				}
				reports = append(reports, r)
			}
			switch {
			case matrix && into != "":
				return report.InsertFile(into, report.Matrix(reports))
			case matrix:
				fmt.Fprint(cmd.OutOrStdout(), report.Matrix(reports))
				return nil
			case len(reports) > 1:
				return errors.New("several reports make a --matrix")
			}
			f := runFlags{junit: junit, html: html}
			return f.write(cmd.OutOrStdout(), reports[0])
		},
	}
	cmd.Flags().StringVar(&junit, "junit", "", "write it as JUnit XML")
	cmd.Flags().StringVar(&html, "html", "", "write it as one HTML page")
	cmd.Flags().BoolVar(&matrix, "matrix", false, "print the support matrix of all reports in Markdown")
	cmd.Flags().StringVar(&into, "into", "", "with --matrix: put it between the marks of this file")
	return cmd
}

func newDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two reports: two drivers, or one before and after a change",
		Long:  "A and B are files that run --json has written. Exit code 1: a case that is not bad in A is in B.",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := report.Read(args[0])
			if err != nil {
				return err
			}
			b, err := report.Read(args[1])
			if err != nil {
				return err
			}
			worse, err := report.WriteDiff(cmd.OutOrStdout(), a, b)
			if err == nil && worse > 0 {
				return exitError(report.ExitFail)
			}
			return err
		},
	}
}

func newFaultsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "faults",
		Short: "List the faults that run --plant and run --faults know",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range conform.Faults() {
				fmt.Fprintf(cmd.OutOrStdout(), "%-34s %-28s %s\n", f.Name, f.Kernel, f.Description)
			}
			return nil
		},
	}
}

// newWorkerCommand is the process in which cases run.
func newWorkerCommand() *cobra.Command {
	var device, plant string
	cmd := &cobra.Command{
		Use:    "worker",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if plant != "" {
				if err := conform.Plant(plant); err != nil {
					return err
				}
			}
			return worker.Serve(cmd.Context(), os.Stdin, os.Stdout, vk.Options{Device: device, NoCache: plant != ""})
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "")
	cmd.Flags().StringVar(&plant, "plant", "", "")
	return cmd
}
