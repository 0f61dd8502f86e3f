package vk

import "fmt"

// How much estimated work goes into one batch before the next begins. Watchdogs kill a batch that runs for about 2 s: half a second
// on a device of 100 GFLOP/s. A card with matrix units does more, one of 2 TFLOP/s in a second, and loses about 4 µs between two
// batches on an H100, which were a batch for each of its larger dispatches.
const (
	segmentFLOPs     = 50e9
	fastSegmentFLOPs = 2e12
)

// segmentFLOPs is how much work a batch of the device may be.
func (d *Device) segmentFLOPs() float64 {
	if d.adapter.Type == Discrete && len(d.adapter.Caps.CooperativeMatrix) > 0 {
		return fastSegmentFLOPs
	}
	return segmentFLOPs
}

// segment returns the command buffer being recorded, beginning a new one when the estimated work asks for it.
func (r *Recorder) segment(flops float64) (vkHandle, bool) {
	if r.sealed != nil {
		r.Fail(fmt.Errorf("vk: recorder was submitted; nothing can be recorded after that"))
		return 0, false
	}
	if err := r.dev.usable(); err != nil {
		r.Fail(err)
		return 0, false
	}
	if r.open && r.cost > 0 && r.cost+flops > r.dev.segmentFLOPs() {
		if r.Fail(r.dev.end(r.segments[len(r.segments)-1])) != nil {
			return 0, false
		}
		r.open = false
	}
	if !r.open {
		cb, err := r.dev.commandBuffer(r.pool)
		if err == nil {
			err = r.dev.begin(cb, false)
		}
		if r.Fail(err) != nil {
			return 0, false
		}
		r.segments = append(r.segments, cb)
		r.open, r.cost = true, 0
		r.hazards.clear() // a segment begins with a barrier
		r.timer.begin(r, handleOf(cb))
	}
	r.cost += flops
	return handleOf(r.segments[len(r.segments)-1]), r.err == nil
}
