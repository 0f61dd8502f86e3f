package picture

import (
	"fmt"
	"image/color"
	"math"
	"strconv"
	"unicode"
)

// drawHead sets the title, what was run, and where.
func (r *Routing) drawHead(c *Canvas) {
	c.Text(margin, 44, c.Fit(r.Title, Bold, 25, inner), Bold, 25, Left, ink)
	c.Text(margin, 68, c.Fit(r.Subtitle, Regular, 14.5, inner), Regular, 14.5, Left, ink)
	c.Text(margin, 89, c.Fit(r.Device, Regular, 14.5, inner), Regular, 14.5, Left, soft)
}

// heading sets a panel's heading and, after it, a note.
func (c *Canvas) heading(x, y, room float64, head, note string) {
	at := x + c.Text(x, y, head, Bold, 15, Left, ink) + 10
	c.Text(at, y, c.Fit(note, Regular, 12.5, x+room-at), Regular, 12.5, Left, soft)
}

// drawText draws the text itself: one cell a character, in the look of its first-choice expert.
func (r *Routing) drawText(c *Canvas, l *layout) {
	note := fmt.Sprintf("all %s characters of %s", Thousands(len(r.Text)), r.TextName)
	if len(l.glyphs) < len(r.Text) {
		note = fmt.Sprintf("characters 1 to %s of %s, %s", Thousands(len(l.glyphs)), Thousands(len(r.Text)), r.TextName)
	}
	c.heading(margin, l.bodyY-13, textColumns*charWidth, "First-choice expert of each character", note)
	for _, g := range l.glyphs {
		x, y := margin+float64(g.column)*charWidth, l.bodyY+float64(g.row)*lineHeight
		c.cell(x, y, charWidth, lineHeight-1.5, int(r.IDs[g.index*r.K]))
		shown, tone := c.visible(r.Text[g.index]), ink
		if unicode.IsControl(r.Text[g.index]) {
			tone = soft
		}
		c.Text(x+charWidth/2, y+12.25, shown, Mono, 13, Center, tone)
	}
}

// visible is what stands for a character in a cell: itself where the font has it, a pilcrow for a line break, an
// empty box for the rest.
func (c *Canvas) visible(ch rune) string {
	switch {
	case ch == '\n':
		return "¶"
	case unicode.IsSpace(ch) || unicode.IsControl(ch):
		return " "
	case !c.Has(Mono, ch):
		return "□"
	}
	return string(ch)
}

// loadBars is where the bars of the load panel begin, and the length of the longest possible one.
func (l *layout) loadBars() (x, full float64) {
	const name, figure = 52.0, 50.0
	return l.loadX + name, width - margin - l.loadX - name - figure
}

// drawLoad draws the experts' load as bars, which is also the legend of their colours.
func (r *Routing) drawLoad(c *Canvas, l *layout) {
	x0, full := l.loadBars()
	c.heading(l.loadX, l.bodyY-13, width-margin-l.loadX, "Load", fmt.Sprintf("percent of all %s choices", Thousands(len(r.IDs))))
	height := float64(len(l.listed)) * barPitch
	for tick := 0.0; tick <= l.axisMax+1e-9; tick += l.axisStep {
		x := x0 + full*tick/l.axisMax
		c.Rect(x-0.5, l.bodyY, 1, height, hairline)
		c.Text(x, l.bodyY+height+14, strconv.FormatFloat(tick, 'g', 4, 64), Regular, 12, Center, soft)
	}
	load := r.Load()
	for i, e := range l.listed {
		y := l.bodyY + float64(i)*barPitch + (barPitch-barHeight)/2
		share := r.percent(load[e])
		c.cell(l.loadX, y, 11, barHeight, e)
		c.Text(l.loadX+16, y+11, "E"+strconv.Itoa(e), Bold, 12.5, Left, ink)
		c.cell(x0, y, full*share/l.axisMax, barHeight, e)
		c.Text(width-margin, y+11, fmt.Sprintf("%.1f %%", share), Regular, 12.5, Right, ink)
	}
	if even := 100 / float64(r.Experts); even <= l.axisMax {
		c.Dashed(x0+full*even/l.axisMax, l.bodyY, height, 1.5, ink)
	}
	for i, line := range l.legend {
		c.Text(l.loadX, l.bodyY+height+34+legendPitch*float64(i), line, Regular, 12, Left, soft)
	}
}

// percent is the share of a number of choices in all there are.
func (r *Routing) percent(count int) float64 { return 100 * float64(count) / float64(len(r.IDs)) }

// legend returns the lines below the load's bars: the experts without a bar, the dashed line and the marks.
func (r *Routing) legend(listed []int) []string {
	var lines []string
	if rest := r.Experts - len(listed); rest > 0 {
		load, count := r.Load(), 0
		for _, n := range load {
			count += n
		}
		for _, e := range listed {
			count -= load[e]
		}
		lines = append(lines, fmt.Sprintf("the %s other experts: %.1f %%", Thousands(rest), r.percent(count)))
	}
	lines = append(lines, fmt.Sprintf("dashed line: even load, %.4g %%", 100/float64(r.Experts)))
	for mark, name := range [...]string{FootMark: "dark foot", HeadMark: "dark head", FootAndHeadMark: "dark foot and head"} {
		if first := mark * len(experts); mark != int(NoMark) && first < r.Experts {
			lines = append(lines, fmt.Sprintf("%s: E%d to E%d", name, first, min(r.Experts, first+len(experts))-1))
		}
	}
	if r.Experts > DistinctExperts {
		lines[len(lines)-1] += ", then again"
	}
	return lines
}

