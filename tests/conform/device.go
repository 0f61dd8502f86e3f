package conform

import (
	"fmt"
	"sort"

	"github.com/vkmoe/vkmoe/vk"
)

// A Device says what ran, in full.
type Device struct {
	Name          string            `json:"name"`
	Type          string            `json:"type"`
	VendorID      string            `json:"vendor_id"`
	DeviceID      string            `json:"device_id"`
	DeviceUUID    string            `json:"device_uuid"`
	Driver        string            `json:"driver"`
	DriverInfo    string            `json:"driver_info"`
	DriverVersion string            `json:"driver_version"`
	DriverUUID    string            `json:"driver_uuid"`
	API           string            `json:"api"`
	SubgroupSize  uint32            `json:"subgroup_size"`
	Limits        map[string]string `json:"limits"`
	Features      []string          `json:"features"`
	Disabled      []string          `json:"disabled,omitempty"`
	Matrices      []string          `json:"cooperative_matrices,omitempty"`
	Matrices2     []string          `json:"cooperative_matrices_2,omitempty"`
}

// Describe makes the description of an adapter.
func Describe(a *vk.Adapter) Device {
	c := &a.Caps
	d := Device{Name: a.Name, Type: a.Type.String(), VendorID: fmt.Sprintf("%#04x", a.VendorID), DeviceID: fmt.Sprintf("%#04x", a.DeviceID),
		DeviceUUID: fmt.Sprintf("%x", a.DeviceUUID), Driver: a.DriverName, DriverInfo: a.DriverInfo,
		DriverVersion: fmt.Sprintf("%#x", a.DriverVersion), DriverUUID: fmt.Sprintf("%x", a.DriverUUID), API: a.API.String(),
		SubgroupSize: c.SubgroupSize,
		Limits: map[string]string{
			"subgroup sizes":          fmt.Sprintf("%d to %d", c.MinSubgroupSize, c.MaxSubgroupSize),
			"work-group invocations":  fmt.Sprint(c.MaxWorkgroupInvocations),
			"work-group size":         fmt.Sprint(c.MaxWorkgroupSize),
			"work-group count":        fmt.Sprint(c.MaxWorkgroupCount),
			"shared memory, bytes":    fmt.Sprint(c.SharedMemoryBytes),
			"push constants, bytes":   fmt.Sprint(c.PushConstantBytes),
			"largest allocation":      fmt.Sprint(c.MaxAllocationBytes),
			"largest buffer":          fmt.Sprint(c.MaxBufferBytes),
			"device-local memory":     fmt.Sprint(a.LocalBytes()),
			"timestamp period, ns":    fmt.Sprint(c.TimestampPeriod),
			"timestamp bits":          fmt.Sprint(c.TimestampBits),
			"full subgroups required": fmt.Sprint(c.FullSubgroups),
		}}
	for f, on := range c.Features {
		if on {
			d.Features = append(d.Features, string(f))
		}
	}
	sort.Strings(d.Features)
	for _, f := range c.Disabled {
		d.Disabled = append(d.Disabled, string(f))
	}
	for _, m := range c.CooperativeMatrix {
		text := fmt.Sprintf("%d×%d×%d %s·%s+%s→%s, %s", m.M, m.N, m.K, m.A, m.B, m.C, m.D, m.Scope)
		if m.Saturating {
			text += ", saturating"
		}
		d.Matrices = append(d.Matrices, text)
	}
	for _, m := range c.CooperativeMatrix2 {
		d.Matrices2 = append(d.Matrices2, fmt.Sprintf("multiples of %d×%d×%d %s·%s+%s→%s, %s of %d", m.MGranularity, m.NGranularity,
			m.KGranularity, m.A, m.B, m.C, m.D, m.Scope, m.Invocations))
	}
	return d
}

func (d Device) String() string {
	return fmt.Sprintf("%s (%s), driver %s %s, Vulkan %s, subgroups of %d", d.Name, d.Type, d.Driver, d.DriverInfo, d.API, d.SubgroupSize)
}
