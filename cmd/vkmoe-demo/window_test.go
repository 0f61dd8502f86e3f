//go:build desktop && linux

package main

import (
	"bytes"
	"fmt"
	"image"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/session"
	"github.com/vkmoe/vkmoe/internal/xtest"
	"github.com/vkmoe/vkmoe/vk"
)

const programVariable = "VKMOE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" { // this process is to be the program itself
		main()
	}
	xtest.Main(m)
}

// A stage is a window onto a tiny run, with a screen, a keyboard and a mouse.
type stage struct {
	*view
	t      *testing.T
	screen *xtest.Screen
	file   string // where the run is saved
}

// tinySession is a run that takes milliseconds a step.
func tinySession(t *testing.T, file string, steps int) *session.Session {
	t.Helper()
	return newSession(t, session.Config{
		Text: []byte(strings.Repeat("All Bodies emit Light. ", 60)), TextName: "a line of Opticks", Written: 30, File: file, Steps: steps,
		Sizes: session.Sizes{Layers: 2, Width: 32, Experts: 4, Heads: 1, HeadWidth: 8, Hidden: 16, Batch: 2, Length: 32, Every: 4, Rate: 1e-2}})
}

// newSession begins a run. At the end it is closed and validation has found nothing.
func newSession(t *testing.T, cfg session.Config) *session.Session {
	t.Helper()
	s, err := session.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.Empty(t, vk.ValidationMessages())
	})
	return s
}

// setStage opens everything at a number of pixels per logical unit, and closes it at the end.
func setStage(t *testing.T, scale int, open func(file string) *session.Session) *stage {
	t.Helper()
	screen, err := xtest.Start(1500, 1100, 96*scale)
	require.NoError(t, err)
	t.Cleanup(screen.Stop)
	t.Setenv("DISPLAY", screen.Display)
	st := &stage{t: t, screen: screen, file: filepath.Join(t.TempDir(), session.FileName)}
	s := open(st.file)
	xtest.OnMain(func() { st.view, err = openView(s, windowOptions{}) })
	require.NoError(t, err)
	t.Cleanup(func() {
		xtest.OnMain(func() { err = st.close() })
		require.NoError(t, err)
	})
	st.until("the window's size", func(*dashboard.Snapshot) bool {
		w, _ := st.canvas.Pixels()
		return w > 0 && st.w.Scale() == float32(scale) && !st.dirty
	})
	_, err = screen.Do("search", "--onlyvisible", "--name", "vkmoe", "windowactivate", "--sync")
	require.NoError(t, err)
	return st
}

// until runs the window until something holds, which is asked on the window's thread.
func (st *stage) until(what string, holds func(*dashboard.Snapshot) bool) *dashboard.Snapshot {
	st.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		ok := false
		var err error
		n := st.s.Snapshot()
		xtest.OnMain(func() {
			if ok = holds(n); !ok {
				err = st.turn()
			}
		})
		require.NoError(st.t, err)
		if ok {
			return n
		}
	}
	require.FailNow(st.t, "not within half a minute", what)
	return nil
}

// do runs xdotool on the window.
func (st *stage) do(args ...string) {
	st.t.Helper()
	_, err := st.screen.Do(append([]string{"search", "--onlyvisible", "--name", "vkmoe"}, args...)...)
	require.NoError(st.t, err)
}

// key presses keys and runs the window until something holds.
func (st *stage) key(keys string, what string, holds func(*dashboard.Snapshot) bool) *dashboard.Snapshot {
	st.t.Helper()
	st.do(append([]string{"key", "--delay", "20"}, strings.Fields(keys)...)...)
	return st.until(keys+": "+what, holds)
}

// settle draws until nothing is left to be drawn.
func (st *stage) settle() {
	st.t.Helper()
	begun := time.Now()
	st.until("rest", func(n *dashboard.Snapshot) bool {
		return time.Since(begun) > 60*time.Millisecond && !st.dirty && !st.missed && n.Serial == st.seen
	})
}

