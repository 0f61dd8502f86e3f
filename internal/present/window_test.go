//go:build desktop && linux

package present_test

import (
	"fmt"
	"image"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/canvas"
	"github.com/vkmoe/vkmoe/internal/present"
	"github.com/vkmoe/vkmoe/internal/window"
	"github.com/vkmoe/vkmoe/internal/xtest"
	"github.com/vkmoe/vkmoe/vk"
)

func TestMain(m *testing.M) { xtest.Main(m) }

const title = "canvas test"

// A shown is an open window with a presenter.
type shown struct {
	*window.Window
	*present.Presenter
	screen *xtest.Screen
	canvas *canvas.Canvas
	card   func(c *canvas.Canvas) // what is drawn
	events []window.Event
}

// open opens a window on a screen of its own. When the test ends it is closed, and validation must have found nothing.
func open(t *testing.T, dpi int) *shown {
	t.Helper()
	screen, err := xtest.Start(1400, 1000, dpi)
	require.NoError(t, err)
	t.Cleanup(screen.Stop)
	t.Setenv("DISPLAY", screen.Display)
	s := &shown{screen: screen, canvas: canvas.New(1, 1, 1), card: card}
	xtest.OnMain(func() {
		if s.Window, err = window.Open(title, 600, 400); err != nil {
			return
		}
		var instance *vk.SurfaceInstance
		if instance, err = vk.OpenSurfaceInstance(s.Extensions()...); err == nil {
			s.Presenter, err = present.New(instance, s.Window, nil)
		}
		if err != nil {
			s.Window.Close()
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		xtest.OnMain(func() {
			err = s.Presenter.Close()
			s.Window.Close()
		})
		require.NoError(t, err)
		require.Empty(t, vk.ValidationMessages())
	})
	return s
}

// draw draws one frame.
func (s *shown) draw(t *testing.T) (shown bool) {
	t.Helper()
	var err error
	xtest.OnMain(func() {
		s.events = append(s.events, s.Wait(10*time.Millisecond)...)
		width, height := s.Pixels()
		s.canvas.Reset(width, height, s.Scale())
		s.card(s.canvas)
		shown, err = s.Draw(s.canvas)
	})
	require.NoError(t, err)
	return shown
}

// drawUntil draws until it shows what is wanted.
func (s *shown) drawUntil(t *testing.T, what string, ok func(shown bool) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if ok(s.draw(t)) {
			return
		}
	}
	t.Fatalf("not within ten seconds: %s", what)
}

// drawSize draws until the window has a size in pixels and shows it.
func (s *shown) drawSize(t *testing.T, width, height int) {
	t.Helper()
	s.drawUntil(t, fmt.Sprintf("%d × %d pixels", width, height), func(shown bool) bool {
		w, h := s.canvas.Pixels()
		return shown && w == width && h == height
	})
}

func (s *shown) do(t *testing.T, args ...string) {
	t.Helper()
	_, err := s.screen.Do(append([]string{"search", "--onlyvisible", "--name", title}, args...)...)
	require.NoError(t, err)
}

// requireShown compares the screen with the canvas that was drawn last.
func (s *shown) requireShown(t *testing.T) {
	t.Helper()
	width, height := s.canvas.Pixels()
	got, err := s.screen.Window(title, width, height)
	require.NoError(t, err)
	off := xtest.Different(s.canvas.Raster(), got, 2)
	require.LessOrEqual(t, off, 0.005, "share of pixels that differ from the canvas")
}

// card draws everything that a canvas can.
func card(c *canvas.Canvas) {
	c.Clear(canvas.RGB(0x14202c))
	w, h := c.Size()
	c.Gradient(10, 10, w-20, 40, canvas.RGB(0xff2000), canvas.RGB(0x0040ff))
	font := canvas.Font{Style: canvas.Bold, Size: 16}
	c.Text(20, 36, "Where each character goes: 0123456789", font, canvas.Left, canvas.RGB(0xffffff))
	line := []canvas.Point{{X: 20, Y: h - 20}, {X: w / 3, Y: 80}, {X: w / 2, Y: h - 60}, {X: w - 20, Y: 90}}
	c.Polyline(line, 3, canvas.RGB(0x60ff90))
	c.Clip(100, 100, 120, 60)
	c.Rect(90, 90, 100, 40, canvas.RGB(0xffd040).Fade(0.5))
	c.Polygon([]canvas.Point{{X: 110, Y: 110}, {X: 400, Y: 130}, {X: 150, Y: 300}}, canvas.RGB(0xa060ff).Fade(0.7))
	c.Unclip()
	c.Frame(5, 60, w-10, h-70, 2, canvas.RGB(0x8090a0))
}

func TestWindowShowsTheCanvas(t *testing.T) {
	for _, scale := range []int{1, 2} {
		t.Run(fmt.Sprint(scale), func(t *testing.T) {
			if !xtest.Alone(t) {
				return
			}
			s := open(t, 96*scale)
			s.drawSize(t, 600*scale, 400*scale)
			require.EqualValues(t, scale, s.canvas.Scale())
			s.requireShown(t)
		})
	}
}

// Glyphs of ever new sizes make the atlas grow while earlier frames still read it, and vertices make their buffers grow.
func TestAtlasGrowsWhileItIsDrawn(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	s := open(t, 96)
	s.drawSize(t, 600, 400)
	first := s.canvas.Atlas().Image().Rect.Dy()
	lines := 1
	s.card = func(c *canvas.Canvas) {
		for i := range lines {
			font := canvas.Font{Style: canvas.Mono, Size: 9 + float64(i)}
			c.Text(float64(7*i%50), float64(20+13*i%370), "Qu. 31. Have not the small Particles of Bodies", font, canvas.Left, canvas.RGB(0x1040a0))
		}
	}
	for lines = range 36 {
		s.draw(t)
	}
	require.Greater(t, s.canvas.Atlas().Image().Rect.Dy(), first)
	s.requireShown(t)

	s.card = func(c *canvas.Canvas) { c.Clear(canvas.RGB(0x336699)) } // no triangle at all
	require.True(t, s.draw(t))
	s.requireShown(t)
}

