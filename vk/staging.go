package vk

import (
	"context"
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// stagingChunks is how many pieces the staging memory is cut into: while the GPU copies one, the host fills the next.
const stagingChunks = 4

// stagingRing moves data between the host and tensors through a few pinned chunks used in turn. Its memory is taken
// on first use. One transfer runs at a time; others wait.
type stagingRing struct {
	dev        *Device
	chunkBytes uint64

	mu     sync.Mutex
	pool   vulkan.CommandPool
	chunks []stagingChunk
	next   int
}

// stagingChunk is one pinned piece, its command buffer and the submission that last used it.
type stagingChunk struct {
	alloc    *allocation
	commands vulkan.CommandBuffer
	value    uint64
}

func newStagingRing(d *Device, bytes uint64) *stagingRing {
	if bytes == 0 {
		bytes = 64 << 20
	}
	chunk := max(min(bytes/stagingChunks, d.adapter.Caps.MaxTensorBytes()), allocAlign) / allocAlign * allocAlign
	return &stagingRing{dev: d, chunkBytes: chunk}
}

// prepare makes the chunks. The caller holds mu.
func (r *stagingRing) prepare() error {
	if len(r.chunks) == stagingChunks {
		return nil
	}
	d := r.dev
	if r.pool == nil {
		pool, err := d.commandPool()
		if err != nil {
			return err
		}
		r.pool = pool
	}
	for len(r.chunks) < stagingChunks {
		commands, err := d.commandBuffer(r.pool)
		if err != nil {
			return err
		}
		alloc, err := d.staging.alloc("staging", r.chunkBytes)
		if err != nil {
			return err
		}
		r.chunks = append(r.chunks, stagingChunk{alloc: alloc, commands: commands})
	}
	return nil
}

// take returns the next chunk once the GPU no longer uses it. A cancelled wait leaves the turn where it was.
func (r *stagingRing) take(ctx context.Context) (*stagingChunk, error) {
	c := &r.chunks[r.next]
	if err := r.dev.timeline.wait(ctx, c.value); err != nil {
		return nil, r.dev.note(err)
	}
	r.next = (r.next + 1) % len(r.chunks)
	return c, nil
}

// copy submits one copy between the chunk and a tensor. toDevice says which way.
func (r *stagingRing) copy(c *stagingChunk, t *Tensor, offset, bytes uint64, toDevice bool) error {
	d := r.dev
	if err := d.begin(c.commands, true); err != nil {
		return err
	}
	cb := handleOf(c.commands)
	staged, tensor := handleOf(c.alloc.block.buffer), handleOf(t.mem.alloc.block.buffer)
	at := t.mem.alloc.offset + t.offset + offset
	if toDevice {
		d.cmds.copy(cb, staged, c.alloc.offset, tensor, at, bytes)
	} else {
		d.cmds.copy(cb, tensor, at, staged, c.alloc.offset, bytes)
	}
	if err := d.end(c.commands); err != nil {
		return err
	}
	value, err := d.submit([]vkHandle{cb})
	c.value = value
	return err
}

// upload copies data to the start of t and returns when it has arrived.
func (r *stagingRing) upload(ctx context.Context, t *Tensor, data []byte) error {
	if direct := t.direct(); direct != nil {
		if err := r.dev.Wait(ctx); err != nil {
			return err
		}
		copy(direct, data)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.prepare(); err != nil {
		return err
	}
	var last uint64
	for offset := uint64(0); offset < uint64(len(data)); offset += r.chunkBytes {
		piece := data[offset:min(offset+r.chunkBytes, uint64(len(data)))]
		c, err := r.take(ctx)
		if err != nil {
			return err
		}
		copy(unsafe.Slice((*byte)(c.alloc.mapped()), len(piece)), piece)
		if err := r.copy(c, t, offset, uint64(len(piece)), true); err != nil {
			return err
		}
		last = c.value
	}
	return r.dev.note(r.dev.timeline.wait(ctx, last))
}

// download copies the start of t into data, after everything submitted before it.
func (r *stagingRing) download(ctx context.Context, t *Tensor, data []byte) error {
	if direct := t.direct(); direct != nil {
		if err := r.dev.Wait(ctx); err != nil {
			return err
		}
		copy(data, direct)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.prepare(); err != nil {
		return err
	}
	type piece struct {
		chunk *stagingChunk
		data  []byte
	}
	var flying []piece
	land := func() error {
		p := flying[0]
		flying = flying[1:]
		if err := r.dev.timeline.wait(ctx, p.chunk.value); err != nil {
			return r.dev.note(err)
		}
		copy(p.data, unsafe.Slice((*byte)(p.chunk.alloc.mapped()), len(p.data)))
		return nil
	}
	for offset := uint64(0); offset < uint64(len(data)); offset += r.chunkBytes {
		// The chunk about to be reused must have been read out first.
		if len(flying) == stagingChunks {
			if err := land(); err != nil {
				return err
			}
		}
		c, err := r.take(ctx)
		if err != nil {
			return err
		}
		p := piece{c, data[offset:min(offset+r.chunkBytes, uint64(len(data)))]}
		if err := r.copy(c, t, offset, uint64(len(p.data)), false); err != nil {
			return err
		}
		flying = append(flying, p)
	}
	for len(flying) > 0 {
		if err := land(); err != nil {
			return err
		}
	}
	return r.dev.note(nil)
}

func (r *stagingRing) destroy() {
	if r.pool != nil {
		vulkan.DestroyCommandPool(r.dev.handle, r.pool, nil)
	}
}

// direct returns the tensor's bytes where the host can map them, else nil.
func (t *Tensor) direct() []byte {
	if t.mem.alloc == nil || t.mem.alloc.block.mapped == nil {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(t.mem.alloc.mapped(), t.offset)), t.Bytes())
}

func (d *Device) commandPool() (vulkan.CommandPool, error) {
	info := vulkan.CommandPoolCreateInfo{
		SType:            vulkan.StructureTypeCommandPoolCreateInfo,
		Flags:            vulkan.CommandPoolCreateFlags(vulkan.CommandPoolCreateResetCommandBufferBit),
		QueueFamilyIndex: d.adapter.queueFamily,
	}
	defer info.Free()
	var pool vulkan.CommandPool
	err := check("vkCreateCommandPool", vulkan.CreateCommandPool(d.handle, &info, nil, &pool))
	return pool, d.note(err)
}

func (d *Device) commandBuffer(pool vulkan.CommandPool) (vulkan.CommandBuffer, error) {
	info := vulkan.CommandBufferAllocateInfo{
		SType:              vulkan.StructureTypeCommandBufferAllocateInfo,
		CommandPool:        pool,
		Level:              vulkan.CommandBufferLevelPrimary,
		CommandBufferCount: 1,
	}
	defer info.Free()
	buffers := make([]vulkan.CommandBuffer, 1)
	err := check("vkAllocateCommandBuffers", vulkan.AllocateCommandBuffers(d.handle, &info, buffers))
	return buffers[0], d.note(err)
}

// begin starts recording and orders the commands after everything submitted before them.
func (d *Device) begin(cb vulkan.CommandBuffer, once bool) error {
	flags := vulkan.CommandBufferUsageFlags(vulkan.CommandBufferUsageSimultaneousUseBit)
	if once {
		flags = vulkan.CommandBufferUsageFlags(vulkan.CommandBufferUsageOneTimeSubmitBit)
	}
	info := vulkan.CommandBufferBeginInfo{SType: vulkan.StructureTypeCommandBufferBeginInfo, Flags: flags}
	defer info.Free()
	if err := check("vkBeginCommandBuffer", vulkan.BeginCommandBuffer(cb, &info)); err != nil {
		return d.note(err)
	}
	d.cmds.barrier(handleOf(cb), false)
	return nil
}

// end finishes recording and makes the results visible to the host.
func (d *Device) end(cb vulkan.CommandBuffer) error {
	d.cmds.hostBarrier(handleOf(cb))
	return d.note(check("vkEndCommandBuffer", vulkan.EndCommandBuffer(cb)))
}

// submit hands command buffers to the queue in one vkQueueSubmit.
func (d *Device) submit(commands []vkHandle) (uint64, error) {
	if err := d.usable(); err != nil {
		return 0, err
	}
	value, err := d.timeline.submit(commands)
	if err == nil {
		d.submits.Add(1)
	}
	return value, d.note(err)
}
