package vk

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// registry knows the open objects of a device, without keeping tensors from the garbage collector.
type registry struct {
	trace bool

	mu   sync.Mutex
	next uint64
	open map[uint64]object
}

// object is one open tensor or recorder.
type object struct {
	kind, what string
	stack      []uintptr
	closer     closer // set for objects that hold Vulkan handles of their own
}

// closer frees an object's Vulkan handles when its device is closed first.
type closer interface{ free() }

func (r *registry) add(kind, what string) uint64 { return r.addCloser(kind, what, nil) }

func (r *registry) addCloser(kind, what string, c closer) uint64 {
	o := object{kind: kind, what: what, closer: c}
	if r.trace {
		pcs := make([]uintptr, 16)
		o.stack = pcs[:runtime.Callers(4, pcs)]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[uint64]object{}
	}
	r.next++
	r.open[r.next] = o
	return r.next
}

func (r *registry) remove(id uint64) {
	r.mu.Lock()
	delete(r.open, id)
	r.mu.Unlock()
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// each calls f for every open object that holds handles.
func (r *registry) each(f func(closer)) {
	r.mu.Lock()
	objects := slices.Collect(maps.Values(r.open))
	r.mu.Unlock()
	for _, o := range objects {
		if o.closer != nil {
			f(o.closer)
		}
	}
}

// leaks describes what is still open, oldest first, or returns nil.
func (r *registry) leaks() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) == 0 {
		return nil
	}
	e := &LeakError{}
	for _, id := range slices.Sorted(maps.Keys(r.open)) {
		o := r.open[id]
		e.Objects = append(e.Objects, Leak{Kind: o.kind, What: o.what, Stack: formatStack(o.stack)})
	}
	return e
}

func formatStack(pcs []uintptr) string {
	if len(pcs) == 0 {
		return ""
	}
	var b strings.Builder
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "\t%s\n\t\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			return b.String()
		}
	}
}

// A LeakError lists what was still open when its device was closed.
type LeakError struct{ Objects []Leak }

// A Leak is one object that was never closed: its Kind ("tensor", "recorder", …), What it is, and, when Options.TraceLeaks was
// set, the Stack that made it.
type Leak struct{ Kind, What, Stack string }

func (e *LeakError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vk: %d objects were not closed before their device:", len(e.Objects))
	for i, l := range e.Objects {
		if i == 10 {
			fmt.Fprintf(&b, "\n… and %d more", len(e.Objects)-i)
			break
		}
		fmt.Fprintf(&b, "\n%s %s", l.Kind, l.What)
		if l.Stack != "" {
			b.WriteString(" made at\n" + strings.TrimRight(l.Stack, "\n"))
		}
	}
	if e.Objects[0].Stack == "" {
		b.WriteString("\n(set VKMOE_TRACE_LEAKS=1 to see where they were made)")
	}
	return b.String()
}
