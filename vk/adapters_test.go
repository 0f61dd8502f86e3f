package vk

import (
	"bytes"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// realAdapters returns the instance and what it lists, or skips the test.
func realAdapters(t *testing.T) (*instance, []*Adapter) {
	t.Helper()
	in, err := acquireInstance(false)
	skipWithoutVulkan(t, err)
	require.NoError(t, err)
	list, err := in.adapters()
	skipWithoutVulkan(t, err)
	require.NoError(t, err)
	return in, list
}

func TestCapabilitiesArePlausible(t *testing.T) {
	t.Setenv(disableVariable, "")
	in, list := realAdapters(t)
	for i, a := range list {
		c := &a.Caps
		t.Log(a.Report())
		require.Equal(t, i, a.Index)
		require.NotEmpty(t, a.Name)
		require.Equal(t, 1, a.API.Major)
		if a.Unusable != nil {
			continue
		}
		require.NotZero(t, a.DeviceUUID)
		require.NotZero(t, a.CacheUUID)
		for _, size := range []uint32{c.MinSubgroupSize, c.SubgroupSize, c.MaxSubgroupSize} {
			require.True(t, size > 0 && size <= 128 && size&(size-1) == 0, "subgroup size %d", size)
		}
		require.LessOrEqual(t, c.MinSubgroupSize, c.SubgroupSize)
		require.LessOrEqual(t, c.SubgroupSize, c.MaxSubgroupSize)
		for axis := range 3 {
			require.GreaterOrEqual(t, c.MaxWorkgroupCount[axis], uint32(65535))
			require.GreaterOrEqual(t, c.MaxWorkgroupSize[axis], uint32(64))
		}
		require.GreaterOrEqual(t, c.MaxAllocationBytes, uint64(1<<30), "the least that maintenance3 allows")
		require.GreaterOrEqual(t, c.MaxBufferBytes, uint64(1<<30))
		require.Less(t, a.queueFamily, uint32(len(a.families)))
		require.True(t, a.families[a.queueFamily].compute)
		require.Equal(t, c.Features[kernel.Timestamps], c.TimestampBits > 0)
		require.Equal(t, c.Features[kernel.CoopMat], len(c.CooperativeMatrix) > 0)
		require.Equal(t, c.Features[kernel.CoopMat2], len(c.CooperativeMatrix2) > 0)
		for _, s := range c.CooperativeMatrix {
			require.True(t, s.M > 0 && s.N > 0 && s.K > 0, "%+v", s)
		}
		for _, s := range c.CooperativeMatrix2 {
			require.True(t, s.MGranularity > 0 && s.NGranularity > 0 && s.KGranularity > 0, "%+v", s)
		}
		for _, m := range a.memoryTypes {
			require.Less(t, int(m.heap), len(a.heaps))
		}
		require.Len(t, c.Features, len(kernel.Features))

		var budget, usage [16]uint64
		if a.readBudget(in, &budget, &usage) {
			for h := range a.heaps {
				require.NotZero(t, budget[h], "heap %d", h)
			}
		}
	}
}

func TestCoreFeaturePositions(t *testing.T) {
	structure := reflect.TypeFor[vulkan.PhysicalDeviceFeatures]()
	for name, flag := range map[string]featureFlag{"ShaderInt16": flagInt16, "ShaderInt64": flagInt64} {
		field, ok := structure.FieldByName(name)
		require.True(t, ok)
		require.Equal(t, featureFlag{blockCore, field.Index[0]}, flag, name)
	}
}

// vulkan-go reads the same structures with a header that is not ours.
func TestAgreesWithVulkanGo(t *testing.T) {
	_, list := realAdapters(t)
	for _, a := range list {
		var features vulkan.PhysicalDeviceFeatures
		vulkan.GetPhysicalDeviceFeatures(a.handle, &features)
		features.Deref()
		require.Equal(t, features.ShaderInt16.B(), a.offered.has(flagInt16))
		require.Equal(t, features.ShaderInt64.B(), a.offered.has(flagInt64))
		features.Free()

		var memory vulkan.PhysicalDeviceMemoryProperties
		vulkan.GetPhysicalDeviceMemoryProperties(a.handle, &memory)
		memory.Deref()
		require.Len(t, a.memoryTypes, int(memory.MemoryTypeCount))
		for i, m := range a.memoryTypes {
			memory.MemoryTypes[i].Deref()
			require.Equal(t, memory.MemoryTypes[i].PropertyFlags, m.flags)
			require.Equal(t, memory.MemoryTypes[i].HeapIndex, m.heap)
		}
		require.Len(t, a.heaps, int(memory.MemoryHeapCount))
		for i, h := range a.heaps {
			memory.MemoryHeaps[i].Deref()
			require.EqualValues(t, memory.MemoryHeaps[i].Size, h.size)
		}
		memory.Free()

		var count uint32
		vulkan.GetPhysicalDeviceQueueFamilyProperties(a.handle, &count, nil)
		require.Len(t, a.families, int(count))
	}
}

func TestLogicalDeviceWithEachFeatureOff(t *testing.T) {
	in, list := realAdapters(t)
	mark := in.mark()
	for i := range list {
		for _, off := range append([]Feature{""}, kernel.Features...) {
			// A fresh description for each: disable cannot be undone.
			a := in.describe(list[i].handle)
			if a.Unusable != nil || off != "" && !a.Caps.Features[off] {
				continue
			}
			if off != "" {
				a.disable([]Feature{off})
			}
			dev, queue, err := a.createLogical(in)
			require.NoError(t, err, "%s without %q", a.Name, off)
			require.NotNil(t, queue)
			vulkan.DestroyDevice(dev, nil)
		}
	}
	require.NoError(t, in.validationError(mark))
}

// An older instance makes every driver an older device, with extensions in the place of core features.
func TestOlderVulkan(t *testing.T) {
	in, list := realAdapters(t)
	mark := in.mark()
	for _, now := range list {
		for _, version := range []uint32{apiVersion(1, 2), apiVersion(1, 1)} {
			older := *in
			older.version = version
			a := older.describe(now.handle)
			require.LessOrEqual(t, a.version, version)
			require.Equal(t, now.DeviceUUID, a.DeviceUUID)
			for f, on := range a.Caps.Features {
				require.False(t, on && !now.Caps.Features[f] && len(now.Caps.Disabled) == 0, "%s only in older Vulkan", f)
			}
			if a.Unusable != nil {
				continue // bufferDeviceAddress without its extension
			}
			dev, _, err := a.createLogical(&older)
			require.NoError(t, err, "%s as Vulkan %d", a.Name, version>>12&0x3ff)
			vulkan.DestroyDevice(dev, nil)
		}
		older := *in
		older.version = apiVersion(1, 0)
		a := older.describe(now.handle)
		require.ErrorContains(t, a.Unusable, "Vulkan 1.1, and there is 1.0")
		require.NotEmpty(t, a.Report())
		a.disable([]Feature{kernel.F16})
		require.Empty(t, a.Caps.Disabled)
	}
	require.NoError(t, in.validationError(mark))
}

func TestUnusableDeviceIsNotOpened(t *testing.T) {
	reason := &UnsupportedError{Need: "more", Device: "Toaster"}
	_, _, err := (&Adapter{Unusable: reason}).createLogical(nil)
	require.ErrorIs(t, err, ErrNoDevice)
	require.ErrorContains(t, err, "Toaster")
}

func TestJudge(t *testing.T) {
	good := func() *Adapter {
		a := everything()
		a.Caps.PushConstantBytes, a.Caps.SharedMemoryBytes, a.Caps.MaxWorkgroupInvocations = 128, 16<<10, 128
		return a
	}
	require.NoError(t, good().judge())
	for want, spoil := range map[string]func(*Adapter){
		"bufferDeviceAddress": func(a *Adapter) { a.offered[blockAddress] = 0 },
		"push constants":      func(a *Adapter) { a.Caps.PushConstantBytes = 127 },
		"16 KiB of shared":    func(a *Adapter) { a.Caps.SharedMemoryBytes = 16<<10 - 1 },
		"128 invocations":     func(a *Adapter) { a.Caps.MaxWorkgroupInvocations = 64 },
		"device-local memory": func(a *Adapter) { a.heaps[0].deviceLocal = false },
		"queue family":        func(a *Adapter) { a.queueFamily = noFamily },
	} {
		a := good()
		spoil(a)
		var unsupported *UnsupportedError
		require.ErrorAs(t, a.judge(), &unsupported)
		require.Contains(t, unsupported.Need, want)
		require.Equal(t, a.Name, unsupported.Device)
	}
}

func TestAdaptersFromManyGoroutines(t *testing.T) {
	_, want := realAdapters(t)
	var group sync.WaitGroup
	lists, failures := make([][]*Adapter, 8), make([]error, 8)
	for i := range lists {
		group.Add(1)
		go func() {
			defer group.Done()
			lists[i], failures[i] = Adapters()
		}()
	}
	group.Wait()
	for i, list := range lists {
		require.NoError(t, failures[i])
		require.Equal(t, len(want), len(list))
		for j, a := range list {
			require.Equal(t, want[j].Report(), a.Report())
		}
	}
}

// residentBytes is the process's resident memory after Go has given back what it can.
func residentBytes(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(string(bytes.Fields(statm)[1]))
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

func TestListingDoesNotGrow(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	realAdapters(t)
	list := func(times int) {
		for range times {
			_, err := Adapters()
			require.NoError(t, err)
		}
	}
	list(200)
	before := residentBytes(t)
	list(1000)
	// One adapter's structures in C take about 10 KiB: to lose them each time would show as 10 MiB.
	require.Less(t, residentBytes(t)-before, 6<<20)
}

func TestAdapterInWords(t *testing.T) {
	a := &Adapter{Index: 2, Name: "GPU", Type: Integrated, API: Version{1, 3, 230}, DriverVersion: 22<<22 | 3<<12 | 6}
	require.Equal(t, "2: GPU, integrated, driver 22.3.6, Vulkan 1.3.230", a.String())
	a.DriverName, a.DriverInfo = "llvmpipe", "Mesa 22.3.6"
	require.Equal(t, "2: GPU, integrated, llvmpipe Mesa 22.3.6, Vulkan 1.3.230", a.String())
	a.Unusable = &UnsupportedError{Need: "more", Device: "GPU"}
	require.Equal(t, "2: GPU, integrated, llvmpipe Mesa 22.3.6, Vulkan 1.3.230 (not usable)", a.String())
	require.Equal(t, "type 9", AdapterType(9).String())

	a = everything()
	a.disable([]Feature{kernel.F16})
	report := a.Report()
	for _, text := range []string{"Everything", "switched off           f16\n", "missing                none\n",
		"coopmat ", "bf16·bf16+f32→f32", "heap 0", "1.0 GiB, device-local",
		"family 2 of 3, compute only", "workgroup-scope; dimensions to 0"} {
		require.Contains(t, report, text)
	}
}

func TestNamesOfMatrices(t *testing.T) {
	require.Equal(t, "bf16", componentName(1000141000))
	require.Equal(t, "type(77)", componentName(77))
	require.Equal(t, "subgroup", scopeName(3))
	require.Equal(t, "scope(77)", scopeName(77))
}
