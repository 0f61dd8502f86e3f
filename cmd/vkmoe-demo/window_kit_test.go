//go:build desktop && linux

package main

import (
	"fmt"
	"image"
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
	xtest.OnMain(func() {
		if st.view, err = openView(windowOptions{}); err == nil {
			err = st.turn() // without a session yet
			st.begin(s)
		}
	})
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
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); { // kernels are compiled on the way
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
	n := st.s.Snapshot()
	require.FailNow(st.t, "not within two minutes: "+what, "%s at step %d, k %d, %s, speed %d, typing %v, prompt %q, written %q, notice %q, frame %d",
		n.State, n.Step, n.K, n.DType, n.Speed, st.board.Typing(), n.Prompt, n.Written, n.Notice, st.frames)
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
