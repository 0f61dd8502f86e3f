package main

import (
	"fmt"
	"slices"
	"strings"
)

// deviceTable holds what else was measured on the GPU: ceilings, routing and cold starts.
func (m *measurements) deviceTable() (head []string, rows [][]string) {
	head = []string{"", ""}
	var most ceilings
	var nearest string
	share := 0.0
	for _, r := range m.reports {
		if c := r.Ceilings; c != nil && strings.Contains(r.Device, tableGPU) {
			most.Copy, most.F32, most.Matrix = max(most.Copy, c.Copy), max(most.F32, c.F32), max(most.Matrix, c.Matrix)
		}
		for _, res := range r.Results {
			if strings.Contains(r.Device, tableGPU) && r.Weights == "" && res.Operation == "forward" && res.ShareOfCopy > share {
				share, nearest = res.ShareOfCopy, fmt.Sprintf("%.2f TB/s in %s", res.Weights, res.Case)
			}
		}
	}
	if most.Copy > 0 {
		rows = append(rows, []string{"copies, bytes read and written", fmt.Sprintf("%.2f TB/s", most.Copy)},
			[]string{"matrix units from registers, bf16", amount(most.Matrix) + " TFLOP/s"},
			[]string{"fused multiply-adds from registers, f32", amount(most.F32) + " TFLOP/s"})
	}
	if nearest != "" {
		rows = append(rows, []string{"weights are read at most at", nearest})
	}
	for _, c := range casesNamed("routing") {
		if res, _ := m.find(tableGPU, "bf16", "", "route", c.Name()); res != nil {
			rows = append(rows, []string{fmt.Sprintf("routing %s tokens to %d of %d experts", c.tokens(), c.k, c.experts), amount(res.Median) + " µs"})
		}
	}
	return head, append(rows, m.coldRows(tableGPU)...)
}

// coldRows are the medians of cold starts.
func (m *measurements) coldRows(device string) [][]string {
	var rows [][]string
	for _, c := range m.colds {
		if !strings.Contains(c.Device, device) {
			continue
		}
		for _, fresh := range []bool{true, false} {
			var process, first []float64
			for _, r := range c.Runs {
				if r.Fresh == fresh {
					process, first = append(process, r.Process), append(first, r.First)
				}
			}
			if len(process) > 0 {
				rows = append(rows, []string{fmt.Sprintf("a new process with its first results (routed MLP, %s in %s), %s", c.Case,
					c.DType, map[bool]string{true: "nothing compiled before", false: "kernels cached"}[fresh]),
					fmt.Sprintf("%s ms, of which the first pass %s", amount(quantile(process, 0.5)), amount(quantile(first, 0.5)))})
			}
		}
	}
	return rows
}

// softwareTable is of the CPU's driver: a ParallelLinear beside peers, and routing.
func (m *measurements) softwareTable() (head []string, rows [][]string) {
	head = []string{"", "vkmoe", "peers"}
	c := casesOf("small/512")[0]
	for _, operation := range []struct{ name, about string }{
		{"forward", fmt.Sprintf("ParallelLinear, %s tokens, %s, f32", c.tokens(), c.shape())}, {"route", "its routing"}} {
		res, r := m.find(tableSoftware, "f32", "", operation.name, c.Name())
		if res == nil {
			continue
		}
		var peers []string
		for _, p := range r.Peers {
			if other := p.find(operation.name, c.Name()); other != nil {
				peers = append(peers, fmt.Sprintf("%s %s: %s", p.Peer, p.Version,
					times(milli(other.Median), other.Median/res.Median, true)))
			}
		}
		if len(peers) == 0 {
			peers = []string{"–"}
		}
		rows = append(rows, []string{operation.about, milli(res.Median), strings.Join(peers, "; ")})
	}
	for _, row := range m.coldRows(tableSoftware) {
		rows = append(rows, append(slices.Clone(row), "–"))
	}
	return head, rows
}

// milli writes microseconds in milliseconds.
func milli(µs float64) string { return amount(µs/1e3) + " ms" }
