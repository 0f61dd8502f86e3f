package canvas

import (
	"fmt"
	"image"
	"math"
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// A Style names one of the compiled-in fonts, the Go fonts.
type Style uint8

// The styles.
const (
	Regular Style = iota
	Bold
	Mono
	MonoBold
)

// A Font is a style at a size in logical units per em.
type Font struct {
	Style Style
	Size  float64
}

// An Align says which point of a line of text its x coordinate gives.
type Align uint8

// The alignments.
const (
	Left Align = iota
	Center
	Right
)

// fonts parses the compiled-in fonts once; their bytes are constants, so a failure is a broken build.
var fonts = sync.OnceValue(func() [4]*opentype.Font {
	var parsed [4]*opentype.Font
	for i, data := range [4][]byte{goregular.TTF, gobold.TTF, gomono.TTF, gomonobold.TTF} {
		f, err := opentype.Parse(data)
		if err != nil {
			panic(fmt.Sprintf("canvas: compiled-in font %d: %v", i, err))
		}
		parsed[i] = f
	}
	return parsed
})

// Has reports whether a style's font has a glyph of its own for r.
func Has(style Style, r rune) bool {
	var buf sfnt.Buffer
	index, err := fonts()[style&3].GlyphIndex(&buf, r)
	return err == nil && index != 0
}

const (
	atlasWidth  = 1024 // texels
	atlasHeight = 256  // to begin with; it grows by doubling
	atlasMost   = 4096 // height from which the next Reset starts over
	whiteTexel  = 1    // both coordinates of the corner shared by four texels of full coverage
	subPixels   = 4    // places within a pixel that a glyph is drawn at
)

// An Atlas holds the glyphs drawn so far as coverage, and full coverage round texel (1, 1) for what is not a glyph. Its width
// never changes; it grows downwards.
type Atlas struct {
	image      *image.Alpha
	generation uint64
	x, y, row  int // where the next glyph goes, and the height of its row
	faces      map[faceKey]font.Face
	glyphs     map[glyphKey]glyph
}

type faceKey struct {
	style Style
	size  float64 // pixels
}

type glyphKey struct {
	face faceKey
	r    rune
	sub  int // quarters of a pixel
}

// glyph is where a glyph is in the atlas and where its box lies from the point it is drawn at.
type glyph struct {
	at     image.Rectangle
	offset image.Point
}

func newAtlas() *Atlas {
	a := &Atlas{}
	a.reset()
	return a
}

// reset forgets all glyphs.
func (a *Atlas) reset() {
	a.image = image.NewAlpha(image.Rect(0, 0, atlasWidth, atlasHeight))
	for i := range 4 {
		a.image.Pix[i%2+i/2*a.image.Stride] = 0xff
	}
	a.x, a.y, a.row = 3, 0, 3
	a.faces, a.glyphs = map[faceKey]font.Face{}, map[glyphKey]glyph{}
	a.generation++
}

// trim starts over where too much has gathered, as after many changes of scale.
func (a *Atlas) trim() {
	if a.image.Rect.Dy() >= atlasMost {
		a.reset()
	}
}

// Image is the coverage. It is replaced or changed only while something is drawn, and with it Generation.
func (a *Atlas) Image() *image.Alpha { return a.image }

// Generation changes whenever the image does; a window uploads it anew then.
func (a *Atlas) Generation() uint64 { return a.generation }

// face returns the font at a size in pixels. Hinting is off: it moves glyphs by different amounts at different scales, and the
// layout must not depend on the scale.
func (a *Atlas) face(key faceKey) font.Face {
	if f, ok := a.faces[key]; ok {
		return f
	}
	f, err := opentype.NewFace(fonts()[key.style&3], &opentype.FaceOptions{Size: key.size, DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		panic(fmt.Sprintf("canvas: font at %g pixels: %v", key.size, err))
	}
	a.faces[key] = f
	return f
}

// glyph draws a glyph into the atlas on its first use.
func (a *Atlas) glyph(key glyphKey) glyph {
	if g, ok := a.glyphs[key]; ok {
		return g
	}
	dot := fixed.Point26_6{X: fixed.Int26_6(key.sub * 64 / subPixels)}
	box, mask, at, _, ok := a.face(key.face).Glyph(dot, key.r)
	g := glyph{offset: box.Min}
	if ok && !box.Empty() {
		g.at = a.place(box.Dx(), box.Dy())
		coverage := mask.(*image.Alpha) // opentype's faces draw into one
		for y := range box.Dy() {
			from := coverage.PixOffset(at.X, at.Y+y)
			copy(a.image.Pix[a.image.PixOffset(g.at.Min.X, g.at.Min.Y+y):], coverage.Pix[from:from+box.Dx()])
		}
		a.generation++
	}
	a.glyphs[key] = g
	return g
}

// place finds room for a glyph, with a texel of nothing to its right and below.
func (a *Atlas) place(w, h int) image.Rectangle {
	if a.x+w+1 > atlasWidth {
		a.x, a.y, a.row = 0, a.y+a.row, 0
	}
	for a.y+h+1 > a.image.Rect.Dy() {
		larger := image.NewAlpha(image.Rect(0, 0, atlasWidth, 2*a.image.Rect.Dy()))
		copy(larger.Pix, a.image.Pix)
		a.image = larger
	}
	r := image.Rect(a.x, a.y, a.x+w, a.y+h)
	a.x, a.row = a.x+w+1, max(a.row, h+1)
	return r
}

// key is a font at this canvas's scale. A size outside of what can be drawn is the nearest that can.
func (c *Canvas) key(f Font) faceKey {
	return faceKey{f.Style, math.Min(math.Max(f.Size*c.scale, 1), 200)}
}

// Measure is the length of a line of text.
func (c *Canvas) Measure(text string, f Font) float64 {
	return float64(font.MeasureString(c.atlas.face(c.key(f)), text)) / 64 / c.scale
}

// Text sets one line with its baseline at y and returns its length. A character that the font lacks is a box.
func (c *Canvas) Text(x, y float64, text string, f Font, align Align, ink Color) float64 {
	length := c.Measure(text, f)
	switch align {
	case Center:
		x -= length / 2
	case Right:
		x -= length
	}
	if !(math.Abs(x*c.scale) < 1<<20 && math.Abs(y*c.scale) < 1<<20) {
		return length
	}
	key := c.key(f)
	face := c.atlas.face(key)
	dot := fixed.Int26_6(math.Round(x * c.scale * 64))
	base := int(math.Round(y * c.scale))
	previous := rune(-1)
	for _, r := range text {
		if previous >= 0 {
			dot += face.Kern(previous, r)
		}
		c.glyph(dot, base, glyphKey{face: key, r: r}, ink)
		if advance, ok := face.GlyphAdvance(r); ok {
			dot += advance
		}
		previous = r
	}
	return length
}

// glyph draws one glyph at a place in 64ths of a pixel along the line and in pixels down.
func (c *Canvas) glyph(dot fixed.Int26_6, base int, key glyphKey, ink Color) {
	quarters := int(dot+64/subPixels/2) * subPixels >> 6
	left := quarters >> 2
	key.sub = quarters & 3
	g := c.atlas.glyph(key)
	if g.at.Empty() {
		return
	}
	corner := func(x, y int) Vertex {
		return Vertex{X: float32(left + g.offset.X + x), Y: float32(base + g.offset.Y + y),
			U: float32(g.at.Min.X + x), V: float32(g.at.Min.Y + y), Color: ink}
	}
	w, h := g.at.Dx(), g.at.Dy()
	c.quad([4]Vertex{corner(0, 0), corner(w, 0), corner(w, h), corner(0, h)})
}

// Fit shortens text with an ellipsis until it is at most length long.
func (c *Canvas) Fit(text string, f Font, length float64) string {
	if c.Measure(text, f) <= length {
		return text
	}
	runes := []rune(text)
	for len(runes) > 0 {
		runes = runes[:len(runes)-1]
		if short := string(runes) + "…"; c.Measure(short, f) <= length {
			return short
		}
	}
	return ""
}

// Wrap breaks text at its spaces into lines of at most length; a word longer than that is shortened.
func (c *Canvas) Wrap(text string, f Font, length float64) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if longer := strings.TrimSpace(line + " " + word); c.Measure(longer, f) <= length {
			line = longer
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = c.Fit(word, f, length)
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