// picture is what the screen shows of the window, which must be what the canvas shows when the CPU draws it.
func (st *stage) picture() *image.RGBA {
	st.t.Helper()
	st.settle()
	width, height := st.canvas.Pixels()
	img, err := st.screen.Window("vkmoe", width, height)
	require.NoError(st.t, err)
	require.LessOrEqual(st.t, xtest.Different(st.canvas.Raster(), img, 3), 0.005, "share of pixels that differ from the canvas")
	return img
}

// pointAt moves the mouse to a place in logical units, and clicks there if it shall.
func (st *stage) pointAt(x, y float64, click bool) {
	st.t.Helper()
	scale := st.canvas.Scale()
	args := []string{"mousemove", "--window", "%1", fmt.Sprint(int(x * scale)), fmt.Sprint(int(y * scale))}
	if click {
		args = append(args, "click", "1")
	}
	st.do(args...)
}

// find is a place where a click does what is wanted; the dashboard is left as it was.
func (st *stage) find(what string, wanted func() bool) (x, y float64) {
	st.t.Helper()
	width, height := st.canvas.Size()
	for y = 8; y < height; y += 8 {
		for x = 8; x < width; x += 8 {
			before := *st.board
			if do, ok := st.board.At(x, y); ok {
				do()
				found := wanted()
				*st.board = before
				if found {
					return x, y
				}
			}
		}
	}
	require.FailNow(st.t, "nowhere to click", what)
	return 0, 0
}

func paused(n *dashboard.Snapshot) bool { return n.State == dashboard.Paused }

// The window is driven as a person would drive it, in one session: keys, mouse, resizing, minimizing, closing.
func TestWindowSession(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	st := setStage(t, 1, func(file string) *session.Session { return tinySession(t, file, 0) })
	st.until("three steps", func(n *dashboard.Snapshot) bool { return n.Step >= 3 })
	st.keysSteer()
	st.mouseChooses()
	st.promptIsWritten()
	st.key("c", "the report", func(*dashboard.Snapshot) bool { return st.w.Clipboard() == st.s.Report() })
	st.windowChanges()
	st.do("windowactivate", "--sync")
	st.key("q", "closing", func(*dashboard.Snapshot) bool { return st.closing })
	require.True(t, st.over(t.Context()))
}

// keysSteer leaves the run paused.
func (st *stage) keysSteer() {
	n := st.key("space", "paused", paused)
	time.Sleep(500 * time.Millisecond)
	require.Equal(st.t, n.Step, st.s.Snapshot().Step, "no step while it is paused")
	st.key("s", "one step", func(now *dashboard.Snapshot) bool { return paused(now) && now.Step == n.Step+1 })
	before := st.picture()

	st.key("plus", "k", func(now *dashboard.Snapshot) bool { return now.K == n.K+1 })
	require.Greater(st.t, xtest.Different(before, st.picture(), 3), 0.0, "the window tells k")
	st.key("minus", "k", func(now *dashboard.Snapshot) bool { return now.K == n.K })
	st.key("d", "dense", func(now *dashboard.Snapshot) bool { return now.Dense })
	st.key("d", "experts", func(now *dashboard.Snapshot) bool { return !now.Dense && paused(now) })
	st.key("t", "another dtype", func(now *dashboard.Snapshot) bool { return now.DType != n.DType && paused(now) })
	st.key("bracketleft", "slower", func(now *dashboard.Snapshot) bool { return now.Speed < n.Speed })
	router := st.board.Router
	st.key("Down", "another layer", func(*dashboard.Snapshot) bool { return st.board.Router != router })
	st.key("ctrl+s", "saved", func(*dashboard.Snapshot) bool {
		_, err := os.Stat(st.file)
		return err == nil
	})
}

