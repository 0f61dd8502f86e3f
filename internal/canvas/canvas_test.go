package canvas

import (
	"image"
	"image/color"
	"math"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

var (
	white = RGB(0xffffff)
	red   = RGB(0xff0000)
	blue  = RGB(0x0000ff)
)

func rgba(c Color) color.RGBA {
	r, g, b, a := c.Channels()
	return color.RGBA{R: r, G: g, B: b, A: a}
}

// inked counts the pixels of a region that are not white, each by how dark it is: 1 for black.
func inked(img *image.RGBA, r image.Rectangle) float64 {
	sum := 0.0
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			c := img.RGBAAt(x, y)
			sum += 1 - (float64(c.R)+float64(c.G)+float64(c.B))/(3*255)
		}
	}
	return sum
}

func TestVertexLayout(t *testing.T) {
	require.EqualValues(t, VertexBytes, unsafe.Sizeof(Vertex{}))
	require.Equal(t, Color(0xff563412), RGB(0x123456))
	require.Equal(t, color.RGBA{0x12, 0x34, 0x56, 0xff}, rgba(RGB(0x123456)))
	require.Equal(t, Color(0x80563412), RGB(0x123456).Fade(0.5))
	require.Equal(t, RGB(0x800080), red.Mix(blue, 0.5))
}

func TestRectCoversItsPixelsAndNoOthers(t *testing.T) {
	for _, scale := range []float32{1, 1.5, 2} {
		c := New(40, 30, scale)
		c.Rect(3, 4, 5, 6, red)
		c.Rect(8, 4, 2, 6, blue) // meets the first without a seam
		img := c.Raster()
		edge := func(v float64) int { return int(math.Round(v * float64(scale))) }
		for y := range 30 {
			for x := range 40 {
				want := white
				if y >= edge(4) && y < edge(10) && x >= edge(3) && x < edge(10) {
					want = red
					if x >= edge(8) {
						want = blue
					}
				}
				require.Equal(t, rgba(want), img.RGBAAt(x, y), "scale %g at %d,%d", scale, x, y)
			}
		}
	}
}

// Triangles that share edges cover every pixel once: half-transparent ones show neither gaps nor doubled pixels.
func TestSharedEdgesAreDrawnOnce(t *testing.T) {
	c := New(64, 64, 1)
	half := RGB(0).Fade(0.5)
	middle := solid(31.3, 30.7, half)
	corners := []Vertex{solid(0, 0, half), solid(64, 0, half), solid(64, 64, half), solid(0, 64, half)}
	for i, v := range corners {
		c.triangle(middle, v, corners[(i+1)%4])
	}
	img := c.Raster()
	for y := range 64 {
		for x := range 64 {
			require.Equal(t, color.RGBA{0x7f, 0x7f, 0x7f, 0xff}, img.RGBAAt(x, y), "at %d,%d", x, y)
		}
	}
}

func TestClipsNestAndBatch(t *testing.T) {
	c := New(20, 20, 1)
	c.Rect(0, 0, 1, 1, blue)
	c.Clip(5, 5, 10, 10)
	c.Clip(0, 0, 8, 8)
	c.Rect(0, 0, 20, 20, red)
	c.Unclip()
	c.Clip(0, 0, 5, 5) // nothing is left
	c.Rect(0, 0, 20, 20, blue)
	c.Unclip()
	c.Unclip()
	c.Unclip() // one too many
	c.Rect(1, 0, 1, 1, blue)
	require.Equal(t, []Batch{{0, 6, image.Rect(0, 0, 20, 20)}, {6, 6, image.Rect(5, 5, 8, 8)}, {12, 6, image.Rect(0, 0, 20, 20)}}, c.Batches())
	img := c.Raster()
	for y := range 20 {
		for x := range 20 {
			want := white
			switch {
			case x >= 5 && x < 8 && y >= 5 && y < 8:
				want = red
			case y == 0 && x < 2:
				want = blue
			}
			require.Equal(t, rgba(want), img.RGBAAt(x, y), "at %d,%d", x, y)
		}
	}
}

// A line's ink is its length times its width, whatever its direction, and a mitre keeps the width.
func TestLinesHaveTheirWidth(t *testing.T) {
	for _, to := range []Point{{80, 20}, {20, 80}, {70, 60}, {33, 77}} {
		for _, width := range []float64{1, 2, 3.5} {
			c := New(100, 100, 1)
			c.Line(20, 20, to.X, to.Y, width, RGB(0))
			want := width * math.Hypot(to.X-20, to.Y-20)
			require.InEpsilon(t, want, inked(c.Raster(), image.Rect(0, 0, 100, 100)), 0.05, "to %v, width %g", to, width)
		}
	}
	c := New(100, 100, 1)
	c.Polyline([]Point{{10, 80}, {10, 80}, {40, 20}, {70, 80}, {math.NaN(), 3}, {80, 10}, {90, 10}}, 3, RGB(0))
	want := 3 * (2*math.Hypot(30, 60) + 10)
	require.InEpsilon(t, want, inked(c.Raster(), image.Rect(0, 0, 100, 100)), 0.08)
}

func TestPolygonsHaveTheirArea(t *testing.T) {
	points := []Point{{10, 10}, {60, 15}, {70, 50}, {30, 80}}
	area := 0.0
	for i, p := range points {
		q := points[(i+1)%4]
		area += (p.X*q.Y - q.X*p.Y) / 2
	}
	for range 2 { // both directions
		c := New(100, 100, 1)
		c.Polygon(points, RGB(0))
		require.InEpsilon(t, area, inked(c.Raster(), image.Rect(0, 0, 100, 100)), 0.02)
		points[1], points[3] = points[3], points[1]
	}
}

