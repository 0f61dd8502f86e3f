package vk

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

func TestParseFeatures(t *testing.T) {
	for list, want := range map[string][]Feature{
		"":                        nil,
		" , ,":                    nil,
		"coopmat2,coopmat,f16":    {kernel.CoopMat2, kernel.CoopMat, kernel.F16},
		" CoopMat\t direct-map\n": {kernel.CoopMat, kernel.DirectMap},
		"f16,F16, f16":            {kernel.F16},
	} {
		features, err := parseFeatures(disableVariable, list)
		require.NoError(t, err, list)
		require.Equal(t, want, features, "%q", list)
	}
	for _, f := range kernel.Features {
		features, err := parseFeatures(disableVariable, string(f))
		require.NoError(t, err)
		require.Equal(t, []Feature{f}, features)
	}
}

func TestUnknownFeature(t *testing.T) {
	_, err := parseFeatures(disableVariable, "f16,coop-mat")
	var unknown *UnknownFeatureError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, UnknownFeatureError{Name: "coop-mat", Source: disableVariable, Valid: kernel.Features}, *unknown)
	for _, f := range kernel.Features {
		require.ErrorContains(t, err, string(f))
	}

	t.Setenv(disableVariable, "nothing")
	_, err = Adapters()
	skipWithoutVulkan(t, err)
	require.ErrorAs(t, err, &unknown)
}

// everything is an adapter that has all there is.
func everything() *Adapter {
	a := &Adapter{
		Name: "Everything", version: apiVersion(1, 3),
		extensions: map[string]bool{memoryBudgetExtension: true},
		heaps:      []memoryHeap{{size: 1 << 30, deviceLocal: true}},
		memoryTypes: []memoryType{{flags: vulkan.MemoryPropertyFlags(vulkan.MemoryPropertyDeviceLocalBit |
			vulkan.MemoryPropertyHostVisibleBit | vulkan.MemoryPropertyHostCoherentBit)}},
		families: []queueFamily{
			{graphics: true, timestampBits: 64}, {compute: true, graphics: true, timestampBits: 36},
			{compute: true, timestampBits: 64},
		},
	}
	for block := range a.offered {
		a.offered[block] = 1<<60 - 1
	}
	c := &a.Caps
	c.Features = map[Feature]bool{}
	c.TimestampPeriod = 1
	c.Matrix2 = Matrix2{WorkgroupScope: true}
	for _, s := range [][2]string{{"f16", "f32"}, {"bf16", "f32"}, {"s8", "s32"}, {"u8", "u32"}, {"f32", "f16"}} {
		c.CooperativeMatrix = append(c.CooperativeMatrix, CooperativeMatrixShape{A: s[0], B: s[0], C: s[1], D: s[1]})
		c.CooperativeMatrix2 = append(c.CooperativeMatrix2, FlexibleMatrixShape{A: s[0], B: s[0], C: s[1], D: s[1]})
	}
	a.chooseFeatures(subgroupAbilities{operations: ^uint32(0), requiredSize: true, matrices: true})
	a.chooseFamily()
	return a
}

func TestDisableEachFeature(t *testing.T) {
	require.Equal(t, kernel.Features, everything().Caps.available())
	alsoOff := map[Feature][]Feature{
		kernel.MemoryModel: {kernel.CoopMat, kernel.CoopMat2},
		kernel.CoopMat:     {kernel.CoopMat2},
	}
	for _, f := range kernel.Features {
		a := everything()
		a.disable([]Feature{f})
		require.ElementsMatch(t, append(alsoOff[f], f), a.Caps.Disabled, f)
		require.False(t, a.Caps.Has(f))
		require.Len(t, a.Caps.available(), len(kernel.Features)-len(a.Caps.Disabled), f)
		require.Equal(t, a.Caps.Features[kernel.CoopMat], len(a.Caps.CooperativeMatrix) > 0)
		require.Equal(t, a.Caps.Features[kernel.CoopMat2], len(a.Caps.CooperativeMatrix2) > 0)
		require.Equal(t, a.Caps.Features[kernel.CoopMat2], a.Caps.Matrix2 != Matrix2{})
		require.Equal(t, a.Caps.Features[kernel.Timestamps], a.Caps.TimestampBits > 0)
	}
}

