//go:build desktop

package window

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"github.com/go-gl/glfw/v3.3/glfw"
)

// ErrNoDisplay says that there is no screen to open a window on.
var ErrNoDisplay = errors.New("there is no display")

// Available reports why no window can be opened here, without trying; nil when one may.
func Available() error {
	if (runtime.GOOS == "linux" || strings.HasSuffix(runtime.GOOS, "bsd")) && os.Getenv("DISPLAY") == "" {
		return fmt.Errorf("%w: DISPLAY is not set", ErrNoDisplay)
	}
	return nil
}

// A Window is a desktop window.
type Window struct {
	w      *glfw.Window
	events []Event
}

// Open opens a window of width × height logical units. There can be only one at a time.
//
// Errors: ErrNoDisplay with what the window system says.
func Open(title string, width, height int) (_ *Window, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	// go-gl logs the errors of the window system and goes on, and panics for what comes of that.
	var said bytes.Buffer
	writer, flags := log.Writer(), log.Flags()
	log.SetOutput(&said)
	log.SetFlags(0)
	defer func() {
		log.SetOutput(writer)
		log.SetFlags(flags)
		reason := recover()
		if err == nil && reason == nil {
			return
		}
		text := strings.TrimSpace(said.String())
		if text == "" {
			text = strings.TrimSpace(fmt.Sprint(errors.Join(err, asError(reason))))
		}
		err = fmt.Errorf("%w: %s", ErrNoDisplay, text)
	}()
	if err := glfw.Init(); err != nil {
		return nil, err
	}
	glfw.DefaultWindowHints() // panics where Init failed
	if !glfw.VulkanSupported() {
		return nil, errors.New("the window system's library finds no Vulkan")
	}
	glfw.WindowHint(glfw.ClientAPI, glfw.NoAPI)
	glfw.WindowHint(glfw.ScaleToMonitor, glfw.True)
	g, err := glfw.CreateWindow(width, height, title, nil, nil)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, errors.New("the window system refuses a window")
	}
	w := &Window{w: g}
	g.SetSizeLimits(320, 240, glfw.DontCare, glfw.DontCare)
	w.listen()
	return w, nil
}

func asError(reason any) error {
	if reason == nil {
		return nil
	}
	return fmt.Errorf("%v", reason)
}

// Extensions are the Vulkan instance extensions that NewSurface needs; empty where the window system has no Vulkan.
func (w *Window) Extensions() []string { return w.w.GetRequiredInstanceExtensions() }

// NewSurface makes a VkSurfaceKHR of the window. The caller destroys it, before the window is closed.
func (w *Window) NewSurface(instance unsafe.Pointer) (surface uint64, err error) {
	// go-gl returns the address of a variable of its own as a number, which keeps nothing alive: no collection may come
	// between its return and the reading.
	percent := debug.SetGCPercent(-1)
	defer debug.SetGCPercent(percent)
	type handle struct{} // go-gl wants some pointer type
	at, err := w.w.CreateWindowSurface((*handle)(instance), nil)
	if err != nil {
		return 0, fmt.Errorf("window: no Vulkan surface: %w", err)
	}
	return **(**uint64)(unsafe.Pointer(&at)), nil
}

// Pixels is the size of what the window shows, in pixels; 0 × 0 while it is minimized.
func (w *Window) Pixels() (width, height int) {
	if w.w.GetAttrib(glfw.Iconified) == glfw.True {
		return 0, 0
	}
	return w.w.GetFramebufferSize()
}

// Scale is how many pixels a logical unit has on the window's screen, in quarters: what a screen's size in millimetres gives is
// rarely meant to the last digit.
func (w *Window) Scale() float32 {
	x, y := w.w.GetContentScale()
	scale := math.Round(4*math.Max(float64(x), float64(y))) / 4
	return float32(math.Min(math.Max(scale, 1), 8))
}

// logical turns a place in the window system's units into logical ones.
func (w *Window) logical(x, y float64) (float64, float64) {
	width, height := w.w.GetSize()
	pixelsX, pixelsY := w.w.GetFramebufferSize()
	if width == 0 || height == 0 {
		return x, y
	}
	scale := float64(w.Scale())
	return x * float64(pixelsX) / float64(width) / scale, y * float64(pixelsY) / float64(height) / scale
}

// Wait sleeps until something happens, Wake is called or the time is over, and returns what happened. A time of 0 or less does
// not sleep. The slice is the window's until the next Wait.
func (w *Window) Wait(most time.Duration) []Event {
	w.events = w.events[:0]
	if most > 0 {
		glfw.WaitEventsTimeout(most.Seconds())
	} else {
		glfw.PollEvents()
	}
	return w.events
}

// Wake ends a Wait. It may be called from any goroutine while the window is open.
func (w *Window) Wake() { glfw.PostEmptyEvent() }

// SetTitle changes the title.
func (w *Window) SetTitle(title string) { w.w.SetTitle(title) }

// SetClipboard puts text on the clipboard.
func (w *Window) SetClipboard(text string) { w.w.SetClipboardString(text) }

// Clipboard is the text on the clipboard, "" when there is none.
func (w *Window) Clipboard() string { return w.w.GetClipboardString() }

// Close closes the window. Closing twice does nothing. GLFW stays initialized until the process ends: Mesa remembers what it
// asked of an X connection by its address, and the next connection at that address fails with BadRequest (22.3 was seen).
func (w *Window) Close() {
	if w.w == nil {
		return
	}
	w.w.Destroy()
	w.w = nil
}