// drawHeat draws gate weight as colour over experts × position for the first characters of the text.
func (r *Routing) drawHeat(c *Canvas, l *layout) {
	columns, plotHeight := l.heatColumns, l.heatRow*float64(r.Experts)
	plotWidth := float64(columns) * heatColumn
	note := fmt.Sprintf("characters 1 to %d; %d of %d experts each; blank: not chosen", columns, r.K, r.Experts)
	c.heading(margin, l.heatY-14, inner, "Gate weight by expert and position in the text", note)
	c.Rect(l.heatX, l.heatY, plotWidth, plotHeight, empty)
	line := 0.5
	if l.heatRow < 4 {
		line = 0 // no room for lines between rows this thin
	}
	for t := range columns {
		for j := range r.K {
			e := r.IDs[t*r.K+j]
			if e < 0 {
				continue
			}
			tone := Heat((float64(r.Gates[t*r.K+j]) - l.low) / (l.high - l.low))
			c.Rect(l.heatX+float64(t)*heatColumn, l.heatY+float64(e)*l.heatRow, heatColumn-0.5, l.heatRow-line, tone)
		}
		c.Text(l.heatX+(float64(t)+0.5)*heatColumn, l.heatY+plotHeight+13, c.visible(r.Text[t]), Mono, 11.5, Center, ink)
		if position := t + 1; position == 1 || position%10 == 0 {
			c.Text(l.heatX+(float64(t)+0.5)*heatColumn, l.heatY+plotHeight+28, strconv.Itoa(position), Regular, 11.5, Center, soft)
		}
	}
	every := max(1, int(math.Ceil(12/l.heatRow)))
	for e := 0; e < r.Experts; e += every {
		y := l.heatY + (float64(e)+0.5)*l.heatRow
		at := l.heatX - 5
		if every == 1 {
			c.cell(l.heatX-14, y-l.heatRow/2, 10, l.heatRow-1, e)
			at = l.heatX - 18
		}
		c.Text(at, y+4.2, "E"+strconv.Itoa(e), Bold, 11.5, Right, ink)
	}
	r.drawScale(c, l, plotHeight)
}

// drawScale draws the colour scale of the heat map with its end and middle values.
func (r *Routing) drawScale(c *Canvas, l *layout, plotHeight float64) {
	x := width - margin - heatScale + 22
	height := math.Min(plotHeight-22, 150)
	top := l.heatY + 22
	c.Text(x-2, l.heatY+10, "gate", Bold, 12, Left, ink)
	const steps = 64
	for i := range steps {
		v := 1 - (float64(i)+0.5)/steps
		c.Rect(x, top+height*float64(i)/steps, 12, height/steps, Heat(v))
	}
	for _, at := range [3]float64{0, 0.5, 1} {
		value := l.low + (l.high-l.low)*at
		y := top + height*(1-at)
		c.Rect(x+12, y-0.5, 4, 1, soft)
		c.Text(x+19, y+4, strconv.FormatFloat(value, 'f', 2, 64), Regular, 12, Left, ink)
	}
}

// drawCards draws the figures below the pictures and the footer.
func (r *Routing) drawCards(c *Canvas, l *layout) {
	const gap = 18.0
	n := float64(len(r.Cards))
	w := (inner - gap*(n-1)) / math.Max(n, 1)
	for i, card := range r.Cards {
		c.drawCard(margin+float64(i)*(w+gap), l.cardsY, w, card)
	}
	c.Text(margin, l.height-20, c.Fit(r.Footer, Regular, 12, inner), Regular, 12, Left, soft)
}

func (c *Canvas) drawCard(x, y, w float64, card Card) {
	c.Rect(x, y, w, 2, ink)
	c.Text(x, y+21, c.Fit(card.Heading, Bold, 14, w), Bold, 14, Left, ink)
	tone := [...]color.RGBA{Plain: ink, Good: good, Bad: bad}[card.Tone]
	at := y + 21
	if card.Value != "" {
		at += 29
		c.Text(x, at, c.Fit(card.Value, Bold, 23, w), Bold, 23, Left, tone)
	}
	at += 2
	for _, paragraph := range card.Lines {
		for _, line := range c.Wrap(paragraph, Regular, 12.5, w) {
			at += 17.5
			c.Text(x, at, line, Regular, 12.5, Left, soft)
		}
	}
	const label, figure = 108.0, 58.0
	for _, bar := range card.Bars {
		at += 17
		c.Text(x, at, c.Fit(bar.Label, Regular, 12, label-6), Regular, 12, Left, ink)
		full := w - label - figure
		c.Rect(x+label, at-9, full, 10, empty)
		c.Rect(x+label, at-9, full*math.Min(math.Max(bar.Share, 0), 1), 10, heat[2])
		c.Text(x+w, at, bar.Value, Regular, 12, Right, ink)
	}
}

// Thousands writes a count with a comma between groups of three digits.
func Thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
