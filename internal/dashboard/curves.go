package dashboard

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// steps is the range of steps that charts cover.
func (s *Snapshot) steps() [2]float64 {
	most := max(s.Step, s.Steps)
	for _, c := range s.Curves {
		if n := len(c.Train); n > 0 {
			most = max(most, c.Train[n-1].Step)
		}
	}
	return [2]float64{0, float64(max(most, 1))}
}

// guess is the loss of a model that takes all bytes for equally likely.
var guess = math.Log(256)

// drawLoss draws the loss on training and on held-out text, and that of the other model.
func (d *Dashboard) drawLoss(c *canvas.Canvas, s *Snapshot, r rect) {
	low, high := math.Inf(1), guess
	for _, curve := range s.Curves {
		for _, list := range [][]Point{smooth(curve.Train, 10), curve.HeldOut} {
			for _, p := range list {
				if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
					low = math.Min(low, p.Value)
				}
			}
		}
	}
	if low > high {
		low = 0
	}
	names, colors := []string{"training text, running mean", "held-out text"}, []canvas.Color{trainInk, heldOutInk}
	if len(s.Curves) > 1 {
		names, colors = append(names, "held out, "+s.Curves[1].Name), append(colors, otherInk)
	}
	top, r := r.cut(14)
	legend(c, top.x+top.w, top.y+9, names, colors)
	ch := newChart(c, r, s.steps(), math.Floor(low*2)/2, high+0.3)
	c.Text(ch.rect.x+ch.rect.w, ch.y.at(guess)-4, "guessing among 256 bytes: 5.55", smallFont, canvas.Right, faint)
	for x := ch.rect.x; x < ch.rect.x+ch.rect.w; x += 8 {
		c.Rect(x, ch.y.at(guess), 4, 1/c.Scale(), faint)
	}
	for i, m := range s.Marks {
		x := ch.x.at(float64(m.Step))
		c.Rect(x, ch.rect.y, 1, ch.rect.h, warm)
		c.Text(x+3, ch.rect.y+22+float64(i%3)*11, m.Label, smallFont, canvas.Left, warm)
	}
	for i := len(s.Curves) - 1; i >= 0; i-- {
		curve := s.Curves[i]
		if i > 0 {
			ch.curve(c, curve.HeldOut, 1.5, otherInk)
			continue
		}
		ch.curve(c, curve.Train, 1, trainInk.Fade(0.25))
		ch.curve(c, smooth(curve.Train, 10), 1.6, trainInk)
		ch.curve(c, curve.HeldOut, 2.2, heldOutInk)
		if v, ok := last(curve.HeldOut); ok {
			p := curve.HeldOut[len(curve.HeldOut)-1]
			x, y := ch.x.at(float64(p.Step)), ch.y.at(v)
			c.Rect(x-2.5, y-2.5, 5, 5, heldOutInk)
			align := canvas.Left
			if x+5+c.Measure("0.00", headingFont) > ch.rect.x+ch.rect.w {
				align, x = canvas.Right, x-10
			}
			c.Text(x+5, y-6, fmt.Sprintf("%.2f", v), headingFont, align, heldOutInk)
		}
	}
	c.Text(ch.rect.x+4, ch.rect.y+ch.rect.h-5, "steps", smallFont, canvas.Left, faint)
	d.lossTip(c, s, &ch)
}

// lossTip tells the losses under the pointer.
func (d *Dashboard) lossTip(c *canvas.Canvas, s *Snapshot, ch *chart) {
	if !ch.rect.has(d.pointer) || len(s.Curves) == 0 {
		return
	}
	step := ch.x.low + (d.pointer.X-ch.rect.x)/ch.rect.w*(ch.x.high-ch.x.low)
	c.Rect(d.pointer.X, ch.rect.y, 1/c.Scale(), ch.rect.h, faint)
	for _, curve := range s.Curves {
		if p, ok := near(curve.Train, step); ok {
			d.tip = append(d.tip, fmt.Sprintf("%s: %.3f on step %s's text", curve.Name, p.Value, thousands(p.Step)))
		}
		if p, ok := near(curve.HeldOut, step); ok {
			d.tip = append(d.tip, fmt.Sprintf("held out: %.3f after step %s, %.2f bits per byte", p.Value, thousands(p.Step), p.Value/math.Ln2))
		}
	}
}

