package vk

import (
	"fmt"
	"slices"
	"strings"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// disableVariable lists features to do without, separated by commas: VKMOE_DISABLE=coopmat2,coopmat,f16.
const disableVariable = "VKMOE_DISABLE"

// An UnknownFeatureError is a feature name that does not exist.
type UnknownFeatureError struct {
	Name   string    // what was given
	Source string    // where: "VKMOE_DISABLE" or an option's name
	Valid  []Feature // every name there is
}

func (e *UnknownFeatureError) Error() string {
	names := make([]string, len(e.Valid))
	for i, f := range e.Valid {
		names[i] = string(f)
	}
	return fmt.Sprintf("vk: %s: there is no feature %q; the features are %s", e.Source, e.Name, strings.Join(names, ", "))
}

// parseFeatures reads a list of feature names separated by commas or spaces, in any case, each kept once. source is
// named in the error.
func parseFeatures(source, list string) ([]Feature, error) {
	var features []Feature
	words := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	for _, word := range words {
		f := Feature(strings.ToLower(word))
		if !slices.Contains(kernel.Features, f) {
			return nil, &UnknownFeatureError{Name: word, Source: source, Valid: kernel.Features}
		}
		if !slices.Contains(features, f) {
			features = append(features, f)
		}
	}
	return features, nil
}

// chooseFeatures fills Caps.Features from what the device offers.
func (a *Adapter) chooseFeatures(able subgroupAbilities) {
	c := &a.Caps
	for f, rule := range featureRules {
		c.Features[f] = a.offered.has(rule.need...)
	}
	c.FullSubgroups = a.offered.has(flagFullSubgroups)
	c.Features[kernel.SubgroupSize] = c.Features[kernel.SubgroupSize] && able.requiredSize
	c.Features[kernel.SubgroupArith] = able.operations&0x4 != 0
	c.Features[kernel.SubgroupBallot] = able.operations&0x8 != 0
	c.Features[kernel.SubgroupShuffle] = able.operations&0x10 != 0
	c.Features[kernel.MemoryBudget] = a.extensions[memoryBudgetExtension]
	c.Features[kernel.DirectMap] = a.mapsDirectly()
	c.Features[kernel.ComputeQueue] = a.family(func(f queueFamily) bool { return f.compute && !f.graphics }) != noFamily
	c.Features[kernel.Timestamps] = c.TimestampPeriod > 0 &&
		slices.ContainsFunc(a.families, func(f queueFamily) bool { return f.compute && f.timestampBits > 0 })
	if !able.matrices {
		c.CooperativeMatrix, c.CooperativeMatrix2 = nil, nil
	}
	if !a.offered.has(flagBFloat16, flagBFloat16Matrix) {
		c.dropShapes("bf16")
	}
	if !c.Features[kernel.F16] {
		c.dropShapes("f16")
	}
	if !c.Features[kernel.Int8] {
		c.dropShapes("s8", "u8")
	}
	c.Features[kernel.CoopMat] = c.Features[kernel.CoopMat] && len(c.CooperativeMatrix) > 0
	c.Features[kernel.CoopMat2] = c.Features[kernel.CoopMat2] && len(c.CooperativeMatrix2) > 0
	c.clearMatrices()
}

// mapsDirectly reports whether the host may map the device's main memory: it does on integrated and software devices
// whose largest device-local heap has a coherent host-visible type. A discrete device's mapping goes over the bus, where
// staging is faster.
func (a *Adapter) mapsDirectly() bool {
	if a.Type == Discrete {
		return false
	}
	main := -1
	for i, h := range a.heaps {
		if h.deviceLocal && (main < 0 || h.size > a.heaps[main].size) {
			main = i
		}
	}
	const want = vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyDeviceLocalBit |
		vulkan.MemoryPropertyHostVisibleBit | vulkan.MemoryPropertyHostCoherentBit)
	return slices.ContainsFunc(a.memoryTypes, func(t memoryType) bool {
		return int(t.heap) == main && t.flags&want == want
	})
}

// noFamily is the queueFamily of a device on which nothing computes.
const noFamily = ^uint32(0)

