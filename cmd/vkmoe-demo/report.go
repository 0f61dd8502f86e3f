package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/internal/picture"
)

// writeText prints the report for people.
func (r *result) writeText(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	o, tokens := r.Options, len(r.Text.Characters)
	line("device", "%v", r.Adapter)
	line("model", "%s", r.model())
	line("text", "%s: %s characters, one token each%s", r.Text.Name, picture.Thousands(tokens), r.cut())
	line("input", "RMSNorm of each embedding plus %g × the mix before it; attention is not run", o.Context)
	line("run", "%d passes over the text in %d submits each, at most %s tokens a submit", o.Steps, r.Submits, picture.Thousands(o.Batch))
	line("speed", "%s tokens/s, %s a pass", si(r.rate()), duration(r.Wall))
	line("memory", "%s live, %s peak on the device", bytes(r.Memory.LiveBytes), bytes(r.Memory.PeakBytes))
	b.WriteByte('\n')
	r.writeKernels(&b)
	r.writeLoad(&b)
	a := r.Agreement
	line("agreement", "%.2g relative error of the outputs against the float64 reference, %.2g of the gates (limit %.0e)",
		a.Error, a.GateError, tolerance)
	line("", "experts equal for %s of %s tokens compared%s%s", picture.Thousands(a.SameChoices), picture.Thousands(a.Tokens), r.ofAll(), a.ties())
	line("picture", "%s", r.Picture)
	_, err := io.WriteString(w, b.String())
	return err
}

// model names the layer in a line.
func (r *result) model() string {
	c := r.Layer.Config
	return fmt.Sprintf("%s, layer %d of %d: %d experts, %d per token, width %d, hidden width %d, %v router, %v",
		r.Layer.Name, r.Layer.Number, r.Layer.Layers, c.Experts, c.TopK, c.Width, c.Hidden, c.Mode, c.Activation)
}

func (r *result) cut() string {
	if r.Text.Cut == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s more left out)", picture.Thousands(r.Text.Cut))
}

// ofAll says how the sample relates to the text.
func (r *result) ofAll() string {
	if r.Agreement.Tokens == len(r.Text.Characters) {
		return ", all there are"
	}
	return ", spread evenly over the text"
}

func (a agreement) ties() string {
	if a.NearTies == 0 {
		return ""
	}
	return fmt.Sprintf("; %d more are near ties", a.NearTies)
}

// writeKernels prints where the device time of a pass goes.
func (r *result) writeKernels(b *strings.Builder) {
	if len(r.Kernels) == 0 {
		fmt.Fprintf(b, "the device has no timestamps: no time per kernel\n\n")
		return
	}
	total := r.deviceTime()
	fmt.Fprintf(b, "device time of one pass, %s\n", duration(total))
	for _, k := range r.Kernels {
		share := ratio(k.Time, total)
		fmt.Fprintf(b, "  %-18s %-30s %8s  %4.1f %%\n", k.Label, bar(share, 30), duration(k.Time), 100*share)
	}
	b.WriteByte('\n')
}

// writeLoad prints the experts' load; the bars are relative to the busiest expert.
func (r *result) writeLoad(b *strings.Builder) {
	fmt.Fprintf(b, "load of the experts, share of %s choices\n", picture.Thousands(r.Load.Choices))
	most := 1
	for _, n := range r.Load.Counts {
		most = max(most, n)
	}
	for e, n := range r.Load.Counts {
		share := float64(n) / math.Max(1, float64(r.Load.Choices))
		fmt.Fprintf(b, "  %-4s %-40s %4.1f %%  %s\n", fmt.Sprintf("E%d", e), bar(float64(n)/float64(most), 40), 100*share, picture.Thousands(n))
	}
	fmt.Fprintf(b, "  busiest %.2f × even; entropy %.2f of %.2f bits; %d experts idle\n\n",
		r.Load.Balance, r.Load.Entropy, math.Log2(float64(len(r.Load.Counts))), r.Load.Idle)
}

