package main

import (
	"cmp"
	"image"
	"image/color"
	"image/gif"
	"io"
	"maps"
	"slices"

	"github.com/vkmoe/vkmoe/internal/dashboard"
)

// The size of an animation, in pixels.
const (
	filmWidth  = 1280
	filmHeight = 800
)

const (
	filmFrames  = 36  // of training
	filmLetters = 20  // that are written between two frames, at the end
	frameTime   = 12  // hundredths of a second
	lastTime    = 400 // of the last frame
)

// A film gathers the frames of an animation: one for every so many steps, and then the writing at the end.
type film struct {
	screen   *screen
	every    int // steps
	step     int // of the newest frame
	letters  int
	previous *image.RGBA
	out      gif.GIF
}

func newFilm(steps int) *film {
	return &film{screen: newScreen(filmWidth, filmHeight, 1), every: max(1, steps/filmFrames), step: -1}
}

// take adds a frame where it is time for one.
func (f *film) take(n *dashboard.Snapshot) {
	finishing := n.State == dashboard.Writing && n.Steps > 0 && n.Step >= n.Steps
	switch {
	case finishing && len(n.Written) >= f.letters+filmLetters:
		f.letters = len(n.Written)
	case f.step >= 0 && n.Step < f.step+f.every && !(n.State == dashboard.Finished && n.Written != ""):
		return
	case n.State == dashboard.Writing && !finishing:
		return
	default:
		f.step = n.Step
	}
	f.show(n)
}

// show adds a snapshot as a frame.
func (f *film) show(n *dashboard.Snapshot) { f.add(f.screen.draw(n).Raster()) }

// add appends a picture: of what changed since the one before, the box round it, with all in it that did not change left
// transparent.
func (f *film) add(img *image.RGBA) {
	box := changed(f.previous, img)
	if box.Empty() {
		return
	}
	palette, index := paletteOf(img, box)
	frame := image.NewPaletted(box, palette)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := img.RGBAAt(x, y)
			if f.previous != nil && f.previous.RGBAAt(x, y) == c {
				continue // index 0, transparent
			}
			frame.SetColorIndex(x, y, index(c))
		}
	}
	f.previous = img
	f.out.Image = append(f.out.Image, frame)
	f.out.Delay = append(f.out.Delay, frameTime)
	f.out.Disposal = append(f.out.Disposal, gif.DisposalNone)
}

// changed is the smallest box that holds all pixels in which two pictures differ; all of it where there is no first one.
func changed(a, b *image.RGBA) image.Rectangle {
	if a == nil {
		return b.Rect
	}
	box := image.Rectangle{}
	for y := b.Rect.Min.Y; y < b.Rect.Max.Y; y++ {
		for x := b.Rect.Min.X; x < b.Rect.Max.X; x++ {
			if a.RGBAAt(x, y) != b.RGBAAt(x, y) {
				box = box.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return box
}

// paletteOf returns colours of a part of a picture, behind a transparent one, and a function that finds the nearest to a colour
// among them. Of all colours that agree in the upper half of each channel, which are mostly the soft edges of letters, it takes the
// commonest, and then of those the commonest.
func paletteOf(img *image.RGBA, box image.Rectangle) (color.Palette, func(color.RGBA) uint8) {
	counts := map[color.RGBA]int{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			counts[img.RGBAAt(x, y)]++
		}
	}
	commoner := func(a, b color.RGBA) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	}
	buckets := map[color.RGBA]color.RGBA{}
	for c := range counts {
		upper := color.RGBA{R: c.R >> 4, G: c.G >> 4, B: c.B >> 4}
		if best, ok := buckets[upper]; !ok || commoner(c, best) < 0 {
			buckets[upper] = c
		}
	}
	colors := slices.SortedFunc(maps.Values(buckets), commoner)
	colors = colors[:min(len(colors), 255)]
	palette, found := color.Palette{color.RGBA{}}, map[color.RGBA]uint8{}
	for i, c := range colors {
		palette = append(palette, c)
		found[c] = uint8(i + 1)
	}
	return palette, func(c color.RGBA) uint8 {
		at, ok := found[c]
		if !ok {
			at = uint8(palette[1:].Index(c) + 1)
			found[c] = at
		}
		return at
	}
}

// save writes the animation, which is shown again and again.
func (f *film) save(path string) error {
	if n := len(f.out.Delay); n > 0 {
		f.out.Delay[n-1] = lastTime
	}
	return writeFile(path, func(w io.Writer) error { return gif.EncodeAll(w, &f.out) })
}
