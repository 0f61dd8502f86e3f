//go:build desktop

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/internal/canvas"
	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/present"
	"github.com/vkmoe/vkmoe/internal/session"
	"github.com/vkmoe/vkmoe/internal/window"
	"github.com/vkmoe/vkmoe/vk"
)

// Window systems want the main thread, which the program's first goroutine starts on.
func init() { runtime.LockOSThread() }

// hasWindow reports whether this program was built with the window.
const hasWindow = true

// errNoWindow is what runWindow returns when it could not open a window, before anything was shown.
var errNoWindow = errors.New("no window can be opened")

// windowOptions choose how a window runs.
type windowOptions struct {
	Frames int    // drawn of the session before it closes; 0 for no end
	Prompt string // what the model goes on from when its steps are done
	Device string // that the session will open; see vk.Options
	DType  string // of the session
}

// The window's size at first, in logical units; the time between two frames while something is going on and while nothing is; the
// least one, so that a moving mouse does not take what training could have; and the time after which a frame that could not
// be shown is tried again.
const (
	windowWidth  = 1280
	windowHeight = 800
	liveWait     = time.Second / 25
	idleWait     = time.Second / 2
	leastWait    = time.Second / 50
	missedWait   = time.Second / 50
	failedWait   = 10 * time.Second // for which the window tells why the run failed
)

// A watched run is a *session.Session.
type watched interface {
	Snapshot() *dashboard.Snapshot
	Do(dashboard.Action)
	Report() string
	Done() <-chan struct{}
	Err() error
}

// A view is the window onto a session.
type view struct {
	s      watched
	w      *window.Window
	p      *present.Presenter
	board  *dashboard.Dashboard
	canvas *canvas.Canvas
	o      windowOptions

	seen    uint64    // the snapshot that was drawn last
	dirty   bool      // something else changed
	missed  bool      // the window system had no room for the newest frame
	drawn   time.Time // when the last frame began
	frames  int
	rate    frameRate
	closing bool
	failed  time.Time // when the run was first seen to have failed
	wrote   bool      // the model was asked to write at the run's end
}

// runWindow opens a window and then the session, and shows it until the window is closed, o.Frames are drawn, ctx ends, or the
// session does: at once or, where it failed, when that has been shown for some seconds. It must be called from the program's
// first goroutine. It returns the session that open made, which the caller closes.
//
// Errors: errNoWindow where no window could be opened, with nothing else done; what open returns; an unusableError for o.Device;
// and vk.ErrDeviceLost where the device that draws was lost.
func runWindow(ctx context.Context, open func() (*session.Session, error), o windowOptions) (*session.Session, error) {
	v, err := openView(o)
	var cannot unusableError
	switch {
	case errors.As(err, &cannot): // the session cannot be opened either
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errNoWindow, err)
	}
	stop := context.AfterFunc(ctx, v.w.Wake)
	opening := beginOpening(open, v.w.Wake)
	for err == nil && !v.over(ctx) {
		if s, ready := opening.look(); ready {
			if s == nil {
				break
			}
			v.begin(s)
		}
		err = v.turn()
	}
	stop()
	if errors.Is(err, vk.ErrDeviceLost) {
		err = fmt.Errorf("the device that draws the window, %s, was lost: %w", v.p.Adapter().Name, err)
	}
	err = errors.Join(err, v.close())
	s, failed := opening.wait()
	return s, errors.Join(failed, err)
}

// An opening is a session that is being opened: kernels are compiled, which takes a while on some devices.
type opening struct {
	done  chan struct{}
	s     *session.Session
	err   error
	given bool
}

// beginOpening opens a session in another goroutine and calls then.
func beginOpening(open func() (*session.Session, error), then func()) *opening {
	o := &opening{done: make(chan struct{})}
	go func() {
		o.s, o.err = open()
		close(o.done)
		then()
	}()
	return o
}

// look reports once that the opening is over; the session is nil where it failed.
func (o *opening) look() (s *session.Session, ready bool) {
	select {
	case <-o.done:
		ready, o.given = !o.given, true
		return o.s, ready
	default:
		return nil, false
	}
}

// wait returns what the opening came to.
func (o *opening) wait() (*session.Session, error) {
	<-o.done
	return o.s, o.err
}

// A starting run is what is watched before there is a session.
type starting struct{ snapshot *dashboard.Snapshot }

func (s starting) Snapshot() *dashboard.Snapshot { return s.snapshot }
func (s starting) Do(dashboard.Action)           {}
func (s starting) Report() string                { return "" }
func (s starting) Done() <-chan struct{}         { return nil }
func (s starting) Err() error                    { return nil }

// openView opens the window and what draws into it, on the device that will compute if that can. It shows a run that starts.
func openView(o windowOptions) (_ *view, err error) {
	computes, err := vk.Choose(o.Device)
	if err != nil {
		return nil, unusable(err)
	}
	first := &dashboard.Snapshot{State: dashboard.Starting, Device: computes.Name, Driver: computes.DriverInfo,
		Model: "a model is being made", DType: o.DType, Notice: "compiling the kernels"}
	v := &view{s: starting{first}, o: o, board: dashboard.New(), canvas: canvas.New(0, 0, 1), dirty: true}
	if v.w, err = window.Open("vkmoe", windowWidth, windowHeight); err != nil {
		return nil, err
	}
	instance, err := vk.OpenSurfaceInstance(v.w.Extensions()...)
	if err == nil {
		v.p, err = present.New(instance, v.w, computes)
	}
	if err != nil {
		v.w.Close()
		return nil, err
	}
	v.setTitle()
	return v, nil
}

// begin shows a session from now on.
func (v *view) begin(s watched) { v.s, v.frames, v.dirty = s, 0, true }

