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
	if t == (Tile{}) {
		return "no tile"
	}
	return fmt.Sprintf("%d×%d×%d tiles, %d×%d per invocation, %d invocations", t.BM, t.BN, t.BK, t.TM, t.TN, t.Threads())
}

// Threads is the number of invocations of a work-group.
func (t Tile) Threads() int { return t.BM / t.TM * (t.BN / t.TN) }

// spec returns the kernel's specialization constants of the tile.
func (t Tile) spec() shaders.Scatter2scatterSpec {
	return shaders.Scatter2scatterSpec{Threads: uint32(t.Threads()), BM: uint32(t.BM), BN: uint32(t.BN), BK: uint32(t.BK),
		TM: uint32(t.TM), TN: uint32(t.TN)}
}

// A deviceClass is what the selector tells devices apart by.
type deviceClass uint8

const (
	classSoftware deviceClass = iota // computes on the CPU
	classPlain                       // a GPU without cooperative matrices for 16-bit storage
	classTensor                      // a GPU with them
)

// classOf tells the class of a device.
func classOf(dev *vk.Device) deviceClass {
	switch {
	case software(dev):
		return classSoftware
	case hasMatrices(dev.Caps()):
		return classTensor
	}
	return classPlain
}

// software reports whether the device computes on the CPU.
func software(dev *vk.Device) bool { return dev.Adapter().Type == vk.Software }

// A tileRule is one line of the selector's table: the tiles for a class of devices from a mean number of rows per active
// expert on. Routing fixes BM, so every width and path has a tile of each rule's BM.
type tileRule struct {
	class        deviceClass
	meanRows     int // the least mean rows per active expert
	wide, narrow Tile
	matrices     tensorTile // of the tensor path; none where it was not measured to be faster
	vectors      vectorTile // of the decode path, which goes before the others; none likewise
}

// narrowOut is the output width up to which the narrow tile is taken.
const narrowOut = 32

// tileRules is searched from the top. On lavapipe 8 × 8 results per invocation are a fifth faster than 4 × 4 but take three
// times as long to compile, a second per pipeline. The tensor tiles are the fastest of those measured on an H100 around
// each mean: rows of 128 to 4,096 outputs wait for weights below about 100 rows per expert, so smaller tiles win there.
var tileRules = []tileRule{
	{classSoftware, 12, Tile{32, 32, 16, 4, 4}, Tile{32, 8, 16, 4, 2}, tensorTile{}, vectorTile{}},
	{classSoftware, 0, Tile{8, 32, 16, 4, 4}, Tile{8, 8, 16, 2, 2}, tensorTile{}, vectorTile{}},
	{classPlain, 48, Tile{64, 64, 16, 8, 4}, Tile{64, 16, 16, 4, 2}, tensorTile{}, vectorTile{}},
	{classPlain, 12, Tile{32, 64, 16, 4, 4}, Tile{32, 16, 16, 2, 2}, tensorTile{}, vectorTile{}},
	{classPlain, 4, Tile{16, 64, 16, 2, 4}, Tile{16, 16, 16, 1, 2}, tensorTile{}, vectorTile{}},
	{classPlain, 0, Tile{16, 64, 16, 2, 4}, Tile{16, 16, 16, 1, 2}, tensorTile{}, vectorTile{128, 32, 4, 4}},
	{classTensor, 96, Tile{128, 64, 16, 8, 8}, Tile{128, 16, 16, 8, 2}, tensorTile{128, 128, 64, 2, 2}, vectorTile{}},
	{classTensor, 48, Tile{96, 64, 16, 6, 8}, Tile{96, 16, 16, 6, 2}, tensorTile{96, 128, 64, 2, 2}, vectorTile{}},
	{classTensor, 20, Tile{48, 64, 16, 6, 4}, Tile{48, 16, 16, 3, 2}, tensorTile{48, 128, 128, 1, 4}, vectorTile{}},
	{classTensor, 12, Tile{32, 64, 16, 4, 4}, Tile{32, 16, 16, 2, 2}, tensorTile{32, 128, 64, 1, 4}, vectorTile{}},
	{classTensor, 4, Tile{16, 64, 16, 2, 4}, Tile{16, 16, 16, 1, 2}, tensorTile{16, 128, 128, 1, 4}, vectorTile{}},
	{classTensor, 0, Tile{16, 64, 16, 2, 4}, Tile{16, 16, 16, 1, 2}, tensorTile{16, 128, 128, 1, 4}, vectorTile{128, 32, 4, 4}},
}

// chooseRule finds the rule for rows spread over experts.
func chooseRule(class deviceClass, rows, experts int) tileRule {
	mean := rows / max(1, min(rows, experts))
	for _, r := range tileRules {
		if r.class == class && mean >= r.meanRows {
			return r
		}
	}
	panic("moe: no tile rule") // broken table: every class has a rule for 0 rows
}

// ChooseTile returns the tile that a ParallelLinear with this output width uses on the portable path for rows spread over
// experts, for example to print it. BM depends on rows and experts only.
func ChooseTile(dev *vk.Device, rows, experts, out int) Tile {
	r := chooseRule(classOf(dev), rows, experts)
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
