package report

import (
	_ "embed"
	"html/template"
	"io"
	"strings"

	"github.com/vkmoe/vkmoe/tests/conform"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// htmlGroup is a row of the page's table.
type htmlGroup struct {
	Name   string
	Counts []int
}

// WriteHTML writes the report as one page that needs nothing else: styles, script and results are in it.
func (r *Report) WriteHTML(w io.Writer) error {
	names, counts := r.groups()
	var groups []htmlGroup
	row := func(name string, n map[conform.Status]int) {
		g := htmlGroup{Name: name}
		for _, s := range conform.Statuses {
			g.Counts = append(g.Counts, n[s])
		}
		groups = append(groups, g)
	}
	for _, name := range names {
		row(name, counts[name])
	}
	row("all", r.Counts())
	verdict := map[int]string{ExitPass: "passes", ExitFail: "does not pass", ExitUnusable: "nothing passed"}[r.Exit()]
	return page.Execute(w, map[string]any{
		"Report": r, "Verdict": verdict, "Groups": groups, "Statuses": conform.Statuses, "Edges": conform.HistogramEdges,
		"Limits": r.Device.Limits, "Features": strings.Join(r.Device.Features, " "),
	})
}
