package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/vkmoe/vkmoe/internal/canvas"
	"github.com/vkmoe/vkmoe/internal/dashboard"
)

// The names of what is written to the output folder.
const (
	pictureFile = "dashboard.png"
	logFile     = "dashboard.jsonl"
)

// writeFile writes a file under a temporary name and renames it: an older file stays as it was until the new one is complete.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	// CreateTemp makes files that only their owner may read.
	err = errors.Join(write(f), f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// A screen draws snapshots as pictures.
type screen struct {
	board  *dashboard.Dashboard
	canvas *canvas.Canvas
	width  int // in logical units
	height int
	scale  float32
}

func newScreen(width, height int, scale float32) *screen {
	return &screen{board: dashboard.New(), canvas: canvas.New(0, 0, scale), width: width, height: height, scale: scale}
}

// draw draws a snapshot onto the screen's canvas.
func (s *screen) draw(n *dashboard.Snapshot) *canvas.Canvas {
	s.canvas.Reset(int(float32(s.width)*s.scale), int(float32(s.height)*s.scale), s.scale)
	s.board.Draw(s.canvas, n)
	return s.canvas
}

// save writes a snapshot as a PNG.
func (s *screen) save(path string, n *dashboard.Snapshot) error {
	img := s.draw(n).Raster()
	return writeFile(path, func(w io.Writer) error { return png.Encode(w, img) })
}

// A log is a file with a line of JSON for each step.
type log struct {
	f    *os.File
	done map[string]int // by curve, the newest step that has its line
}

func newLog(path string) (*log, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("cannot write the log: %w", err)
	}
	return &log{f, map[string]int{}}, nil
}

// A logLine is a step in the log. Losses are in nats per byte, before the step and after it; times in milliseconds, sizes in
// bytes. What is not a number is left out.
type logLine struct {
	Model      string             `json:"model"`
	Step       int                `json:"step"`
	K          int                `json:"k"`
	DType      string             `json:"dtype"`
	Loss       *float64           `json:"loss,omitempty"`
	HeldOut    *float64           `json:"held_out,omitempty"`
	Balance    *float64           `json:"busiest_over_even,omitempty"`
	Entropy    *float64           `json:"entropy_over_even,omitempty"`
	GPU        map[string]float64 `json:"gpu_ms,omitempty"`
	Rate       float64            `json:"tokens_per_second"`
	FLOPS      float64            `json:"flops"`
	Live       uint64             `json:"memory_live"`
	Peak       uint64             `json:"memory_peak"`
	PeakPadded uint64             `json:"memory_peak_if_padded"`
}

// add writes a line for every step that a snapshot has and the log has not.
func (l *log) add(n *dashboard.Snapshot) error {
	if len(n.Curves) == 0 {
		return nil
	}
	curve := n.Curves[0]
	var text []byte
	for _, p := range curve.Train {
		if p.Step <= l.done[curve.Name] {
			continue
		}
		l.done[curve.Name] = p.Step
		line, err := json.Marshal(lineOf(n, p))
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	if len(text) == 0 {
		return nil
	}
	if _, err := l.f.Write(text); err != nil {
		return fmt.Errorf("cannot write the log: %w", err)
	}
	return nil
}

// lineOf gathers what is known of a step.
func lineOf(n *dashboard.Snapshot, p dashboard.Point) logLine {
	line := logLine{Model: n.Curves[0].Name, Step: p.Step, K: n.K, DType: n.DType, Loss: finite(p.Value), Rate: n.TokensPerSecond, FLOPS: n.FLOPS,
		Live: n.Memory.Live, Peak: n.Memory.Peak, PeakPadded: n.Memory.Peak + n.Memory.Extra}
	for _, h := range n.Curves[0].HeldOut {
		if h.Step == p.Step {
			line.HeldOut = finite(h.Value)
		}
	}
	for _, s := range n.Spread {
		if s.Step == p.Step {
			line.Balance, line.Entropy = finite(s.Balance), finite(s.Entropy)
		}
	}
	for _, t := range n.Times {
		if t.Step == p.Step {
			line.GPU = map[string]float64{}
			for g, seconds := range t.Seconds {
				line.GPU[dashboard.GroupNames[g]] = seconds * 1e3
			}
		}
	}
	return line
}

// finite is a number that JSON has a form for, or nil.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (l *log) close() error { return l.f.Close() }
