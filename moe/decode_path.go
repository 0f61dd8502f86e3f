package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// The decode path: scatter2scatter for a few rows per expert, where reading the weights is what takes time. It cuts rows as
// the portable path does, so both serve the same routing.

// decodeKernels are the variants of scatter2scatter_gemv.
var decodeKernels = newLinearKernels([...]*vk.Kernel{
	shaders.Scatter2scatterGemvF32, shaders.Scatter2scatterGemvF16, shaders.Scatter2scatterGemvF16F16F32,
	shaders.Scatter2scatterGemvF32F16F16, shaders.Scatter2scatterGemvF32F16F32,
	shaders.Scatter2scatterGemvBf16, shaders.Scatter2scatterGemvBf16Bf16F32,
	shaders.Scatter2scatterGemvF32Bf16Bf16, shaders.Scatter2scatterGemvF32Bf16F32,
	shaders.Scatter2scatterGemvF32Int8, shaders.Scatter2scatterGemvF16Int8, shaders.Scatter2scatterGemvBf16Int8,
	shaders.Scatter2scatterGemvF32Q4, shaders.Scatter2scatterGemvF16Q4, shaders.Scatter2scatterGemvBf16Q4,
})

// A vectorTile is how the decode path shares work: of Threads invocations every Team computes Outputs outputs, Columns rows
// of x at a time.
type vectorTile struct {
	Threads int `json:"threads"`
	Team    int `json:"team"`
	Outputs int `json:"outputs"`
	Columns int `json:"columns"`
}

func (t vectorTile) String() string {
	return fmt.Sprintf("%d invocations in teams of %d, %d outputs each, %d rows at a time", t.Threads, t.Team, t.Outputs, t.Columns)
}

// askedVectors is the tile of a layer that asks for the decode path: what fits every device.
var askedVectors = vectorTile{128, 32, 4, 4}

// BN is the number of outputs of a work-group.
func (t vectorTile) BN() int { return t.Threads / t.Team * t.Outputs }

// vectorTile is the layer's tile on the decode path for so many rows, at most most of them of one expert; it is empty where the
// path is not to be taken.
func (l *ParallelLinear) vectorTile(dev *vk.Device, rows, most int) vectorTile {
	if l.vectors != (vectorTile{}) || l.tile != (Tile{}) || l.matrices != (tensorTile{}) {
		return l.vectors
	}
	t := askedVectors
	switch l.Config.Path {
	case PathAuto:
		t = tuning(dev).band(rows, l.Config.Experts).vectors(l.Config.Weights)
	case PathDecode:
	default:
		return vectorTile{}
	}
	if most <= 1 && classOf(dev) == classTensor {
		return t.forOneRow(l.Config.Weights, l.chunks())
	}
	return t.forRows(l.Config.Weights, most)
}

// chunks is the number of pieces of 16 bytes that an output's weights are.
func (l *ParallelLinear) chunks() int {
	return l.Config.In / l.Config.Weights.chunkValues(l.Config.DType)
}

// forRows is the tile for at most so many rows per expert. For one, kernels of quantized weights, whose codes need registers, are
// faster without room for others; those of full weights are not.
func (t vectorTile) forRows(format WeightFormat, most int) vectorTile {
	if most <= 1 && t.Threads > 0 && format != WeightsFull {
		t.Columns = 1
	}
	return t
}

// forOneRow is the tile for one row per expert on a GPU: teams that a whole number of their chunks fills, larger ones for longer rows
// and so fewer outputs of a work-group, of which there are then more than the device holds at once.
func (t vectorTile) forOneRow(format WeightFormat, chunks int) vectorTile {
	if t.Threads < 128 {
		return t.forRows(format, 1)
	}
	team := 0
	switch {
	case format == WeightsFull && chunks >= 512 && chunks%128 == 0:
		team = 128
	case format == WeightsFull && chunks%128 == 0, format != WeightsFull && chunks%64 == 0:
		team = 64
	case chunks%32 == 0:
		team = 32
	default:
		return t.forRows(format, 1)
	}
	t.Team, t.Columns = team, 1
	return t
}

// depth is how many chunks of an output's weights an invocation loads at once, or 0 for the loop that loads one ahead. Many
// work-groups of few registers hide the time that loads take better than loads ahead do.
func (t vectorTile) depth(format WeightFormat, chunks int, class deviceClass) int {
	if t.Columns > 1 || class == classPlain { // on which it was not measured
		return 0
	}
	depth := 1
	if format == WeightsFull {
		depth = min(4, max(2, t.Team/32))
	}
	for depth > 0 && chunks%(depth*t.Team) != 0 {
		depth /= 2
	}
	return depth
}

// decodeDispatch makes a dispatch one of the decode path for tiles of blockM rows and returns how many columns a tile has, or
// false where the path does not apply.
func decodeDispatch(dev *vk.Device, t vectorTile, l *ParallelLinear, blockM int, x, y *vk.Tensor, d *vk.Dispatch) (int, bool) {
	kernel := decodeKernels[l.types(x, y)]
	values := l.Config.Weights.chunkValues(l.Config.DType)
	if t.Threads == 0 || kernel == nil || l.transposed() || l.Config.In%values != 0 || x.Address()%16 != 0 || !l.Weight.aligned(16) {
		return 0, false
	}
	shared := 4 * t.Threads * (t.Outputs*t.Columns + 1)
	if shared > int(dev.Caps().SharedMemoryBytes) || t.Threads > int(dev.Caps().MaxWorkgroupInvocations) {
		return 0, false
	}
	d.Kernel, d.Spec = kernel, t.spec(blockM, t.depth(l.Config.Weights, l.chunks(), classOf(dev)), classOf(dev) == classTensor).Values()
	return t.BN(), true
}

// spec returns the kernel's specialization constants of the tile.
func (t vectorTile) spec(blockM, depth int, fastHalf bool) shaders.Scatter2scatterGemvSpec {
	return shaders.Scatter2scatterGemvSpec{Threads: uint32(t.Threads), BM: uint32(blockM), Team: uint32(t.Team),
		RN: uint32(t.Outputs), Columns: uint32(t.Columns), FastHalf: fastHalf, Depth: uint32(depth)}
}
