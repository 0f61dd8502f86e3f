package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
)

// Parts of the names of the devices that tables are of: that of peers, and the CPU's driver.
const (
	tableGPU      = "H100"
	tableSoftware = "llvmpipe"
)

// layerNames are how tables call layers.
var layerNames = map[string]string{"paper": "ScatterMoE’s unit", "mixtral": "Mixtral", "qwen3": "Qwen3-30B-A3B", "olmoe": "OLMoE"}

// layerName is a layer's name and its shape.
func layerName(c benchCase) string {
	name := layerNames[c.layer]
	for _, sweep := range []string{"granularity", "sparsity"} {
		if number, ok := strings.CutPrefix(c.layer, sweep); ok {
			name = sweep + " " + number
		}
	}
	return fmt.Sprintf("%s, %d/%d, %d→%d", name, c.experts, c.k, c.in, c.out)
}

// mlpName is that of a sparse MLP, with its activation.
func mlpName(c benchCase) string { return layerName(c) + ", " + activationNames[c.activation] }

// amount writes a number with three digits or more.
func amount(v float64) string {
	decimals := 0
	for limit := 99.95; v < limit && decimals < 2; limit /= 10 {
		decimals++
	}
	if decimals == 0 {
		return count(int(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// count writes a whole number in groups of thousands.
func count(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// times is how many times ours a peer's figure is, in brackets after that figure. A star says that it is not from our run.
func times(figure string, ratio float64, same bool) string {
	mark := "*"
	if same {
		mark = ""
	}
	return figure + mark + " (" + amount(ratio) + ")"
}

// find is our result on a device whose name contains a part, and the report that it is in, or nil.
func (m *measurements) find(device, dtype, weights, operation, name string) (*result, *report) {
	for i := range m.reports {
		r := &m.reports[i]
		if !strings.Contains(r.Device, device) || r.DType != dtype || r.Weights != weights {
			continue
		}
		for j := range r.Results {
			if res := &r.Results[j]; res.Operation == operation && res.Case == name {
				return res, r
			}
		}
	}
	return nil, nil
}

// peer is what a peer whose name begins so took: in the same run, or else in a report by itself.
func (m *measurements) peer(r *report, name, operation, of string) (res *peerResult, same bool) {
	for i := range r.Peers {
		if p := &r.Peers[i]; strings.HasPrefix(p.Peer, name) {
			if res = p.find(operation, of); res != nil {
				return res, true
			}
		}
	}
	for i := range m.alone {
		p := &m.alone[i]
		if strings.HasPrefix(p.Peer, name) && p.Device == r.Device && (p.DType == "f32") == (r.DType == "f32") {
			if res = p.find(operation, of); res != nil {
				return res, false
			}
		}
	}
	return nil, false
}

// peerCell is a peer's time in a unit of so many microseconds, with how many times ours that is.
func (m *measurements) peerCell(r *report, ours, unit float64, name, operation, of string) string {
	p, same := m.peer(r, name, operation, of)
	if p == nil {
		return "–"
	}
	return times(amount(p.Median/unit), p.Median/ours, same)
}

// casesNamed are the cases of groups, in their order.
func casesNamed(names ...string) []benchCase {
	var list []benchCase
	for _, name := range names {
		list = append(list, casesOf(name)...)
	}
	return list
}

// tokens writes a case's number of tokens.
func (c benchCase) tokens() string { return count(c.t) }

func (m *measurements) forwardTable() (head []string, rows [][]string) {
	head = []string{"layer", "tokens", "vkmoe, µs", "TFLOP/s", "of peak", "TB/s", "of copy", "PyTorch", "ScatterMoE", "ggml-vulkan"}
	add := func(c benchCase, dtype, note string) {
		res, r := m.find(tableGPU, dtype, "", "forward", c.Name())
		if res == nil {
			return
		}
		row := []string{layerName(c) + note, c.tokens(), amount(res.Median), fmt.Sprintf("%.0f", res.TFLOPs), share(res.ShareOfPeak),
			rate(res.Weights), share(res.ShareOfCopy)}
		for _, peer := range []string{"PyTorch", "ScatterMoE", "ggml"} {
			row = append(row, m.peerCell(r, res.Median, 1, peer, "forward", c.Name()))
		}
		rows = append(rows, row)
	}
	for _, c := range casesNamed("anchors") {
		add(c, "bf16", "")
	}
	add(casesOf("paper/2048")[0], "f32", ", f32")
	return head, rows
}

// rate writes terabytes a second.
func rate(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", v)
}

// share writes a share in percent.
func share(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*v)
}

func (m *measurements) gradientTable() (head []string, rows [][]string) {
	head = []string{"layer", "tokens", "dX, µs", "dW, µs", "TFLOP/s", "ScatterMoE’s dW"}
	for _, c := range casesNamed("gradients") {
		res, r := m.find(tableGPU, "bf16", "", "dw", c.Name())
		if res == nil {
			continue
		}
		dx := "–"
		if other, _ := m.find(tableGPU, "bf16", "", "dx", c.Name()); other != nil {
			dx = amount(other.Median)
		}
		rows = append(rows, []string{layerName(c), c.tokens(), dx, amount(res.Median), fmt.Sprintf("%.0f", res.TFLOPs),
			m.peerCell(r, res.Median, 1, "ScatterMoE", "dw", c.Name())})
	}
	return head, rows
}

// mlpCells are a sparse MLP's cells of a pass: ours, ScatterMoE's and MegaBlocks'.
func (m *measurements) mlpCells(operation string, c benchCase, cell func(res *result, r *report, peer string) string) []string {
	res, r := m.find(tableGPU, "bf16", "", operation, c.Name())
	if res == nil {
		return []string{"–", "–", "–"}
	}
	return []string{cell(res, r, ""), cell(res, r, "ScatterMoE"), cell(res, r, "MegaBlocks")}
}

// mlpTable has a row for each sparse MLP of which a pass was measured.
func (m *measurements) mlpTable(unit string, cases []benchCase, cell func(operation string, c benchCase) func(*result, *report, string) string) (
	head []string, rows [][]string) {
	head = []string{"sparse MLP", "tokens", "forward, " + unit, "ScatterMoE", "MegaBlocks", "with backward", "ScatterMoE", "MegaBlocks"}
	for _, c := range cases {
		row := []string{mlpName(c), c.tokens()}
		for _, operation := range []string{"mlp", "training"} {
			row = append(row, m.mlpCells(operation, c, cell(operation, c))...)
		}
		if row[2] != "–" || row[5] != "–" {
			rows = append(rows, row)
		}
	}
	return head, rows
}

func (m *measurements) layerTable() (head []string, rows [][]string) {
	return m.mlpTable("ms", casesNamed("token", "layers", "granularity", "sparsity"), func(operation string, c benchCase) func(*result, *report,
		string) string {
		return func(res *result, r *report, peer string) string {
			if peer == "" {
				return amount(res.Median / 1e3)
			}
			return m.peerCell(r, res.Median, 1e3, peer, operation, c.Name())
		}
	})
}

func (m *measurements) memoryTable() (head []string, rows [][]string) {
	return m.mlpTable("MB", casesNamed("layers", "granularity", "sparsity"), func(operation string, c benchCase) func(*result, *report,
		string) string {
		return func(res *result, r *report, peer string) string {
			if peer == "" && res.Memory > 0 {
				return amount(res.Memory)
			}
			p, same := m.peer(r, peer, operation, c.Name())
			if p == nil || p.Memory == 0 || res.Memory == 0 {
				return "–"
			}
			return times(amount(p.Memory), p.Memory/res.Memory, same)
		}
	})
}

func (m *measurements) mixtureTable() (head []string, rows [][]string) {
	head = []string{"experts per token, of heads", "forward, ms", "ScatterMoE", "grouped queries", "with backward", "ScatterMoE", "grouped queries"}
	for i := range m.reports {
		r := &m.reports[i]
		if !strings.Contains(r.Device, tableGPU) || r.DType != "bf16" {
			continue
		}
		for _, x := range r.Mixtures {
			j := slices.IndexFunc(r.Mixtures, func(y momhaResult) bool { return y.Case == x.Case && y.Layer == "gqa" })
			if x.Layer != "momha" || j < 0 {
				continue
			}
			gqa, row := r.Mixtures[j], []string{strings.TrimPrefix(x.Case, "momha/") + " (" + x.Shape + ")"}
			for _, pass := range []struct {
				name        string
				ours, dense momhaTime
			}{{"forward", x.Forward, gqa.Forward}, {"training", x.Training, gqa.Training}} {
				row = append(row, amount(pass.ours.Median/1e3), m.peerCell(r, pass.ours.Median, 1e3, "ScatterMoE", pass.name, x.Case),
					amount(pass.dense.Median/1e3))
			}
			rows = append(rows, row)
		}
	}
	return head, rows
}

func (m *measurements) modelTable() (head []string, rows [][]string) {
	head = []string{"whole model", "vkmoe, tokens/s", "GB at most (beyond weights and states)", "peers: tokens/s, GB at most (beyond)"}
	for _, d := range m.decoders {
		if !strings.Contains(d.Device, tableGPU) {
			continue
		}
		for _, r := range d.Results {
			about := "training 1.5 billion parameters, %d × %s tokens a step"
			if r.Work == "generate" {
				about = "generating with 4 layers of Mixtral-8x7B, %d sequences after %s tokens"
			}
			peers := m.modelPeers(d, r)
			if peers == "" {
				peers = "–"
			}
			rows = append(rows, []string{fmt.Sprintf(about, r.Batch, count(r.Length)), amount(r.TokensPerSecond),
				gigabytes(r.PeakBytes, r.StateBytes), peers})
		}
	}
	return head, rows
}

// modelPeers lists what peers took for a model, in the same run or else in other files.
func (m *measurements) modelPeers(d decoderReport, r decoderResult) string {
	var list []string
	add := func(from decoderReport, same bool) {
		for _, p := range from.Peers {
			if p.Shape == r.Shape && p.Work == r.Work && p.Batch == r.Batch && p.Length == r.Length && from.Device == d.Device {
				list = append(list, fmt.Sprintf("%s: %s, %s", p.Peer, times(amount(p.TokensPerSecond), p.TokensPerSecond/r.TokensPerSecond, same),
					gigabytes(p.PeakBytes, p.StateBytes)))
			}
		}
	}
	if add(d, true); len(list) > 0 {
		return strings.Join(list, "; ")
	}
	for _, other := range m.decoders {
		add(other, false)
	}
	return strings.Join(list, "; ")
}

// gigabytes writes the most that was allocated, and what of it is not what stays.
func gigabytes(peak, states uint64) string {
	return fmt.Sprintf("%s (%s)", amount(float64(peak)/1e9), amount(float64(peak-states)/1e9))
}

func (m *measurements) quantizedTable() (head []string, rows [][]string) {
	head = []string{"layer", "tokens", "bf16, µs", "int8", "4 bits"}
	for _, c := range casesNamed("anchors") {
		row, quantized := []string{layerName(c), c.tokens()}, false
		for _, weights := range []string{"", moe.WeightsInt8.String(), moe.WeightsQ4.String()} {
			cell := "–"
			if res, _ := m.find(tableGPU, "bf16", weights, "forward", c.Name()); res != nil {
				cell, quantized = amount(res.Median), quantized || weights != ""
			}
			row = append(row, cell)
		}
		if quantized {
			rows = append(rows, row)
		}
	}
	return head, rows
}
