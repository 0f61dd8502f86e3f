package main

import (
	"encoding/csv"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A curve is the losses of one run.
type curve struct {
	name    string
	step    []float64
	trained []float64 // running mean of the loss on what is trained on
	heldOut []float64
}

// readCurve reads what --curve wrote. Its name is the file's.
func readCurve(path string) (curve, error) {
	f, err := os.Open(path)
	if err != nil {
		return curve{}, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return curve{}, fmt.Errorf("%s: %w", path, err)
	}
	c := curve{name: strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))}
	for i, row := range rows {
		if i == 0 {
			continue
		}
		var v [4]float64
		for j := range v {
			if len(row) != len(v) {
				return c, fmt.Errorf("%s: line %d has %d columns", path, i+1, len(row))
			}
			if v[j], err = strconv.ParseFloat(row[j], 64); err != nil {
				return c, fmt.Errorf("%s: line %d: %w", path, i+1, err)
			}
		}
		c.step, c.trained, c.heldOut = append(c.step, v[0]), append(c.trained, v[2]), append(c.heldOut, v[3])
	}
	if len(c.step) == 0 {
		return c, fmt.Errorf("%s: no losses", path)
	}
	return c, nil
}

// The picture's size and margins in pixels, and the losses that it shows.
const (
	plotWidth, plotHeight = 720, 420
	plotLeft, plotRight   = 60, 20
	plotTop, plotBottom   = 20, 50
	plotLow, plotHigh     = 1.2, 4.0
)

var plotColors = []string{"#1f6feb", "#d1432f", "#2e8540", "#8250df"}

// plot draws curves as SVG: held-out losses as lines, those on training text dashed.
func plot(w io.Writer, curves []curve) error {
	last := 0.0
	for _, c := range curves {
		last = max(last, c.step[len(c.step)-1])
	}
	x := func(step float64) float64 { return plotLeft + (plotWidth-plotLeft-plotRight)*step/last }
	y := func(loss float64) float64 {
		part := (plotHigh - min(max(loss, plotLow), plotHigh)) / (plotHigh - plotLow)
		return plotTop + (plotHeight-plotTop-plotBottom)*part
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	for loss := plotLow; loss <= plotHigh+1e-9; loss += 0.4 {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.1f</text>`+"\n",
			plotLeft, plotWidth-plotRight, y(loss), y(loss), plotLeft-6, y(loss)+4, loss)
	}
	for i := range 6 {
		step := last * float64(i) / 5
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f</text>`+"\n", x(step), plotHeight-plotBottom+20, step)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">steps</text>`+"\n", plotWidth/2, plotHeight-8)
	fmt.Fprintf(&b, `<text x="16" y="%d" text-anchor="middle" transform="rotate(-90 16 %d)">nats per byte</text>`+"\n", plotHeight/2, plotHeight/2)
	for i, c := range curves {
		color := plotColors[i%len(plotColors)]
		line := func(values []float64, dash string) {
			var points []string
			for j, v := range values {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(c.step[j]), y(v)))
			}
			fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(points, " "), color, dash)
		}
		line(c.heldOut, "")
		line(c.trained, ` stroke-dasharray="4 4" opacity="0.6"`)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="%s">%s: %.3f held out at step %.0f (dashed: training text)</text>`+"\n",
			plotWidth-plotRight-8, plotTop+20+18*i, color, html.EscapeString(c.name), c.heldOut[len(c.heldOut)-1], c.step[len(c.step)-1])
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// runPlot is the command with --plot.
func runPlot(to string, files []string) error {
	var curves []curve
	for _, path := range files {
		c, err := readCurve(path)
		if err != nil {
			return err
		}
		curves = append(curves, c)
	}
	if len(curves) == 0 {
		return fmt.Errorf("--plot needs files that --curve wrote")
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	if err := plot(f, curves); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