func TestWhatIsNotFiniteDrawsNothing(t *testing.T) {
	c := New(20, 20, 1)
	nan, inf := math.NaN(), math.Inf(1)
	c.Line(nan, 0, 5, 5, 1, red)
	c.Polygon([]Point{{0, 0}, {inf, 3}, {4, nan}}, red)
	c.Text(nan, 5, "text", Font{Regular, 12}, Left, red)
	c.Rect(5, 5, -3, 4, red)
	c.Rect(nan, 5, 0, 4, red)
	img := c.Raster()
	require.Zero(t, inked(img, img.Rect))
	require.NotPanics(t, func() { New(-5, 3, -1).Raster() })
}

func TestTextIsDrawnWhereItIsMeasured(t *testing.T) {
	f := Font{Bold, 14}
	for _, scale := range []float32{1, 2} {
		s := float64(scale)
		for align, left := range map[Align]float64{Left: 100, Center: 0, Right: 0} {
			c := New(int(300*s), int(50*s), scale)
			length := c.Text(100, 30, "Holding", f, align, RGB(0))
			require.InDelta(t, length, New(1, 1, 1).Measure("Holding", f), 1, "the layout is the same at every scale")
			switch align {
			case Center:
				left = 100 - length/2
			case Right:
				left = 100 - length
			}
			img := c.Raster()
			all := inked(img, img.Rect)
			require.Greater(t, all, 100*s)
			box := image.Rect(int((left-1)*s), int(18*s), int((left+length+1)*s), int(34*s))
			require.InDelta(t, all, inked(img, box), 1e-9, "align %d at scale %g", align, scale)
			slice := image.Rect(int((left+length-6)*s), 0, int((left+length)*s), int(50*s))
			require.Greater(t, inked(img, slice), 5*s, "the last letter is where the measure ends")
		}
	}
}

// The same glyph at two places within a pixel has the same ink.
func TestGlyphsMoveByQuartersOfAPixel(t *testing.T) {
	var sums []float64
	for i := range 8 {
		c := New(40, 40, 1)
		c.Text(10+float64(i)/8, 30, "N", Font{Regular, 20}, Left, RGB(0))
		img := c.Raster()
		sums = append(sums, inked(img, img.Rect))
	}
	for _, s := range sums {
		require.InEpsilon(t, sums[0], s, 0.05)
	}
	require.NotEqual(t, sums[0], sums[4], "half a pixel on, other pixels are covered")
}

func TestAtlasGrowsAndKeepsWhatWasDrawn(t *testing.T) {
	c := New(2000, 300, 1)
	before := c.Atlas().Generation()
	c.Text(5, 200, "Optics", Font{Regular, 30}, Left, RGB(0))
	require.Greater(t, c.Atlas().Generation(), before)
	want := c.Raster()
	before = c.Atlas().Generation()
	c.Text(5, 200, "Optics", Font{Regular, 30}, Left, RGB(0))
	require.Equal(t, before, c.Atlas().Generation(), "nothing new")
	for size := 20; size < 120; size++ {
		c.Measure("x", Font{Mono, float64(size)})
		c.Text(-5000, 100, "ABCDEFGHIJ", Font{Mono, float64(size)}, Left, RGB(0))
	}
	require.Greater(t, c.Atlas().Image().Rect.Dy(), atlasHeight)
	for c.Atlas().Image().Rect.Dy() < atlasMost {
		for size := 120; size < 200; size++ {
			c.Text(-5000, 100, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", Font{Mono, float64(size)}, Left, RGB(0))
		}
	}
	vertices := c.Vertices()
	require.NotEmpty(t, vertices)
	got := c.Raster()
	require.InDelta(t, 2*inked(want, want.Rect), inked(got, got.Rect), inked(want, want.Rect), "the letters did not change")
	c.Reset(2000, 300, 1)
	require.Equal(t, atlasHeight, c.Atlas().Image().Rect.Dy(), "a full atlas starts over")
	c.Text(5, 200, "Optics", Font{Regular, 30}, Left, RGB(0))
	require.Equal(t, want.Pix, c.Raster().Pix)
}

func TestFitAndWrap(t *testing.T) {
	c := New(1, 1, 1)
	f := Font{Regular, 12}
	require.Equal(t, "short", c.Fit("short", f, 100))
	cut := c.Fit(strings.Repeat("long ", 20), f, 60)
	require.True(t, strings.HasSuffix(cut, "…"))
	require.LessOrEqual(t, c.Measure(cut, f), 60.0)
	require.Empty(t, c.Fit("anything", f, 1))
	lines := c.Wrap("Light is propagated in time", f, 70)
	require.Equal(t, "Light is propagated in time", strings.Join(lines, " "))
	for _, l := range lines {
		require.LessOrEqual(t, c.Measure(l, f), 70.0)
	}
	require.True(t, Has(Regular, 'é'))
	require.False(t, Has(Regular, '光'))
}

func TestFrameAndGradient(t *testing.T) {
	c := New(20, 20, 1)
	c.Frame(2, 2, 10, 8, 1, RGB(0))
	require.EqualValues(t, 2*10+2*6, inked(c.Raster(), image.Rect(0, 0, 20, 20)))
	c = New(20, 20, 1)
	c.Frame(2, 2, 10, 2, 1, RGB(0))
	require.EqualValues(t, 20, inked(c.Raster(), image.Rect(0, 0, 20, 20)))
	c = New(100, 1, 1)
	c.Clear(blue)
	c.Gradient(0, 0, 100, 1, RGB(0), white)
	img := c.Raster()
	require.InDelta(t, 127, img.RGBAAt(49, 0).R, 2)
	require.InDelta(t, 254, img.RGBAAt(99, 0).G, 2)
}
