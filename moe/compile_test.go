package moe

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// pipelines lists every kernel with the specializations that this package may ask for.
func pipelines() []vk.PipelineSpec {
	var list []vk.PipelineSpec
	add := func(k *vk.Kernel, values []uint32) { list = append(list, vk.PipelineSpec{Kernel: k, Spec: values}) }
	add(shaders.ExpertHistogram, shaders.ExpertHistogramSpec{Threads: sortThreads}.Values())
	for _, software := range []bool{false, true} {
		for _, direct := range []bool{false, true} {
			for _, experts := range []int{8, MaxExperts} {
				add(shaders.ExpertScatter, scatterSpec(software, direct, experts, 16384).Values())
			}
		}
	}
	for _, band := range builtInBands() {
		for _, tile := range []Tile{band.Wide, band.Narrow} {
			for flags := range 8 {
				spec := tile.spec()
				spec.XQuads, spec.WQuads, spec.Transposed = flags&1 != 0, flags&2 != 0, flags&4 != 0
				add(shaders.Scatter2scatterF32, spec.Values())
			}
		}
	}
	list = append(list, storagePipelines()...)
	list = append(list, decodePipelines()...)
	for _, format := range quantFormats {
		for dtype := vk.F32; dtype <= vk.BF16; dtype++ {
			add(quantizeKernels[format][dtype], shaders.QuantizeSpec{Threads: quantizeThreads}.Values())
		}
	}
	for _, a := range activations {
		for _, wide := range []bool{false, true} {
			grid := check.NewGrid(1024, wide)
			add(shaders.ActivationF32, shaders.ActivationSpec{Columns: grid.Columns, Rows: grid.Rows, Quads: grid.Quads,
				Mode: a.mode, Gated: a.gated}.Values())
		}
	}
	for flags := range 8 {
		add(shaders.CombineF32, shaders.CombineSpec{Columns: 64, Rows: 1, Quads: flags&1 != 0, Grouped: flags&2 != 0,
			Accumulate: flags&4 != 0, Choices: 4}.Values())
	}
	list = append(list, backwardPipelines()...)
	for _, experts := range []int{1, 2, 8, 60, 64, 128, 256, 384, 1000, 1024} {
		for _, software := range []bool{false, true} {
			list = append(list, routerPipelines(software, experts)...)
		}
	}
	return list
}

// storagePipelines lists 16-bit variants with the specializations in which they differ most.
func storagePipelines() []vk.PipelineSpec {
	var list []vk.PipelineSpec
	add := func(k *vk.Kernel, values []uint32) { list = append(list, vk.PipelineSpec{Kernel: k, Spec: values}) }
	for _, types := range slices.SortedFunc(maps.Keys(linearKernels), func(a, b linearTypes) int {
		return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
	}) {
		for _, band := range builtInBands() {
			for _, all := range []bool{false, true} {
				spec := band.Wide.spec()
				spec.XQuads, spec.WQuads, spec.Transposed = all, all, all && types.format == WeightsFull
				add(linearKernels[types], spec.Values())
			}
		}
	}
	for _, dtype := range halfTypes {
		for _, wide := range []bool{false, true} {
			for _, interleaved := range []bool{false, true} {
				add(activationKernels[dtype], shaders.ActivationSpec{Columns: 64, Rows: 1, Quads: wide, Mode: activations[SwiGLU].mode,
					Gated: true, Interleaved: interleaved}.Values())
			}
			add(combineKernels[dtype], shaders.CombineSpec{Columns: 64, Rows: 1, Quads: wide, Choices: 4}.Values())
			for _, pair := range [][2]vk.DType{{vk.F32, dtype}, {dtype, vk.F32}} {
				add(convertKernels[pair], shaders.ConvertSpec{Threads: convertThreads, Quads: wide}.Values())
			}
		}
	}
	return list
}

// decodePipelines lists those of the decode path.
func decodePipelines() []vk.PipelineSpec {
	var list []vk.PipelineSpec
	for _, band := range builtInBands() {
		for types, kernel := range decodeKernels {
			if v := band.vectors(types.format); v != (vectorTile{}) {
				for most := range 2 {
					list = append(list, vk.PipelineSpec{Kernel: kernel, Spec: v.forRows(types.format, 1+most).spec(band.Wide.BM, 0, false).Values()})
				}
				for _, chunks := range []int{96, 256, 512} {
					one := v.forOneRow(types.format, chunks)
					list = append(list, vk.PipelineSpec{Kernel: kernel,
						Spec: one.spec(band.Wide.BM, one.depth(types.format, chunks, classTensor), true).Values()})
				}
			}
		}
	}
	return list
}