// bar draws a share of width characters in eighths of one.
func bar(share float64, width int) string {
	eighths := int(math.Round(math.Min(math.Max(share, 0), 1) * float64(8*width)))
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

func ratio(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// duration writes a time with three digits.
func duration(d time.Duration) string {
	switch {
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.3g µs", d.Seconds()*1e6)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

// si writes a number with three digits and a decimal prefix.
func si(v float64) string {
	for _, unit := range []struct {
		at     float64
		prefix string
	}{{1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
		if v >= unit.at {
			return fmt.Sprintf("%.3g%s", v/unit.at, unit.prefix)
		}
	}
	return fmt.Sprintf("%.3g", v)
}

// bytes writes a size with a binary unit.
func bytes(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

// A jsonReport is the form of --json. Times are in nanoseconds, sizes in bytes.
type jsonReport struct {
	Device struct {
		Index      int    `json:"index"`
		Name       string `json:"name"`
		Type       string `json:"type"`
		Driver     string `json:"driver"`
		DriverInfo string `json:"driver_info"`
		API        string `json:"api"`
	} `json:"device"`
	Model struct {
		Name       string `json:"name"`
		Layer      int    `json:"layer"`
		Experts    int    `json:"experts"`
		TopK       int    `json:"top_k"`
		Width      int    `json:"width"`
		Hidden     int    `json:"hidden"`
		Router     string `json:"router"`
		Activation string `json:"activation"`
	} `json:"model"`
	Text struct {
		Name       string  `json:"name"`
		Characters int     `json:"characters"`
		LeftOut    int     `json:"left_out"`
		Context    float64 `json:"context"`
	} `json:"text"`
	Run struct {
		Passes          int     `json:"passes"`
		SubmitsPerPass  int     `json:"submits_per_pass"`
		WallPerPass     int64   `json:"wall_per_pass_ns"`
		TokensPerSecond float64 `json:"tokens_per_second"`
		LiveBytes       uint64  `json:"live_bytes"`
		PeakBytes       uint64  `json:"peak_bytes"`
	} `json:"run"`
	Kernels []jsonKernel `json:"kernels"`
	Load    struct {
		Counts  []int   `json:"counts"`
		Balance float64 `json:"busiest_over_mean"`
		Entropy float64 `json:"entropy_bits"`
		Idle    int     `json:"idle_experts"`
	} `json:"load"`
	Agreement struct {
		Tokens      int    `json:"tokens"`
		Error       number `json:"relative_error"`
		GateError   number `json:"gate_relative_error"`
		Limit       number `json:"limit"`
		SameChoices int    `json:"same_choices"`
		NearTies    int    `json:"near_ties"`
		Pass        bool   `json:"pass"`
	} `json:"agreement"`
	Picture string `json:"picture"`
}

// A jsonKernel is one line of the device times of a pass.
type jsonKernel struct {
	Label string `json:"label"`
	Time  int64  `json:"ns_per_pass"`
}

// A number is a float64 whose NaN and infinities, which JSON does not know, are written as text.
type number float64

// MarshalJSON writes the number.
func (n number) MarshalJSON() ([]byte, error) {
	if v := float64(n); math.IsNaN(v) || math.IsInf(v, 0) {
		return json.Marshal(fmt.Sprint(v))
	}
	return json.Marshal(float64(n))
}

// writeJSON prints the report for programs.
func (r *result) writeJSON(w io.Writer) error {
	var j jsonReport
	a, c := r.Adapter, r.Layer.Config
	j.Device.Index, j.Device.Name, j.Device.Type = a.Index, a.Name, a.Type.String()
	j.Device.Driver, j.Device.DriverInfo, j.Device.API = a.DriverName, a.DriverInfo, a.API.String()
	j.Model.Name, j.Model.Layer, j.Model.Experts, j.Model.TopK = r.Layer.Name, r.Layer.Number, c.Experts, c.TopK
	j.Model.Width, j.Model.Hidden = c.Width, c.Hidden
	j.Model.Router, j.Model.Activation = c.Mode.String(), c.Activation.String()
	j.Text.Name, j.Text.Characters, j.Text.LeftOut = r.Text.Name, len(r.Text.Characters), r.Text.Cut
	j.Text.Context = r.Options.Context
	j.Run.Passes, j.Run.SubmitsPerPass, j.Run.WallPerPass = r.Options.Steps, r.Submits, r.Wall.Nanoseconds()
	j.Run.TokensPerSecond, j.Run.LiveBytes, j.Run.PeakBytes = r.rate(), r.Memory.LiveBytes, r.Memory.PeakBytes
	j.Kernels = []jsonKernel{}
	for _, k := range r.Kernels {
		j.Kernels = append(j.Kernels, jsonKernel{k.Label, k.Time.Nanoseconds()})
	}
	j.Load.Counts, j.Load.Balance, j.Load.Entropy, j.Load.Idle = r.Load.Counts, r.Load.Balance, r.Load.Entropy, r.Load.Idle
	g := r.Agreement
	j.Agreement.Tokens, j.Agreement.Error, j.Agreement.GateError = g.Tokens, number(g.Error), number(g.GateError)
	j.Agreement.Limit, j.Agreement.SameChoices, j.Agreement.NearTies = tolerance, g.SameChoices, g.NearTies
	j.Agreement.Pass, j.Picture = g.Pass, r.Picture
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(j)
}
