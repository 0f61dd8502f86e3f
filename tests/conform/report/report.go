// Package report holds the results of conformance runs: as JSON, which is the form that is kept and compared, and made
// from it a table for people, JUnit XML, one HTML page, the difference of two runs and the support matrix of several.
package report

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// A Report is one run of the suite on one device.
type Report struct {
	Suite   string           `json:"suite"` // version control revision of the suite
	Label   string           `json:"label,omitempty"`
	Started time.Time        `json:"started"`
	Seconds float64          `json:"seconds"`
	Host    Host             `json:"host"`
	Device  conform.Device   `json:"device"`
	Run     Run              `json:"run"`
	Cases   []conform.Result `json:"cases"`
	Faults  []Fault          `json:"faults,omitempty"`

	// Problems belong to no case, such as a device that did not close cleanly.
	Problems []string `json:"problems,omitempty"`
}

// Host is the machine that ran.
type Host struct {
	OS     string `json:"os"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
}

// Run is what was asked for.
type Run struct {
	Include    []string `json:"include,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
	Required   bool     `json:"required,omitempty"`
	Shard      string   `json:"shard,omitempty"`
	Seed       uint64   `json:"seed"`
	Validation string   `json:"validation,omitempty"`
	Planted    string   `json:"planted,omitempty"`
}

// A Fault is one planted fault and what the suite made of it.
type Fault struct {
	Name        string   `json:"name"`
	Kernel      string   `json:"kernel"`
	Description string   `json:"description"`
	Cases       int      `json:"cases"`            // that were run with it
	Failed      int      `json:"failed"`           // of them
	Checks      []string `json:"checks,omitempty"` // that found it
	First       string   `json:"first,omitempty"`  // the first case that failed
	Unsupported bool     `json:"unsupported,omitempty"`
}

// Caught reports whether the suite saw the fault.
func (f Fault) Caught() bool { return f.Failed > 0 }

// New makes a report that knows the suite and the host.
func New() *Report {
	return &Report{Suite: revision(), Started: time.Now().UTC().Truncate(time.Second), Host: host()}
}

// Revision is the version control revision of the suite. The linker sets it (-X) where go build does not know.
var Revision string

func revision() string {
	if Revision != "" {
		return Revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	r := settings["vcs.revision"]
	switch {
	case r == "":
		return "unknown"
	case settings["vcs.modified"] == "true":
		return r + ", modified"
	}
	return r
}

func host() Host {
	h := Host{OS: runtime.GOOS, Arch: runtime.GOARCH}
	if text, err := os.ReadFile("/etc/os-release"); err == nil {
		for _, line := range strings.Split(string(text), "\n") {
			if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				h.OS = strings.Trim(name, `"`)
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		h.Kernel = strings.TrimSpace(string(text))
	}
	return h
}

// Counts returns how many cases have each result.
func (r *Report) Counts() map[conform.Status]int {
	n := map[conform.Status]int{}
	for _, c := range r.Cases {
		n[c.Status]++
	}
	return n
}

// Flaky counts cases whose runs differ.
func (r *Report) Flaky() int {
	n := 0
	for _, c := range r.Cases {
		if c.Flaky {
			n++
		}
	}
	return n
}

// The exit codes of a run.
const (
	ExitPass     = 0
	ExitFail     = 1 // a case failed, crashed, hung or lost the device, or a planted fault went unnoticed
	ExitUnusable = 2 // nothing could be run
)

// Exit is the exit code. A run in which nothing passes is no pass.
func (r *Report) Exit() int {
	n := r.Counts()
	for _, s := range conform.Statuses {
		if s.Bad() && n[s] > 0 {
			return ExitFail
		}
	}
	for _, f := range r.Faults {
		if !f.Caught() && !f.Unsupported {
			return ExitFail
		}
	}
	switch {
	case len(r.Problems) > 0:
		return ExitFail
	case n[conform.Pass] == 0:
		return ExitUnusable
	}
	return ExitPass
}

// Name is what a report is called in tables: its label, or its driver.
func (r *Report) Name() string {
	if r.Label != "" {
		return r.Label
	}
	return strings.TrimSpace(r.Device.Driver + " " + r.Device.DriverInfo)
}

// WriteJSON writes the report with one case a line.
func (r *Report) WriteJSON(w io.Writer) error {
	head := *r
	head.Cases = nil
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	before, after, found := strings.Cut(string(text), `"cases": null`)
	if !found {
		return fmt.Errorf("report: no list of cases in %d bytes of JSON", len(text))
	}
	var b strings.Builder
	b.WriteString(before + `"cases": [`)
	for i, c := range r.Cases {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		b.Write(line)
	}
	b.WriteString("\n  ]" + after + "\n")
	_, err = io.WriteString(w, b.String())
	return err
}

// WriteFile writes the report as JSON, compressed where the name ends in .gz.
func (r *Report) WriteFile(path string) error {
	return writeFile(path, func(w io.Writer) error {
		if !strings.HasSuffix(path, ".gz") {
			return r.WriteJSON(w)
		}
		z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		if err := r.WriteJSON(z); err != nil {
			return err
		}
		return z.Close()
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = write(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Read reads what WriteFile has written.
func Read(path string) (*Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	var r Report
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Device.Name == "" || len(r.Cases) == 0 {
		return nil, fmt.Errorf("%s is no conformance report", path)
	}
	return &r, nil
}
