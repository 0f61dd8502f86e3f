// Package picture draws vkmoe's pictures: plain data in, an image out. It knows nothing of devices or models.
//
// All coordinates are logical units with the origin at the top left; a Canvas multiplies them by its scale, so that
// the same drawing code makes a 1:1 and a sharp 2:1 picture. Text is set in the Go fonts, which are compiled in.
// A Canvas is not safe for concurrent use.
package picture

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
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

// A Style names one of the fonts a Canvas can set text in.
type Style uint8

// The styles.
const (
	Regular Style = iota
	Bold
	Mono
	MonoBold
)

// An Align says which point of a line of text its x coordinate gives.
type Align uint8

// The alignments.
const (
	Left Align = iota
	Center
	Right
)

// fonts parses the four compiled-in fonts once; their bytes are constants, so a failure is a broken build.
var fonts = sync.OnceValue(func() [4]*opentype.Font {
	var parsed [4]*opentype.Font
	for i, data := range [4][]byte{goregular.TTF, gobold.TTF, gomono.TTF, gomonobold.TTF} {
		f, err := opentype.Parse(data)
		if err != nil {
			panic(fmt.Sprintf("picture: compiled-in font %d: %v", i, err))
		}
		parsed[i] = f
	}
	return parsed
})

// faceKey identifies one font at one size in pixels.
type faceKey struct {
	style Style
	size  float64
}

// A Canvas is an image with drawing helpers in logical units.
type Canvas struct {
	img   *image.RGBA
	scale float64
	faces map[faceKey]font.Face
	buf   sfnt.Buffer
}

// NewCanvas makes a canvas of width × height logical units, filled with background, at scale pixels per unit.
func NewCanvas(width, height, scale float64, background color.Color) *Canvas {
	bounds := image.Rect(0, 0, int(math.Ceil(width*scale)), int(math.Ceil(height*scale)))
	c := &Canvas{img: image.NewRGBA(bounds), scale: scale, faces: map[faceKey]font.Face{}}
	draw.Draw(c.img, bounds, image.NewUniform(background), image.Point{}, draw.Src)
	return c
}

// Image returns the picture drawn so far. It shares the canvas's memory.
func (c *Canvas) Image() *image.RGBA { return c.img }

// pixel turns a logical coordinate into the nearest pixel edge: neighbouring rectangles meet without a seam.
func (c *Canvas) pixel(v float64) int { return int(math.Round(v * c.scale)) }

// Rect fills the rectangle with its top left corner at (x, y).
func (c *Canvas) Rect(x, y, w, h float64, fill color.Color) {
	r := image.Rect(c.pixel(x), c.pixel(y), c.pixel(x+w), c.pixel(y+h))
	draw.Draw(c.img, r, image.NewUniform(fill), image.Point{}, draw.Over)
}

// Dashed draws a vertical dashed line of the given width from (x, y) down to y+h.
func (c *Canvas) Dashed(x, y, h, width float64, stroke color.Color) {
	const dash, gap = 4, 3
	for at := 0.0; at < h; at += dash + gap {
		c.Rect(x-width/2, y+at, width, math.Min(dash, h-at), stroke)
	}
}

// face returns the font of a style at size logical units, made on first use. Hinting is off: it moves glyphs by
// different amounts at different scales, and the layout must not depend on the scale.
func (c *Canvas) face(style Style, size float64) font.Face {
	key := faceKey{style, size * c.scale}
	if f, ok := c.faces[key]; ok {
		return f
	}
	f, err := opentype.NewFace(fonts()[style], &opentype.FaceOptions{Size: key.size, DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		panic(fmt.Sprintf("picture: font at %g pixels: %v", key.size, err))
	}
	c.faces[key] = f
	return f
}

// Has reports whether a style's font has a glyph for r.
func (c *Canvas) Has(style Style, r rune) bool {
	index, err := fonts()[style].GlyphIndex(&c.buf, r)
	return err == nil && index != 0
}

// Width is the length of a line of text in logical units.
func (c *Canvas) Width(text string, style Style, size float64) float64 {
	return float64(font.MeasureString(c.face(style, size), text)) / 64 / c.scale
}

// Text sets one line with its baseline at y and returns its width in logical units.
func (c *Canvas) Text(x, y float64, text string, style Style, size float64, align Align, ink color.Color) float64 {
	width := c.Width(text, style, size)
	switch align {
	case Center:
		x -= width / 2
	case Right:
		x -= width
	}
	d := font.Drawer{Dst: c.img, Src: image.NewUniform(ink), Face: c.face(style, size)}
	d.Dot = fixed.Point26_6{X: fixed.Int26_6(math.Round(x * c.scale * 64)), Y: fixed.Int26_6(math.Round(y * c.scale * 64))}
	d.DrawString(text)
	return width
}

// Fit shortens text with an ellipsis until it is at most width logical units long.
func (c *Canvas) Fit(text string, style Style, size, width float64) string {
	if c.Width(text, style, size) <= width {
		return text
	}
	runes := []rune(text)
	for len(runes) > 0 {
		runes = runes[:len(runes)-1]
		if short := string(runes) + "…"; c.Width(short, style, size) <= width {
			return short
		}
	}
	return ""
}

// Wrap breaks text at its spaces into lines of at most width logical units; a word longer than that is shortened.
func (c *Canvas) Wrap(text string, style Style, size, width float64) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if longer := strings.TrimSpace(line + " " + word); c.Width(longer, style, size) <= width {
			line = longer
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = c.Fit(word, style, size, width)
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
