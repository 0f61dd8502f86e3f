package dashboard

import (
	"fmt"
	"math"
	"strconv"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// axis maps values to places.
type axis struct {
	low, high float64 // values at the ends
	step      float64 // between ticks
	from, to  float64 // places of the ends
}

func (a axis) at(v float64) float64 {
	return a.from + (a.to-a.from)*(v-a.low)/(a.high-a.low)
}

// newAxis covers low to high with about so many ticks, and ends on ticks.
func newAxis(low, high float64, ticks int, from, to float64) axis {
	if !(high > low) {
		high = low + 1
	}
	step := niceStep((high - low) / float64(max(ticks, 1)))
	return axis{math.Floor(low/step+1e-9) * step, math.Ceil(high/step-1e-9) * step, step, from, to}
}

// niceStep rounds v up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range [3]float64{1, 2, 5} {
		if v <= m*unit*(1+1e-9) {
			return m * unit
		}
	}
	return 10 * unit
}

// label writes a tick's value with the digits that its step needs.
func (a axis) label(v float64) string {
	digits := max(0, int(math.Ceil(-math.Log10(a.step)-1e-9)))
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// ticks calls use for every tick.
func (a axis) ticks(use func(v float64)) {
	for i := 0; ; i++ {
		v := a.low + float64(i)*a.step
		if v > a.high+a.step/2 || i > 100 {
			return
		}
		use(v)
	}
}

// chart is a plot with a vertical axis at the left, and steps along the foot.
type chart struct {
	x, y axis
	rect // of the plot itself
}

// The room that labels take.
const (
	leftLabels = 34.0
	footLabels = 16.0
)

// newChart draws the axes of a chart of values over steps within r.
func newChart(c *canvas.Canvas, r rect, steps [2]float64, low, high float64) chart {
	in := rect{r.x + leftLabels, r.y + 5, r.w - leftLabels - 8, r.h - footLabels - 5}
	if in.w < 20 || in.h < 12 {
		in.w, in.h = math.Max(in.w, 20), math.Max(in.h, 12)
	}
	ch := chart{rect: in}
	ch.y = newAxis(low, high, max(1, int(in.h/26)), in.y+in.h, in.y)
	ch.x = newAxis(steps[0], steps[1], max(1, int(in.w/70)), in.x, in.x+in.w)
	ch.x.low, ch.x.high, ch.x.step = steps[0], math.Max(steps[1], steps[0]+1), math.Max(ch.x.step, 1)
	ch.y.ticks(func(v float64) {
		y := ch.y.at(v)
		c.Rect(in.x, y, in.w, 1/c.Scale(), hairline)
		c.Text(in.x-5, y+3.5, ch.y.label(v), smallFont, canvas.Right, soft)
	})
	first := math.Ceil(ch.x.low/ch.x.step) * ch.x.step
	for v := first; v <= ch.x.high+1e-9; v += ch.x.step {
		align := canvas.Center
		if ch.x.at(v) > in.x+in.w-14 {
			align = canvas.Right
		}
		c.Text(ch.x.at(v), in.y+in.h+12, thousands(int(math.Round(v))), smallFont, align, soft)
	}
	return ch
}

// curve draws points as a line, each stretch of pixels by its mean where there are more points than pixels.
func (ch *chart) curve(c *canvas.Canvas, points []Point, width float64, color canvas.Color) {
	c.Clip(ch.rect.x-3, ch.rect.y-3, ch.rect.w+6, ch.rect.h+6)
	defer c.Unclip()
	var line []canvas.Point
	per := max(1, len(points)/int(math.Max(ch.rect.w, 1)))
	for i := 0; i < len(points); i += per {
		part := points[i:min(i+per, len(points))]
		sum, steps := 0.0, 0.0
		for _, p := range part {
			sum += p.Value
			steps += float64(p.Step)
		}
		n := float64(len(part))
		line = append(line, canvas.Point{X: ch.x.at(steps / n), Y: ch.y.at(sum / n)})
	}
	if len(line) == 1 {
		c.Rect(line[0].X-1.5, line[0].Y-1.5, 3, 3, color)
	}
	c.Polyline(line, width, color)
}

// smooth is a running mean over about so many points. Points that are not finite pass it by.
func smooth(points []Point, over float64) []Point {
	out := make([]Point, 0, len(points))
	mean := math.NaN()
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		if math.IsNaN(mean) {
			mean = p.Value
		}
		mean += (p.Value - mean) / over
		out = append(out, Point{p.Step, mean})
	}
	return out
}

// near returns the point whose step is nearest to one.
func near(points []Point, step float64) (Point, bool) {
	best, ok := Point{}, false
	for _, p := range points {
		if !ok || math.Abs(float64(p.Step)-step) < math.Abs(float64(best.Step)-step) {
			best, ok = p, true
		}
	}
	return best, ok
}

// last is the newest point's value.
func last(points []Point) (float64, bool) {
	if len(points) == 0 {
		return 0, false
	}
	return points[len(points)-1].Value, true
}

// legend draws names with samples of their colours from the right end of a line to the left, and returns where it began.
func legend(c *canvas.Canvas, right, y float64, names []string, colors []canvas.Color) float64 {
	for i := len(names) - 1; i >= 0; i-- {
		right -= c.Text(right, y, names[i], smallFont, canvas.Right, soft) + 4
		c.Rect(right-12, y-6, 12, 5, colors[i])
		right -= 22
	}
	return right
}

// thousands writes a number with commas.
func thousands(n int) string {
	text := strconv.Itoa(n)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(text) - 3; i > start; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// si writes a number with three digits and a decimal prefix.
func si(v float64) string {
	for _, unit := range []struct {
		from, size float64
		prefix     string
	}{{1e15, 1e15, " P"}, {1e12, 1e12, " T"}, {1e9, 1e9, " G"}, {1e6, 1e6, " M"}, {1e4, 1e3, " k"}} {
		if v >= unit.from {
			return digits(v/unit.size) + unit.prefix
		}
	}
	return digits(v) + " "
}

// digits writes three digits of a number.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// size writes a number of bytes with a binary unit.
func size(n uint64) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if v < 1000 {
			return digits(v) + " " + unit
		}
		v /= 1024
	}
	return digits(v) + " GiB"
}
