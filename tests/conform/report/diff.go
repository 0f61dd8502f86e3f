package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// A Change is a case with another result in the second of two reports; a report that lacks it has the status "".
type Change struct {
	Name string
	A, B conform.Result
}

// Worse reports whether the second result is bad and the first was not.
func (c Change) Worse() bool { return c.B.Status.Bad() && !c.A.Status.Bad() }

// Diff lists the cases whose results differ, in order.
func Diff(a, b *Report) []Change {
	other := map[string]conform.Result{}
	for _, c := range b.Cases {
		other[c.Name] = c
	}
	var list []Change
	for _, c := range a.Cases {
		d, found := other[c.Name]
		delete(other, c.Name)
		if !found || d.Status != c.Status {
			list = append(list, Change{c.Name, c, d})
		}
	}
	for _, d := range b.Cases {
		if _, left := other[d.Name]; left {
			list = append(list, Change{d.Name, conform.Result{}, d})
		}
	}
	return list
}

// WriteDiff prints what differs between two reports' devices and results. It returns how many cases became bad.
func WriteDiff(w io.Writer, a, b *Report) (worse int, err error) {
	var t strings.Builder
	fmt.Fprintf(&t, "A  %v\nB  %v\n", a.Device, b.Device)
	for _, d := range deviceDiff(a.Device, b.Device) {
		fmt.Fprintf(&t, "   %s\n", d)
	}
	changes := Diff(a, b)
	text := func(s conform.Status) string {
		if s == "" {
			return "(not run)"
		}
		return string(s)
	}
	for _, c := range changes {
		sign := " "
		if c.Worse() {
			sign = "!"
			worse++
		}
		fmt.Fprintf(&t, "%s %-11s → %-11s  %s", sign, text(c.A.Status), text(c.B.Status), c.Name)
		if c.B.Reason != "" && c.B.Status != conform.Unsupported {
			fmt.Fprintf(&t, "  (%s)", c.B.Reason)
		}
		t.WriteByte('\n')
	}
	fmt.Fprintf(&t, "%d of %d and %d cases differ, %d of them bad in B only\n", len(changes), len(a.Cases), len(b.Cases), worse)
	_, err = io.WriteString(w, t.String())
	return worse, err
}

// deviceDiff lists properties that differ.
func deviceDiff(a, b conform.Device) []string {
	var list []string
	note := func(name, x, y string) {
		if x != y {
			list = append(list, fmt.Sprintf("%s: %s → %s", name, x, y))
		}
	}
	note("driver UUID", a.DriverUUID, b.DriverUUID)
	note("Vulkan", a.API, b.API)
	for _, name := range sortedKeys(a.Limits) {
		note(name, a.Limits[name], b.Limits[name])
	}
	note("features", strings.Join(a.Features, " "), strings.Join(b.Features, " "))
	note("cooperative matrices", strings.Join(a.Matrices, "; "), strings.Join(b.Matrices, "; "))
	note("cooperative matrices 2", strings.Join(a.Matrices2, "; "), strings.Join(b.Matrices2, "; "))
	return list
}