// family is the first queue family of which want is true, or noFamily.
func (a *Adapter) family(want func(queueFamily) bool) uint32 {
	if i := slices.IndexFunc(a.families, want); i >= 0 {
		return uint32(i)
	}
	return noFamily
}

// chooseFamily picks the queue family to submit to: one that computes and does not draw, unless the device has none or
// ComputeQueue is off. On NVIDIA it also doubles the shared memory that stays resident.
func (a *Adapter) chooseFamily() {
	a.queueFamily = noFamily
	if a.Caps.Features[kernel.ComputeQueue] {
		a.queueFamily = a.family(func(f queueFamily) bool { return f.compute && !f.graphics })
	}
	if a.queueFamily == noFamily {
		a.queueFamily = a.family(func(f queueFamily) bool { return f.compute && f.graphics })
	}
	if a.queueFamily == noFamily { // ComputeQueue is off and there is nothing else
		a.queueFamily = a.family(func(f queueFamily) bool { return f.compute })
	}
	c := &a.Caps
	c.TimestampBits = 0
	if a.queueFamily != noFamily && c.TimestampPeriod > 0 {
		c.TimestampBits = a.families[a.queueFamily].timestampBits
	}
	if c.TimestampBits == 0 {
		c.Features[kernel.Timestamps] = false
	}
	if !c.Features[kernel.Timestamps] {
		c.TimestampBits = 0
	}
}

// implied says what cannot be used without a feature, and so goes off with it.
var implied = map[Feature][]Feature{
	kernel.MemoryModel: {kernel.CoopMat}, // SPIR-V's cooperative matrices demand the Vulkan memory model
	kernel.CoopMat:     {kernel.CoopMat2},
}

// disable switches features off, with whatever depends on them. Features that the device lacks are ignored; the others
// are noted in Caps.Disabled.
func (a *Adapter) disable(features []Feature) {
	c := &a.Caps
	before := c.available()
	var off func(f Feature)
	off = func(f Feature) {
		c.Features[f] = false
		for _, g := range implied[f] {
			off(g)
		}
		switch f {
		case kernel.F16:
			c.dropShapes("f16")
		case kernel.BF16:
			c.dropShapes("bf16")
		case kernel.Int8:
			c.dropShapes("s8", "u8")
		case kernel.SubgroupSize:
			c.FullSubgroups = false
		}
	}
	for _, f := range features {
		off(f)
	}
	c.Features[kernel.CoopMat] = c.Features[kernel.CoopMat] && len(c.CooperativeMatrix) > 0
	c.Features[kernel.CoopMat2] = c.Features[kernel.CoopMat2] && len(c.CooperativeMatrix2) > 0
	c.clearMatrices()
	a.chooseFamily()
	for _, f := range before {
		if !c.Features[f] {
			c.Disabled = append(c.Disabled, f)
		}
	}
}

// available lists the features that are on, in the order of kernel.Features.
func (c *Capabilities) available() []Feature {
	var on []Feature
	for _, f := range kernel.Features {
		if c.Features[f] {
			on = append(on, f)
		}
	}
	return on
}

// dropShapes removes the cooperative-matrix shapes that use any of the component types.
func (c *Capabilities) dropShapes(types ...string) {
	uses := func(components ...string) bool {
		return slices.ContainsFunc(components, func(t string) bool { return slices.Contains(types, t) })
	}
	c.CooperativeMatrix = slices.DeleteFunc(c.CooperativeMatrix, func(s CooperativeMatrixShape) bool {
		return uses(s.A, s.B, s.C, s.D)
	})
	c.CooperativeMatrix2 = slices.DeleteFunc(c.CooperativeMatrix2, func(s FlexibleMatrixShape) bool {
		return uses(s.A, s.B, s.C, s.D)
	})
}

// clearMatrices empties the lists of matrix features that are off, so that nobody who reads only the lists is misled.
func (c *Capabilities) clearMatrices() {
	if !c.Features[kernel.CoopMat] {
		c.CooperativeMatrix = nil
	}
	if !c.Features[kernel.CoopMat2] {
		c.CooperativeMatrix2, c.Matrix2 = nil, Matrix2{}
	}
}
