package vk

import (
	"context"
	"fmt"
	"sync"

	vulkan "github.com/vulkan-go/vulkan"
)

// A Recorder collects dispatches, fills and copies once and submits them any number of times. It derives the barriers
// between them from the tensors each one declares to read and write. Nothing runs before Submit.
//
// Errors are sticky: after the first one every call does nothing and Submit returns it. A Recorder is not safe for
// concurrent use while recording; once recorded, Submit may be called from several goroutines. What two submissions
// of the same recorder write, they both write: submissions of one device run in the order of Submit.
type Recorder struct {
	dev  *Device
	id   uint64
	pool vulkan.CommandPool
	err  error

	segments []vulkan.CommandBuffer // one batch each
	open     bool                   // the last segment is being recorded
	cost     float64                // estimated FLOPs in the open segment
	hazards  hazards
	used     map[*tensorMemory]*Tensor
	scratch  scratch
	checks   []resultCheck
	timer    timer
	kernels  pipelineLog

	mu     sync.Mutex
	sealed []vkHandle // the finished segments, set by the first Submit
	last   uint64     // newest submission
	closed bool
}

// A Dispatch is one kernel launch.
type Dispatch struct {
	Kernel       *Kernel
	Spec         []uint32 // specialization values in the order of Kernel.Spec; nil means the defaults
	SubgroupSize uint32   // required subgroup size, 0 for the driver's choice
	Push         []byte   // Kernel.PushBytes bytes

	// Exactly one of Groups, Linear and Indirect says how many work-groups run. Linear folds a count over the three
	// axes within the device's limits, so a few more run than asked: the kernel drops ids past its own count.
	// Indirect names a U32 tensor that holds the three counts when the dispatch begins, IndirectOffset bytes in.
	Groups         [3]uint32
	Linear         uint64
	Indirect       *Tensor
	IndirectOffset uint64

	Reads, Writes []*Tensor // every tensor the kernel touches; nil entries are skipped
	Label         string    // names the dispatch in timings and errors; empty means the kernel's name
	FLOPs         float64   // estimate, for splitting long recordings into batches
}

// NewRecorder makes an empty recorder.
// It fails where the device is closed or lost (ErrClosed, ErrDeviceLost).
func (d *Device) NewRecorder() (*Recorder, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	pool, err := d.commandPool()
	if err != nil {
		return nil, err
	}
	r := &Recorder{dev: d, pool: pool, used: map[*tensorMemory]*Tensor{}}
	r.scratch.rec, r.timer.dev = r, d
	r.id = d.objects.addCloser("recorder", "", r)
	return r, nil
}

// Device is the device the recorder records for.
func (r *Recorder) Device() *Device { return r.dev }

// Err returns the first error, or nil.
func (r *Recorder) Err() error { return r.err }

// Fail makes err the recorder's error unless it has one already, and returns the recorder's error. Layers use it to
// refuse bad arguments where they are recorded.
func (r *Recorder) Fail(err error) error {
	if r.err == nil {
		r.err = err
	}
	return r.err
}

// Dispatch records one kernel launch. It refuses, through Err, what the device could not run: missing features, too
// much shared memory, too large work-groups, wrong push-constant or specialization lengths, closed tensors.
func (r *Recorder) Dispatch(d Dispatch) {
	if r.err != nil {
		return
	}
	if d.Label == "" && d.Kernel != nil {
		d.Label = d.Kernel.Name()
	}
	groups, err := r.groups(&d)
	if err == nil && d.Indirect == nil && groups == [3]uint32{} {
		return // an empty batch launches nothing
	}
	var p *pipeline
	if err == nil {
		p, err = r.prepare(&d)
	}
	if err != nil {
		r.Fail(fmt.Errorf("%s: %w", d.Label, err))
		return
	}
	r.kernels.add(p, &d)
	cb, ok := r.access(d.Reads, d.Writes, d.FLOPs, d.Indirect != nil)
	if !ok {
		return
	}
	if d.Indirect != nil {
		m := d.Indirect.mem.alloc
		r.dev.cmds.dispatchIndirect(cb, p.handle, r.dev.pipes.layoutHandle(), d.Push, handleOf(m.block.buffer),
			m.offset+d.Indirect.offset+d.IndirectOffset)
	} else {
		r.dev.cmds.dispatch(cb, p.handle, r.dev.pipes.layoutHandle(), d.Push, groups)
	}
	r.dev.dispatches.Add(1)
	r.timer.mark(r, cb, d.Label)
}

