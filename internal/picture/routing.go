package picture

import (
	"fmt"
	"image"
	"math"
	"sort"
)

// A Routing is everything that the routing picture shows: T characters of a text, one token each, and the K experts
// of Experts that a router chose for each of them.
type Routing struct {
	Title    string
	Subtitle string // model and layer
	Device   string // device, driver and versions
	TextName string // what the text is
	Text     []rune // the T characters, line breaks included

	Experts, K int
	IDs        []int32   // [T, K] chosen experts, first choice first; −1 where a choice led nowhere
	Gates      []float32 // [T, K] their gate weights

	Cards  []Card // figures below the pictures, left to right
	Footer string
}

// A Card is one group of figures: a heading, one large value, and either lines of text or bars.
type Card struct {
	Heading string
	Value   string
	Tone    Tone
	Lines   []string // paragraphs, broken into lines to fit
	Bars    []Bar
}

// A Tone colours a card's value.
type Tone uint8

// The tones: a plain figure, one that passed its check, one that failed it.
const (
	Plain Tone = iota
	Good
	Bad
)

// A Bar is one line of a card: a label, a bar of Share (0 to 1) of the full length, and a value with its unit.
type Bar struct {
	Label, Value string
	Share        float64
}

// Validate reports the first inconsistency of the data.
func (r *Routing) Validate() error {
	slots := len(r.Text) * r.K
	switch {
	case len(r.Text) == 0:
		return fmt.Errorf("picture: no text to show")
	case r.K < 1 || r.K > r.Experts:
		return fmt.Errorf("picture: %d choices among %d experts", r.K, r.Experts)
	case len(r.IDs) != slots:
		return fmt.Errorf("picture: %d expert ids for %d slots", len(r.IDs), slots)
	case len(r.Gates) != slots:
		return fmt.Errorf("picture: %d gates for %d slots", len(r.Gates), slots)
	}
	for s, id := range r.IDs {
		if id < -1 || int(id) >= r.Experts {
			return fmt.Errorf("picture: slot %d holds expert %d of %d", s, id, r.Experts)
		}
	}
	return nil
}

// Load is how many slots each expert has, [Experts].
func (r *Routing) Load() []int {
	load := make([]int, r.Experts)
	for _, id := range r.IDs {
		if id >= 0 {
			load[id]++
		}
	}
	return load
}

// The fixed measures of the routing picture, in logical units.
const (
	width       = 1000.0
	margin      = 28.0
	inner       = width - 2*margin
	textColumns = 73 // a line of 72 characters and its line break
	textRows    = 22
	charWidth   = 9.0
	lineHeight  = 17.5
	panelGap    = 30.0
	barHeight   = 13.5
	barPitch    = 20.5
	loadRows    = 18 // experts with a bar of their own; of more only the busiest have one
	legendPitch = 16.0
	heatLabel   = 36.0
	heatScale   = 74.0 // room of the colour scale right of the heat map
	heatColumn  = 9.0
	cardHeight  = 178.0
)

// A glyph is one character's place in the text panel.
type glyph struct{ index, column, row int }

// wrap lays text out in lines of at most columns characters and at most rows lines. A line break takes the last
// cell of its line, or a cell of its own where the line is full.
func wrap(text []rune, columns, rows int) []glyph {
	var out []glyph
	column, row := 0, 0
	for i, ch := range text {
		if column == columns {
			column, row = 0, row+1
		}
		if row == rows {
			break
		}
		out = append(out, glyph{i, column, row})
		column++
		if ch == '\n' {
			column, row = 0, row+1
		}
	}
	return out
}

// layout holds where everything goes. Tests read it to know which pixels to look at.
type layout struct {
	glyphs       []glyph
	bodyY        float64 // top of the text panel and of the load panel
	bodyHeight   float64
	loadX        float64
	listed       []int // experts of the load panel, in drawing order
	legend       []string
	axisMax      float64
	axisStep     float64 // both in percent
	heatX, heatY float64
	heatColumns  int
	heatRow      float64
	low, high    float64 // gate weights at the ends of the colour scale
	cardsY       float64
	height       float64
}

// plan computes the layout.
func (r *Routing) plan() layout {
	l := layout{glyphs: wrap(r.Text, textColumns, textRows), bodyY: 142, loadX: margin + textColumns*charWidth + panelGap}
	l.listed = r.listed()
	l.legend = r.legend(l.listed)
	lines := float64(l.glyphs[len(l.glyphs)-1].row + 1)
	l.bodyHeight = math.Max(lines*lineHeight, float64(len(l.listed))*barPitch+22+legendPitch*float64(len(l.legend)))
	var top float64
	for _, count := range r.Load() {
		top = math.Max(top, r.percent(count))
	}
	l.axisStep = niceStep(top / 4)
	l.axisMax = l.axisStep * math.Max(1, math.Ceil(top/l.axisStep-1e-9))
	l.heatX, l.heatY = margin+heatLabel, l.bodyY+l.bodyHeight+58
	l.heatColumns = min(len(r.Text), int(math.Floor((inner-heatLabel-heatScale)/heatColumn)))
	l.heatRow = math.Max(0.5, math.Min(15, math.Floor(2*240/float64(r.Experts))/2))
	l.low, l.high = r.gateRange(l.heatColumns)
	l.cardsY = l.heatY + l.heatRow*float64(r.Experts) + 62
	l.height = l.cardsY + cardHeight + 48
	return l
}

// listed returns the experts that have a bar in the load panel: all in order where they fit, else the busiest.
func (r *Routing) listed() []int {
	names := make([]int, r.Experts)
	for e := range names {
		names[e] = e
	}
	if r.Experts <= loadRows {
		return names
	}
	load := r.Load()
	sort.SliceStable(names, func(a, b int) bool { return load[names[a]] > load[names[b]] })
	return names[:loadRows]
}

// gateRange returns the smallest and the largest gate weight of the first tokens, NaN aside.
func (r *Routing) gateRange(tokens int) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, g := range r.Gates[:tokens*r.K] {
		if v := float64(g); !math.IsNaN(v) {
			low, high = math.Min(low, v), math.Max(high, v)
		}
	}
	if low > high {
		return 0, 1
	}
	if low == high {
		return low, low + 1e-6
	}
	return low, high
}

// niceStep rounds v up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if !(v > 0) {
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

// Draw makes the picture at scale pixels per logical unit (the picture is 1,000 units wide); 2 is sharp on every
// screen. The error names what is inconsistent in the data.
func (r *Routing) Draw(scale float64) (*image.RGBA, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if !(scale >= 0.5 && scale <= 8) {
		return nil, fmt.Errorf("picture: scale %g is outside 0.5 to 8", scale)
	}
	l := r.plan()
	c := NewCanvas(width, l.height, scale, paper)
	r.drawHead(c)
	r.drawText(c, &l)
	r.drawLoad(c, &l)
	r.drawHeat(c, &l)
	r.drawCards(c, &l)
	return c.Image(), nil
}
