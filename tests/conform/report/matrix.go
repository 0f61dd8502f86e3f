package report

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/vkmoe/vkmoe/tests/conform"
)

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// columns of the support matrix: which cases belong to each, by the parts of their names.
var columns = []struct {
	title string
	in    func(parts []string) bool
}{
	{"f32", func(p []string) bool { return plain(p) && !holds(p, "f16") && !holds(p, "bf16") }},
	{"f16", func(p []string) bool { return plain(p) && holds(p, "f16") }},
	{"bf16", func(p []string) bool { return plain(p) && holds(p, "bf16") }},
	{"int8 and 4-bit weights", func(p []string) bool { return quantized(p) && !coopmat(p) }},
	{"coopmat f16", func(p []string) bool { return coopmat(p) && holds(p, "f16") }},
	{"coopmat bf16", func(p []string) bool { return coopmat(p) && holds(p, "bf16") }},
}

func plain(parts []string) bool { return !coopmat(parts) && !quantized(parts) }

func quantized(parts []string) bool { return holds(parts, "int8") || holds(parts, "q4") }

func coopmat(parts []string) bool { return slices.Contains(parts, "coopmat") }

// holds finds a dtype or format in the parts of a name: bf16, or f32_bf16 and the like.
func holds(parts []string, dtype string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(strings.Split(part, "_"), dtype) })
}

// Matrix is the support matrix of several reports as a table in Markdown: a row per device and driver, and per dtype and path
// how many cases pass. Only passes count; a cell in which any fails says so.
func Matrix(reports []*Report) string {
	var b strings.Builder
	b.WriteString("| device and driver | Vulkan, OS |")
	for _, c := range columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString(" not passed | planted faults |\n|" + strings.Repeat(" --- |", 4+len(columns)) + "\n")
	for _, r := range reports {
		fmt.Fprintf(&b, "| %s | %s, %s |", r.Name(), r.Device.API, r.Host.OS)
		for _, c := range columns {
			b.WriteString(" " + r.cell(c.in) + " |")
		}
		fmt.Fprintf(&b, " %s | %s |\n", r.bad(), r.caught())
	}
	return b.String()
}

func (r *Report) cell(in func([]string) bool) string {
	pass, bad, other := 0, 0, 0
	for _, c := range r.Cases {
		if !in(strings.Split(c.Name, ".")) {
			continue
		}
		switch {
		case c.Status == conform.Pass:
			pass++
		case c.Status.Bad():
			bad++
		default:
			other++
		}
	}
	switch {
	case bad > 0:
		return fmt.Sprintf("%d of %d fail", bad, pass+bad+other)
	case pass == 0:
		return "not there"
	case other > 0:
		return fmt.Sprintf("%d of %d pass", pass, pass+other)
	}
	return fmt.Sprintf("%d pass", pass)
}

func (r *Report) bad() string {
	n := r.Counts()
	var parts []string
	for _, s := range conform.Statuses[1:] {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], s))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (r *Report) caught() string {
	caught, all := 0, 0
	for _, f := range r.Faults {
		if !f.Unsupported {
			all++
		}
		if f.Caught() {
			caught++
		}
	}
	if all == 0 {
		return "not run"
	}
	return fmt.Sprintf("%d of %d caught", caught, all)
}

// The marks between which a file holds a generated matrix.
const (
	MatrixBegin = "<!-- conformance matrix: made by vkmoe-conform report --matrix -->"
	MatrixEnd   = "<!-- end of the conformance matrix -->"
)

// Insert puts a matrix between the marks of a text. It reports false for a text without them.
func Insert(text, matrix string) (string, bool) {
	before, rest, ok1 := strings.Cut(text, MatrixBegin)
	_, after, ok2 := strings.Cut(rest, MatrixEnd)
	if !ok1 || !ok2 {
		return text, false
	}
	return before + MatrixBegin + "\n" + matrix + MatrixEnd + after, true
}

// InsertFile does so in a file.
func InsertFile(path, matrix string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	out, ok := Insert(string(text), matrix)
	if !ok {
		return fmt.Errorf("%s has no line %q with a later line %q", path, MatrixBegin, MatrixEnd)
	}
	return os.WriteFile(path, []byte(out), 0o644)
}
