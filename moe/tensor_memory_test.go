package moe

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// memoryTiles are the tensor path's tiles of the tables and some that leave other strips over, for matrices of m rows and columns.
func memoryTiles(m int) []tensorTile {
	tiles := []tensorTile{{m, 2 * m, 16, 1, 1}, {2 * m, 4 * m, 32, 2, 2}, {4 * m, m, 16, 1, 1}, {8 * m, 8 * m, 64, 2, 4}, {3 * m, 12 * m, 32, 1, 3}}
	for _, band := range builtInBands() {
		for _, t := range band.Matrices {
			tiles = append(tiles, t.tensorTile)
		}
	}
	return tiles
}

// TestTensorTilesTakeTheMemoryTheyClaim holds sharedBytes to the kernels' constants, and the tables' tiles to NVIDIA's 48 KiB, which
// the driver does not enforce.
func TestTensorTilesTakeTheMemoryTheyClaim(t *testing.T) {
	for _, m := range []int{8, 16} {
		for i, tile := range memoryTiles(m) {
			for _, transposed := range []bool{false, true} {
				claimed := tile.sharedBytes(m, transposed)
				for types, kernel := range tensorKernels {
					s := shaders.DefaultScatter2scatterCoopmatSpec()
					s.Threads, s.SM, s.SN = uint32(32*tile.SM*tile.SN), uint32(tile.SM), uint32(tile.SN)
					s.MI, s.NI, s.BK = uint32(tile.BM/(tile.SM*m)), uint32(tile.BN/(tile.SN*m)), uint32(tile.BK)
					s.MM, s.MN, s.MK, s.Transposed = uint32(m), uint32(m), uint32(m), transposed
					shared, err := spirv.SharedBytes(kernel.SPIRV(), s.Values())
					require.NoError(t, err)
					require.EqualValues(t, shared, claimed, "%v, matrices of %d rows, transposed %v, %v", tile, m, transposed, types)
				}
				if i >= 5 && m == 16 {
					require.LessOrEqual(t, claimed, maxShared, "%v, transposed %v", tile, transposed)
				}
			}
		}
	}
}

// TestPartsOfWeightGradientsFit: what xtyPart leaves room for is what the kernels take.
func TestPartsOfWeightGradientsFit(t *testing.T) {
	tiles := memoryTiles(16)[:4]
	for _, table := range classTunings() {
		for _, g := range table.Gradients {
			tiles = append(tiles, g.tensorTile)
		}
	}
	for _, tile := range tiles {
		for _, limit := range []uint32{32 << 10, maxShared, 96 << 10} {
			for _, gated := range []bool{false, true} {
				part := tile.xtyPart(&vk.Capabilities{SharedMemoryBytes: limit}, 16, gated)
				if part == 0 {
					continue // the tile is not for this device
				}
				for _, kernel := range tensorXTYKernels {
					s := shaders.DefaultGroupXtyCoopmatSpec()
					s.Threads, s.SM, s.SN = uint32(32*tile.SM*tile.SN), uint32(tile.SM), uint32(tile.SN)
					s.MI, s.NI, s.BK = uint32(tile.BM/(tile.SM*16)), uint32(tile.BN/(tile.SN*16)), uint32(tile.BK)
					s.MM, s.MN, s.MK, s.Gated, s.Part = 16, 16, 16, gated, uint32(part)
					shared, err := spirv.SharedBytes(kernel.SPIRV(), s.Values())
					require.NoError(t, err)
					require.LessOrEqual(t, shared, uint64(min(limit, maxShared)), "%v, %d rows a part, gated %v, limit %d", tile, part, gated, limit)
				}
			}
		}
	}
}
