package picture

import (
	"image/color"
	"math"
)

// rgb makes an opaque colour from 0xRRGGBB.
func rgb(hex uint32) color.RGBA {
	return color.RGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

// The colours of everything that is not data.
var (
	paper    = rgb(0xffffff)
	ink      = rgb(0x1b1f24)
	soft     = rgb(0x57606a) // secondary text; 6:1 on paper
	hairline = rgb(0xd8dee4)
	empty    = rgb(0xf3f5f7) // background of a heat map cell that holds no value
	unrouted = rgb(0xdddddd) // a character whose gates are NaN
	markInk  = rgb(0x333333)
	good     = rgb(0x00695c)
	bad      = rgb(0xa8321a)
)

// experts holds the qualitative scheme "light" of Paul Tol's colour schemes (SRON technical note EPS/TN/09-002),
// made to stay distinct in colour-blind vision and to carry black text. Its ninth colour, the pale grey, is unrouted.
var experts = [8]color.RGBA{
	rgb(0x77aadd), rgb(0xee8866), rgb(0xeedd88), rgb(0x44bb99),
	rgb(0xffaabb), rgb(0xbbcc33), rgb(0x99ddff), rgb(0xaaaa00),
}

// A Mark is a dark bar in an expert's cells. Eight colours do not name more than eight experts, so each further
// group of eight adds a mark: experts 0–7 have none, 8–15 a bar at the foot, 16–23 one at the head, 24–31 both.
type Mark uint8

// The marks.
const (
	NoMark Mark = iota
	FootMark
	HeadMark
	FootAndHeadMark
)

// DistinctExperts is how many experts have a look of their own; expert e looks like expert e mod DistinctExperts.
const DistinctExperts = 32

// ExpertLook returns the fill and the mark of an expert's cells. A negative expert means none was chosen.
func ExpertLook(expert int) (color.RGBA, Mark) {
	if expert < 0 {
		return unrouted, NoMark
	}
	return experts[expert%len(experts)], Mark(expert / len(experts) % 4)
}

// heat holds the stops of the sequential scale, from a light to a dark blue whose lightness falls evenly, so that
// the order of values survives colour-blind vision and grey print.
var heat = [5]color.RGBA{rgb(0xcfe3f5), rgb(0x93c2e6), rgb(0x4f97cb), rgb(0x1f64a3), rgb(0x08305f)}

// Heat returns the colour of v in [0, 1] on the sequential scale; values outside are clamped and NaN is unrouted.
func Heat(v float64) color.RGBA {
	if math.IsNaN(v) {
		return unrouted
	}
	at := math.Min(math.Max(v, 0), 1) * float64(len(heat)-1)
	i := min(int(at), len(heat)-2)
	f := at - float64(i)
	mix := func(a, b uint8) uint8 { return uint8(math.Round(float64(a)*(1-f) + float64(b)*f)) }
	a, b := heat[i], heat[i+1]
	return color.RGBA{R: mix(a.R, b.R), G: mix(a.G, b.G), B: mix(a.B, b.B), A: 0xff}
}

// cell fills a rectangle in an expert's look.
func (c *Canvas) cell(x, y, w, h float64, expert int) {
	fill, mark := ExpertLook(expert)
	c.Rect(x, y, w, h, fill)
	thick := math.Max(1.5, h/9)
	if mark == FootMark || mark == FootAndHeadMark {
		c.Rect(x, y+h-thick, w, thick, markInk)
	}
	if mark == HeadMark || mark == FootAndHeadMark {
		c.Rect(x, y, w, thick, markInk)
	}
}
