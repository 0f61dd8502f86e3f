package moe

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Tile is how scatter2scatter cuts its output: a work-group computes BM rows × BN columns, BK inputs at a time, each
// invocation TM × TN of them.
type Tile struct {
	BM int `json:"bm"` // rows of y of a work-group
	BN int `json:"bn"` // columns of y of a work-group
	BK int `json:"bk"` // columns of x in shared memory at a time
	TM int `json:"tm"` // rows of an invocation
	TN int `json:"tn"` // columns of an invocation
}

func (t Tile) String() string {
	if t == (Tile{}) {
		return "no tile"
	}
	return fmt.Sprintf("%d×%d×%d tiles, %d×%d per invocation, %d invocations", t.BM, t.BN, t.BK, t.TM, t.TN, t.Threads())
}

// Threads is the number of invocations of a work-group.
func (t Tile) Threads() int { return t.BM / t.TM * (t.BN / t.TN) }

// spec returns the kernel's specialization constants of the tile. Tall tiles leave out rows that do not exist.
func (t Tile) spec() shaders.Scatter2scatterSpec {
	return shaders.Scatter2scatterSpec{Threads: uint32(t.Threads()), BM: uint32(t.BM), BN: uint32(t.BN), BK: uint32(t.BK),
		TM: uint32(t.TM), TN: uint32(t.TN), Short: t.TM >= 8 && t.TM%4 == 0, Activation: linearMode}
}

// A deviceClass is what the selector tells devices apart by.
type deviceClass uint8

const (
	classSoftware deviceClass = iota // computes on the CPU
	classPlain                       // a GPU without cooperative matrices for 16-bit storage
	classTensor                      // a GPU with them
)

// classNames are the classes' names in tables and the tables' own.
var classNames = [...]string{"software", "plain", "tensor"}

func (c deviceClass) String() string { return classNames[c] }

// MarshalText writes the class's name.
func (c deviceClass) MarshalText() ([]byte, error) { return []byte(classNames[c]), nil }

// UnmarshalText reads it.
func (c *deviceClass) UnmarshalText(text []byte) error {
	i := slices.Index(classNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("moe: there is no class of devices %q", text)
	}
	*c = deviceClass(i)
	return nil
}

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

// narrowOut is the output width up to which the narrow tile is taken.
const narrowOut = 32

// ChooseTile returns the tile that a ParallelLinear with this output width uses on the portable path for rows spread over
// experts, for example to print it. BM depends on rows and experts only.
func ChooseTile(dev *vk.Device, rows, experts, out int) Tile {
	return tuning(dev).band(rows, experts).portable(out)
}

func chooseBlockM(dev *vk.Device, rows, experts int) int {
	return ChooseTile(dev, rows, experts, maxWidth).BM
}
