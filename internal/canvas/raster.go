package canvas

import (
	"image"
	"image/color"
	"image/draw"
	"math"
)

// Raster draws the list on the CPU: a pixel belongs to the triangle that its centre is in (on an edge, to the one below or to
// the right), its colour and texel are interpolated to the centre, and it is mixed with what is behind by its alpha. The
// background is drawn opaque.
func (c *Canvas) Raster() *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, c.width, c.height))
	r, g, b, _ := c.background.Channels()
	draw.Draw(img, img.Rect, image.NewUniform(color.RGBA{R: r, G: g, B: b, A: 0xff}), image.Point{}, draw.Src)
	for _, batch := range c.batches {
		p := painter{img: img, atlas: c.atlas.image, clip: batch.Clip}
		list := c.vertices[batch.First : batch.First+batch.Count]
		for i := 0; i < len(list); i += 3 {
			p.triangle([3]Vertex(list[i : i+3]))
		}
	}
	return img
}

type painter struct {
	img   *image.RGBA
	atlas *image.Alpha
	clip  image.Rectangle
}

// values are what is interpolated over a triangle: the texel, then the four channels.
type values [6]float64

func (v Vertex) values() values {
	r, g, b, a := v.Color.Channels()
	return values{float64(v.U), float64(v.V), float64(r), float64(g), float64(b), float64(a)}
}

// center is the first pixel whose centre is not before v.
func center(v float64) int { return int(math.Ceil(v - 0.5)) }

// crossing is where the edge between two vertices meets the height y. It is computed from the upper vertex, so that two
// triangles that share the edge agree on it to the last bit.
func crossing(a, b Vertex, y float64) float64 {
	if a.Y > b.Y || a.Y == b.Y && a.X > b.X {
		a, b = b, a
	}
	return float64(a.X) + (y-float64(a.Y))*(float64(b.X)-float64(a.X))/(float64(b.Y)-float64(a.Y))
}

func (p *painter) triangle(t [3]Vertex) {
	x0, y0 := float64(t[0].X), float64(t[0].Y)
	x1, y1, x2, y2 := float64(t[1].X)-x0, float64(t[1].Y)-y0, float64(t[2].X)-x0, float64(t[2].Y)-y0
	area := x1*y2 - x2*y1
	if area == 0 {
		return
	}
	// Values are linear in the place: value = v0 + dx·(x−x0) + dy·(y−y0).
	v0, v1, v2 := t[0].values(), t[1].values(), t[2].values()
	var dx, dy values
	flat := true
	for i := range v0 {
		e1, e2 := v1[i]-v0[i], v2[i]-v0[i]
		dx[i], dy[i] = (e1*y2-e2*y1)/area, (e2*x1-e1*x2)/area
		flat = flat && e1 == 0 && e2 == 0
	}
	top := min(y0, float64(t[1].Y), float64(t[2].Y))
	bottom := max(y0, float64(t[1].Y), float64(t[2].Y))
	for y := max(center(top), p.clip.Min.Y); y < min(center(bottom), p.clip.Max.Y); y++ {
		cy := float64(y) + 0.5
		from, to := math.Inf(1), math.Inf(-1)
		for i := range 3 {
			a, b := t[i], t[(i+1)%3]
			if (float64(a.Y) <= cy) != (float64(b.Y) <= cy) {
				x := crossing(a, b, cy)
				from, to = min(from, x), max(to, x)
			}
		}
		if from > to {
			continue
		}
		left, right := max(center(from), p.clip.Min.X), min(center(to), p.clip.Max.X)
		if left >= right {
			continue
		}
		at := v0
		for i := range at {
			at[i] += dx[i]*(float64(left)+0.5-x0) + dy[i]*(cy-y0)
		}
		if flat {
			p.fill(left, right, y, at)
		} else {
			p.span(left, right, y, at, dx)
		}
	}
}

// fill draws a span of one colour and one texel.
func (p *painter) fill(left, right, y int, v values) {
	alpha := v[5] * float64(p.coverage(v)) / 0xff
	if alpha < 0xff {
		p.span(left, right, y, v, values{})
		return
	}
	row := p.img.Pix[p.img.PixOffset(left, y):p.img.PixOffset(right, y)]
	copy(row, []byte{uint8(v[2]), uint8(v[3]), uint8(v[4]), 0xff})
	for done := 4; done < len(row); done *= 2 {
		copy(row[done:], row[:done])
	}
}

// coverage is the nearest texel's.
func (p *painter) coverage(v values) uint8 {
	return p.atlas.Pix[p.atlas.PixOffset(
		min(max(int(v[0]), 0), p.atlas.Rect.Max.X-1), min(max(int(v[1]), 0), p.atlas.Rect.Max.Y-1))]
}

func (p *painter) span(left, right, y int, v, dx values) {
	row := p.img.Pix[p.img.PixOffset(left, y):p.img.PixOffset(right, y)]
	for x := 0; x < len(row); x += 4 {
		share := v[5] / 0xff * float64(p.coverage(v)) / 0xff
		if share > 0 {
			for ch := range 3 {
				behind := float64(row[x+ch])
				row[x+ch] = uint8(math.Round(behind + (math.Min(math.Max(v[2+ch], 0), 0xff)-behind)*math.Min(share, 1)))
			}
		}
		for i := range v {
			v[i] += dx[i]
		}
	}
}
