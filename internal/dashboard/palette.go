package dashboard

import (
	"math"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// The colours of everything that is not data.
var (
	ground   = canvas.RGB(0xeef1f4)
	paper    = canvas.RGB(0xffffff)
	ink      = canvas.RGB(0x1b1f24)
	soft     = canvas.RGB(0x57606a) // secondary text; 6:1 on paper
	faint    = canvas.RGB(0x8c959f)
	hairline = canvas.RGB(0xd8dee4)
	empty    = canvas.RGB(0xf3f5f7) // a cell that holds no value
	unrouted = canvas.RGB(0xdddddd) // a value that is NaN, a token without an expert
	markInk  = canvas.RGB(0x333333)
	accent   = canvas.RGB(0x0a5bb5)
	good     = canvas.RGB(0x00695c)
	warm     = canvas.RGB(0x9a5b00)
	bad      = canvas.RGB(0xa8321a)
)

// The colours of curves: the model that learns, and the other one.
var (
	heldOutInk = canvas.RGB(0x0a5bb5)
	trainInk   = canvas.RGB(0xe08214)
	otherInk   = canvas.RGB(0x6f42c1)
)

// groupColors are Paul Tol's scheme "bright" (SRON technical note EPS/TN/09-002), distinct in colour-blind vision.
var groupColors = [Groups]canvas.Color{
	canvas.RGB(0x4477aa), canvas.RGB(0x66ccee), canvas.RGB(0x228833), canvas.RGB(0xccbb44), canvas.RGB(0xee6677), canvas.RGB(0xbbbbbb),
}

// expertColors hold the scheme "light" of the same note, made to carry black text. Its ninth colour, pale grey, is unrouted.
var expertColors = [8]canvas.Color{
	canvas.RGB(0x77aadd), canvas.RGB(0xee8866), canvas.RGB(0xeedd88), canvas.RGB(0x44bb99),
	canvas.RGB(0xffaabb), canvas.RGB(0xbbcc33), canvas.RGB(0x99ddff), canvas.RGB(0xaaaa00),
}

// A mark is a dark bar in an expert's cells. Eight colours do not name more than eight experts, so each further group of eight
// adds a mark: experts 0–7 have none, 8–15 a bar at the foot, 16–23 one at the head, 24–31 both; then it begins again.
type mark uint8

const (
	noMark mark = iota
	footMark
	headMark
	bothMarks
)

// expertLook returns the fill and the mark of an expert's cells. A negative expert means none was chosen.
func expertLook(expert int) (canvas.Color, mark) {
	if expert < 0 {
		return unrouted, noMark
	}
	return expertColors[expert%len(expertColors)], mark(expert / len(expertColors) % 4)
}

// cell fills a rectangle in an expert's look.
func cell(c *canvas.Canvas, r rect, expert int) {
	fill, m := expertLook(expert)
	c.Rect(r.x, r.y, r.w, r.h, fill)
	thick := math.Max(1.5, r.h/9)
	if m == footMark || m == bothMarks {
		c.Rect(r.x, r.y+r.h-thick, r.w, thick, markInk)
	}
	if m == headMark || m == bothMarks {
		c.Rect(r.x, r.y, r.w, thick, markInk)
	}
}

// heatStops are a sequential scale from a light to a dark blue whose lightness falls evenly, so that the order of values
// survives colour-blind vision and grey print.
var heatStops = [5]canvas.Color{canvas.RGB(0xeaf3fb), canvas.RGB(0xa9d0ee), canvas.RGB(0x5d9fd1), canvas.RGB(0x2468a8), canvas.RGB(0x08305f)}

// heat returns the colour of v in [0, 1] on the sequential scale, and one that can be read on it; values outside are clamped
// and NaN is unrouted.
func heat(v float64) (fill, text canvas.Color) {
	if math.IsNaN(v) {
		return unrouted, ink
	}
	v = math.Min(math.Max(v, 0), 1)
	at := v * float64(len(heatStops)-1)
	i := min(int(at), len(heatStops)-2)
	text = ink
	if v > 0.55 {
		text = paper
	}
	return heatStops[i].Mix(heatStops[i+1], at-float64(i)), text
}
