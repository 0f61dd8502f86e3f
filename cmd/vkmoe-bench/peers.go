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

// run has every peer time the cases. A peer leaves out what it cannot do.
func (p peerCommands) run(ctx context.Context, f *runFlags, chosen []benchCase) ([]peerReport, error) {
	var reports []peerReport
	for _, command := range p {
		words := strings.Fields(command)
		args := append(words[1:], "--op", *f.operation, "--dtype", *f.dtype, "--reps", strconv.Itoa(*f.reps))
		for _, c := range chosen {
			args = append(args, c.Name())
			for _, n := range []int{c.experts, c.k, c.in, c.out, c.t} {
				args = append(args, strconv.Itoa(n))
			}
			args = append(args, activationNames[c.activation])
		}
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, words[0], args...)
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("peer %q: %w", command, err)
		}
		var r peerReport
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("peer %q printed no report: %w", command, err)
		}
		reports = append(reports, r)
	}
	return reports, nil
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

// ratios are a table of how many times as long peers take, or nothing without peers.
func (r *report) ratios() string {
	if len(r.Peers) == 0 {
		return ""
	}
	text := fmt.Sprintf("\npeers, and how many times as long as ours they take\n%-16s %12s", "case", "ours")
	for _, p := range r.Peers {
		text += fmt.Sprintf("  %s", p.Peer+" "+p.Version)
	}
	text += "\n"
	for _, res := range r.Results {
		text += fmt.Sprintf("%-16s %9.1f µs", res.Case, res.Median)
		for _, p := range r.Peers {
			if other := p.find(res.Operation, res.Case); other != nil {
				text += fmt.Sprintf("  %9.1f µs (%.2f)", other.Median, other.Median/res.Median)
			} else {
				text += fmt.Sprintf("  %12s %6s", "–", "")
			}
		}
		text += "\n"
	}
	return text
}
