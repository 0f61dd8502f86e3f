package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// A Pool runs cases in workers.
type Pool struct {
	Command  []string // starts a worker
	Env      []string // added to its environment, "NAME=value"
	Jobs     int      // workers at once; 0 means one per processor for a CPU driver and one for a GPU
	Timeout  time.Duration
	Retries  int // how often a bad case is run again, in a worker of its own, to tell flakes
	Seed     uint64
	Evidence string
	Waivers  []conform.Waiver
	Repro    func(name string) string      // the command that runs one case
	Done     func(conform.Result)          // called after each case, one at a time
	Warn     func(format string, a ...any) // what does not belong to a case

	mu     sync.Mutex
	device conform.Device
}

// startLimit is how long a worker may take to open its device, stopLimit to close it.
const (
	startLimit = 2 * time.Minute
	stopLimit  = time.Minute
	// maxRetried bounds how many cases are run again: a driver that fails everything fails everything.
	maxRetried = 40
)

// Run runs all cases and returns their results in the cases' order, with the device. It fails when no worker can be
// started at all. When ctx ends it returns what has been run, and warns.
func (p *Pool) Run(ctx context.Context, cases []conform.Case) (conform.Device, []conform.Result, error) {
	first, hello, err := start(p.Command, p.Env, startLimit)
	if err != nil {
		return conform.Device{}, nil, err
	}
	p.device = *hello.Device
	jobs := p.Jobs
	if jobs == 0 {
		jobs = 1
		if p.device.Type == "software" {
			jobs = runtime.NumCPU()
		}
	}
	results := make([]conform.Result, len(cases))
	next := make(chan int)
	var wait sync.WaitGroup
	for i := range min(jobs, max(1, len(cases))) {
		w := &worker{pool: p}
		if i == 0 {
			w.process = first
		}
		wait.Go(func() {
			for i := range next {
				r := w.run(cases[i].Name, 0)
				if ctx.Err() != nil && r.Status.Bad() {
					continue // the interrupt ended its worker
				}
				p.finish(&r)
				results[i] = r
			}
			w.end()
		})
	}
	for i := range cases {
		if ctx.Err() != nil {
			break
		}
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wait.Wait()
	if ctx.Err() != nil {
		done := slices.DeleteFunc(results, func(r conform.Result) bool { return r.Name == "" })
		p.warn("interrupted: %d of %d cases were run", len(done), len(cases))
		return p.device, done, nil
	}
	p.retry(results)
	return p.device, results, nil
}

// finish names the command that repeats a bad case, waives it where that is known, and reports it.
func (p *Pool) finish(r *conform.Result) {
	if r.Status.Bad() && p.Repro != nil {
		r.Repro = p.Repro(r.Name)
	}
	conform.Waive(r, p.Waivers, p.device)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Done != nil {
		p.Done(*r)
	}
}

// retry runs bad cases again, each in a new process.
func (p *Pool) retry(results []conform.Result) {
	retried := 0
	for i := range results {
		r := &results[i]
		if !r.Status.Bad() || p.Retries == 0 {
			continue
		}
		if retried++; retried > maxRetried {
			p.warn("more than %d bad cases: the others are not run again", maxRetried)
			return
		}
		r.Attempts = []conform.Status{r.Status}
		for attempt := 1; attempt <= p.Retries; attempt++ {
			w := &worker{pool: p, before: r.Status == conform.Crash || r.Status == conform.Timeout}
			again := w.run(r.Name, attempt)
			w.end()
			if w.before {
				r.Evidence = p.evidence(r.Name)
			}
			r.Attempts = append(r.Attempts, again.Status)
			r.Flaky = r.Flaky || again.Status != r.Status
			if again.Status == conform.Timeout {
				break // it would take as long once more
			}
		}
	}
}

// evidence is the folder that a case which ended its process left, empty where it got no further than to be recorded.
func (p *Pool) evidence(name string) string {
	dir := filepath.Join(p.Evidence, name)
	if _, err := os.Stat(dir); p.Evidence == "" || err != nil {
		return ""
	}
	return dir
}

func (p *Pool) warn(format string, a ...any) {
	if p.Warn != nil {
		p.Warn(format, a...)
	}
}

// worker is one place of the pool: a process and its successors.
type worker struct {
	pool    *Pool
	process *process
	before  bool // Request's Before
}

// run runs one case and tells what became of it.
func (w *worker) run(name string, attempt int) conform.Result {
	p := w.pool
	if w.process == nil {
		proc, hello, err := start(p.Command, p.Env, startLimit)
		if err != nil { // the driver did not recover from the case before
			return conform.Result{Name: name, Status: conform.Crash, Reason: "no worker could be started: " + err.Error()}
		}
		if hello.Device.Name != p.device.Name {
			p.warn("a new worker got %s instead of %s", hello.Device.Name, p.device.Name)
		}
		w.process = proc
	}
	limit := p.Timeout
	if c, found := conform.Find(name); found && c.Limit > 0 {
		limit = min(limit, c.Limit)
	}
	var r conform.Result
	begin := time.Now()
	err := w.process.ask(Request{name, p.Seed, p.Evidence, attempt, w.before})
	if err == nil {
		err = w.process.answer(&r, limit)
	}
	if err == nil {
		if r.Status == conform.Lost {
			w.end()
		}
		return r
	}
	how := w.process.kill()
	output := w.process.output.String()
	w.process = nil
	r = conform.Result{Name: name, Status: conform.Crash, Seconds: time.Since(begin).Seconds(), Output: output,
		Reason: "its process ended: " + how}
	switch {
	case errors.Is(err, errTimeout):
		r.Status, r.Reason = conform.Timeout, fmt.Sprintf("no result within %v", limit)
	case !errors.Is(err, io.EOF):
		r.Reason += fmt.Sprintf(" (%v)", err)
	}
	return r
}

// end ends the worker's process. A device that does not close cleanly has leaked or lost something.
func (w *worker) end() {
	if w.process == nil {
		return
	}
	if err := w.process.stop(stopLimit); err != nil {
		w.pool.warn("%v", err)
	}
	w.process = nil
}
