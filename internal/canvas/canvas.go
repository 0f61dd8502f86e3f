// Package canvas is a display list: shapes and text become triangles over one glyph atlas, which a window uploads to a GPU as
// they are and [Canvas.Raster] draws on the CPU, pixel for pixel by the same rules. It knows nothing of devices.
//
// All drawing methods take logical units with the origin at the top left; a canvas multiplies them by its scale, so that the
// same code draws for a screen of 1 or of 2 pixels per unit. Vertices, batches and the atlas are in pixels and texels.
// Coordinates that are NaN or infinite draw nothing. A Canvas is not safe for concurrent use.
package canvas

import (
	"image"
	"math"
)

// A Color is red, green, blue and alpha from the lowest byte to the highest, not premultiplied: on a little-endian machine its
// bytes are those of VK_FORMAT_R8G8B8A8_UNORM. Colours are mixed as they are stored, without going through linear light.
type Color uint32

// RGB is the opaque colour 0xRRGGBB.
func RGB(hex uint32) Color { return Color(hex>>16&0xff | hex&0xff00 | hex&0xff<<16 | 0xff<<24) }

// Channels are the colour's four bytes.
func (c Color) Channels() (r, g, b, a uint8) {
	return uint8(c), uint8(c >> 8), uint8(c >> 16), uint8(c >> 24)
}

// Fade multiplies the colour's alpha by share, 0 to 1.
func (c Color) Fade(share float64) Color {
	alpha := math.Round(float64(c>>24) * math.Min(math.Max(share, 0), 1))
	return c&0xffffff | Color(alpha)<<24
}

// Mix is the colour at share (0 to 1) of the way to another.
func (c Color) Mix(other Color, share float64) Color {
	share = math.Min(math.Max(share, 0), 1)
	var out Color
	for shift := 0; shift < 32; shift += 8 {
		a, b := float64(c>>shift&0xff), float64(other>>shift&0xff)
		out |= Color(math.Round(a+(b-a)*share)) << shift
	}
	return out
}

// A Vertex is a corner of a triangle: its place in pixels, in the atlas in texels (not normalized, so that a growing atlas
// leaves them valid), and its colour. The alpha of a pixel is the interpolated one times the nearest texel of the atlas.
type Vertex struct {
	X, Y, U, V float32
	Color      Color
}

// VertexBytes is the size of a Vertex in memory: four floats and a word.
const VertexBytes = 20

// A Batch is a run of vertices, three to a triangle, that is drawn within Clip (pixels, inside the canvas, never empty).
type Batch struct {
	First, Count int
	Clip         image.Rectangle
}

// A Point is a place in logical units.
type Point struct{ X, Y float64 }

// A Canvas collects what is drawn.
type Canvas struct {
	width, height int // pixels
	scale         float64
	background    Color
	vertices      []Vertex
	batches       []Batch
	clips         []image.Rectangle // the stack; never empty
	atlas         *Atlas
}

// New makes an empty canvas of width × height pixels at scale pixels per logical unit. A scale that is not positive counts as
// 1, a negative size as 0.
func New(width, height int, scale float32) *Canvas {
	c := &Canvas{atlas: newAtlas()}
	c.Reset(width, height, scale)
	return c
}

// Reset empties the canvas for the next picture, perhaps of another size; the atlas stays.
func (c *Canvas) Reset(width, height int, scale float32) {
	if !(scale > 0) || math.IsInf(float64(scale), 0) {
		scale = 1
	}
	c.width, c.height, c.scale = max(width, 0), max(height, 0), float64(scale)
	c.background = RGB(0xffffff)
	c.vertices, c.batches = c.vertices[:0], c.batches[:0]
	c.clips = append(c.clips[:0], image.Rect(0, 0, c.width, c.height))
	c.atlas.trim()
}

// Clear sets the colour behind everything, white unless it is called.
func (c *Canvas) Clear(background Color) { c.background = background }

// Background is the colour behind everything.
func (c *Canvas) Background() Color { return c.background }

// Pixels is the size in pixels.
func (c *Canvas) Pixels() (width, height int) { return c.width, c.height }

// Size is the size in logical units.
func (c *Canvas) Size() (width, height float64) {
	return float64(c.width) / c.scale, float64(c.height) / c.scale
}

