package vk

import (
	"fmt"
	"time"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// timerQueries is the number of timestamps in one query pool.
const timerQueries = 256

// timer writes a timestamp after every command of a recorder. The time of a command runs from the end of the one
// before it, so the times of a recording add up to the whole of it.
type timer struct {
	dev    *Device
	on     bool
	pools  []vulkan.QueryPool
	labels []string // per query: the command that ended there, "" where a segment begins
}

// A Timing is the GPU time of one recorded command.
type Timing struct {
	Label    string        // Dispatch.Label, the kernel's name, or "fill" and the like
	Duration time.Duration // to the end of the command from that of the one before
}

// begin starts a segment's clock.
func (t *timer) begin(r *Recorder, cb vkHandle) {
	if len(t.labels) == 0 {
		t.on = t.dev.timestamps.Load() && t.dev.adapter.Caps.Has(kernel.Timestamps)
	}
	t.write(r, cb, "")
}

func (t *timer) mark(r *Recorder, cb vkHandle, label string) { t.write(r, cb, label) }

func (t *timer) write(r *Recorder, cb vkHandle, label string) {
	if !t.on || r.err != nil {
		return
	}
	query := uint32(len(t.labels) % timerQueries)
	if query == 0 {
		pool, err := t.newPool()
		if r.Fail(err) != nil {
			return
		}
		t.pools = append(t.pools, pool)
		vulkan.CmdResetQueryPool(commandBufferOf(cb), pool, 0, timerQueries)
	}
	t.dev.cmds.timestamp(cb, handleOf(t.pools[len(t.pools)-1]), query)
	t.labels = append(t.labels, label)
}

func (t *timer) newPool() (vulkan.QueryPool, error) {
	info := vulkan.QueryPoolCreateInfo{
		SType:      vulkan.StructureTypeQueryPoolCreateInfo,
		QueryType:  vulkan.QueryTypeTimestamp,
		QueryCount: timerQueries,
	}
	defer info.Free()
	var pool vulkan.QueryPool
	return pool, t.dev.note(check("vkCreateQueryPool", vulkan.CreateQueryPool(t.dev.handle, &info, nil, &pool)))
}

// Timings returns the GPU time of each command of the last finished submission, in order. It is empty unless the
// device has timestamps and they were on when recording began.
func (r *Recorder) Timings() ([]Timing, error) {
	t := &r.timer
	if !t.on || r.sealed == nil || r.closed {
		return nil, nil
	}
	caps := &r.dev.adapter.Caps
	mask := ^uint64(0) >> (64 - min(caps.TimestampBits, 64))
	var timings []Timing
	var before uint64
	ticks := make([]uint64, timerQueries)
	for i, label := range t.labels {
		if i%timerQueries == 0 {
			n := min(timerQueries, len(t.labels)-i)
			res := vulkan.GetQueryPoolResults(r.dev.handle, t.pools[i/timerQueries], 0, uint32(n), uint(8*n),
				unsafe.Pointer(&ticks[0]), 8, vulkan.QueryResultFlags(vulkan.QueryResult64Bit))
			if res == vulkan.NotReady {
				return nil, fmt.Errorf("vk: timings asked for before the submission finished")
			}
			if err := check("vkGetQueryPoolResults", res); err != nil {
				return nil, r.dev.note(err)
			}
		}
		now := ticks[i%timerQueries] & mask
		if label != "" {
			elapsed := float64((now-before)&mask) * caps.TimestampPeriod
			timings = append(timings, Timing{label, time.Duration(elapsed)})
		}
		before = now
	}
	return timings, nil
}

func (t *timer) free() {
	for _, p := range t.pools {
		vulkan.DestroyQueryPool(t.dev.handle, p, nil)
	}
	t.pools = nil
}
