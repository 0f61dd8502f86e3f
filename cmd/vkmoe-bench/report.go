package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// A resultTable is a table of results in Markdown, by the name that marks its place in a file.
type resultTable struct {
	name string
	make func(m *measurements) (head []string, rows [][]string)
}

// resultTables are what report prints.
var resultTables = []resultTable{
	{"forward", (*measurements).forwardTable},
	{"gradients", (*measurements).gradientTable},
	{"layers", (*measurements).layerTable},
	{"memory", (*measurements).memoryTable},
	{"mixtures", (*measurements).mixtureTable},
	{"models", (*measurements).modelTable},
	{"quantized", (*measurements).quantizedTable},
	{"device", (*measurements).deviceTable},
	{"software", (*measurements).softwareTable},
}

// markdown is the table, or a line that says that nothing was measured for it.
func (t resultTable) markdown(m *measurements) string {
	head, rows := t.make(m)
	if len(rows) == 0 {
		return "Not measured.\n"
	}
	text := "| " + strings.Join(head, " | ") + " |\n|" + strings.Repeat(" --- |", len(head)) + "\n"
	above := ""
	for _, row := range rows {
		if row[0] == above {
			row[0] = ""
		} else {
			above = row[0]
		}
		text += "| " + strings.Join(row, " | ") + " |\n"
	}
	return text
}

// marks are the lines between which a file holds the table.
func (t resultTable) marks() (begin, end string) {
	return "<!-- table " + t.name + ": made by vkmoe-bench report -->\n", "<!-- end of table " + t.name + " -->"
}

// insertTables puts tables between their marks in a text, and says how many it found.
func insertTables(text string, m *measurements) (string, int) {
	found := 0
	for _, t := range resultTables {
		begin, end := t.marks()
		before, rest, ok := strings.Cut(text, begin)
		_, after, closed := strings.Cut(rest, end)
		if ok && closed {
			text = before + begin + t.markdown(m) + end + after
			found++
		}
	}
	return text, found
}

// runReport is the subcommand report: it prints files of results as the tables of the README, or puts them there.
func runReport(args []string) error {
	flags := flag.NewFlagSet("vkmoe-bench report", flag.ContinueOnError)
	into := flags.String("into", "", "put the tables between their marks in this file instead of printing them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("report needs files that --json wrote, or that peers printed")
	}
	m, err := readMeasurements(flags.Args())
	if err != nil {
		return err
	}
	if err := m.sound(); err != nil {
		return err
	}
	if *into == "" {
		for _, t := range resultTables {
			begin, end := t.marks()
			fmt.Println(begin + t.markdown(&m) + end + "\n")
		}
		return nil
	}
	text, err := os.ReadFile(*into)
	if err != nil {
		return err
	}
	out, found := insertTables(string(text), &m)
	if found == 0 {
		return fmt.Errorf("%s has no marks of tables", *into)
	}
	return os.WriteFile(*into, []byte(out), 0o644)
}

// sound fails where two files hold the same measurement, of which a table could show either, and where one was taken at low clocks.
func (m *measurements) sound() error {
	seen := map[string]string{}
	for _, r := range m.reports {
		for _, res := range r.Results {
			if res.LowClocks > 0 {
				return fmt.Errorf("%s: %s %s was timed at %.0f %% of the device's clocks: measure it again", r.file, res.Operation, res.Case,
					100*res.LowClocks)
			}
			key := strings.Join([]string{r.Device, r.DType, r.Weights, res.Operation, res.Case}, " ")
			if other, twice := seen[key]; twice {
				return fmt.Errorf("%s and %s both hold %s", other, r.file, key)
			}
			seen[key] = r.file
		}
		for _, x := range r.Mixtures {
			key := strings.Join([]string{r.Device, r.DType, x.Case, x.Layer}, " ")
			if other, twice := seen[key]; twice {
				return fmt.Errorf("%s and %s both hold %s", other, r.file, key)
			}
			seen[key] = r.file
		}
	}
	return nil
}