// Scale is how many pixels a logical unit has.
func (c *Canvas) Scale() float64 { return c.scale }

// Vertices are the corners of all triangles in drawing order; the slice is the canvas's own until Reset.
func (c *Canvas) Vertices() []Vertex { return c.vertices }

// Batches are the runs of vertices in drawing order; the slice is the canvas's own until Reset.
func (c *Canvas) Batches() []Batch { return c.batches }

// Atlas holds the glyphs that the vertices refer to.
func (c *Canvas) Atlas() *Atlas { return c.atlas }

// pixel is the nearest pixel edge: rectangles that meet in logical units meet without a seam.
func (c *Canvas) pixel(v float64) int {
	v *= c.scale
	if math.IsNaN(v) {
		return 0
	}
	return int(math.Round(math.Min(math.Max(v, -1<<24), 1<<24)))
}

// box is a rectangle in pixels.
func (c *Canvas) box(x, y, w, h float64) image.Rectangle {
	r := image.Rectangle{Min: image.Pt(c.pixel(x), c.pixel(y)), Max: image.Pt(c.pixel(x+w), c.pixel(y+h))}
	if r.Min.X >= r.Max.X || r.Min.Y >= r.Max.Y {
		return image.Rectangle{}
	}
	return r
}

// Clip keeps what is drawn until the matching Unclip within a rectangle, and within the clips around it.
func (c *Canvas) Clip(x, y, w, h float64) {
	c.clips = append(c.clips, c.box(x, y, w, h).Intersect(c.clips[len(c.clips)-1]))
}

// Unclip ends the newest Clip.
func (c *Canvas) Unclip() {
	if len(c.clips) > 1 {
		c.clips = c.clips[:len(c.clips)-1]
	}
}

// triangle adds three vertices to the batch of the current clip.
func (c *Canvas) triangle(a, b, d Vertex) {
	clip := c.clips[len(c.clips)-1]
	if clip.Empty() {
		return
	}
	for _, v := range [3]Vertex{a, b, d} {
		if !(math.Abs(float64(v.X)) < 1<<24 && math.Abs(float64(v.Y)) < 1<<24) {
			return
		}
	}
	if n := len(c.batches); n == 0 || c.batches[n-1].Clip != clip {
		c.batches = append(c.batches, Batch{First: len(c.vertices), Clip: clip})
	}
	c.batches[len(c.batches)-1].Count += 3
	c.vertices = append(c.vertices, a, b, d)
}

// solid is a vertex without a glyph, in pixels.
func solid(x, y float64, fill Color) Vertex {
	return Vertex{X: float32(x), Y: float32(y), U: whiteTexel, V: whiteTexel, Color: fill}
}

// quad draws the four corners of a convex shape in order.
func (c *Canvas) quad(v [4]Vertex) {
	c.triangle(v[0], v[1], v[2])
	c.triangle(v[0], v[2], v[3])
}

// Rect fills a rectangle with its top left corner at (x, y); its edges are those of pixels.
func (c *Canvas) Rect(x, y, w, h float64, fill Color) { c.Gradient(x, y, w, h, fill, fill) }

// Gradient fills a rectangle from one colour at its left edge to another at its right.
func (c *Canvas) Gradient(x, y, w, h float64, left, right Color) {
	r := c.box(x, y, w, h)
	if r.Empty() {
		return
	}
	x0, y0, x1, y1 := float64(r.Min.X), float64(r.Min.Y), float64(r.Max.X), float64(r.Max.Y)
	c.quad([4]Vertex{solid(x0, y0, left), solid(x1, y0, right), solid(x1, y1, right), solid(x0, y1, left)})
}

// Frame draws the inner border of a rectangle, width units wide and at least one pixel.
func (c *Canvas) Frame(x, y, w, h, width float64, stroke Color) {
	width = max(math.Round(width*c.scale), 1) / c.scale
	if w <= 2*width || h <= 2*width {
		c.Rect(x, y, w, h, stroke)
		return
	}
	c.Rect(x, y, w, width, stroke)
	c.Rect(x, y+h-width, w, width, stroke)
	c.Rect(x, y+width, width, h-2*width, stroke)
	c.Rect(x+w-width, y+width, width, h-2*width, stroke)
}
