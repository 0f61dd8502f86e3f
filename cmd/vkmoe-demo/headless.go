package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/session"
)

// The dashboard's size in pictures, in logical units.
const (
	pictureWidth  = 1280
	pictureHeight = 800
	pictureScale  = 2
)

const (
	pollTime    = 20 * time.Millisecond
	pictureTime = 10 * time.Second // between two pictures
	rehearsals  = 4                // how often the model writes during a run, the end included
	// leastRehearsed is the number of steps from which a run is long enough to be interrupted by writing.
	leastRehearsed = 40
)

// A watcher follows a session without a window.
type watcher struct {
	s        *session.Session
	o        *options
	screen   *screen
	log      *log
	progress progress
	film     *film // nil without an animation
	begun    time.Time
	painted  time.Time
	seen     uint64
	asked    int  // texts that the model was asked for
	ending   bool // the last one among them
}

// runHeadless follows the run until its steps are done and the model has written, or until it fails.
func runHeadless(ctx context.Context, s *session.Session, o *options, stdout, stderr io.Writer) (err error) {
	w := &watcher{s: s, o: o, screen: newScreen(pictureWidth, pictureHeight, pictureScale), begun: time.Now(), progress: newProgress(stderr)}
	if err := w.paint(); err != nil { // before the work: can it be written at all?
		return unusable(err)
	}
	if w.log, err = newLog(filepath.Join(o.Out, logFile)); err != nil {
		return unusable(err)
	}
	if o.Animate != "" {
		w.film = newFilm(o.Steps)
	}
	defer func() { err = errors.Join(err, w.finish(stdout)) }()
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // the caller tells
		case <-s.Done():
			return w.look() // and so it does what ended the run
		case <-tick.C:
		}
		if err := w.look(); err != nil {
			return err
		}
		if w.over() {
			return nil
		}
	}
}

// look takes the newest snapshot in: the log, the bar, the film, now and then a picture.
func (w *watcher) look() error {
	n := w.s.Snapshot()
	if n.Serial == w.seen {
		return nil
	}
	w.seen = n.Serial
	if err := w.log.add(n); err != nil {
		return err
	}
	w.progress.show(n)
	if w.film != nil {
		w.film.take(n)
	}
	if time.Since(w.painted) > pictureTime {
		return w.paint()
	}
	return nil
}

// over lets the model write when it is time to, and reports whether the last text is done.
func (w *watcher) over() bool {
	n := w.s.Snapshot()
	if w.ending {
		return n.Answers >= w.asked
	}
	late := w.o.Limit > 0 && time.Since(w.begun) > w.o.Limit
	if n.State == dashboard.Finished || n.State == dashboard.Reading || late {
		if late && n.State == dashboard.Training {
			w.s.Do(dashboard.Action{Kind: dashboard.Pause})
		}
		w.write()
		w.ending = true
		return false
	}
	if n.Steps >= leastRehearsed && n.Step*rehearsals >= n.Steps*(w.asked+1) {
		w.write()
	}
	return false
}

// write asks the model for a text.
func (w *watcher) write() {
	w.asked++
	w.s.Do(dashboard.Action{Kind: dashboard.Write, Text: w.o.Prompt})
}

// paint writes the picture.
func (w *watcher) paint() error {
	w.painted = time.Now()
	return w.screen.save(filepath.Join(w.o.Out, pictureFile), w.s.Snapshot())
}

// finish writes what is left to be written and tells how the run went.
func (w *watcher) finish(stdout io.Writer) error {
	w.progress.stop()
	err := errors.Join(w.log.add(w.s.Snapshot()), w.log.close(), w.paint())
	if w.film != nil {
		w.film.show(w.s.Snapshot())
		err = errors.Join(err, w.film.save(w.o.Animate))
	}
	n := w.s.Snapshot()
	if n.State == dashboard.Failed {
		return err
	}
	for _, c := range n.Curves {
		if len(c.Train) > 0 && len(c.HeldOut) > 0 {
			first, last := c.HeldOut[0], c.HeldOut[len(c.HeldOut)-1]
			fmt.Fprintf(stdout, "%s, %d steps in %s: %.3f nats per byte on held-out text, %.3f before the first step\n",
				c.Name, c.Train[len(c.Train)-1].Step, time.Since(w.begun).Round(time.Second), last.Value, first.Value)
		}
	}
	if n.Prompt != "" {
		fmt.Fprintf(stdout, "\n%s%s\n\n", n.Prompt, n.Written)
	}
	fmt.Fprintf(stdout, "the picture is %s\n", filepath.Join(w.o.Out, pictureFile))
	return err
}
