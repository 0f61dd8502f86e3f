package vk

import (
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

const (
	// allocAlign is the start alignment of every allocation in bytes: enough for 16-byte loads on all devices and for
	// whole cache lines and memory segments on the ones in use.
	allocAlign = 256
	// blockBytes is how much is asked of the driver at once. An allocation of more than half of it gets memory of its
	// own, so that a large expert bank neither wastes the rest of a block nor keeps one alive.
	blockBytes = 64 << 20
)

// bufferUsage is what every buffer of vkmoe may be used for.
const bufferUsage = vulkan.BufferUsageFlags(vulkan.BufferUsageTransferSrcBit|vulkan.BufferUsageTransferDstBit|
	vulkan.BufferUsageStorageBufferBit|vulkan.BufferUsageIndirectBufferBit) | 0x20000 // SHADER_DEVICE_ADDRESS

// block is one VkDeviceMemory with one VkBuffer over all of it.
type block struct {
	memory  vulkan.DeviceMemory
	buffer  vulkan.Buffer
	bytes   uint64
	address uint64
	mapped  unsafe.Pointer // nil where the host cannot map it
	free    []span         // sorted by offset, never adjacent
	live    int            // allocations inside
	alone   bool           // holds one dedicated allocation
}

// span is a byte range of a block.
type span struct{ offset, bytes uint64 }

// allocation is a live range of a block. bytes is the rounded size.
type allocation struct {
	block  *block
	offset uint64
	bytes  uint64
}

func (a *allocation) address() uint64        { return a.block.address + a.offset }
func (a *allocation) mapped() unsafe.Pointer { return unsafe.Add(a.block.mapped, a.offset) }

// heap sub-allocates one memory type. It is safe for concurrent use.
type heap struct {
	dev        *Device
	memoryType uint32
	mappable   bool
	pretended  bool // blocks have addresses and nothing else: a device that only compiles

	mu     sync.Mutex
	blocks []*block

	reserved, live, peak uint64 // bytes held from the driver, in use, and the most ever in use
}

// alloc reserves at least bytes bytes. op names the caller in errors.
func (h *heap) alloc(op string, bytes uint64) (*allocation, error) {
	size := (bytes + allocAlign - 1) / allocAlign * allocAlign
	if size < bytes || !h.pretended && size > h.dev.adapter.Caps.MaxTensorBytes() {
		return nil, &OutOfMemoryError{Op: op, Bytes: bytes, Limit: h.dev.adapter.Caps.MaxTensorBytes()}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a, err := h.place(op, size)
	if err != nil {
		return nil, err
	}
	h.live += size
	h.peak = max(h.peak, h.live)
	return a, nil
}

func (h *heap) place(op string, size uint64) (*allocation, error) {
	if size > blockBytes/2 {
		b, err := h.newBlock(op, size)
		if err != nil {
			return nil, err
		}
		b.alone, b.live = true, 1
		return &allocation{b, 0, size}, nil
	}
	for _, b := range h.blocks {
		if a := b.take(size); a != nil {
			return a, nil
		}
	}
	b, err := h.newBlock(op, blockBytes)
	if err != nil {
		// A nearly full device may still have room for just this one.
		if b, err = h.newBlock(op, size); err != nil {
			return nil, err
		}
	}
	b.free = []span{{0, b.bytes}}
	return b.take(size), nil
}

// take carves size bytes out of the first free span that holds them.
func (b *block) take(size uint64) *allocation {
	for i, s := range b.free {
		if s.bytes < size {
			continue
		}
		if s.bytes == size {
			b.free = append(b.free[:i], b.free[i+1:]...)
		} else {
			b.free[i] = span{s.offset + size, s.bytes - size}
		}
		b.live++
		return &allocation{b, s.offset, size}
	}
	return nil
}

// give returns a range to its block, joining it with free neighbours.
func (b *block) give(a *allocation) {
	i := 0
	for i < len(b.free) && b.free[i].offset < a.offset {
		i++
	}
	b.free = append(b.free, span{})
	copy(b.free[i+1:], b.free[i:])
	b.free[i] = span{a.offset, a.bytes}
	if i+1 < len(b.free) && b.free[i].offset+b.free[i].bytes == b.free[i+1].offset {
		b.free[i].bytes += b.free[i+1].bytes
		b.free = append(b.free[:i+1], b.free[i+2:]...)
	}
	if i > 0 && b.free[i-1].offset+b.free[i-1].bytes == b.free[i].offset {
		b.free[i-1].bytes += b.free[i].bytes
		b.free = append(b.free[:i], b.free[i+1:]...)
	}
	b.live--
}

// release frees an allocation that the GPU no longer uses. One empty shared block is kept for the next caller.
func (h *heap) release(a *allocation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live -= a.bytes
	b := a.block
	if b.alone {
		h.drop(b)
		return
	}
	b.give(a)
	if b.live > 0 {
		return
	}
	for _, other := range h.blocks {
		if other != b && !other.alone && other.live == 0 {
			h.drop(b)
			return
		}
	}
}

// newBlock asks the driver for memory, refusing what the heap's budget does not hold. The caller holds mu.
func (h *heap) newBlock(op string, bytes uint64) (*block, error) {
	d := h.dev
	if h.pretended {
		b := &block{bytes: bytes, address: 1<<32 + h.reserved}
		h.blocks = append(h.blocks, b)
		h.reserved += bytes // never given back, so that no two blocks share an address
		return b, nil
	}
	if budget, used, known := d.budget(h.memoryType); known && used+bytes > budget {
		return nil, &OutOfMemoryError{Op: op, Bytes: bytes, Budget: budget - min(used, budget)}
	}
	info := vulkan.BufferCreateInfo{
		SType: vulkan.StructureTypeBufferCreateInfo,
		Size:  vulkan.DeviceSize(bytes),
		Usage: bufferUsage,
	}
	defer info.Free()
	var buffer vulkan.Buffer // a plain variable: cgo lets no pointer into a struct of Go pointers pass
	if r := vulkan.CreateBuffer(d.handle, &info, nil, &buffer); r != vulkan.Success {
		return nil, d.outOfMemory(op, "vkCreateBuffer", r, bytes)
	}
	b := &block{buffer: buffer}
	var need vulkan.MemoryRequirements
	vulkan.GetBufferMemoryRequirements(d.handle, b.buffer, &need)
	need.Deref()
	var r vulkan.Result
	if b.memory, r = d.cmds.allocate(uint64(need.Size), h.memoryType, true); r != vulkan.Success {
		vulkan.DestroyBuffer(d.handle, b.buffer, nil)
		return nil, d.outOfMemory(op, "vkAllocateMemory", r, bytes)
	}
	if err := h.bind(b); err != nil {
		vulkan.DestroyBuffer(d.handle, b.buffer, nil)
		vulkan.FreeMemory(d.handle, b.memory, nil)
		return nil, err
	}
	b.bytes = bytes
	b.address = d.cmds.bufferAddress(b.buffer)
	h.blocks = append(h.blocks, b)
	h.reserved += bytes
	return b, nil
}

func (h *heap) bind(b *block) error {
	if err := check("vkBindBufferMemory", vulkan.BindBufferMemory(h.dev.handle, b.buffer, b.memory, 0)); err != nil {
		return err
	}
	if !h.mappable {
		return nil
	}
	var mapped unsafe.Pointer
	err := check("vkMapMemory", vulkan.MapMemory(h.dev.handle, b.memory, 0, vulkan.DeviceSize(vulkan.WholeSize), 0, &mapped))
	b.mapped = mapped
	return err
}

// drop gives a block back to the driver. The caller holds mu.
func (h *heap) drop(b *block) {
	for i := range h.blocks {
		if h.blocks[i] == b {
			h.blocks = append(h.blocks[:i], h.blocks[i+1:]...)
			break
		}
	}
	if h.pretended {
		return
	}
	vulkan.DestroyBuffer(h.dev.handle, b.buffer, nil)
	vulkan.FreeMemory(h.dev.handle, b.memory, nil)
	h.reserved -= b.bytes
}

func (h *heap) destroy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.blocks) > 0 {
		h.drop(h.blocks[0])
	}
}

// MaxTensorBytes is the size of the largest tensor in bytes.
func (c *Capabilities) MaxTensorBytes() uint64 {
	return min(c.MaxAllocationBytes, c.MaxBufferBytes) / allocAlign * allocAlign
}

// outOfMemory gives a failed allocation its typed error.
func (d *Device) outOfMemory(op, call string, r vulkan.Result, bytes uint64) error {
	if r == vulkan.ErrorOutOfDeviceMemory || r == vulkan.ErrorOutOfHostMemory {
		return &OutOfMemoryError{Op: op, Bytes: bytes}
	}
	return d.note(check(call, r))
}

// pickMemoryType returns the first memory type that has every flag in need and most of those in want, or -1.
func pickMemoryType(types []memoryType, need, want, avoid vulkan.MemoryPropertyFlags) int {
	best, bestScore := -1, -1
	for i, t := range types {
		if t.flags&need != need {
			continue
		}
		score := 0
		if t.flags&want == want {
			score += 2
		}
		if t.flags&avoid == 0 {
			score++
		}
		if score > bestScore {
			best, bestScore = i, score
		}
	}
	return best
}
