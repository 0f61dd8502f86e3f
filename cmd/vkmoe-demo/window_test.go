//go:build desktop && linux

package main

import (
	"fmt"
	"image"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/session"
	"github.com/vkmoe/vkmoe/internal/xtest"
	"github.com/vkmoe/vkmoe/vk"
)

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

// A failing run fails when it is told to.
type failing struct {
	*session.Session
	done   chan struct{}
	failed *dashboard.Snapshot
}

func (f *failing) Done() <-chan struct{} { return f.done }

func (f *failing) Err() error {
	if f.failed == nil {
		return nil
	}
	return vk.ErrDeviceLost
}

func (f *failing) Snapshot() *dashboard.Snapshot {
	if f.failed != nil {
		return f.failed
	}
	return f.Session.Snapshot()
}

func TestWindowTellsWhyTheRunFailed(t *testing.T) {
	if !xtest.Alone(t) {
		return
	}
	st := setStage(t, 1, func(file string) *session.Session { return tinySession(t, file, 3) })
	run := &failing{Session: st.s.(*session.Session), done: make(chan struct{})}
	st.s = run
	st.until("all steps", func(n *dashboard.Snapshot) bool { return n.State == dashboard.Finished })
	before := st.picture()
	require.False(t, st.over(t.Context()))
	failed := *run.Session.Snapshot()
	failed.State, failed.Problem, failed.Serial = dashboard.Failed, "the device was lost at step 4", failed.Serial+1
	run.failed = &failed
	close(run.done)
	require.False(t, st.over(t.Context()), "there is something to be read")
	require.Greater(t, xtest.Different(before, st.picture(), 3), 0.0)
	st.view.failed = st.view.failed.Add(-failedWait)
	require.True(t, st.over(t.Context()))
}

// A usable window draws 20 frames a second and more while a run of the usual size has both cores. One such second within two
// minutes counts, as tests may share the machine.
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