// drawSpread draws how evenly the experts are used: the busiest one's share above, entropy below.
func (d *Dashboard) drawSpread(c *canvas.Canvas, s *Snapshot, r rect) {
	var busiest, entropy []Point
	most := 1.5
	for _, p := range s.Spread {
		busiest, entropy = append(busiest, Point{p.Step, p.Balance}), append(entropy, Point{p.Step, 100 * p.Entropy})
		most = math.Max(most, p.Balance)
	}
	upper, lower := r.cut(r.h / 2)
	for _, part := range []struct {
		r         rect
		title     string
		points    []Point
		low, high float64
		color     canvas.Color
		format    string
	}{
		{upper, "busiest expert, times an even share (1 is even)", busiest, 1, most, bad, "%.2f"},
		{lower, "entropy of the load, % (100 is even)", entropy, math.Min(80, floorTo(entropy, 10)), 100, good, "%.1f"},
	} {
		top, body := part.r.cut(13)
		right := top.x + top.w
		if v, ok := last(part.points); ok {
			right -= c.Text(right, top.y+10, fmt.Sprintf(part.format, v), headingFont, canvas.Right, part.color) + 8
		}
		c.Text(top.x, top.y+10, c.Fit(part.title, smallFont, right-top.x), smallFont, canvas.Left, soft)
		ch := newChart(c, body, s.steps(), part.low, part.high)
		ch.curve(c, part.points, 1, part.color.Fade(0.3))
		ch.curve(c, smooth(part.points, 8), 1.8, part.color)
	}
}

// floorTo is the least value, rounded down to a multiple.
func floorTo(points []Point, unit float64) float64 {
	low := math.Inf(1)
	for _, p := range points {
		low = math.Min(low, p.Value)
	}
	if math.IsInf(low, 0) || math.IsNaN(low) {
		return 0
	}
	return math.Floor(low/unit) * unit
}