// mouseChooses expects a paused run.
func (st *stage) mouseChooses() {
	router := st.board.Router
	x, y := st.find("another layer", func() bool { return st.board.Router != router })
	st.pointAt(x, y, true)
	st.until("the layer that was clicked", func(*dashboard.Snapshot) bool { return st.board.Router != router })
	router = st.board.Router
	st.do("click", "4")
	st.until("the layer that the wheel chose", func(*dashboard.Snapshot) bool { return st.board.Router != router })

	st.pointAt(1, 1, false)
	st.settle()
	plain := len(st.canvas.Vertices())
	without := st.canvas.Raster()
	x, y = st.findTip()
	require.Greater(st.t, len(st.canvas.Vertices()), plain)
	with := st.canvas.Raster()
	box := changedBox(without, with)
	require.True(st.t, image.Pt(int(x), int(y)).In(box.Inset(-60)), "%v is beside the pointer at %g, %g", box, x, y)
	require.Less(st.t, box.Dx()*box.Dy(), with.Rect.Dx()*with.Rect.Dy()/8)
	got, err := st.screen.Picture() // with the pointer, which covers a few pixels
	require.NoError(st.t, err)
	require.False(st.t, got.Rect.Empty())

	// The button of a key does what the key does.
	x, y = st.find("the prompt", st.board.Typing)
	st.pointAt(x, y, true)
	st.until("typing", func(*dashboard.Snapshot) bool { return st.board.Typing() })
	st.key("Escape", "not typing", func(*dashboard.Snapshot) bool { return !st.board.Typing() })
}

// findTip moves the mouse over the window until something is told about what is below it.
func (st *stage) findTip() (x, y float64) {
	st.t.Helper()
	plain := len(st.canvas.Vertices())
	width, height := st.canvas.Size()
	for y = height / 2; y < height-60; y += 40 { // where the text is
		for x = 40; x < width; x += 120 {
			st.pointAt(x, y, false)
			st.settle()
			if len(st.canvas.Vertices()) > plain+60 {
				return x, y
			}
		}
	}
	require.FailNow(st.t, "the mouse finds nothing to be told about")
	return 0, 0
}