func TestDisableDropsMatrixTypes(t *testing.T) {
	a := everything()
	a.disable([]Feature{kernel.F16, kernel.Int8})
	require.Equal(t, []CooperativeMatrixShape{{A: "bf16", B: "bf16", C: "f32", D: "f32"}}, a.Caps.CooperativeMatrix)
	require.Len(t, a.Caps.CooperativeMatrix2, 1)
	require.Equal(t, []Feature{kernel.F16, kernel.Int8}, a.Caps.Disabled)
	a.disable([]Feature{kernel.BF16}) // the last type, so nothing is left to multiply
	require.Equal(t, []Feature{kernel.F16, kernel.Int8, kernel.BF16, kernel.CoopMat, kernel.CoopMat2}, a.Caps.Disabled)
	require.Empty(t, a.Caps.CooperativeMatrix)
}

func TestDisableTwiceAndOfTheMissing(t *testing.T) {
	a := everything()
	a.disable(nil)
	require.Empty(t, a.Caps.Disabled)
	a.disable([]Feature{kernel.Int64, kernel.Int64})
	a.disable([]Feature{kernel.Int64})
	require.Equal(t, []Feature{kernel.Int64}, a.Caps.Disabled)
	require.Equal(t, kernel.Int64, a.Caps.Missing(kernel.F16, kernel.Int64))
}

func TestQueueFamily(t *testing.T) {
	a := everything()
	require.EqualValues(t, 2, a.queueFamily)
	require.EqualValues(t, 64, a.Caps.TimestampBits)
	a.disable([]Feature{kernel.ComputeQueue})
	require.EqualValues(t, 1, a.queueFamily)
	require.EqualValues(t, 36, a.Caps.TimestampBits)

	a = everything() // a pure compute device has no other family to fall back to
	a.families = []queueFamily{{compute: true}}
	a.chooseFamily()
	a.disable([]Feature{kernel.ComputeQueue})
	require.EqualValues(t, 0, a.queueFamily)
	require.False(t, a.Caps.Has(kernel.Timestamps))

	a.families = []queueFamily{{graphics: true}}
	a.chooseFamily()
	require.Equal(t, noFamily, a.queueFamily)
	require.ErrorContains(t, a.judge(), "queue family")
}

func TestWhatIsEnabled(t *testing.T) {
	a := everything()
	flags := a.enabledFlags()
	for f, rule := range featureRules {
		require.True(t, flags.has(rule.need...), f)
		require.True(t, flags.has(rule.with...), f)
	}
	require.True(t, flags.has(flagAddress, flagMaintenance4, flagSubgroupTypes, flagBFloat16Matrix))
	all := a.enabledExtensions(&flags)
	require.ElementsMatch(t, []string{
		"VK_KHR_shader_bfloat16", "VK_KHR_cooperative_matrix", "VK_NV_cooperative_matrix2",
		"VK_KHR_workgroup_memory_explicit_layout", "VK_KHR_pipeline_executable_properties", "VK_EXT_device_fault",
		memoryBudgetExtension,
	}, all, "what is core in 1.3 is not enabled by name")

	for _, f := range kernel.Features {
		a := everything()
		a.disable([]Feature{f})
		flags := a.enabledFlags()
		require.True(t, flags.has(flagAddress))
		if rule, ok := featureRules[f]; ok && f != kernel.CoopMat2 {
			require.False(t, flags.has(rule.need[0]), f)
		}
	}
	a.disable([]Feature{kernel.CoopMat2})
	flags = a.enabledFlags()
	require.Zero(t, flags[blockMatrix2])
	require.NotContains(t, a.enabledExtensions(&flags), "VK_NV_cooperative_matrix2")
}

func TestOlderDevicesEnableByName(t *testing.T) {
	a := everything()
	a.version = apiVersion(1, 1)
	a.extensions = map[string]bool{spirv14Extension: true, floatControlsExtension: true, portabilitySubsetExtension: true}
	flags := a.enabledFlags()
	names := a.enabledExtensions(&flags)
	for _, want := range []string{"VK_KHR_buffer_device_address", "VK_KHR_timeline_semaphore", "VK_KHR_8bit_storage",
		"VK_EXT_subgroup_size_control", spirv14Extension, floatControlsExtension, portabilitySubsetExtension} {
		require.Contains(t, names, want)
	}
	require.NotContains(t, names, "VK_KHR_16bit_storage", "it is core in 1.1")
	seen := map[string]bool{}
	for _, name := range names {
		require.False(t, seen[name] || strings.TrimSpace(name) == "", "%q twice or empty", name)
		seen[name] = true
	}
}

func TestDirectMap(t *testing.T) {
	a := everything()
	require.True(t, a.mapsDirectly())
	a.Type = Discrete
	require.False(t, a.mapsDirectly(), "over the bus")
	a.Type = Integrated
	a.heaps = []memoryHeap{{size: 1 << 28, deviceLocal: true}, {size: 1 << 30, deviceLocal: true}}
	require.False(t, a.mapsDirectly(), "only the small heap can be mapped")
}