func TestWindowIsResizedMovedMinimizedAndClosed(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	s := open(t, 96)
	s.drawSize(t, 600, 400)
	for _, size := range []image.Point{{800, 500}, {400, 333}, {1001, 640}} {
		s.do(t, "windowsize", fmt.Sprint(size.X), fmt.Sprint(size.Y))
		s.drawSize(t, size.X, size.Y)
		s.requireShown(t)
	}
	s.do(t, "windowmove", "200", "150")
	s.drawSize(t, 1001, 640)
	s.requireShown(t)

	out, err := s.screen.Do("search", "--onlyvisible", "--name", title)
	require.NoError(t, err)
	_, err = s.screen.Do("windowminimize", out)
	require.NoError(t, err)
	s.drawUntil(t, "minimized", func(shown bool) bool {
		w, h := s.canvas.Pixels()
		return !shown && w == 0 && h == 0
	})
	require.False(t, s.draw(t), "nothing is shown while it is minimized")
	_, err = s.screen.Do("windowmap", out, "windowactivate", out)
	require.NoError(t, err)
	s.drawSize(t, 1001, 640)
	s.requireShown(t)

	s.events = nil
	s.do(t, "windowactivate", "--sync", "key", "alt+F4") // the window manager's key
	s.drawUntil(t, "closing", func(bool) bool {
		for _, e := range s.events {
			if e.Kind == window.Closing {
				return true
			}
		}
		return false
	})
}

func TestKeyboardAndMouse(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	s := open(t, 192)
	s.drawSize(t, 1200, 800)
	s.do(t, "windowactivate", "--sync", "mousemove", "--window", "%1", "300", "100", "click", "1", "click", "4", "click", "5",
		"key", "k", "plus", "space", "Return", "BackSpace", "Up", "F12", "ctrl+v", "shift+Tab")
	want := []window.Event{
		{Kind: window.Move, X: 150, Y: 50}, {Kind: window.Press, X: 150, Y: 50},
		{Kind: window.Scroll, Lines: 1}, {Kind: window.Scroll, Lines: -1},
		{Kind: window.Text, Rune: 'k'}, {Kind: window.Text, Rune: '+'}, {Kind: window.Text, Rune: ' '},
		{Kind: window.Key, Name: "enter"}, {Kind: window.Key, Name: "backspace"}, {Kind: window.Key, Name: "up"},
		{Kind: window.Key, Name: "f12"}, {Kind: window.Key, Name: "ctrl+v"}, {Kind: window.Key, Name: "shift+tab"},
	}
	next := 0
	s.drawUntil(t, "all events", func(bool) bool {
		for _, e := range s.events {
			if next < len(want) && e == want[next] {
				next++
			}
		}
		s.events = nil
		return next == len(want)
	})
	xtest.OnMain(func() { s.SetClipboard("lavapipe, 22.3 – gut") })
	var text string
	xtest.OnMain(func() { text = s.Clipboard() })
	require.Equal(t, "lavapipe, 22.3 – gut", text)
}

// What a window system may answer at any time: the next frames show the picture again.
func TestLostAndOutdatedSurfaces(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	s := open(t, 96)
	s.drawSize(t, 600, 400)
	for op, results := range map[string][]int32{
		"vkAcquireNextImageKHR":                     {present.OutOfDate, present.SurfaceLost},
		"vkQueuePresentKHR":                         {present.OutOfDate, present.SurfaceLost},
		"vkGetPhysicalDeviceSurfaceCapabilitiesKHR": {present.SurfaceLost},
		"vkCreateSwapchainKHR":                      {present.OutOfDate, present.SurfaceLost},
	} {
		for _, result := range results {
			answered, renewed := false, op == "vkQueuePresentKHR"
			s.SetFault(func(at string) int32 {
				switch {
				case at == op && !answered:
					answered = true
					return result
				case at == "vkAcquireNextImageKHR" && !renewed:
					renewed = true
					return present.OutOfDate
				}
				return 0
			})
			s.drawUntil(t, fmt.Sprintf("a picture after %s returned %d", op, result), func(shown bool) bool {
				return shown && answered
			})
			s.SetFault(nil)
			s.requireShown(t)
		}
	}
}

func TestLostDevice(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	s := open(t, 96)
	s.drawSize(t, 600, 400)
	s.SetFault(func(op string) int32 {
		if op == "vkQueueSubmit" {
			return -4
		}
		return 0
	})
	var err error
	xtest.OnMain(func() { _, err = s.Draw(s.canvas) })
	require.ErrorIs(t, err, vk.ErrDeviceLost)
	require.ErrorContains(t, err, "vkQueueSubmit: VK_ERROR_DEVICE_LOST")
}

// The device that computes comes first, whichever instance it was listed by.
func TestTheComputingDeviceDraws(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	adapters, err := vk.Adapters()
	require.NoError(t, err)
	s := open(t, 96)
	require.True(t, s.Adapter().HasExtension("VK_KHR_swapchain"))
	require.True(t, slices.ContainsFunc(adapters, s.Adapter().Same))
	require.False(t, s.Adapter().Same(&vk.Adapter{Name: "another"}))
}
