package vk

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"
)

func TestBlockNeverOverlaps(t *testing.T) {
	b := &block{bytes: 1 << 16, free: []span{{0, 1 << 16}}}
	var live []*allocation
	for range 20_000 {
		if len(live) > 0 && rand.IntN(2) == 0 {
			i := rand.IntN(len(live))
			b.give(live[i])
			live = append(live[:i], live[i+1:]...)
		} else if a := b.take(uint64(rand.IntN(8)+1) * allocAlign); a != nil {
			live = append(live, a)
		}
		used := make([]bool, b.bytes/allocAlign)
		mark := func(offset, bytes uint64) {
			for i := offset / allocAlign; i < (offset+bytes)/allocAlign; i++ {
				require.False(t, used[i], "unit %d is held twice", i)
				used[i] = true
			}
		}
		for _, a := range live {
			mark(a.offset, a.bytes)
		}
		for i, s := range b.free {
			mark(s.offset, s.bytes)
			if i > 0 {
				require.Greater(t, s.offset, b.free[i-1].offset+b.free[i-1].bytes, "neighbours are joined")
			}
		}
		require.NotContains(t, used, false, "nothing is lost")
		require.Equal(t, len(live), b.live)
	}
}

func TestFoldGroups(t *testing.T) {
	limits := [][3]uint32{{65535, 65535, 65535}, {1<<31 - 1, 65535, 65535}, {7, 5, 3}}
	for _, limit := range limits {
		most := uint64(limit[0]) * uint64(limit[1]) * uint64(limit[2])
		for range 10_000 {
			n := rand.Uint64N(min(most, 1<<40)) + 1
			if rand.IntN(2) == 0 {
				n = n%300_000 + 1
			}
			n = min(n, most)
			g := foldGroups(n, limit)
			total := uint64(g[0]) * uint64(g[1]) * uint64(g[2])
			require.GreaterOrEqual(t, total, n)
			for i := range g {
				require.LessOrEqual(t, g[i], limit[i], "%d over %v became %v", n, limit, g)
				require.NotZero(t, g[i])
			}
		}
	}
}

func TestPickMemoryType(t *testing.T) {
	const local = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyDeviceLocalBit)
	const host = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyHostVisibleBit | vulkan.MemoryPropertyHostCoherentBit)
	const cached = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyHostCachedBit)
	types := []memoryType{{flags: 0}, {flags: local | host}, {flags: local}, {flags: host}, {flags: host | cached}}
	require.Equal(t, 2, pickMemoryType(types, local, 0, host))
	require.Equal(t, 4, pickMemoryType(types, host, cached, local))
	require.Equal(t, 1, pickMemoryType(types, local|host, cached, 0))
	require.Equal(t, -1, pickMemoryType(types, local|cached, 0, 0))
}

func TestHazards(t *testing.T) {
	base := &block{address: 1 << 20}
	tensor := func(offset, bytes int) *Tensor {
		return &Tensor{dtype: F32, shape: []int{bytes / 4}, mem: &tensorMemory{alloc: &allocation{base, uint64(offset), uint64(bytes)}}}
	}
	a, b, c := tensor(0, 256), tensor(256, 256), tensor(512, 256)
	half := &Tensor{dtype: F32, shape: []int{1}, mem: a.mem, offset: 128, view: true}
	list := func(t ...*Tensor) []*Tensor { return t }
	steps := []struct {
		reads, writes []*Tensor
		counts        bool
		barrier       bool
		why           string
	}{
		{list(a), list(b), false, false, "first use"},
		{list(a), nil, false, false, "read after read"},
		{nil, list(b), false, true, "write after write"},
		{list(half), nil, false, false, "nothing wrote a since"},
		{nil, list(a), false, true, "write after read of a view"},
		{list(half, nil), nil, false, true, "read after write through a view"},
		{list(b), nil, false, false, "the last barrier covered b"},
		{list(b), nil, true, true, "no barrier covered counts in b"},
		{list(a), list(c), false, false, "nothing wrote a since"},
		{nil, list(b), false, true, "write after counts were read"},
		{list(a), nil, true, true, "counts in what nothing wrote since"},
	}
	var h hazards
	for i, s := range steps {
		require.Equal(t, s.barrier, h.conflict(s.reads, s.writes, s.counts), "step %d: %s", i, s.why)
	}
}

func TestDecodeCache(t *testing.T) {
	uuid := [16]byte{1, 2, 3}
	data := make([]byte, 64)
	data[0] = 32
	copy(data[16:], uuid[:])
	file := encodeCache(data)
	require.Equal(t, data, decodeCache(file, uuid))
	require.Nil(t, decodeCache(file, [16]byte{9}))
	for i := range file {
		broken := append([]byte(nil), file...)
		broken[i] ^= 0x80
		require.Nil(t, decodeCache(broken, uuid), "byte %d", i)
		require.Nil(t, decodeCache(file[:i], uuid), "cut at %d", i)
	}
}
