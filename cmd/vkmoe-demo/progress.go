package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress shows how many submissions are done.
type progress interface {
	start(total int)
	add()
	stop()
}

// newProgress shows a bar on a terminal and a few plain lines anywhere else.
func newProgress(w io.Writer) progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &barProgress{w: w}
	}
	return &lineProgress{w: w}
}

// barProgress is a bar that redraws itself.
type barProgress struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

func (p *barProgress) start(total int) {
	p.bar = progressbar.NewOptions(total,
		progressbar.OptionSetWriter(p.w),
		progressbar.OptionSetDescription("routing"),
		progressbar.OptionShowCount(),
		progressbar.OptionSetItsString("submits"),
		progressbar.OptionShowIts(),
		progressbar.OptionSetWidth(30),
		progressbar.OptionThrottle(50*time.Millisecond),
	)
}

// The bar's own errors are those of writing to the terminal; the run does not depend on them.
func (p *barProgress) add() { _ = p.bar.Add(1) }

func (p *barProgress) stop() { fmt.Fprintln(p.w) }

// lineProgress writes a line for every quarter of the work.
type lineProgress struct {
	w           io.Writer
	done, total int
}

func (p *lineProgress) start(total int) { p.total = total }

func (p *lineProgress) add() {
	before := 4 * p.done / p.total
	p.done++
	if now := 4 * p.done / p.total; now > before {
		fmt.Fprintf(p.w, "routing: %d of %d submits (%d %%)\n", p.done, p.total, 100*p.done/p.total)
	}
}

func (p *lineProgress) stop() {}