// drawTimes draws the GPU time of the newest steps as stacked bars, and the mean of each group.
func (d *Dashboard) drawTimes(c *canvas.Canvas, s *Snapshot, r rect) {
	if len(s.Times) == 0 {
		text := "No step has been timed yet."
		if s.Step > 0 {
			text = "The device takes no timestamps."
		}
		c.Text(r.x, r.y+14, text, textFont, canvas.Left, soft)
		return
	}
	var mean [Groups]float64
	total, most := 0.0, 0.0
	var sums []float64
	for _, t := range s.Times {
		sum := 0.0
		for g, v := range t.Seconds {
			mean[g] += v / float64(len(s.Times))
			sum += v
		}
		total += sum / float64(len(s.Times))
		sums = append(sums, sum)
		most = math.Max(most, sum)
	}
	slices.Sort(sums)
	most = math.Min(most, 3*sums[len(sums)/2]) // a step in which the machine did other things does not set the scale
	list := rect{r.x, r.y, math.Min(math.Max(r.w-90, 150), 206), r.h}
	names := GroupNames
	if list.w < 200 {
		names = shortNames
	}
	plot := rect{list.x + list.w + 4, r.y, r.w - list.w - 4, r.h}
	pitch := math.Min(math.Max(r.h/(Groups+1.5), 14), 26)
	for i := range Groups {
		g := Groups - 1 - i // as the bars are stacked
		y := list.y + pitch*(float64(i)+0.75)
		c.Rect(list.x, y-8, 9, 9, groupColors[g])
		c.Text(list.x+14, y, c.Fit(names[g], smallFont, list.w-86), smallFont, canvas.Left, ink)
		c.Text(list.x+list.w-34, y, milliseconds(mean[g]), smallFont, canvas.Right, ink)
		c.Text(list.x+list.w-4, y, fmt.Sprintf("%.0f %%", 100*mean[g]/total), smallFont, canvas.Right, soft)
	}
	y := list.y + pitch*(Groups+0.9)
	c.Text(list.x+14, y, c.Fit("all, mean of "+fmt.Sprint(len(s.Times)), smallFont, list.w-86), smallFont, canvas.Left, soft)
	c.Text(list.x+list.w-34, y, milliseconds(total), headingFont, canvas.Right, ink)
	if plot.w < 80 {
		return
	}
	first, end := float64(s.Times[0].Step), float64(s.Times[len(s.Times)-1].Step)
	ch := newChart(c, plot, [2]float64{first - 0.5, math.Max(end, first+19) + 0.5}, 0, most*1e3)
	w := ch.rect.w / (ch.x.high - ch.x.low)
	c.Clip(ch.rect.x, ch.rect.y, ch.rect.w, ch.rect.h+1)
	defer c.Unclip()
	for _, t := range s.Times {
		x, from := ch.x.at(float64(t.Step)-0.5), 0.0
		for g, v := range t.Seconds {
			y0, y1 := ch.y.at(from*1e3), ch.y.at((from+v)*1e3)
			c.Rect(x, y1, math.Max(w*0.86, 1/c.Scale()), y0-y1, groupColors[g])
			from += v
		}
		if (rect{x, ch.rect.y, w, ch.rect.h}).has(d.pointer) {
			d.tip = append(d.tip, fmt.Sprintf("step %s: %s ms", thousands(t.Step), milliseconds(from)))
			for g := Groups - 1; g >= 0; g-- {
				d.tip = append(d.tip, fmt.Sprintf("%s: %s ms", GroupNames[g], milliseconds(t.Seconds[g])))
			}
		}
	}
}

// milliseconds writes a time in milliseconds with three digits.
func milliseconds(seconds float64) string { return digits(seconds * 1e3) }

// drawMemory draws speed, and the memory of the run beside what padding would cost.
func (d *Dashboard) drawMemory(c *canvas.Canvas, s *Snapshot, r rect) {
	if r.h > 130 {
		var top rect
		top, r = r.cut(44)
		for i, part := range []struct{ value, unit string }{{strings.TrimSpace(si(s.TokensPerSecond)), " tokens/s"}, {si(s.FLOPS), "FLOP/s"}} {
			x := top.x + float64(i)*top.w/2
			length := c.Text(x, top.y+25, part.value, numberFont, canvas.Left, ink)
			c.Text(x+length, top.y+25, part.unit, textFont, canvas.Left, soft)
		}
	}
	padded := s.Memory.Peak + s.Memory.Extra
	bars := []struct {
		name  string
		bytes uint64
		color canvas.Color
	}{{"in use", s.Memory.Live, groupColors[0]}, {"peak", s.Memory.Peak, groupColors[2]}, {"peak if padded", padded, groupColors[4]}}
	most := float64(max(padded, 1))
	pitch := math.Min(26, (r.h-24)/3)
	for i, b := range bars {
		y := r.y + float64(i)*pitch
		c.Text(r.x, y+pitch/2+3.5, b.name, textFont, canvas.Left, ink)
		x, full := r.x+86, r.w-86-66
		c.Rect(x, y+2, full*float64(b.bytes)/most, pitch-6, b.color)
		c.Text(r.x+r.w, y+pitch/2+3.5, size(b.bytes), textFont, canvas.Right, ink)
	}
	note := "Padded: were expert rows copied, grouped and filled up to blocks of 128, as MegaBlocks does; from the loads of this step."
	if s.Step == 0 {
		note = "Device memory. What padding would cost is known after the first step."
	}
	for i, l := range c.Wrap(note, smallFont, r.w) {
		if y := r.y + 3*pitch + 12 + float64(i)*12; y < r.y+r.h+4 {
			c.Text(r.x, y, l, smallFont, canvas.Left, soft)
		}
	}
}