// changedBox is the smallest rectangle around what differs between two pictures.
func changedBox(a, b *image.RGBA) image.Rectangle {
	var box image.Rectangle
	for y := range a.Rect.Dy() {
		for x := range a.Rect.Dx() {
			if a.RGBAAt(x, y) != b.RGBAAt(x, y) {
				box = box.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return box
}

func (st *stage) promptIsWritten() {
	before := st.picture()
	st.key("p", "typing", func(*dashboard.Snapshot) bool { return st.board.Typing() })
	empty := st.picture()
	st.do("type", "--delay", "30", "pale Light")
	st.settle()
	typed := st.picture()
	require.Greater(st.t, xtest.Different(before, empty, 3), 0.0)
	box := changedBox(empty, typed)
	require.Greater(st.t, box.Dx(), 50, "the text that was typed is in %v", box)
	require.Less(st.t, box.Dy(), 30, "and nothing else has changed")
	n := st.key("Return", "written", func(n *dashboard.Snapshot) bool { return n.Prompt == "pale Light" && len(n.Written) > 10 })
	require.NotEqual(st.t, dashboard.Failed, n.State)
	st.until("paused again", paused)
	st.picture()
}

func (st *stage) windowChanges() {
	for _, size := range []image.Point{{X: 700, Y: 900}, {X: 420, Y: 380}, {X: 1100, Y: 700}} {
		st.do("windowsize", fmt.Sprint(size.X), fmt.Sprint(size.Y))
		st.until("the new size", func(*dashboard.Snapshot) bool {
			w, h := st.canvas.Pixels()
			return image.Pt(w, h) == size
		})
		st.picture()
	}
	id, err := st.screen.Do("search", "--onlyvisible", "--name", "vkmoe")
	require.NoError(st.t, err)
	_, err = st.screen.Do("windowminimize", id)
	require.NoError(st.t, err)
	st.until("minimized", func(*dashboard.Snapshot) bool { return st.hidden() })
	frames := st.frames
	_, err = st.screen.Do("windowmap", id, "windowactivate", id)
	require.NoError(st.t, err)
	st.until("shown again", func(*dashboard.Snapshot) bool { return st.frames > frames })
	st.picture()
}

func TestWindowAtTwiceTheScale(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	st := setStage(t, 2, func(file string) *session.Session { return tinySession(t, file, 0) })
	st.key("space", "paused", paused)
	st.do("windowsize", "1400", "1000")
	st.until("the new size", func(*dashboard.Snapshot) bool {
		w, h := st.canvas.Pixels()
		return w == 1400 && h == 1000
	})
	require.EqualValues(t, 2, st.canvas.Scale())
	st.picture()
}

// A usable window draws 20 frames a second and more while a run of the usual size has both cores. One such second within half
// a minute counts, as tests may share the machine.
func TestWindowKeepsItsRate(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	st := setStage(t, 1, func(file string) *session.Session {
		text, name, err := loadText("")
		require.NoError(t, err)
		return newSession(t, session.Config{Text: text, TextName: name, File: file})
	})
	st.until("20 frames a second beside two steps", func(n *dashboard.Snapshot) bool {
		return st.rate.perSecond >= 20 && n.State == dashboard.Training && n.Step >= 2
	})
}

// program runs the program in a process of its own.
func program(t *testing.T, display string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), programVariable+"=1", "DISPLAY="+display, "WAYLAND_DISPLAY=")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	return cmd, &said
}

func exitOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestProgramInAWindow(t *testing.T) {
	xtest.Skip(t)
	if testing.Short() {
		t.Skip("trains a model of the usual size")
	}
	screen, err := xtest.Start(1400, 900, 96)
	require.NoError(t, err)
	t.Cleanup(screen.Stop)

	t.Run("frames", func(t *testing.T) {
		cmd, said := program(t, screen.Display, "--out", t.TempDir(), "--window", "--frames", "3")
		require.Zero(t, exitOf(t, cmd), said)
	})
	t.Run("closed by the window manager", func(t *testing.T) {
		out := t.TempDir()
		cmd, said := program(t, screen.Display, "--out", out)
		_, err := screen.Do("search", "--sync", "--onlyvisible", "--name", "vkmoe.*frames", "windowactivate", "--sync", "key", "alt+F4")
		require.NoError(t, err)
		require.Zero(t, exitOf(t, cmd), said)
		require.FileExists(t, filepath.Join(out, session.FileName))
	})
	t.Run("interrupted", func(t *testing.T) {
		cmd, said := program(t, screen.Display, "--out", t.TempDir())
		_, err := screen.Do("search", "--sync", "--onlyvisible", "--name", "vkmoe.*frames")
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.Equal(t, exitInterrupted, exitOf(t, cmd), said)
	})
}

func TestProgramWithoutADisplay(t *testing.T) {
	for _, display := range []string{"", ":7654"} {
		cmd, said := program(t, display, "--out", t.TempDir(), "--window", "--steps", "1")
		require.Equal(t, exitUnusable, exitOf(t, cmd), said)
		require.Contains(t, said.String(), "display")
	}
}

// A display that turns out not to be there is no reason to train nothing, unless a window was asked for.
func TestNoWindowAfterAll(t *testing.T) {
	t.Setenv("DISPLAY", ":7654")
	o := &options{Out: t.TempDir(), Steps: 2, Prompt: "Light"}
	s := tinySession(t, "", o.Steps)
	var said bytes.Buffer
	var err error
	xtest.OnMain(func() { err = show(t.Context(), s, o, true, io.Discard, &said) })
	require.NoError(t, err)
	require.Contains(t, said.String(), "Failed to open display :7654; going on without a window")
	require.FileExists(t, filepath.Join(o.Out, pictureFile))

	o.Window = true
	xtest.OnMain(func() { err = show(t.Context(), s, o, true, io.Discard, &said) })
	require.ErrorIs(t, err, errNoWindow)
	require.Equal(t, exitUnusable, exitCode(err, true, &said))
}
