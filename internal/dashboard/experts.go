package dashboard

import (
	"fmt"
	"math"
	"strings"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// drawLoad draws the heat map: a row for each router, a column for each expert.
func (d *Dashboard) drawLoad(c *canvas.Canvas, s *Snapshot, r rect) {
	experts, rows := 0, len(s.Routers)
	for _, router := range s.Routers {
		experts = max(experts, len(router.Load))
	}
	if rows == 0 || experts == 0 {
		c.Text(r.x, r.y+14, "No router has been read yet.", textFont, canvas.Left, soft)
		return
	}
	const names, foot = 66.0, 34.0
	grid := rect{r.x + names, r.y + 2, r.w - names, r.h - foot}
	w, h := grid.w/float64(experts), math.Min(grid.h/float64(rows), 30)
	numbers := w >= 20 && h >= 11
	for i, router := range s.Routers {
		y := grid.y + float64(i)*h
		line := rect{r.x, y, r.w, h}
		font, color := smallFont, soft
		if i == d.Router {
			font, color = canvas.Font{Style: canvas.Bold, Size: 10}, ink
		}
		if h >= 9 || i == d.Router {
			c.Text(grid.x-6, y+h/2+3.5, fmt.Sprintf("%d %s", router.Layer+1, router.Block), font, canvas.Right, color)
		}
		d.areas = append(d.areas, area{line, func() Action { d.Router = i; return Action{} }})
		d.loadRow(c, router, rect{grid.x, y, w, h}, numbers)
		if i == d.Router {
			c.Frame(grid.x-1, y-1, grid.w+1, h+1, 1.5, ink)
		}
	}
	d.loadFoot(c, rect{grid.x, grid.y + h*float64(rows), grid.w, foot}, experts)
}

// hottest is the load, in even shares, at the dark end of the scale.
const hottest = 3.0

// loadRow draws the cells of one router; first is the place of the first one.
func (d *Dashboard) loadRow(c *canvas.Canvas, router Router, first rect, numbers bool) {
	sum := 0
	for _, n := range router.Load {
		sum += n
	}
	for e, n := range router.Load {
		at := rect{first.x + float64(e)*first.w, first.y, first.w, first.h}
		fill, text := empty, faint
		share := 0.0
		if sum > 0 {
			share = float64(n) / float64(sum)
			fill, text = heat(share * float64(len(router.Load)) / hottest)
		}
		c.Rect(at.x, at.y, at.w-1/c.Scale(), at.h-1/c.Scale(), fill)
		if numbers && sum > 0 {
			c.Text(at.x+at.w/2, at.y+at.h/2+3.5, fmt.Sprintf("%.0f", 100*share), smallFont, canvas.Center, text)
		}
		if at.has(d.pointer) && sum > 0 {
			d.tip = append(d.tip, fmt.Sprintf("%s, expert %d", describeRouter(router), e),
				fmt.Sprintf("%s of %s choices: %.1f %%, %.2f times an even share", thousands(n), thousands(sum), 100*share, share*float64(len(router.Load))))
		}
	}
}

// loadFoot draws the names of the experts and the scale.
func (d *Dashboard) loadFoot(c *canvas.Canvas, r rect, experts int) {
	w := r.w / float64(experts)
	every := max(1, int(math.Ceil(22/w)))
	for e := 0; e < experts; e += every {
		c.Text(r.x+(float64(e)+0.5)*w, r.y+12, fmt.Sprint("E", e), smallFont, canvas.Center, soft)
	}
	left, right := "unused", fmt.Sprintf("%.0f × even share", hottest)
	x := r.x + c.Text(r.x, r.y+28, left, smallFont, canvas.Left, soft) + 6
	end := r.x + r.w - c.Measure(right, smallFont) - 6
	for i := range 24 {
		fill, _ := heat((float64(i) + 0.5) / 24)
		c.Rect(x+float64(i)*(end-x)/24, r.y+20, (end-x)/24+0.5, 9, fill)
	}
	even := x + (end-x)/hottest
	c.Rect(even, r.y+18, 1, 13, ink)
	c.Text(even+4, r.y+28, "even", smallFont, canvas.Left, ink)
	c.Text(r.x+r.w, r.y+28, right, smallFont, canvas.Right, soft)
}

// drawText draws the text, each token in the colour of the expert that the chosen router's chosen slot sent it to.
func (d *Dashboard) drawText(c *canvas.Canvas, s *Snapshot, r rect) {
	if d.Router >= len(s.Routers) || len(s.Text) == 0 {
		c.Text(r.x, r.y+14, "No text has been read yet.", textFont, canvas.Left, soft)
		return
	}
	router := s.Routers[d.Router]
	top, r := r.cut(17)
	what := describeRouter(router) + ", choice " + fmt.Sprint(d.Slot+1) + " of " + fmt.Sprint(router.K)
	switch {
	case router.K > 1 && d.Slot == 0:
		what += " (largest gate)"
	case router.K > 1 && d.Slot == router.K-1:
		what += " (smallest gate)"
	}
	length := c.Text(top.x, top.y+10, c.Fit(what, textFont, top.w), textFont, canvas.Left, soft)
	d.expertLegend(c, rect{top.x + length + 14, top.y, top.w - length - 14, 14}, len(router.Load))
	advance := c.Measure("m", monoFont)
	const line = 17.0
	columns := max(int(r.w/advance), 1)
	column, row := 0, 0
	for t, piece := range s.Text {
		if (t+1)*router.K > len(router.IDs) {
			return
		}
		shown := []rune(strings.NewReplacer("\n", "↵", "\t", " ", "\r", " ").Replace(piece))
		if len(shown) == 0 {
			continue
		}
		if column+len(shown) > columns && column > 0 && piece == "\n" { // it ends a full line, and needs no cell for that
			column, row = 0, row+1
			continue
		}
		if column+len(shown) > columns && column > 0 {
			column, row = 0, row+1
		}
		at := rect{r.x + float64(column)*advance, r.y + float64(row)*line, advance * float64(len(shown)), line - 1.5}
		if at.y+at.h > r.y+r.h {
			return
		}
		d.token(c, s, router, t, at, shown)
		column += len(shown)
		if strings.HasSuffix(piece, "\n") {
			column, row = 0, row+1
		}
	}
}

// token draws one token.
func (d *Dashboard) token(c *canvas.Canvas, s *Snapshot, router Router, t int, at rect, shown []rune) {
	order := ranked(router, t)
	cell(c, at, int(router.IDs[t*router.K+order[d.Slot]]))
	for i, ch := range shown {
		color, glyph := ink, ch
		if ch == '↵' || ch == ' ' {
			color = ink.Fade(0.35)
		}
		if ch == ' ' {
			continue
		}
		if !canvas.Has(canvas.Mono, glyph) {
			glyph = '·'
			if ch == '↵' {
				glyph = '¶'
			}
		}
		c.Text(at.x+float64(i)*at.w/float64(len(shown)), at.y+at.h-4, string(glyph), monoFont, canvas.Left, color)
	}
	if !at.has(d.pointer) {
		return
	}
	c.Frame(at.x, at.y, at.w, at.h, 1, ink)
	d.tip = append(d.tip, fmt.Sprintf("%q, %s", s.Text[t], describeRouter(router)))
	for _, j := range order {
		gate := router.Gates[t*router.K+j]
		d.tip = append(d.tip, fmt.Sprintf("expert %d: gate %.3f", router.IDs[t*router.K+j], gate))
	}
}

// ranked are the slots of a token by their gates, the largest first.
func ranked(r Router, t int) []int {
	order := make([]int, r.K)
	for j := range order {
		order[j] = j
		for i := j; i > 0 && r.Gates[t*r.K+order[i]] > r.Gates[t*r.K+order[i-1]]; i-- {
			order[i], order[i-1] = order[i-1], order[i]
		}
	}
	return order
}

// expertLegend draws the experts' colours from the right, as many as there is room for.
func (d *Dashboard) expertLegend(c *canvas.Canvas, r rect, experts int) {
	const w = 27.0
	shown := min(experts, int(r.w/w))
	if shown < 1 {
		return
	}
	x := r.x + r.w - float64(shown)*w
	for e := range shown {
		at := rect{x + float64(e)*w, r.y, w - 3, 13}
		cell(c, at, e)
		text := fmt.Sprint("E", e)
		if e == shown-1 && shown < experts {
			text = "…"
		}
		c.Text(at.x+at.w/2, at.y+10, text, smallFont, canvas.Center, ink)
	}
}
