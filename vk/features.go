package vk

import "github.com/vkmoe/vkmoe/internal/kernel"

// A featureBlock is one of Vulkan's feature structures: a header followed by booleans only, so one C type serves all.
type featureBlock struct {
	structure uint32 // VkStructureType
	core      uint32 // Vulkan version that made it core, 0 for never
	extension string // the extension that brings it to older devices, "" for none
}

// The feature structures vkmoe knows, indexes into featureBlocks.
const (
	blockCore = iota
	blockStorage16
	blockStorage8
	blockFloat16Int8
	blockAddress
	blockTimeline
	blockMemoryModel
	blockSubgroupTypes
	blockSubgroupSize
	blockDot
	blockMaintenance4
	blockBFloat16
	blockMatrix
	blockMatrix2
	blockExplicitLayout
	blockExecutables
	blockFault
	blockCount
)

var featureBlocks = [blockCount]featureBlock{
	blockCore:           {1000059000, apiVersion(1, 1), ""},
	blockStorage16:      {1000083000, apiVersion(1, 1), "VK_KHR_16bit_storage"},
	blockStorage8:       {1000177000, apiVersion(1, 2), "VK_KHR_8bit_storage"},
	blockFloat16Int8:    {1000082000, apiVersion(1, 2), "VK_KHR_shader_float16_int8"},
	blockAddress:        {1000257000, apiVersion(1, 2), "VK_KHR_buffer_device_address"},
	blockTimeline:       {1000207000, apiVersion(1, 2), "VK_KHR_timeline_semaphore"},
	blockMemoryModel:    {1000211000, apiVersion(1, 2), "VK_KHR_vulkan_memory_model"},
	blockSubgroupTypes:  {1000175000, apiVersion(1, 2), "VK_KHR_shader_subgroup_extended_types"},
	blockSubgroupSize:   {1000225002, apiVersion(1, 3), "VK_EXT_subgroup_size_control"},
	blockDot:            {1000280000, apiVersion(1, 3), "VK_KHR_shader_integer_dot_product"},
	blockMaintenance4:   {1000413000, apiVersion(1, 3), "VK_KHR_maintenance4"},
	blockBFloat16:       {1000141000, 0, "VK_KHR_shader_bfloat16"},
	blockMatrix:         {1000506000, 0, "VK_KHR_cooperative_matrix"},
	blockMatrix2:        {1000593000, 0, "VK_NV_cooperative_matrix2"},
	blockExplicitLayout: {1000336000, 0, "VK_KHR_workgroup_memory_explicit_layout"},
	blockExecutables:    {1000269000, 0, "VK_KHR_pipeline_executable_properties"},
	blockFault:          {1000341000, 0, "VK_EXT_device_fault"},
}

// present reports whether a device of this effective version and with these extensions knows the structure. Drivers may
// crash on structures they never announced.
func (b featureBlock) present(version uint32, extensions map[string]bool) bool {
	return b.core != 0 && version >= b.core || extensions[b.extension]
}

// A featureFlag is one boolean of a feature structure: the block and the boolean's position in it.
type featureFlag struct{ block, position int }

// The booleans vkmoe looks at, in the order of Vulkan's structures.
var (
	flagInt64           = featureFlag{blockCore, 40}
	flagInt16           = featureFlag{blockCore, 41}
	flagStorage16       = featureFlag{blockStorage16, 0}
	flagStorage8        = featureFlag{blockStorage8, 0}
	flagFloat16         = featureFlag{blockFloat16Int8, 0}
	flagInt8            = featureFlag{blockFloat16Int8, 1}
	flagAddress         = featureFlag{blockAddress, 0}
	flagTimeline        = featureFlag{blockTimeline, 0}
	flagMemoryModel     = featureFlag{blockMemoryModel, 0}
	flagDeviceScope     = featureFlag{blockMemoryModel, 1}
	flagSubgroupTypes   = featureFlag{blockSubgroupTypes, 0}
	flagSubgroupSize    = featureFlag{blockSubgroupSize, 0}
	flagFullSubgroups   = featureFlag{blockSubgroupSize, 1}
	flagDot             = featureFlag{blockDot, 0}
	flagMaintenance4    = featureFlag{blockMaintenance4, 0}
	flagBFloat16        = featureFlag{blockBFloat16, 0}
	flagBFloat16Matrix  = featureFlag{blockBFloat16, 2}
	flagMatrix          = featureFlag{blockMatrix, 0}
	flagMatrixWorkgroup = featureFlag{blockMatrix2, 0}
	flagMatrixFlexible  = featureFlag{blockMatrix2, 1}
	flagMatrixReduce    = featureFlag{blockMatrix2, 2}
	flagMatrixConvert   = featureFlag{blockMatrix2, 3}
	flagMatrixElement   = featureFlag{blockMatrix2, 4}
	flagMatrixTensor    = featureFlag{blockMatrix2, 5}
	flagMatrixBlock     = featureFlag{blockMatrix2, 6}
	flagExplicitLayout  = featureFlag{blockExplicitLayout, 0}
	flagExplicitScalar  = featureFlag{blockExplicitLayout, 1}
	flagExplicit8       = featureFlag{blockExplicitLayout, 2}
	flagExplicit16      = featureFlag{blockExplicitLayout, 3}
	flagExecutables     = featureFlag{blockExecutables, 0}
	flagFault           = featureFlag{blockFault, 0}
)

