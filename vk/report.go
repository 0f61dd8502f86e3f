package vk

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// LocalBytes is the size of the largest device-local memory heap in bytes; on unified memory that is the host's memory.
func (a *Adapter) LocalBytes() uint64 {
	var largest uint64
	for _, h := range a.heaps {
		if h.deviceLocal {
			largest = max(largest, h.size)
		}
	}
	return largest
}

// driver is the driver in words: name and version text, or the version number where the driver tells no more.
func (a *Adapter) driver() string {
	text := strings.TrimSpace(a.DriverName + " " + a.DriverInfo)
	v := a.DriverVersion
	return cmp.Or(text, fmt.Sprintf("driver %d.%d.%d", v>>22, v>>12&0x3ff, v&0xfff))
}

// String describes the adapter in one line: index, name, type, driver and Vulkan version.
func (a *Adapter) String() string {
	line := fmt.Sprintf("%d: %s, %s, %s, Vulkan %s", a.Index, a.Name, a.Type, a.driver(), a.API)
	if a.Unusable != nil {
		line += " (not usable)"
	}
	return line
}

// Report describes the adapter in many lines: identity, limits, memory, features and matrix shapes. It is meant for bug
// reports.
func (a *Adapter) Report() string {
	var b strings.Builder
	c := &a.Caps
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(&b, a.String())
	if a.Unusable != nil {
		line("not usable", "%v", a.Unusable)
	}
	line("vendor, device", "%#04x, %#04x", a.VendorID, a.DeviceID)
	line("device UUID", "%x", a.DeviceUUID)
	line("driver UUID", "%x", a.DriverUUID)
	line("driver version", "%#x", a.DriverVersion)
	line("queue", "%s", a.queue())
	line("subgroup size", "%d (%d to %d)", c.SubgroupSize, c.MinSubgroupSize, c.MaxSubgroupSize)
	line("work-group", "%d invocations, size %s, count %s",
		c.MaxWorkgroupInvocations, axes(c.MaxWorkgroupSize), axes(c.MaxWorkgroupCount))
	line("shared memory", "%s", byteCount(uint64(c.SharedMemoryBytes)))
	line("push constants", "%d B", c.PushConstantBytes)
	line("largest allocation", "%s", byteCount(c.MaxAllocationBytes))
	line("largest buffer", "%s", byteCount(c.MaxBufferBytes))
	line("timestamps", "%d bits, %g ns per tick", c.TimestampBits, c.TimestampPeriod)
	for i, h := range a.heaps {
		kind := "host"
		if h.deviceLocal {
			kind = "device-local"
		}
		line(fmt.Sprintf("heap %d", i), "%s, %s", byteCount(h.size), kind)
	}
	line("features", "%s", words(c.available()))
	line("switched off", "%s", words(c.Disabled))
	line("missing", "%s", words(c.absent()))
	for _, s := range c.CooperativeMatrix {
		line("coopmat", "%d×%d×%d %s·%s+%s→%s, %s%s", s.M, s.N, s.K, s.A, s.B, s.C, s.D, s.Scope, saturating(s.Saturating))
	}
	for _, s := range c.CooperativeMatrix2 {
		scope := s.Scope
		if s.Invocations > 0 {
			scope += fmt.Sprintf(" of %d invocations", s.Invocations)
		}
		line("coopmat2", "multiples of %d×%d×%d %s·%s+%s→%s, %s%s", s.MGranularity, s.NGranularity, s.KGranularity,
			s.A, s.B, s.C, s.D, scope, saturating(s.Saturating))
	}
	if c.Features[kernel.CoopMat2] {
		line("coopmat2 parts", "%s", c.Matrix2)
	}
	return b.String()
}

// queue describes the queue family that vkmoe submits to.
func (a *Adapter) queue() string {
	if a.queueFamily == noFamily {
		return "none that computes"
	}
	kind := "compute only"
	if a.families[a.queueFamily].graphics {
		kind = "compute and graphics"
	}
	return fmt.Sprintf("family %d of %d, %s", a.queueFamily, len(a.families), kind)
}

// String lists the parts that are there and the limits.
func (m Matrix2) String() string {
	var parts []string
	for _, p := range []struct {
		there bool
		name  string
	}{
		{m.WorkgroupScope, "workgroup-scope"}, {m.Reductions, "reductions"}, {m.Conversions, "conversions"},
		{m.PerElement, "per-element"}, {m.TensorAddressing, "tensor-addressing"}, {m.BlockLoads, "block-loads"},
	} {
		if p.there {
			parts = append(parts, p.name)
		}
	}
	return fmt.Sprintf("%s; dimensions to %d, work-groups to %d invocations, %d B of shared memory reserved",
		cmp.Or(strings.Join(parts, " "), "none"), m.MaxDimension, m.MaxWorkgroupInvocations, m.ReservedSharedBytes)
}

// absent lists the features that the device itself lacks.
func (c *Capabilities) absent() []Feature {
	known := map[Feature]bool{}
	for _, f := range c.Disabled {
		known[f] = true
	}
	var list []Feature
	for _, f := range kernel.Features {
		if !c.Features[f] && !known[f] {
			list = append(list, f)
		}
	}
	return list
}

func axes(n [3]uint32) string { return fmt.Sprintf("%d×%d×%d", n[0], n[1], n[2]) }

func words(features []Feature) string {
	list := make([]string, len(features))
	for i, f := range features {
		list[i] = string(f)
	}
	return cmp.Or(strings.Join(list, " "), "none")
}

func saturating(s bool) string {
	if s {
		return ", saturating"
	}
	return ""
}
