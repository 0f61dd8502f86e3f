package vk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// Options choose and configure a device. The zero value is the usual choice.
type Options struct {
	// Device is an index from Adapters or part of a device's or driver's name, in any case. Empty means the
	// environment variable VKMOE_DEVICE, and when that is empty too, the best usable device.
	Device string
	// Disable switches features off beside those in the environment variable VKMOE_DISABLE.
	Disable []Feature
	// Validation turns the Khronos validation layer on, as VKMOE_VALIDATION=1 does. Its errors are returned by the
	// call that caused them as a *ValidationError.
	Validation bool
	// TraceLeaks keeps the stack of every creation, so that Close can say where a leaked object came from.
	// VKMOE_TRACE_LEAKS=1 does the same.
	TraceLeaks bool
	// Timestamps makes recorders time every labelled operation on the GPU.
	Timestamps bool
	// StagingBytes is the size of the pinned memory through which uploads and downloads pass. 0 means 64 MiB.
	StagingBytes uint64
	// CacheDir is where compiled pipelines are kept between processes. Empty means vkmoe/ under os.UserCacheDir.
	CacheDir string
	// NoCache keeps compiled pipelines in memory only.
	NoCache bool
	// MaxAllocation lowers the largest tensor in bytes below what the device allows, for example to test what is split.
	// 0 means the device's own limit.
	MaxAllocation uint64
	// CompileOnly opens a device for its compiler alone, also one that only pretends to be there, as RADV does with
	// RADV_FORCE_FAMILY: tensors have addresses but no memory, Upload drops what it is given, a Recorder records nothing but
	// Pipelines, and Submit and Download fail with ErrCompileOnly.
	CompileOnly bool
}

// A Device is one GPU made ready for work: its queue, memory, pipelines and the objects made from it.
//
// All methods of a Device may be called from several goroutines at once. Close must be the last call.
type Device struct {
	opts     Options
	instance *instance
	adapter  *Adapter
	handle   vulkan.Device
	cmds     *cmds
	timeline *timeline
	memory   *heap // tensors
	staging  *heap // host-visible memory for transfers and checks
	ring     *stagingRing
	pipes    *pipelineSet
	objects  registry
	mark     atomic.Uint64 // validation messages before it have been reported

	timestamps atomic.Bool
	closed     atomic.Bool
	lost       atomic.Bool
	submits    atomic.Uint64
	dispatches atomic.Uint64

	values sync.Map // of Value: any to *deviceValue

	retiredMu sync.Mutex
	retired   []retired // in submission order
}

// retired is memory whose tensor is closed but which submissions up to value may still use.
type retired struct {
	value uint64
	alloc *allocation
	heap  *heap
}

// Open makes a device ready. It fails with ErrNoLoader when the machine has no Vulkan loader, with ErrNoDevice when no
// device has what vkmoe needs, with a *DeviceChoiceError when the device asked for is not there, and with a
// *ResultError when the driver refuses.
func Open(opts Options) (*Device, error) {
	if opts.Device == "" {
		opts.Device = os.Getenv(deviceVariable)
	}
	opts.TraceLeaks = opts.TraceLeaks || os.Getenv("VKMOE_TRACE_LEAKS") == "1"
	in, err := acquireInstance(opts.Validation)
	if err != nil {
		return nil, err
	}
	return open(in, opts)
}

func open(in *instance, opts Options) (*Device, error) {
	adapters, err := in.adapters()
	if err != nil {
		return nil, err
	}
	if opts.CompileOnly {
		for _, a := range adapters {
			if a.compiles {
				a.Unusable = nil
			}
		}
	}
	a, err := chooseAdapter(adapters, opts.Device)
	if err != nil {
		return nil, err
	}
	if err := checkFeatures(opts.Disable); err != nil {
		return nil, err
	}
	a.disable(opts.Disable)
	if opts.MaxAllocation > 0 {
		a.Caps.MaxAllocationBytes = min(a.Caps.MaxAllocationBytes, opts.MaxAllocation)
	}
	d := &Device{opts: opts, instance: in, adapter: a}
	d.mark.Store(in.mark())
	d.objects.trace = opts.TraceLeaks
	d.timestamps.Store(opts.Timestamps)
	handle, queue, err := a.createLogical(in)
	if err != nil {
		return nil, err
	}
	d.handle = handle
	if err := d.prepare(queue); err != nil {
		d.destroy()
		return nil, err
	}
	return d, nil
}

