package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Tile is how scatter2scatter cuts its output: a work-group computes BM rows × BN columns, BK inputs at a time, each
// invocation TM × TN of them.
type Tile struct{ BM, BN, BK, TM, TN int }

func (t Tile) String() string {
	return fmt.Sprintf("%d×%d×%d tiles, %d×%d per invocation, %d invocations", t.BM, t.BN, t.BK, t.TM, t.TN, t.Threads())
}

// Threads is the number of invocations of a work-group.
func (t Tile) Threads() int { return t.BM / t.TM * (t.BN / t.TN) }

// spec returns the kernel's specialization constants of the tile.
func (t Tile) spec() shaders.Scatter2scatterSpec {
	return shaders.Scatter2scatterSpec{Threads: uint32(t.Threads()), BM: uint32(t.BM), BN: uint32(t.BN), BK: uint32(t.BK),
		TM: uint32(t.TM), TN: uint32(t.TN)}
}

// A tileRule is one line of the selector's table: the tiles for a class of devices from a mean number of rows per active
// expert on. Routing fixes BM, so every width has a tile of each rule's BM.
type tileRule struct {
	software     bool
	meanRows     int // the least mean rows per active expert
	wide, narrow Tile
}

// narrowOut is the output width up to which the narrow tile is taken.
const narrowOut = 32

// tileRules is searched from the top. On lavapipe 8 × 8 results per invocation are a fifth faster than 4 × 4 but take three
// times as long to compile, a second per pipeline.
var tileRules = []tileRule{
	{software: true, meanRows: 12, wide: Tile{32, 32, 16, 4, 4}, narrow: Tile{32, 8, 16, 4, 2}},
	{software: true, meanRows: 0, wide: Tile{8, 32, 16, 4, 4}, narrow: Tile{8, 8, 16, 2, 2}},
	{software: false, meanRows: 48, wide: Tile{64, 64, 16, 8, 4}, narrow: Tile{64, 16, 16, 4, 2}},
	{software: false, meanRows: 12, wide: Tile{32, 64, 16, 4, 4}, narrow: Tile{32, 16, 16, 2, 2}},
	{software: false, meanRows: 0, wide: Tile{16, 64, 16, 2, 4}, narrow: Tile{16, 16, 16, 1, 2}},
}

// software reports whether the device computes on the CPU.
func software(dev *vk.Device) bool { return dev.Adapter().Type == vk.Software }

// chooseRule finds the rule for rows spread over experts.
func chooseRule(software bool, rows, experts int) tileRule {
	mean := rows / max(1, min(rows, experts))
	for _, r := range tileRules {
		if r.software == software && mean >= r.meanRows {
			return r
		}
	}
	panic("moe: no tile rule") // broken table: every class has a rule for 0 rows
}

// ChooseTile returns the tile that a ParallelLinear with this output width uses for rows spread over experts, for
// example to print it. BM depends on rows and experts only.
func ChooseTile(dev *vk.Device, rows, experts, out int) Tile {
	r := chooseRule(software(dev), rows, experts)
	if out <= narrowOut {
		return r.narrow
	}
	return r.wide
}

func chooseBlockM(dev *vk.Device, rows, experts int) int {
	return ChooseTile(dev, rows, experts, maxWidth).BM
}

// elementwise is the work-group shape of kernels over a [rows, width] matrix.
type elementwise struct {
	columns, rows int
	quads         bool
}

// chooseElementwise fills a work-group of 64 with rows of a narrow matrix.
func chooseElementwise(width int, quads bool) elementwise {
	items := width
	if quads {
		items = width / 4
	}
	columns := 1
	for columns < 64 && columns < items {
		columns *= 2
	}
	return elementwise{columns: columns, rows: 64 / columns, quads: quads}
}

// groups is the number of work-groups.
func (e elementwise) groups(rows, width int) uint64 {
	per := e.columns
	if e.quads {
		per *= 4
	}
	return uint64(ceilDiv(rows, e.rows)) * uint64(ceilDiv(width, per))
}