// backwardPipelines lists those of the backward pass.
func backwardPipelines() []vk.PipelineSpec {
	var list []vk.PipelineSpec
	add := func(k *vk.Kernel, values []uint32) { list = append(list, vk.PipelineSpec{Kernel: k, Spec: values}) }
	for _, widths := range [][2]int{{8, 8}, {8, 1024}, {1024, 8}, {32, 1024}, {1024, 32}, {1024, 1024}} {
		for flags := range 4 {
			tile := xtyTile(flags&1 != 0, widths[0], widths[1])
			add(shaders.GroupXtyF32, shaders.GroupXtySpec{Threads: uint32(tile.Threads()), BM: uint32(tile.BM), BN: uint32(tile.BN),
				BK: uint32(tile.BK), TM: uint32(tile.TM), TN: uint32(tile.TN), AQuads: flags&2 != 0, BQuads: flags&2 != 0,
				CQuads: flags&2 != 0}.Values())
		}
	}
	add(shaders.GroupSumF32, shaders.GroupSumSpec{Columns: sumColumns, Rows: sumRows}.Values())
	for flags := range 4 {
		team := chooseTeam(flags&1 != 0, 4096, flags&2 != 0)
		for rows := range uint32(4) {
			add(shaders.CombineBackwardF32, shaders.CombineBackwardSpec{Lanes: uint32(team.lanes), Rows: uint32(team.rows),
				Quads: flags&2 != 0, ARows: rows % 3, BRows: rows, CRows: 1 + rows%2}.Values())
		}
		for _, a := range activations {
			add(shaders.ActivationBackwardF32, shaders.ActivationBackwardSpec{Lanes: uint32(team.lanes), Rows: uint32(team.rows),
				Quads: flags&2 != 0, Mode: a.mode, Gated: a.gated}.Values())
		}
	}
	return list
}

// routerPipelines lists those of routers with a number of experts.
func routerPipelines(software bool, experts int) []vk.PipelineSpec {
	var list []vk.PipelineSpec
	add := func(k *vk.Kernel, values []uint32) { list = append(list, vk.PipelineSpec{Kernel: k, Spec: values}) }
	lanes := topKLanes(software, experts)
	for mode := SoftmaxTopK; mode <= SigmoidTopKNorm; mode++ {
		for _, groups := range []int{0, experts} {
			cfg := RouterConfig{Mode: mode, Groups: groups}
			add(shaders.TopkGates, topKSpec(experts, cfg, lanes).Values())
			if groups == 0 {
				add(shaders.TopkGates, topKSpec(experts, cfg, byRanks).Values())
			}
		}
		for _, accumulate := range []bool{false, true} {
			add(shaders.TopkGatesBackward, shaders.TopkGatesBackwardSpec{Threads: topKThreads, Lanes: uint32(lanes),
				Mode: uint32(mode), Accumulate: accumulate}.Values())
			add(shaders.RouterLossesBackward, shaders.RouterLossesBackwardSpec{Threads: topKThreads, Lanes: uint32(lanes),
				Sigmoid: mode.Sigmoid(), Accumulate: accumulate}.Values())
			add(shaders.RouterLosses, shaders.RouterLossesSpec{Threads: statsThreads, PerLayer: accumulate}.Values())
			for _, k := range jitterKernels {
				add(k, shaders.JitterSpec{Threads: jitterThreads, Accumulate: accumulate}.Values())
			}
		}
		add(shaders.RouterStats, shaders.RouterStatsSpec{Threads: statsThreads, Sums: uint32(max(statsThreads, experts)),
			Sigmoid: mode.Sigmoid()}.Values())
	}
	add(shaders.RouterStatsSum, shaders.RouterStatsSumSpec{Threads: statsThreads, Columns: statsColumns}.Values())
	return list
}

// TestPipelinesFitEveryDevice holds all specializations to what every Vulkan device offers: 16 KiB of shared memory and 256
// invocations in a work-group (Vulkan's minimum is 128, the least seen is 256).
func TestPipelinesFitEveryDevice(t *testing.T) {
	for _, p := range pipelines() {
		shared, err := spirv.SharedBytes(p.Kernel.SPIRV(), p.Spec)
		require.NoError(t, err)
		require.LessOrEqual(t, shared, uint64(16384), "%s %v", p.Kernel.Name(), p.Spec)
		invocations := uint32(1)
		for _, axis := range p.Kernel.LocalSize {
			if axis >= 0 {
				invocations *= p.Spec[axis]
			} else {
				invocations *= uint32(-axis)
			}
		}
		require.LessOrEqual(t, invocations, uint32(256), "%s %v", p.Kernel.Name(), p.Spec)
		require.Empty(t, p.Kernel.Needs, "the portable path needs no optional feature")
	}
}

// TestEveryPipelineCompiles asks the driver for all of them. It also runs where nothing can be executed, as on RADV
// without hardware.
func TestEveryPipelineCompiles(t *testing.T) {
	gputest.Need(t, dev)
	list := pipelines()
	if testing.Short() {
		list = list[:16]
	}
	require.NoError(t, dev.Compile(context.Background(), list))
}