func (d *Device) prepare(queue vulkan.Queue) (err error) {
	if d.cmds, err = loadCmds(loader.getInstanceProcAddr, d.instance.handle, d.handle, queue); err != nil {
		return err
	}
	if d.timeline, err = newTimeline(d.cmds, d.handle, d.adapter.Caps.Has(kernel.Timeline) && !d.opts.CompileOnly); err != nil {
		return err
	}
	if d.opts.CompileOnly {
		d.memory, d.staging = &heap{dev: d, pretended: true}, &heap{dev: d, pretended: true}
	} else if err = d.pickHeaps(); err != nil {
		return err
	}
	if d.pipes, err = newPipelineSet(d); err != nil {
		return err
	}
	d.ring = newStagingRing(d, d.opts.StagingBytes)
	return nil
}

// pickHeaps chooses the memory types for tensors and for staging.
func (d *Device) pickHeaps() error {
	const local = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyDeviceLocalBit)
	const host = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyHostVisibleBit | vulkan.MemoryPropertyHostCoherentBit)
	const cached = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyHostCachedBit)
	types := d.adapter.memoryTypes
	direct := d.adapter.Caps.Has(kernel.DirectMap)
	var tensors int
	if direct {
		tensors = pickMemoryType(types, local|host, cached, 0)
	} else {
		// Mappable device memory is a small window on many discrete GPUs: leave it to those who ask for it.
		tensors = pickMemoryType(types, local, 0, vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyHostVisibleBit))
	}
	staging := pickMemoryType(types, host, cached, local)
	if tensors < 0 || staging < 0 {
		return fmt.Errorf("%w: %s has no device-local or no host-visible coherent memory type", ErrNoDevice, d.adapter.Name)
	}
	d.memory = &heap{dev: d, memoryType: uint32(tensors), mappable: direct}
	d.staging = &heap{dev: d, memoryType: uint32(staging), mappable: true}
	return nil
}

// Adapter describes the physical device.
func (d *Device) Adapter() *Adapter { return d.adapter }

// Caps returns the device's features and limits.
func (d *Device) Caps() *Capabilities { return &d.adapter.Caps }

// SetTimestamps turns GPU timing of recorders made from now on on or off.
func (d *Device) SetTimestamps(on bool) { d.timestamps.Store(on) }

// Wait blocks until everything submitted so far has finished or ctx ends.
// It fails with ctx's error, or where the device is closed or lost (ErrClosed, ErrDeviceLost).
func (d *Device) Wait(ctx context.Context) error {
	if err := d.usable(); err != nil {
		return err
	}
	return d.note(d.timeline.wait(ctx, d.timeline.last()))
}

// usable returns why nothing can be asked of the device any more, or nil.
func (d *Device) usable() error {
	switch {
	case d.closed.Load():
		return fmt.Errorf("device %s: %w", d.adapter.Name, ErrClosed)
	case d.lost.Load():
		return fmt.Errorf("device %s: %w", d.adapter.Name, ErrDeviceLost)
	}
	return nil
}

// runs is usable for what has to run.
func (d *Device) runs() error {
	if d.opts.CompileOnly {
		return fmt.Errorf("device %s: %w", d.adapter.Name, ErrCompileOnly)
	}
	return d.usable()
}

// note remembers a lost device, so that every later call fails at once, and adds pending validation messages.
func (d *Device) note(err error) error {
	if errors.Is(err, ErrDeviceLost) {
		d.lost.Store(true)
	}
	return errors.Join(err, d.validation())
}

// validation returns the validation errors since the last call as a *ValidationError, or nil.
func (d *Device) validation() error {
	if d.instance.messages == nil {
		return nil
	}
	now := d.instance.mark()
	before := d.mark.Swap(now)
	if before >= now {
		return nil
	}
	return d.instance.validationError(before)
}

