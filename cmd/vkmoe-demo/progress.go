package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/vkmoe/vkmoe/internal/dashboard"
)

// A progress shows how far a run is.
type progress interface {
	show(n *dashboard.Snapshot)
	stop()
}

// newProgress shows a bar on a terminal and a few plain lines anywhere else.
func newProgress(w io.Writer) progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &barProgress{w: w}
	}
	return &lineProgress{w: w}
}

// news is the state of a run in a few words.
func news(n *dashboard.Snapshot) string {
	text := n.State.String()
	if len(n.Curves) == 0 {
		return text
	}
	if train := n.Curves[0].Train; len(train) > 0 {
		text += fmt.Sprintf(", loss %.2f", train[len(train)-1].Value)
	}
	if held := n.Curves[0].HeldOut; len(held) > 0 {
		text += fmt.Sprintf(", held out %.2f", held[len(held)-1].Value)
	}
	return text + fmt.Sprintf(", %.0f bytes/s", n.TokensPerSecond)
}

// barProgress is a bar that redraws itself.
type barProgress struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

func (p *barProgress) show(n *dashboard.Snapshot) {
	if p.bar == nil {
		total := n.Steps
		if total == 0 {
			total = -1 // a spinner
		}
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(p.w), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond))
	}
	// The bar's own errors are those of writing to the terminal; the run does not depend on them.
	p.bar.Describe(news(n))
	_ = p.bar.Set(n.Step)
}

func (p *barProgress) stop() { fmt.Fprintln(p.w) }

// lineProgress writes a line for every twentieth of the run, and for every 50 steps of one without an end.
type lineProgress struct {
	w    io.Writer
	next int
}

func (p *lineProgress) show(n *dashboard.Snapshot) {
	if n.Step < p.next || n.State == dashboard.Writing {
		return
	}
	every := 50
	if n.Steps > 0 {
		every = max(1, n.Steps/20)
	}
	p.next = (n.Step/every + 1) * every
	fmt.Fprintf(p.w, "step %d of %d: %s\n", n.Step, n.Steps, news(n))
}

func (p *lineProgress) stop() {}
