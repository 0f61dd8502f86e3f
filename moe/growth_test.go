package moe

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

// residentBytes reads the process's resident size from the kernel: Go's heap, C's and the driver's.
func residentBytes(t *testing.T) int {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmRSS in /proc/self/status")
	return 0
}

// TestTenThousandForwardPassesGrowNothing records, runs and closes a small layer again and again, and submits another
// recording as often: process memory, device memory and live objects stay where they were after the first 100.
func TestTenThousandForwardPassesGrowNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	passes := 10000
	if testing.Short() {
		passes = 1000
	}
	l := newLayer(t, MLPConfig{Experts: 4, TopK: 2, Width: 8, Hidden: 8})
	ctx := context.Background()
	x, err := dev.NewTensor(vk.F32, 4, 8)
	require.NoError(t, err)
	defer x.Close()
	y, err := dev.NewTensor(vk.F32, 4, 8)
	require.NoError(t, err)
	defer y.Close()
	require.NoError(t, vk.Upload(ctx, x, make([]float32, 32)))
	kept, err := dev.NewRecorder()
	require.NoError(t, err)
	defer kept.Close()
	_, err = l.Forward(kept, x, y)
	require.NoError(t, err)

	pass := func() {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = l.Forward(rec, x, y)
		require.NoError(t, err)
		require.NoError(t, rec.Run(ctx))
		require.NoError(t, rec.Close())
		require.NoError(t, kept.Run(ctx))
	}
	for range 100 {
		pass()
	}
	memory, start := dev.Memory(), residentBytes(t)
	for range passes / 4 {
		pass() // two forward passes
	}
	middle := residentBytes(t)
	for range passes/4 - 100 {
		pass()
	}
	after, end := dev.Memory(), residentBytes(t)
	require.Equal(t, memory.LiveBytes, after.LiveBytes)
	require.Equal(t, memory.ReservedBytes, after.ReservedBytes)
	require.Equal(t, memory.LiveObjects, after.LiveObjects)
	// Caches of the Go runtime and of the driver's threads settle within the first thousands of passes.
	require.Less(t, end-start, 4<<20, "resident bytes, from %d on", start)
	require.Less(t, end-middle, 1<<20, "resident bytes in the second half, from %d on", middle)
}
