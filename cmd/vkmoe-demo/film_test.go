package main

import (
	"bytes"
	"image"
	"image/color"
	"image/gif"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// An animation, put together frame by frame as a viewer does, shows the pictures that it was made of.
func TestFilmShowsItsPictures(t *testing.T) {
	picture := func(fill color.RGBA, box image.Rectangle) *image.RGBA {
		img := image.NewRGBA(image.Rect(0, 0, 40, 30))
		for y := range 30 {
			for x := range 40 {
				img.SetRGBA(x, y, color.RGBA{uint8(x), uint8(2 * y), 9, 255}) // more colours than a palette holds
				if image.Pt(x, y).In(box) {
					img.SetRGBA(x, y, fill)
				}
			}
		}
		return img
	}
	red := color.RGBA{200, 0, 0, 255}
	pictures := []*image.RGBA{picture(red, image.Rect(2, 3, 20, 30)), picture(red, image.Rect(2, 3, 20, 30)), picture(red, image.Rect(10, 3, 24, 11))}
	f := newFilm(10)
	for _, p := range pictures {
		f.add(p)
	}
	path := filepath.Join(t.TempDir(), "film.gif")
	require.NoError(t, f.save(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	moving, err := gif.DecodeAll(bytes.NewReader(text))
	require.NoError(t, err)
	require.Len(t, moving.Image, 2, "a picture that changes nothing has no frame")
	require.Less(t, moving.Image[1].Rect.Dx(), 30)
	shown := image.NewRGBA(image.Rect(0, 0, 40, 30))
	for i, want := range []*image.RGBA{pictures[0], pictures[2]} {
		frame := moving.Image[i]
		for y := frame.Rect.Min.Y; y < frame.Rect.Max.Y; y++ {
			for x := frame.Rect.Min.X; x < frame.Rect.Max.X; x++ {
				if c := frame.At(x, y).(color.RGBA); c.A != 0 {
					shown.SetRGBA(x, y, c)
				}
			}
		}
		for y := range 30 {
			for x := range 40 {
				a, b := shown.RGBAAt(x, y), want.RGBAAt(x, y)
				require.InDelta(t, b.R, a.R, 16, "frame %d at %d,%d", i, x, y)
				require.InDelta(t, b.G, a.G, 16)
			}
		}
	}
	require.Equal(t, lastTime, moving.Delay[1])
}
