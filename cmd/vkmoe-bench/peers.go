package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
)

// A peerReport is what a command of bench/peers prints.
type peerReport struct {
	Peer    string       `json:"peer"`
	Version string       `json:"version"`
	Device  string       `json:"device"`
	Driver  string       `json:"driver,omitempty"`
	Date    string       `json:"date"`
	DType   string       `json:"dtype"`
	Note    string       `json:"note,omitempty"`
	Results []peerResult `json:"results"`
}

// A peerResult is a case that a peer was timed on.
type peerResult struct {
	Operation string  `json:"operation"`
	Case      string  `json:"case"`
	Least     float64 `json:"min_us,omitempty"`
	Median    float64 `json:"median_us"`
	High      float64 `json:"p90_us,omitempty"`
	Error     float64 `json:"relative_error,omitempty"`
	Memory    float64 `json:"extra_mb,omitempty"`
	Graph     *bool   `json:"graph,omitempty"` // whether a captured graph was timed
}

// peerCommands are the values of --peer.
type peerCommands []string

func (p *peerCommands) String() string { return strings.Join(*p, ", ") }

// Set adds one.
func (p *peerCommands) Set(command string) error {
	if len(strings.Fields(command)) == 0 {
		return fmt.Errorf("an empty command")
	}
	*p = append(*p, command)
	return nil
}

// activationNames are what peers are told; bench/peers/common.py reads them.
var activationNames = map[moe.Activation]string{moe.GELU: "GELU", moe.SwiGLU: "SwiGLU"}

// peerWords describe cases to peers, after their operation.
func peerWords(chosen []task) []string {
	var words []string
	for i, c := range chosen {
		if i == 0 || c.operation != chosen[i-1].operation {
			words = append(words, "--op", c.operation)
		}
		words = append(words, c.Name())
		for _, n := range []int{c.experts, c.k, c.in, c.out, c.t} {
			words = append(words, strconv.Itoa(n))
		}
		words = append(words, activationNames[c.activation])
	}
	return words
}

// run has every peer time the cases that the words describe. A peer leaves out what it cannot do.
func (p peerCommands) run(ctx context.Context, f *runFlags, cases []string) ([]peerReport, error) {
	var reports []peerReport
	for _, command := range p {
		words := strings.Fields(command)
		args := append(words[1:], "--dtype", *f.dtype, "--reps", strconv.Itoa(*f.reps))
		var r peerReport
		if err := runPeer(ctx, append(append(words[:1:1], args...), cases...), &r); err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// runPeer runs a command and reads the JSON that it prints.
func runPeer(ctx context.Context, words []string, report any) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("peer %q: %w", words, err)
	}
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		return fmt.Errorf("peer %q printed no report: %w", words, err)
	}
	return nil
}

// keep adds what peers took in a round, of each case the lesser.
func (r *report) keep(peers []peerReport) {
	if r.Peers == nil {
		r.Peers = peers
		return
	}
	for i, p := range peers {
		for _, again := range p.Results {
			if old := r.Peers[i].find(again.Operation, again.Case); old == nil {
				r.Peers[i].Results = append(r.Peers[i].Results, again)
			} else if again.Median < old.Median {
				*old = again
			}
		}
	}
}

// find is the peer's result of a case, or nil.
func (r *peerReport) find(operation, name string) *peerResult {
	for i, p := range r.Results {
		if p.Operation == operation && p.Case == name {
			return &r.Results[i]
		}
	}
	return nil
}

// A comparison is our time in microseconds and memory in MB for what a peer did too.
type comparison struct {
	operation, name string
	median, memory  float64
}

// comparisons are our results.
func (r *report) comparisons() []comparison {
	var list []comparison
	for _, res := range r.Results {
		list = append(list, comparison{res.Operation, res.Case, res.Median, res.Memory})
	}
	for _, m := range r.Mixtures {
		if m.Layer == "momha" {
			list = append(list, comparison{"forward", m.Case, m.Forward.Median, m.Forward.Memory},
				comparison{"training", m.Case, m.Training.Median, m.Training.Memory})
		}
	}
	return list
}

// ratios are tables of how many times as long peers take, and how many times as much memory where both say how much; or
// nothing without peers.
func (r *report) ratios() string {
	text := ""
	for _, p := range r.Peers {
		text += fmt.Sprintf("\n%s %s: how many times as long it takes, and as much memory\n", p.Peer, p.Version)
		for _, c := range r.comparisons() {
			other := p.find(c.operation, c.name)
			if other == nil {
				text += fmt.Sprintf("%-9s %-18s %11.1f µs            –\n", c.operation, c.name, c.median)
				continue
			}
			text += fmt.Sprintf("%-9s %-18s %11.1f µs %12.1f µs %6.2f", c.operation, c.name, c.median, other.Median, other.Median/c.median)
			if c.memory > 0 && other.Memory > 0 {
				text += fmt.Sprintf("  %9.1f MB %9.1f MB %6.2f", c.memory, other.Memory, other.Memory/c.memory)
			}
			text += "\n"
		}
	}
	return text
}