// prepare checks a dispatch's arguments and gets its pipeline.
func (r *Recorder) prepare(d *Dispatch) (*pipeline, error) {
	if d.Kernel == nil {
		return nil, &ShapeError{Op: "Dispatch", Arg: "kernel", Want: "a kernel", Got: "nil"}
	}
	if len(d.Push) != int(d.Kernel.PushBytes) {
		return nil, &ShapeError{Op: "Dispatch", Arg: "push constants", Want: fmt.Sprintf("%d bytes", d.Kernel.PushBytes),
			Got: fmt.Sprintf("%d", len(d.Push))}
	}
	return r.dev.pipes.get(PipelineSpec{d.Kernel, d.Spec, d.SubgroupSize})
}

// groups works out the three work-group counts of a dispatch.
func (r *Recorder) groups(d *Dispatch) ([3]uint32, error) {
	limit := r.dev.adapter.Caps.MaxWorkgroupCount
	if d.Indirect != nil {
		if end := d.IndirectOffset + 12; end > d.Indirect.Bytes() || d.IndirectOffset%4 != 0 {
			return [3]uint32{}, &ShapeError{Op: "Dispatch", Arg: "indirect offset", Want: "12 bytes inside the tensor",
				Got: fmt.Sprint(d.IndirectOffset)}
		}
		d.Reads = append(d.Reads[:len(d.Reads):len(d.Reads)], d.Indirect)
		return [3]uint32{}, nil
	}
	g := d.Groups
	if d.Linear > 0 {
		g = foldGroups(d.Linear, limit)
	}
	if g[0] == 0 || g[1] == 0 || g[2] == 0 {
		return [3]uint32{}, nil
	}
	for i := range g {
		if g[i] > limit[i] {
			return g, &ShapeError{Op: "Dispatch", Arg: fmt.Sprintf("work-groups on axis %d", i),
				Want: fmt.Sprintf("at most %d", limit[i]), Got: fmt.Sprint(g[i])}
		}
	}
	return g, nil
}

// foldGroups spreads n work-groups over three axes with as little excess as the limits allow.
func foldGroups(n uint64, limit [3]uint32) [3]uint32 {
	if n <= uint64(limit[0]) {
		return [3]uint32{uint32(n), 1, 1}
	}
	rows := (n + uint64(limit[0]) - 1) / uint64(limit[0])
	layers := (rows + uint64(limit[1]) - 1) / uint64(limit[1])
	rows = (rows + layers - 1) / layers
	width := (n + rows*layers - 1) / (rows * layers)
	return [3]uint32{uint32(width), uint32(rows), uint32(min(layers, 1<<32-1))}
}

// Fill sets every 32-bit word of t to word.
func (r *Recorder) Fill(t *Tensor, word uint32) {
	if r.err != nil || t.Bytes() == 0 {
		return
	}
	bytes := t.Bytes()
	if !t.view {
		bytes = (bytes + 3) &^ 3 // a root tensor owns its padding
	}
	if bytes%4 != 0 || t.offset%4 != 0 {
		r.Fail(&ShapeError{Op: "Fill", Arg: "view", Want: "whole 32-bit words", Got: fmt.Sprintf("%v at byte %d", t, t.offset)})
		return
	}
	cb, ok := r.access(nil, []*Tensor{t}, 0, false)
	if !ok {
		return
	}
	r.dev.cmds.fill(cb, handleOf(t.mem.alloc.block.buffer), t.mem.alloc.offset+t.offset, bytes, word)
	r.timer.mark(r, cb, "fill")
}

// Copy copies src to dst, which must have the same size in bytes and not overlap it.
func (r *Recorder) Copy(dst, src *Tensor) {
	if r.err != nil {
		return
	}
	if dst.Bytes() != src.Bytes() {
		r.Fail(&ShapeError{Op: "Copy", Arg: "dst", Want: fmt.Sprintf("%d bytes", src.Bytes()), Got: fmt.Sprint(dst.Bytes())})
		return
	}
	if src.Bytes() == 0 {
		return
	}
	if a, b := src.Address(), dst.Address(); a < b+dst.Bytes() && b < a+src.Bytes() {
		r.Fail(&ShapeError{Op: "Copy", Arg: "dst", Want: "no overlap with src", Got: "overlapping ranges"})
		return
	}
	cb, ok := r.access([]*Tensor{src}, []*Tensor{dst}, 0, false)
	if !ok {
		return
	}
	s, d := src.mem.alloc, dst.mem.alloc
	r.dev.cmds.copy(cb, handleOf(s.block.buffer), s.offset+src.offset, handleOf(d.block.buffer), d.offset+dst.offset, src.Bytes())
	r.timer.mark(r, cb, "copy")
}