// A featureRule ties a Feature to Vulkan's booleans: it needs all of the first list, and enables those of the second
// that the device has. Features without a rule depend on limits and properties alone.
type featureRule struct{ need, with []featureFlag }

var featureRules = map[Feature]featureRule{
	kernel.F16:          {need: []featureFlag{flagFloat16}},
	kernel.BF16:         {need: []featureFlag{flagBFloat16}},
	kernel.Int8:         {need: []featureFlag{flagInt8}},
	kernel.Int16:        {need: []featureFlag{flagInt16}},
	kernel.Int64:        {need: []featureFlag{flagInt64}},
	kernel.Storage8:     {need: []featureFlag{flagStorage8}},
	kernel.Storage16:    {need: []featureFlag{flagStorage16}},
	kernel.IntegerDot:   {need: []featureFlag{flagDot}},
	kernel.SubgroupSize: {need: []featureFlag{flagSubgroupSize}, with: []featureFlag{flagFullSubgroups}},
	kernel.Timeline:     {need: []featureFlag{flagTimeline}},
	kernel.MemoryModel:  {need: []featureFlag{flagMemoryModel}, with: []featureFlag{flagDeviceScope}},
	kernel.CoopMat:      {need: []featureFlag{flagMatrix, flagMemoryModel}},
	kernel.CoopMat2: {
		need: []featureFlag{flagMatrix, flagMemoryModel, flagMatrixFlexible},
		with: []featureFlag{
			flagMatrixWorkgroup, flagMatrixReduce, flagMatrixConvert, flagMatrixElement, flagMatrixTensor, flagMatrixBlock,
		},
	},
	kernel.ExplicitLayout: {
		need: []featureFlag{flagExplicitLayout},
		with: []featureFlag{flagExplicitScalar, flagExplicit8, flagExplicit16},
	},
	kernel.ExecutableInfo: {need: []featureFlag{flagExecutables}},
	kernel.DeviceFault:    {need: []featureFlag{flagFault}},
}

// baseRule is what every device must have, and what is enabled everywhere it exists: LocalSizeId in SPIR-V needs
// maintenance4, subgroup operations on 16 and 64-bit values need the extended types.
var baseRule = featureRule{
	need: []featureFlag{flagAddress},
	with: []featureFlag{flagMaintenance4, flagSubgroupTypes},
}

// featureSet is a set of booleans: one bit per position of each block.
type featureSet [blockCount]uint64

func (s *featureSet) add(f featureFlag) { s[f.block] |= 1 << f.position }

func (s *featureSet) has(flags ...featureFlag) bool {
	for _, f := range flags {
		if s[f.block]>>f.position&1 == 0 {
			return false
		}
	}
	return true
}

// addRule adds what a rule needs and, of what goes with it, what offered has.
func (s *featureSet) addRule(r featureRule, offered *featureSet) {
	for _, f := range r.need {
		s.add(f)
	}
	for _, f := range r.with {
		if offered.has(f) {
			s.add(f)
		}
	}
}

// enabledFlags are the booleans to enable on a device with these features on.
func (a *Adapter) enabledFlags() featureSet {
	var set featureSet
	set.addRule(baseRule, &a.offered)
	for feature, on := range a.Caps.Features {
		if rule, ok := featureRules[feature]; ok && on {
			set.addRule(rule, &a.offered)
		}
	}
	if a.Caps.Features[kernel.BF16] && a.Caps.Features[kernel.CoopMat] && a.offered.has(flagBFloat16Matrix) {
		set.add(flagBFloat16Matrix)
	}
	return set
}

// Device extensions without a feature structure.
const (
	memoryBudgetExtension      = "VK_EXT_memory_budget"
	portabilitySubsetExtension = "VK_KHR_portability_subset"
	driverPropertiesExtension  = "VK_KHR_driver_properties"
	floatControlsExtension     = "VK_KHR_shader_float_controls"
	spirv14Extension           = "VK_KHR_spirv_1_4"
)

// enabledExtensions are the device extensions that the booleans and features need, each once.
func (a *Adapter) enabledExtensions(flags *featureSet) []string {
	var list []string
	for i, block := range featureBlocks {
		if flags[i] != 0 && block.extension != "" && (block.core == 0 || a.version < block.core) {
			list = append(list, block.extension)
		}
	}
	if a.Caps.Features[kernel.MemoryBudget] {
		list = append(list, memoryBudgetExtension)
	}
	if a.extensions[portabilitySubsetExtension] {
		list = append(list, portabilitySubsetExtension) // the specification demands it where it is offered
	}
	if a.version < apiVersion(1, 2) && a.extensions[spirv14Extension] && a.extensions[floatControlsExtension] {
		list = append(list, floatControlsExtension, spirv14Extension)
	}
	return list
}
