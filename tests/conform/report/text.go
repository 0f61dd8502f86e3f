package report

import (
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// Group is the part of a case's name that tables sum up by: operation and variant.
func Group(name string) string {
	parts := strings.SplitN(name, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// groups lists the groups of the cases in order, with counts.
func (r *Report) groups() (names []string, counts map[string]map[conform.Status]int) {
	counts = map[string]map[conform.Status]int{}
	for _, c := range r.Cases {
		g := Group(c.Name)
		if counts[g] == nil {
			counts[g] = map[conform.Status]int{}
			names = append(names, g)
		}
		counts[g][c.Status]++
	}
	sort.Strings(names)
	return names, counts
}

// WriteText prints the device, what did not pass, and a table.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "device  %v\n", r.Device)
	fmt.Fprintf(&b, "host    %s, kernel %s, %s\n", r.Host.OS, r.Host.Kernel, r.Host.Arch)
	fmt.Fprintf(&b, "suite   %s, seed %d\n", r.Suite, r.Run.Seed)
	r.textBad(&b)
	r.textUnsupported(&b)
	r.textTable(&b)
	r.textFaults(&b)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxListed bounds how many bad cases a text lists; the JSON has all.
const maxListed = 100

func (r *Report) textBad(b *strings.Builder) {
	listed := 0
	for _, c := range r.Cases {
		if !c.Status.Bad() && c.Status != conform.Waived {
			continue
		}
		if listed++; listed > maxListed {
			fmt.Fprintf(b, "… and more\n")
			return
		}
		fmt.Fprintf(b, "\n%s  %s\n    %s\n", strings.ToUpper(string(c.Status)), c.Name, c.Reason)
		if c.Flaky {
			fmt.Fprintf(b, "    flaky: its runs gave %v\n", c.Attempts)
		}
		if c.Output != "" {
			lines := strings.Split(c.Output, "\n")
			fmt.Fprintf(b, "    it wrote: %s\n", strings.Join(lines[:min(len(lines), 6)], "\n      "))
		}
		for _, line := range []string{c.Evidence, c.Repro} {
			if line != "" {
				fmt.Fprintf(b, "    %s\n", line)
			}
		}
	}
}

// textUnsupported prints one line per missing capability.
func (r *Report) textUnsupported(b *strings.Builder) {
	n := map[string]int{}
	var reasons []string
	for _, c := range r.Cases {
		if c.Status == conform.Unsupported {
			if n[c.Reason] == 0 {
				reasons = append(reasons, c.Reason)
			}
			n[c.Reason]++
		}
	}
	for _, reason := range reasons {
		fmt.Fprintf(b, "\nunsupported  %d cases: %s\n", n[reason], reason)
	}
}

func (r *Report) textTable(b *strings.Builder) {
	names, counts := r.groups()
	fmt.Fprintf(b, "\n%-34s", "cases")
	for _, s := range conform.Statuses {
		fmt.Fprintf(b, "%12s", s)
	}
	b.WriteByte('\n')
	total := r.Counts()
	row := func(name string, n map[conform.Status]int) {
		fmt.Fprintf(b, "%-34s", name)
		for _, s := range conform.Statuses {
			if n[s] == 0 {
				fmt.Fprintf(b, "%12s", "·")
			} else {
				fmt.Fprintf(b, "%12d", n[s])
			}
		}
		b.WriteByte('\n')
	}
	for _, name := range names {
		row(name, counts[name])
	}
	row("all", total)
	if n := r.Flaky(); n > 0 {
		fmt.Fprintf(b, "%d of them flaky\n", n)
	}
	fmt.Fprintf(b, "%.0f s\n", r.Seconds)
}

func (r *Report) textFaults(b *strings.Builder) {
	if len(r.Faults) == 0 {
		return
	}
	fmt.Fprintf(b, "\nplanted faults\n")
	for _, f := range r.Faults {
		fmt.Fprintf(b, "  %-34s %-28s %s\n", f.Name, f.Kernel, f.Verdict())
	}
}

// Verdict says in words whether the fault was caught.
func (f Fault) Verdict() string {
	switch {
	case f.Unsupported:
		return "not run: the device does not support its kernel"
	case f.Caught():
		return fmt.Sprintf("caught by %s in %d of %d cases", strings.Join(f.Checks, ", "), f.Failed, f.Cases)
	}
	return fmt.Sprintf("NOT CAUGHT in %d cases", f.Cases)
}