// access declares what the next command touches, puts the barrier it needs before it and returns the command buffer
// to record it into. counts says that the command reads its counts of work-groups from memory: it always gets a barrier that
// names that reading. Others do not name it, as drivers then have their front end wait for all work, 2.5 µs each time on an H100.
func (r *Recorder) access(reads, writes []*Tensor, flops float64, counts bool) (vkHandle, bool) {
	for _, list := range [2][]*Tensor{reads, writes} {
		for _, t := range list {
			if t == nil {
				continue
			}
			if err := t.check(r.dev, "record"); err != nil {
				r.Fail(err)
				return 0, false
			}
			if t.mem.alloc != nil {
				r.used[t.mem] = t
			}
		}
	}
	if r.dev.opts.CompileOnly {
		return 0, false
	}
	cb, ok := r.segment(flops)
	if ok && r.hazards.conflict(reads, writes, counts) {
		r.dev.cmds.barrier(cb, counts)
	}
	return cb, ok
}

// Submit puts the recording on the device's queue, in one vkQueueSubmit, and returns without waiting. It may be called
// again at once; the submissions run one after the other.
// It fails with the recorder's error (Err), with ErrClosed or ErrCompileOnly, or with a
// *ResultError such as one that is ErrDeviceLost.
func (r *Recorder) Submit() (*Pending, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ready(); err != nil {
		return nil, err
	}
	value, err := r.dev.submit(r.sealed)
	if err != nil {
		return nil, err
	}
	r.last = value
	return &Pending{rec: r, value: value}, nil
}

// ready seals the recording and checks that everything it uses is still there. The caller holds mu.
func (r *Recorder) ready() error {
	if r.closed {
		return fmt.Errorf("recorder: %w", ErrClosed)
	}
	if r.err != nil {
		return r.err
	}
	if err := r.dev.runs(); err != nil {
		return err
	}
	if r.sealed == nil {
		if _, ok := r.segment(0); !ok {
			return r.err
		}
		for i := range r.checks {
			r.checks[i].record(r)
		}
		if r.Fail(r.dev.end(r.segments[len(r.segments)-1])) != nil {
			return r.err
		}
		for _, s := range r.segments {
			r.sealed = append(r.sealed, handleOf(s))
		}
	}
	for m, t := range r.used {
		if m.closed.Load() {
			return fmt.Errorf("recorder: it uses tensor %v: %w", t, ErrClosed)
		}
	}
	return nil
}

// Run submits the recording and waits for it.
// Errors are those of Submit and of Pending.Wait.
func (r *Recorder) Run(ctx context.Context) error {
	p, err := r.Submit()
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}

// Close waits for the recorder's submissions, frees its scratch tensors and gives its memory back. Closing twice does
// nothing.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.dev.closed.Load() {
		r.closed = true
		return nil
	}
	r.closed = true
	var err error
	if !r.dev.lost.Load() {
		err = r.dev.note(r.dev.timeline.wait(context.Background(), r.last))
	}
	r.free()
	r.dev.objects.remove(r.id)
	r.scratch.close()
	for _, c := range r.checks {
		r.dev.retire(c.host, r.dev.staging)
	}
	return err
}

// free gives the Vulkan handles back.
func (r *Recorder) free() {
	r.timer.free()
	vulkan.DestroyCommandPool(r.dev.handle, r.pool, nil)
}

// A Pending is one submission on its way.
type Pending struct {
	rec   *Recorder
	value uint64
}

// Wait blocks until the submission has finished or ctx ends, and returns the first failed Check, a *ValidationError
// when layers are on and found fault, or ErrDeviceLost. When ctx ends the GPU goes on: the tensors must stay open
// until a later Wait has returned.
func (p *Pending) Wait(ctx context.Context) error {
	d := p.rec.dev
	if d.closed.Load() {
		return fmt.Errorf("device %s: %w", d.adapter.Name, ErrClosed)
	}
	if err := d.note(d.timeline.wait(ctx, p.value)); err != nil {
		return err
	}
	return p.rec.evaluate()
}

// Done reports whether the submission has finished.
func (p *Pending) Done() bool {
	done, err := p.rec.dev.timeline.done()
	return err == nil && done >= p.value
}