// close closes the window. With VKMOE_VALIDATION it returns what the validation layer has to say of all that was drawn.
func (v *view) close() error {
	err := v.p.Close()
	v.w.Close()
	wrong := slices.DeleteFunc(vk.ValidationMessages(), func(m vk.ValidationMessage) bool { return m.Severity != "error" })
	if len(wrong) > 0 {
		err = errors.Join(err, &vk.ValidationError{Messages: wrong})
	}
	return err
}

// over reports whether the window is done.
func (v *view) over(ctx context.Context) bool {
	_, waiting := v.s.(starting)
	if v.closing || ctx.Err() != nil || v.o.Frames > 0 && v.frames >= v.o.Frames && !waiting {
		return true
	}
	select {
	case <-v.s.Done():
	default:
		return false
	}
	if v.s.Err() == nil {
		return true
	}
	if v.failed.IsZero() {
		v.failed = time.Now()
	}
	return time.Since(v.failed) > failedWait
}

// turn takes what happened and draws a frame where one is due.
func (v *view) turn() error {
	for _, e := range v.w.Wait(v.patience()) {
		v.take(e)
	}
	n := v.s.Snapshot()
	if n.State == dashboard.Finished && !v.wrote && v.o.Prompt != "" {
		v.wrote = true
		v.s.Do(dashboard.Action{Kind: dashboard.Write, Text: v.o.Prompt})
	}
	wait := v.beat(n)
	if v.dirty || n.Serial != v.seen {
		wait = leastWait
	}
	if time.Since(v.drawn) < wait {
		return nil
	}
	return v.draw(n)
}

// beat is the time between two frames of an unchanged snapshot: messages and times go on while nothing else does.
func (v *view) beat(n *dashboard.Snapshot) time.Duration {
	switch n.State {
	case dashboard.Training, dashboard.Writing:
		return liveWait
	}
	return idleWait
}

// patience is how long to wait for events.
func (v *view) patience() time.Duration {
	switch {
	case v.hidden():
		return idleWait
	case v.missed:
		return missedWait
	case v.dirty:
		return leastWait - time.Since(v.drawn)
	}
	// A snapshot may come at any time.
	return min(max(v.beat(v.s.Snapshot())-time.Since(v.drawn), time.Millisecond), liveWait)
}

// hidden reports whether the window shows nothing, as while it is minimized.
func (v *view) hidden() bool {
	width, height := v.w.Pixels()
	return width == 0 || height == 0
}

// draw draws the snapshot.
func (v *view) draw(n *dashboard.Snapshot) error {
	v.drawn = time.Now()
	if v.hidden() {
		return nil
	}
	width, height := v.w.Pixels()
	v.canvas.Reset(width, height, v.w.Scale())
	v.board.Draw(v.canvas, n)
	shown, err := v.p.Draw(v.canvas)
	v.missed = !shown
	if err != nil || !shown {
		return err
	}
	v.seen, v.dirty = n.Serial, false
	v.frames++
	if v.rate.add(time.Now()) {
		v.setTitle()
	}
	return nil
}

// setTitle tells how far the run is, which device draws and, once it is known, the frame rate.
func (v *view) setTitle() {
	n := v.s.Snapshot()
	title := "vkmoe: " + n.State.String()
	if n.Step > 0 {
		title += fmt.Sprintf(", step %d", n.Step)
	}
	title += "; drawn by " + v.p.Adapter().Name
	if v.rate.perSecond > 0 {
		title += fmt.Sprintf(", %.0f frames/s", v.rate.perSecond)
	}
	v.w.SetTitle(title)
}

// A frameRate counts frames.
type frameRate struct {
	perSecond float64 // of the newest full second
	begun     time.Time
	count     int
}

// add counts a frame and reports whether perSecond is new.
func (r *frameRate) add(now time.Time) bool {
	r.count++
	elapsed := now.Sub(r.begun)
	if elapsed < time.Second {
		return false
	}
	known := !r.begun.IsZero()
	if known {
		r.perSecond = float64(r.count) / elapsed.Seconds()
	}
	r.begun, r.count = now, 0
	return known
}

// take gives an event to the dashboard, and what comes of it to the session.
func (v *view) take(e window.Event) {
	v.dirty = true
	switch e.Kind {
	case window.Key:
		if e.Name == "ctrl+v" {
			v.paste()
			return
		}
		v.do(v.board.Key(e.Name))
	case window.Text:
		if !v.board.Typing() {
			v.do(v.board.Key(keyOf(e.Rune)))
		}
		v.board.Type(e.Rune) // which ignores the key that began the typing
	case window.Move:
		v.board.Move(e.X, e.Y)
	case window.Leave:
		v.board.Move(-1, -1)
	case window.Press:
		v.do(v.board.Click(e.X, e.Y))
	case window.Scroll:
		v.board.Scroll(e.Lines)
	case window.Closing:
		v.closing = true
	}
}

// keyOf names the key of a character as the dashboard does.
func keyOf(r rune) string {
	if r == ' ' {
		return "space"
	}
	return strings.ToLower(string(r))
}

// paste types what is on the clipboard.
func (v *view) paste() {
	if !v.board.Typing() {
		return
	}
	for _, r := range v.w.Clipboard() {
		if r == '\n' {
			r = ' '
		}
		v.board.Type(r)
	}
}

// do does what a key or a click asked for.
func (v *view) do(a dashboard.Action) {
	switch a.Kind {
	case dashboard.None:
	case dashboard.Quit:
		v.closing = true
	case dashboard.Report:
		v.w.SetClipboard(v.s.Report())
		v.s.Do(a)
		v.board.Message("The report is on the clipboard.")
	default:
		v.s.Do(a)
	}
}