// retire gives memory back when the GPU has passed everything submitted so far.
func (d *Device) retire(a *allocation, h *heap) {
	last := d.timeline.last()
	d.retiredMu.Lock()
	d.retired = append(d.retired, retired{last, a, h})
	d.retiredMu.Unlock()
	d.collect()
}

// collect frees retired memory that no submission uses any more.
func (d *Device) collect() {
	d.retiredMu.Lock()
	defer d.retiredMu.Unlock()
	if len(d.retired) == 0 {
		return
	}
	done, err := d.timeline.done()
	if err != nil {
		_ = d.note(err) // remembered as lost; the memory goes with the device
		return
	}
	d.retired = slices.DeleteFunc(d.retired, func(r retired) bool {
		if r.value > done {
			return false
		}
		r.heap.release(r.alloc)
		return true
	})
}

// Close waits for the GPU, frees everything that was made from the device and returns a *LeakError when objects were
// still open. Closing twice does nothing.
func (d *Device) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	leaks := d.objects.leaks()
	err := d.destroy()
	return errors.Join(err, leaks)
}

// destroy frees what was made so far; it also serves a half-opened device.
func (d *Device) destroy() error {
	if !d.lost.Load() && !d.opts.CompileOnly { // RADV without hardware crashes in it, and there is nothing to wait for
		vulkan.DeviceWaitIdle(d.handle)
	}
	d.objects.each(func(o closer) { o.free() })
	if d.pipes != nil {
		d.pipes.destroy()
	}
	for _, h := range []*heap{d.memory, d.staging} {
		if h != nil {
			h.destroy()
		}
	}
	if d.ring != nil {
		d.ring.destroy()
	}
	if d.timeline != nil {
		d.timeline.destroy()
	}
	vulkan.DestroyDevice(d.handle, nil)
	if d.cmds != nil {
		d.cmds.free()
	}
	return d.validation()
}

// MemoryStats counts a device's memory in bytes.
type MemoryStats struct {
	LiveBytes     uint64 // tensors and recorder scratch in use, rounded to their alignment
	PeakBytes     uint64 // the most LiveBytes has been since Open or ResetPeak
	ReservedBytes uint64 // what the driver has handed out for them
	StagingBytes  uint64 // host memory held for transfers
	BudgetBytes   uint64 // what the driver says this process may use, 0 when it does not say
	UsedBytes     uint64 // what the driver says this process uses, 0 when it does not say
	LiveObjects   int    // tensors and recorders not yet closed
}

// Memory returns the present counts.
func (d *Device) Memory() MemoryStats {
	if d.closed.Load() {
		return MemoryStats{}
	}
	d.collect()
	s := MemoryStats{LiveObjects: d.objects.count()}
	d.memory.mu.Lock()
	s.LiveBytes, s.PeakBytes, s.ReservedBytes = d.memory.live, d.memory.peak, d.memory.reserved
	d.memory.mu.Unlock()
	d.staging.mu.Lock()
	s.StagingBytes = d.staging.reserved
	d.staging.mu.Unlock()
	if d.opts.CompileOnly {
		return s
	}
	if budget, used, known := d.budget(d.memory.memoryType); known {
		s.BudgetBytes, s.UsedBytes = budget, used
	}
	return s
}

// ResetPeak starts PeakBytes anew from LiveBytes.
func (d *Device) ResetPeak() {
	d.memory.mu.Lock()
	d.memory.peak = d.memory.live
	d.memory.mu.Unlock()
}

// Stats counts a device's work since Open.
type Stats struct {
	Submits    uint64 // queue submissions, transfers included
	Dispatches uint64 // dispatches recorded
	Pipelines  int    // pipelines compiled
}

// Stats returns the present counts.
func (d *Device) Stats() Stats {
	return Stats{Submits: d.submits.Load(), Dispatches: d.dispatches.Load(), Pipelines: d.pipes.count()}
}

// budget asks the driver what the process may use of a memory type's heap and what it uses, in bytes.
func (d *Device) budget(memoryType uint32) (budget, used uint64, known bool) {
	var budgets, usage [16]uint64
	known = d.adapter.readBudget(d.instance, &budgets, &usage)
	heap := d.adapter.memoryTypes[memoryType].heap
	return budgets[heap], usage[heap], known
}
