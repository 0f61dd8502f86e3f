package vk

import (
	"context"
	"sync"

	vulkan "github.com/vulkan-go/vulkan"
)

// waitSlice bounds one blocking driver wait, in nanoseconds: the longest a cancelled context goes unnoticed.
const waitSlice = 5_000_000

// timeline numbers a device's submissions 1, 2, 3, … in queue order and waits for them. It uses one timeline
// semaphore where the device has them and a fence per submission where it does not.
type timeline struct {
	c      *cmds
	device vulkan.Device

	mu        sync.Mutex // guards the queue and everything below
	submitted uint64
	completed uint64 // highest value known to be done

	semaphore vkHandle // 0 with fences

	fences []*pendingFence // in submission order
	spare  []vulkan.Fence
}

// pendingFence is one submission's fence. It is reused only when nobody waits on it.
type pendingFence struct {
	value   uint64
	fence   vulkan.Fence
	waiters int
}

func newTimeline(c *cmds, device vulkan.Device, semaphores bool) (*timeline, error) {
	t := &timeline{c: c, device: device}
	if !semaphores {
		return t, nil
	}
	s, err := c.createTimeline()
	t.semaphore = s
	return t, err
}

// submit hands the command buffers to the queue, each as a batch of its own, and returns their number.
func (t *timeline) submit(commands []vkHandle) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	value := t.submitted + 1
	if t.semaphore != 0 {
		if err := t.c.submit(commands, t.semaphore, value, 0); err != nil {
			return 0, err
		}
		t.submitted = value
		return value, nil
	}
	fence, err := t.takeFence()
	if err != nil {
		return 0, err
	}
	if err := t.c.submit(commands, 0, 0, handleOf(fence)); err != nil {
		t.spare = append(t.spare, fence)
		return 0, err
	}
	t.submitted = value
	t.fences = append(t.fences, &pendingFence{value: value, fence: fence})
	return value, nil
}

func (t *timeline) takeFence() (vulkan.Fence, error) {
	t.poll()
	if n := len(t.spare); n > 0 {
		f := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return f, nil
	}
	info := vulkan.FenceCreateInfo{SType: vulkan.StructureTypeFenceCreateInfo}
	defer info.Free()
	var f vulkan.Fence
	err := check("vkCreateFence", vulkan.CreateFence(t.device, &info, nil, &f))
	return f, err
}

// poll retires finished fences from the front. The caller holds mu.
func (t *timeline) poll() {
	for len(t.fences) > 0 {
		p := t.fences[0]
		if p.waiters > 0 || vulkan.GetFenceStatus(t.device, p.fence) != vulkan.Success {
			return
		}
		vulkan.ResetFences(t.device, 1, []vulkan.Fence{p.fence})
		t.spare = append(t.spare, p.fence)
		t.completed = max(t.completed, p.value)
		t.fences = t.fences[1:]
	}
}

// last returns the number of the newest submission.
func (t *timeline) last() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.submitted
}

// done returns the number of the newest submission known to have finished, asking the driver.
func (t *timeline) done() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.completed == t.submitted {
		return t.completed, nil
	}
	if t.semaphore == 0 {
		t.poll()
		return t.completed, nil
	}
	v, err := t.c.timelineValue(t.semaphore)
	if err == nil {
		t.completed = max(t.completed, v)
	}
	return t.completed, err
}

// wait blocks until submission value has finished or ctx ends. Ending ctx stops the waiting, never the GPU.
func (t *timeline) wait(ctx context.Context, value uint64) error {
	for {
		t.mu.Lock()
		if t.completed >= value {
			t.mu.Unlock()
			return nil
		}
		p := t.fenceFor(value)
		if p != nil {
			p.waiters++
		}
		t.mu.Unlock()
		if err := ctx.Err(); err != nil {
			t.unwait(p, false)
			return err
		}
		done, err := t.waitOnce(p, value)
		t.unwait(p, done)
		if err != nil {
			return err
		}
		if done {
			t.mu.Lock()
			t.completed = max(t.completed, value)
			t.mu.Unlock()
			return nil
		}
	}
}

func (t *timeline) fenceFor(value uint64) *pendingFence {
	for _, p := range t.fences {
		if p.value >= value {
			return p
		}
	}
	return nil
}

func (t *timeline) waitOnce(p *pendingFence, value uint64) (bool, error) {
	if t.semaphore != 0 {
		return t.c.waitTimeline(t.semaphore, value, waitSlice)
	}
	r := vulkan.WaitForFences(t.device, 1, []vulkan.Fence{p.fence}, vulkan.True, waitSlice)
	if r == vulkan.Timeout {
		return false, nil
	}
	return r == vulkan.Success, check("vkWaitForFences", r)
}

func (t *timeline) unwait(p *pendingFence, done bool) {
	if p == nil {
		return
	}
	t.mu.Lock()
	p.waiters--
	if done {
		t.completed = max(t.completed, p.value)
		t.poll()
	}
	t.mu.Unlock()
}

// destroy frees the semaphore and fences. Nothing may be in flight.
func (t *timeline) destroy() {
	if t.semaphore != 0 {
		vulkan.DestroySemaphore(t.device, semaphoreOf(t.semaphore), nil)
		t.semaphore = 0
	}
	for _, p := range t.fences {
		vulkan.DestroyFence(t.device, p.fence, nil)
	}
	for _, f := range t.spare {
		vulkan.DestroyFence(t.device, f, nil)
	}
	t.fences, t.spare = nil, nil
}
