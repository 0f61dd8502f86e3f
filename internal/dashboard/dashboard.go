package dashboard

import (
	"fmt"
	"math"
	"time"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// A Dashboard draws snapshots and holds what a person has chosen to see of them. The zero value is not ready; use New. It is
// not safe for concurrent use.
type Dashboard struct {
	Router int // which of Snapshot.Routers the text is coloured by
	Slot   int // and which of a token's choices, 0 being that with the largest gate

	typing bool
	prompt []rune
	skip   rune // the character of the key that began the typing

	pointer canvas.Point
	message string
	until   time.Time

	last  *Snapshot
	areas []area
	tip   []string
}

// area is a place that can be clicked.
type area struct {
	rect
	do func() Action
}

// New makes a dashboard. The text is coloured by the first MLP there is.
func New() *Dashboard {
	return &Dashboard{Router: 1, pointer: canvas.Point{X: -1, Y: -1}, last: &Snapshot{}}
}

// rect is a rectangle in logical units.
type rect struct{ x, y, w, h float64 }

func (r rect) has(p canvas.Point) bool {
	return p.X >= r.x && p.X < r.x+r.w && p.Y >= r.y && p.Y < r.y+r.h
}

func (r rect) inset(d float64) rect {
	return rect{r.x + d, r.y + d, math.Max(r.w-2*d, 0), math.Max(r.h-2*d, 0)}
}

// cut splits off the part of a rectangle at its top.
func (r rect) cut(h float64) (top, rest rect) {
	h = math.Min(h, r.h)
	return rect{r.x, r.y, r.w, h}, rect{r.x, r.y + h, r.w, r.h - h}
}

// The layout's measures.
const (
	margin       = 12.0
	gap          = 8.0
	headerHeight = 58.0
	footerRow    = 24.0
	writeHeight  = 104.0
	leastPanel   = 118.0
	wideWidth    = 940.0
	middleWidth  = 600.0
)

// The fonts.
var (
	titleFont   = canvas.Font{Style: canvas.Bold, Size: 19}
	headingFont = canvas.Font{Style: canvas.Bold, Size: 12.5}
	textFont    = canvas.Font{Style: canvas.Regular, Size: 11.5}
	smallFont   = canvas.Font{Style: canvas.Regular, Size: 10}
	numberFont  = canvas.Font{Style: canvas.Bold, Size: 20}
	monoFont    = canvas.Font{Style: canvas.Mono, Size: 12}
)

// panel is a part of the dashboard with its own frame.
type panel struct {
	title, unit string
	draw        func(d *Dashboard, c *canvas.Canvas, s *Snapshot, r rect)
}

// panels are in the order in which a small window gives them up, from the last.
func (d *Dashboard) panels(s *Snapshot) []panel {
	text := panel{"The text, coloured by the expert of each " + unitOf(s), "", (*Dashboard).drawText}
	load := panel{"Load of the experts", "share of each router's choices, %", (*Dashboard).drawLoad}
	spread := panel{"How evenly experts are used", "", (*Dashboard).drawSpread}
	if s.State == Reading || len(s.Curves) == 0 && s.Step == 0 && len(s.Routers) > 0 {
		return []panel{text, load}
	}
	return []panel{
		{"Loss", "nats per byte; lower is better", (*Dashboard).drawLoss},
		load, text,
		{"GPU time of a step", "milliseconds, by kernel", (*Dashboard).drawTimes},
		{"Speed and memory", "", (*Dashboard).drawMemory},
		spread,
	}
}

// unitOf is what the model calls a token.
func unitOf(s *Snapshot) string {
	if s.State == Reading || len(s.Curves) == 0 {
		return "token"
	}
	return "byte"
}

// Draw draws a snapshot over the whole canvas, in as many columns as its width allows, and remembers what is where for
// Click, Move and Key.
func (d *Dashboard) Draw(c *canvas.Canvas, s *Snapshot) {
	d.last, d.areas, d.tip = s, d.areas[:0], nil
	d.clamp()
	width, height := c.Size()
	c.Clear(ground)
	body := rect{margin, margin, math.Max(width-2*margin, 0), math.Max(height-2*margin, 0)}
	header, body := body.cut(headerHeight)
	d.drawHeader(c, s, header)
	footer := d.footerHeight(c, body.w)
	body, keys := body.cut(math.Max(body.h-footer-gap, 0))
	_, keys = keys.cut(gap)
	d.drawKeys(c, s, keys)
	if body.h > writeHeight+leastPanel {
		var write rect
		body, write = body.cut(body.h - writeHeight)
		_, write = write.cut(gap)
		d.frame(c, s, write, panel{"The model writes", "", (*Dashboard).drawWriting})
	}
	d.drawPanels(c, s, body)
	d.drawMessage(c, s, rect{margin, height - footer - margin - gap - 40, width - 2*margin, 30})
	d.drawTip(c, width, height)
}

// columns is how many columns panels are laid out in, and their shares of the width.
func columns(width float64, panels int) []float64 {
	switch {
	case panels <= 2 && width >= middleWidth:
		return []float64{0.6, 0.4}
	case width >= wideWidth:
		return []float64{0.436, 0.282, 0.282}
	case width >= middleWidth:
		return []float64{0.5, 0.5}
	}
	return []float64{1}
}

// drawPanels lays the panels out in rows. Rows that would be too low to read are left out.
func (d *Dashboard) drawPanels(c *canvas.Canvas, s *Snapshot, body rect) {
	list := d.panels(s)
	shares := columns(body.w, len(list))
	rows := (len(list) + len(shares) - 1) / len(shares)
	rows = max(1, min(rows, int((body.h+gap)/(leastPanel+gap))))
	if len(shares) == 3 { // the order in which they are read in rows of three
		list = []panel{list[0], list[1], list[5], list[2], list[3], list[4]}
	}
	rowHeight := (body.h - gap*float64(rows-1)) / float64(rows)
	inner := body.w - gap*float64(len(shares)-1)
	for i, p := range list[:min(len(list), rows*len(shares))] {
		row, column := i/len(shares), i%len(shares)
		r := rect{body.x, body.y + float64(row)*(rowHeight+gap), inner * shares[column], rowHeight}
		for _, before := range shares[:column] {
			r.x += inner*before + gap
		}
		d.frame(c, s, r, p)
	}
}

// frame draws a panel's frame and heading, and the panel within.
func (d *Dashboard) frame(c *canvas.Canvas, s *Snapshot, r rect, p panel) {
	if r.w < 60 || r.h < 40 {
		return
	}
	c.Rect(r.x, r.y, r.w, r.h, paper)
	c.Frame(r.x, r.y, r.w, r.h, 1, hairline)
	c.Clip(r.x, r.y, r.w, r.h)
	defer c.Unclip()
	in := r.inset(10)
	length := c.Text(in.x, in.y+11, c.Fit(p.title, headingFont, in.w), headingFont, canvas.Left, ink)
	if rest := in.w - length - 10; p.unit != "" && rest > 50 {
		c.Text(in.x+length+8, in.y+11, c.Fit(p.unit, smallFont, rest), smallFont, canvas.Left, soft)
	}
	_, in = in.cut(20)
	p.draw(d, c, s, in)
}

// stateInk is the colour of a state's name.
var stateInk = map[State]canvas.Color{Starting: soft, Training: good, Paused: warm, Writing: accent, Finished: accent, Reading: accent, Failed: bad}

func (d *Dashboard) drawHeader(c *canvas.Canvas, s *Snapshot, r rect) {
	title := "A mixture of experts learns to write, one byte at a time"
	if s.State == Reading {
		title = "Where a mixture of experts sends each token of a text"
	}
	right := math.Min(300, r.w*0.36)
	left := r.w - right - 16
	c.Text(r.x, r.y+18, c.Fit(title, titleFont, left), titleFont, canvas.Left, ink)
	line := s.Model
	if s.K > 0 {
		line += fmt.Sprintf(", k = %d of them per %s", s.K, unitOf(s))
		if s.Dense {
			line = s.Model + fmt.Sprintf(", k = %d attention experts per byte", s.K)
		}
	}
	c.Text(r.x, r.y+36, c.Fit(line+", "+s.DType, textFont, left), textFont, canvas.Left, soft)
	on := fmt.Sprintf("on %s (%s)", s.Device, s.Driver)
	if s.TextName != "" { // not yet, while the run starts
		on += "; text: " + s.TextName
	}
	c.Text(r.x, r.y+51, c.Fit(on, textFont, left), textFont, canvas.Left, soft)

	x := r.x + r.w
	c.Text(x, r.y+16, s.State.String(), headingFont, canvas.Right, stateInk[s.State])
	if s.State == Reading || s.State == Starting {
		return
	}
	steps := "step " + thousands(s.Step)
	if s.Steps > 0 {
		steps += " of " + thousands(s.Steps)
	}
	c.Text(x-right, r.y+16, steps, headingFont, canvas.Left, ink)
	c.Rect(x-right, r.y+24, right, 7, hairline)
	if s.Steps > 0 {
		c.Rect(x-right, r.y+24, right*math.Min(1, float64(s.Step)/float64(s.Steps)), 7, good)
	}
	c.Text(x-right, r.y+48, c.Fit(fmt.Sprintf("%s tokens/s, %sFLOP/s, speed %d %%", si(s.TokensPerSecond), si(s.FLOPS), s.Speed), textFont, right),
		textFont, canvas.Left, soft)
}

// drawMessage draws what has just happened, or what has gone wrong.
func (d *Dashboard) drawMessage(c *canvas.Canvas, s *Snapshot, r rect) {
	text, back := s.Notice, ink
	if time.Now().Before(d.until) {
		text = d.message
	}
	if s.Problem != "" {
		text, back = s.Problem, bad
	}
	if text == "" {
		return
	}
	lines := c.Wrap(text, textFont, math.Min(r.w-40, 760))
	widest := 0.0
	for _, l := range lines {
		widest = math.Max(widest, c.Measure(l, textFont))
	}
	h := float64(len(lines))*16 + 12
	box := rect{r.x + (r.w-widest-28)/2, r.y + r.h - h, widest + 28, h}
	c.Rect(box.x, box.y, box.w, box.h, back.Fade(0.9))
	for i, l := range lines {
		c.Text(box.x+14, box.y+17+float64(i)*16, l, textFont, canvas.Left, paper)
	}
}

// drawTip draws what the pointer is on, beside it.
func (d *Dashboard) drawTip(c *canvas.Canvas, width, height float64) {
	if len(d.tip) == 0 {
		return
	}
	widest := 0.0
	for _, l := range d.tip {
		widest = math.Max(widest, c.Measure(l, textFont))
	}
	w, h := widest+20, float64(len(d.tip))*15+12
	x, y := d.pointer.X+14, d.pointer.Y+16
	if x+w > width {
		x = math.Max(d.pointer.X-14-w, 0)
	}
	if y+h > height {
		y = math.Max(d.pointer.Y-10-h, 0)
	}
	c.Rect(x, y, w, h, ink.Fade(0.93))
	for i, l := range d.tip {
		c.Text(x+10, y+17+float64(i)*15, l, textFont, canvas.Left, paper)
	}
}
