package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// runPlot is the subcommand plot: it draws files of results.
func runPlot(args []string) error {
	flags := flag.NewFlagSet("vkmoe-bench plot", flag.ContinueOnError)
	dir := flags.String("o", ".", "folder for the pictures, each as PNG and SVG")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("plot needs files that --json wrote, or that peers printed")
	}
	m, err := readMeasurements(flags.Args())
	if err != nil {
		return err
	}
	figures := m.figures()
	if len(figures) == 0 {
		return errors.New("there is nothing to draw: a curve needs two cases of a layer, bars a sparse MLP")
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	for _, f := range figures {
		p, err := f.draw(m.about())
		if err != nil {
			return fmt.Errorf("%s: %w", f.file, err)
		}
		for _, kind := range []string{"png", "svg"} {
			file := filepath.Join(*dir, f.file+"."+kind)
			if err := p.Save(18*vg.Centimeter, 11*vg.Centimeter, file); err != nil {
				return err
			}
			fmt.Println(file)
		}
	}
	return nil
}

// draw makes the plot.
func (f *figure) draw(about string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = f.title + "\n" + about
	p.X.Label.Text, p.Y.Label.Text = f.x, f.y
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, true
	p.Title.Padding = vg.Points(6)
	if f.labels != nil {
		return p, f.bars(p)
	}
	for i, l := range f.lines {
		points := make(plotter.XYs, len(l.points))
		for j, at := range l.points {
			points[j] = plotter.XY{X: at[0], Y: at[1]}
		}
		curve, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		curve.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		curve.Width = vg.Points(1.5)
		p.Add(curve, marks)
		p.Legend.Add(l.name, curve, marks)
	}
	if f.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, valueTicks(f.values(0))
	}
	room := 1 + 0.08*float64(len(f.lines)+1) // above, for the legend
	if f.logY {
		p.Y.Scale, p.Y.Tick.Marker, p.Y.Max = plot.LogScale{}, plot.LogTicks{Prec: -1}, p.Y.Max*math.Pow(p.Y.Max/p.Y.Min, room-1)
	} else {
		p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, p.Y.Max*room, plainTicks{}
	}
	return p, nil
}

// plainTicks are gonum's with labels of no more digits than they need.
type plainTicks struct{}

// Ticks implements plot.Ticker.
func (plainTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = strconv.FormatFloat(math.Round(t.Value*1e6)/1e6, 'f', -1, 64)
		}
	}
	return ticks
}

// values are the distinct coordinates of the points along an axis.
func (f *figure) values(axis int) []float64 {
	seen := map[float64]bool{}
	var list []float64
	for _, l := range f.lines {
		for _, at := range l.points {
			if !seen[at[axis]] {
				seen[at[axis]] = true
				list = append(list, at[axis])
			}
		}
	}
	return list
}

// valueTicks marks the values that were measured.
type valueTicks []float64

// Ticks implements plot.Ticker.
func (v valueTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for _, x := range v {
		if x >= low && x <= high {
			ticks = append(ticks, plot.Tick{Value: x, Label: strconv.FormatFloat(x, 'f', -1, 64)})
		}
	}
	return ticks
}

// bars draws a group of bars per label.
func (f *figure) bars(p *plot.Plot) error {
	width := 14 * vg.Centimeter / vg.Length(len(f.labels)*(len(f.lines)+1))
	for i, l := range f.lines {
		heights := make(plotter.Values, len(f.labels))
		for _, at := range l.points {
			heights[int(math.Round(at[0]))] = at[1]
		}
		bars, err := plotter.NewBarChart(heights, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = plotutil.Color(i), 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(f.lines)-1)/2)
		p.Add(bars)
		p.Legend.Add(l.name, bars)
	}
	p.NominalX(f.labels...)
	p.X.Tick.Label.Rotation, p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = 0.5, -1, -0.3
	p.X.Min, p.X.Max, p.Y.Min = -0.6, float64(len(f.labels))-0.4, 0
	p.Y.Max *= 1 + 0.06*float64(len(f.lines))
	return nil
}
