package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A figure is one plot's data.
type figure struct {
	file, title, x, y string
	lines             []line
	labels            []string // of the bars; nil for lines
	logX, logY        bool
}

// A line is a series of one maker.
type line struct {
	name   string
	points [][2]float64
}

// add puts a point on the line of a name, which it makes where it is missing.
func (f *figure) add(name string, x, y float64) {
	i := slices.IndexFunc(f.lines, func(l line) bool { return l.name == name })
	if i < 0 {
		i = len(f.lines)
		f.lines = append(f.lines, line{name: name})
	}
	f.lines[i].points = append(f.lines[i].points, [2]float64{x, y})
}

// points counts the points of the longest line.
func (f *figure) points() int {
	n := 0
	for _, l := range f.lines {
		n = max(n, len(l.points))
	}
	return n
}

// measurements are what files of results hold together.
type measurements struct {
	reports  []report
	peers    []peerReport // all
	alone    []peerReport // those that are files of their own
	decoders []decoderReport
	colds    []coldReport
}

// readMeasurements reads what --json wrote, and reports of peers by themselves.
func readMeasurements(files []string) (m measurements, err error) {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil {
			err = m.add(file, data)
		}
		if err != nil {
			return m, fmt.Errorf("%s: %w", file, err)
		}
	}
	return m, nil
}

