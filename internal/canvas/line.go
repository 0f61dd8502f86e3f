package canvas

import "math"

// feather is the width in pixels over which the edge of a line or a polygon fades: half inside, half outside.
const feather = 1.0

// Line draws a line of the given width between two points, with soft edges and flat ends.
func (c *Canvas) Line(x0, y0, x1, y1, width float64, stroke Color) {
	c.Polyline([]Point{{x0, y0}, {x1, y1}}, width, stroke)
}

// Polyline joins points by lines of the given width (at least one pixel) with soft edges. A point that is not finite
// interrupts the line.
func (c *Canvas) Polyline(points []Point, width float64, stroke Color) {
	var run []Point // in pixels, without repetitions
	for _, p := range points {
		p = Point{p.X * c.scale, p.Y * c.scale}
		if !(math.Abs(p.X) < 1<<24 && math.Abs(p.Y) < 1<<24) {
			c.stroke(run, width, stroke)
			run = run[:0]
			continue
		}
		if n := len(run); n == 0 || math.Hypot(p.X-run[n-1].X, p.Y-run[n-1].Y) > 0.05 {
			run = append(run, p)
		}
	}
	c.stroke(run, width, stroke)
}

// stroke draws one run of points in pixels: across the line alpha rises over a feather, stays, and falls.
func (c *Canvas) stroke(run []Point, width float64, stroke Color) {
	if len(run) < 2 {
		return
	}
	half := max(width*c.scale, 1) / 2
	across := [4]float64{-half - feather/2, -half + feather/2, half - feather/2, half + feather/2}
	colors := [4]Color{stroke.Fade(0), stroke, stroke, stroke.Fade(0)}
	var last [4]Vertex
	for i, p := range run {
		normal := joint(run, i)
		var row [4]Vertex
		for j := range row {
			row[j] = solid(p.X+normal.X*across[j], p.Y+normal.Y*across[j], colors[j])
		}
		if i > 0 {
			for j := range 3 {
				c.quad([4]Vertex{last[j], row[j], row[j+1], last[j+1]})
			}
		}
		last = row
	}
}

// joint is the direction across the line at a point: that of the segment at an end, and the mitre between two, long enough
// to keep the width but never more than twice as long.
func joint(run []Point, i int) Point {
	normal := func(a, b Point) Point {
		length := math.Hypot(b.X-a.X, b.Y-a.Y)
		return Point{-(b.Y - a.Y) / length, (b.X - a.X) / length}
	}
	switch i {
	case 0:
		return normal(run[0], run[1])
	case len(run) - 1:
		return normal(run[i-1], run[i])
	}
	before, after := normal(run[i-1], run[i]), normal(run[i], run[i+1])
	sum := Point{before.X + after.X, before.Y + after.Y}
	square := sum.X*sum.X + sum.Y*sum.Y // 4·cos² of half the turn
	if square < 1e-6 {
		return before
	}
	grow := min(2/square, 2/math.Sqrt(square))
	return Point{sum.X * grow, sum.Y * grow}
}

// Triangle fills a triangle.
func (c *Canvas) Triangle(a, b, d Point, fill Color) { c.Polygon([]Point{a, b, d}, fill) }

// Polygon fills a convex polygon with soft edges; of other polygons it fills the triangles of the fan round the first corner.
func (c *Canvas) Polygon(points []Point, fill Color) {
	n := len(points)
	if n < 3 {
		return
	}
	area := 0.0
	for i, p := range points {
		q := points[(i+1)%n]
		area += p.X*q.Y - q.X*p.Y
	}
	inward := 1.0 // across an edge, to the inside
	if area < 0 {
		inward = -1
	}
	inner, outer := make([]Vertex, n), make([]Vertex, n)
	for i, p := range points {
		prev, next := points[(i+n-1)%n], points[(i+1)%n]
		across := joint([]Point{prev, p, next}, 1)
		dx, dy := across.X*inward*feather/2, across.Y*inward*feather/2
		inner[i] = solid(p.X*c.scale+dx, p.Y*c.scale+dy, fill)
		outer[i] = solid(p.X*c.scale-dx, p.Y*c.scale-dy, fill.Fade(0))
	}
	for i := 2; i < n; i++ {
		c.triangle(inner[0], inner[i-1], inner[i])
	}
	for i := range n {
		j := (i + 1) % n
		c.quad([4]Vertex{inner[i], inner[j], outer[j], outer[i]})
	}
}