// add reads a file's content.
func (m *measurements) add(file string, data []byte) error {
	var kind struct {
		Peer    string `json:"peer"`
		Runs    []any  `json:"runs"`
		Results []struct {
			Work string `json:"work"`
		} `json:"results"`
		Peers []struct {
			Work string `json:"work"`
		} `json:"peers"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return err
	}
	switch {
	case kind.Peer != "":
		var p peerReport
		err := json.Unmarshal(data, &p)
		m.peers, m.alone = append(m.peers, p), append(m.alone, p)
		return err
	case kind.Runs != nil:
		m.colds = append(m.colds, coldReport{})
		return json.Unmarshal(data, &m.colds[len(m.colds)-1])
	case len(kind.Results) > 0 && kind.Results[0].Work != "", len(kind.Peers) > 0 && kind.Peers[0].Work != "":
		m.decoders = append(m.decoders, decoderReport{})
		return json.Unmarshal(data, &m.decoders[len(m.decoders)-1])
	}
	r := report{file: file}
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if len(r.Results)+len(r.Mixtures) == 0 {
		return errors.New("no results")
	}
	m.reports, m.peers = append(m.reports, r), append(m.peers, r.Peers...)
	return nil
}

// about names device and driver, which all results should share, each with the days of its results.
func (m *measurements) about() string {
	var names []string
	days := map[string][]string{}
	for _, r := range m.reports {
		name := r.Device + ", " + r.Driver
		if days[name] == nil {
			names = append(names, name)
		}
		if !slices.Contains(days[name], r.Date) {
			days[name] = append(days[name], r.Date)
		}
	}
	for i, name := range names {
		slices.Sort(days[name])
		names[i] += ", " + strings.Join(days[name], " and ")
	}
	return strings.Join(names, "; ")
}

// each calls f for our results and the peers' of the same operation, case and size of numbers, with the operation's arithmetic. What a
// peer took beside ours counts, else what a report of its own says.
func (m *measurements) each(f func(name string, c benchCase, operation, dtype string, µs, flops, mb float64)) {
	for _, r := range m.reports {
		for _, res := range r.Results {
			c := casesOf(res.Case)
			if len(c) != 1 || res.Operation == "" {
				continue
			}
			flops := res.TFLOPs * res.Median * 1e6
			f(strings.TrimSpace("vkmoe "+r.Weights), c[0], res.Operation, r.DType, res.Median, flops, res.Memory)
			if r.Weights != "" {
				continue
			}
			seen := map[string]bool{}
			for _, p := range append(slices.Clone(r.Peers), m.alone...) {
				other := p.find(res.Operation, res.Case)
				if other == nil || seen[p.Peer] || (p.DType == "f32") != (r.DType == "f32") {
					continue
				}
				seen[p.Peer] = true
				name := p.Peer
				if p.DType != r.DType {
					name += " (" + p.DType + ")"
				}
				f(name, c[0], res.Operation, r.DType, other.Median, flops, other.Memory)
			}
		}
	}
}

var sweep = regexp.MustCompile(`^(granularity|sparsity)(\d+)$`)

// figures makes the plots' data: time and rate against tokens, rates against granularity and sparsity, memory, and mixtures of
// attention against the number of experts.
func (m *measurements) figures() []*figure {
	all := map[string]*figure{}
	at := func(f figure) *figure {
		if all[f.file] == nil {
			all[f.file] = &f
		}
		return all[f.file]
	}
	m.each(func(name string, c benchCase, operation, dtype string, µs, flops, mb float64) {
		if s := sweep.FindStringSubmatch(c.layer); s != nil {
			x, _ := strconv.ParseFloat(s[2], 64)
			of := map[string]string{"granularity": "granularity (8·G experts, G active)", "sparsity": "experts active, of 64"}[s[1]]
			pass := map[string]string{"mlp": "forward", "training": "forward and backward"}[operation]
			if pass == "" {
				pass = operation + " of its first layer"
			}
			if flops > 0 {
				at(figure{file: fmt.Sprintf("%s-%s-%s", s[1], operation, dtype), title: s[1] + " of a sparse MLP, " + pass + " in " + dtype, x: of,
					y: "TFLOP/s", logX: true}).add(name, x, flops/µs/1e6)
			}
		} else {
			title := fmt.Sprintf("%s %s, %s in %s", c.layer, c.shape(), operation, dtype)
			file := fmt.Sprintf("%s-%s-%s", c.layer, operation, dtype)
			at(figure{file: file + "-time", title: title, x: "tokens", y: "µs", logX: true, logY: true}).add(name, float64(c.t), µs)
			if flops > 0 {
				at(figure{file: file + "-rate", title: title, x: "tokens", y: "TFLOP/s", logX: true}).add(name, float64(c.t), flops/µs/1e6)
			}
		}
		if mb > 0 && (operation == "mlp" || operation == "training") {
			f := at(figure{file: "memory-" + operation + "-" + dtype, title: "memory beside weights and input, " + operation + " in " + dtype,
				y: "MB", labels: []string{}})
			i := slices.Index(f.labels, c.Name())
			if i < 0 {
				i, f.labels = len(f.labels), append(f.labels, c.Name())
			}
			f.add(name, float64(i), mb)
		}
	})
	for i := range m.reports {
		r := &m.reports[i]
		for _, x := range r.Mixtures {
			k, err := strconv.ParseFloat(strings.TrimPrefix(x.Case, "momha/"), 64)
			if err != nil {
				continue
			}
			for pass, t := range map[string]momhaTime{"forward": x.Forward, "training": x.Training} {
				f := at(figure{file: "momha-" + pass + "-" + r.DType, title: "mixture of attention, " + pass + " in " + r.DType,
					x: "experts per token, of 32/k heads each", y: "ms", logX: true})
				f.add(map[string]string{"momha": "vkmoe", "gqa": "vkmoe, grouped queries"}[x.Layer], k, t.Median/1e3)
				if other, _ := m.peer(r, "ScatterMoE", pass, x.Case); other != nil && x.Layer == "momha" {
					f.add("ScatterMoE with PyTorch's flash attention", k, other.Median/1e3)
				}
			}
		}
	}
	return readable(all)
}

// readable are the figures that show something, in the order of their names, with points from left to right.
func readable(all map[string]*figure) []*figure {
	var list []*figure
	for _, f := range all {
		if f.points() < 2 && f.labels == nil {
			continue
		}
		for _, l := range f.lines {
			slices.SortFunc(l.points, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
		}
		slices.SortFunc(f.lines, func(a, b line) int { // ours first
			return cmp.Or(order(a.name)-order(b.name), cmp.Compare(a.name, b.name))
		})
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *figure) int { return cmp.Compare(a.file, b.file) })
	return list
}

// order is 0 for ours, so that it has the first colour everywhere.
func order(name string) int {
	if name == "vkmoe" {
		return 0
	}
	return 1
}
