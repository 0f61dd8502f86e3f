package moe

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// tuningFormat is the version of the tables' form. A table of another one is not read.
const tuningFormat = 1

// A Tuning is the table by which layers choose kernels and tiles on a device: for bands of mean rows per active expert, and
// within them for widths. There is one per class of devices in this package's folder tuning; vkmoe-bench tune measures one for
// a single device (see [TuningOf]). A Tuning in use is never changed.
type Tuning struct {
	Format   int            `json:"format"`
	Class    deviceClass    `json:"class"`
	Measured TuningMeasured `json:"measured"`
	Key      *TuningKey     `json:"key,omitempty"` // what a single device's table is for; nil for a class's
	// Bands go from the most rows to the least; the last begins at 0.
	Bands []tileBand `json:"bands"`
	// Gradients are the tensor path's tiles of weight gradients, the first that is for the widths counting; none where the path
	// was not measured to be faster.
	Gradients []widthTile `json:"gradients,omitempty"`
}

// TuningMeasured says what a table was measured on.
type TuningMeasured struct {
	Device string `json:"device"`
	Driver string `json:"driver"`
	Date   string `json:"date"` // UTC, year-month-day
}

// A tileBand holds the tiles from a mean number of rows per active expert on. Routing fixes BM, which all tiles of a band
// share, before it is known which layers will use it.
type tileBand struct {
	MeanRows   int  `json:"mean_rows"`
	MaxExperts int  `json:"max_experts,omitempty"` // the band is for up to so many experts, or for any number
	Wide       Tile `json:"wide"`                  // of the portable path
	Narrow     Tile `json:"narrow"`                // likewise, for up to narrowOut outputs

	Matrices []widthTile `json:"matrices,omitempty"` // of the tensor path, the first that is for the widths; none where slower
	Vectors  vectorTile  `json:"vectors,omitzero"`   // of the decode path, which goes before the others; none likewise

	// The same for quantized weights, where they have tiles of their own.
	MatricesInt8 []widthTile `json:"matrices_int8,omitempty"`
	MatricesQ4   []widthTile `json:"matrices_q4,omitempty"`
	VectorsInt8  vectorTile  `json:"vectors_int8,omitzero"`
	VectorsQ4    vectorTile  `json:"vectors_q4,omitzero"`
}

// A widthTile is a tile of the tensor path for layers of at least so many inputs and outputs; of weight gradients, for matrices
// of at least so many columns and rows.
type widthTile struct {
	MinIn  int `json:"min_in,omitempty"`
	MinOut int `json:"min_out,omitempty"`
	tensorTile
}

//go:embed tuning/*.json
var tuningFiles embed.FS

// classTunings are the tables of the classes.
var classTunings = sync.OnceValue(func() map[deviceClass]*Tuning {
	tables := map[deviceClass]*Tuning{}
	for class, name := range classNames {
		data, err := tuningFiles.ReadFile("tuning/" + name + ".json")
		if err != nil {
			panic(err)
		}
		t, err := parseTuning(data)
		if err != nil || t.Class != deviceClass(class) {
			panic(fmt.Sprintf("moe: broken tuning table of %s devices: %v", name, err))
		}
		tables[t.Class] = t
	}
	return tables
})

// parseTuning reads a table and validates it.
func parseTuning(data []byte) (*Tuning, error) {
	t := &Tuning{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(t); err != nil {
		return nil, err
	}
	return t, t.Validate()
}

// Validate reports what would make layers fail or fall outside what the kernels can do, as a *ConfigError.
func (t *Tuning) Validate() error {
	fail := func(field, want string, got any) error {
		return check.Config("Tuning", field, want, fmt.Sprint(got))
	}
	if t.Format != tuningFormat {
		return fail("Format", fmt.Sprint(tuningFormat), t.Format)
	}
	if n := len(t.Bands); n == 0 || t.Bands[n-1].MeanRows != 0 || t.Bands[n-1].MaxExperts != 0 {
		return fail("Bands", "bands down to 0 rows of any number of experts", n)
	}
	for i, b := range t.Bands {
		name := fmt.Sprintf("Bands[%d].", i)
		if i > 0 && b.MeanRows >= t.Bands[i-1].MeanRows {
			return fail(name+"MeanRows", "fewer rows than the band before", b.MeanRows)
		}
		if !b.Wide.valid() || !b.Narrow.valid() || b.Narrow.BM != b.Wide.BM {
			return fail(name+"Wide and Narrow", "tiles of as many rows that fit every device", fmt.Sprint(b.Wide, ", ", b.Narrow))
		}
		for _, own := range b.own() {
			for _, m := range *own.matrices {
				if !m.valid() || m.BM != b.Wide.BM {
					return fail(name+"Matrices"+own.suffix, "tiles of as many rows", m)
				}
			}
			if v := *own.vectors; v != (vectorTile{}) && !v.valid() {
				return fail(name+"Vectors"+own.suffix, "whole teams", v)
			}
		}
	}
	if !slices.ContainsFunc(t.Gradients, func(m widthTile) bool { return !m.valid() }) {
		return nil
	}
	return fail("Gradients", "tiles that subgroups share", t.Gradients)
}

// sides reports whether numbers are within what tiles may be.
func sides(values ...int) bool {
	return !slices.ContainsFunc(values, func(v int) bool { return v < 1 || v > 512 })
}

// valid reports whether the kernel can work with the tile on every device: whole tiles of whole quads, gates and ups in equal
// parts, at most 256 invocations and 16 KiB of shared memory.
func (t Tile) valid() bool {
	if !sides(t.BM, t.BN, t.BK, t.TM, t.TN) || t.BM%t.TM != 0 || t.BN%t.TN != 0 || t.BK%4 != 0 || t.BN%8 != 0 || t.TN%2 != 0 {
		return false
	}
	threads := t.Threads()
	return threads <= 256 && threads%(t.BK/4) == 0 && threads%(t.BN/4) == 0 && 16*(t.BM+t.BN)*(t.BK/4+1) <= 16384 && t.TM*t.TN <= 128
}

// valid reports whether subgroups share the tile evenly; tensorSpec holds it to a device's matrices and memory.
func (t tensorTile) valid() bool {
	return sides(t.BM, t.BN, t.BK, t.SM, t.SN) && t.BM%(8*t.SM) == 0 && t.BN%(8*t.SN) == 0 && t.BK%8 == 0
}

// valid reports whether teams are powers of two that share the invocations evenly.
func (t vectorTile) valid() bool {
	return sides(t.Threads, t.Team, t.Outputs, t.Columns) && t.Threads <= 256 && t.Team&(t.Team-1) == 0 && t.Threads%t.Team == 0 &&
		t.Outputs <= 16 && t.Outputs%2 == 0 && 2*t.Team%t.Outputs == 0 && t.Columns <= 16
}

// BandOf is the index in Bands of the band for rows, T·K slots in all, spread over experts; a table that is valid has one.
func (t *Tuning) BandOf(rows, experts int) int {
	mean := rows / max(1, min(rows, experts))
	return slices.IndexFunc(t.Bands, func(b tileBand) bool {
		return mean >= b.MeanRows && (b.MaxExperts <= 0 || experts <= b.MaxExperts)
	})
}

// band finds the band for rows spread over experts. There is one: Validate asks for a last band that takes all.
func (t *Tuning) band(rows, experts int) *tileBand { return &t.Bands[t.BandOf(rows, experts)] }

// formatTiles are where a band keeps the tiles of the faster paths for a format of the weights.
type formatTiles struct {
	suffix   string // of the fields' names
	matrices *[]widthTile
	vectors  *vectorTile
}

// own are the band's tiles, by format.
func (b *tileBand) own() [WeightsQ4 + 1]formatTiles {
	return [...]formatTiles{WeightsFull: {"", &b.Matrices, &b.Vectors}, WeightsInt8: {"Int8", &b.MatricesInt8, &b.VectorsInt8},
		WeightsQ4: {"Q4", &b.MatricesQ4, &b.VectorsQ4}}
}

// vectors is the band's tile of the decode path for weights of a format.
func (b *tileBand) vectors(format WeightFormat) vectorTile {
	if own := *b.own()[format].vectors; b.Vectors != (vectorTile{}) && own != (vectorTile{}) {
		return own
	}
	return b.Vectors
}

// matrices are the band's tiles of the tensor path likewise.
func (b *tileBand) matrices(format WeightFormat) []widthTile {
	if own := *b.own()[format].matrices; len(b.Matrices) > 0 && len(own) > 0 {
		return own
	}
	return b.Matrices
}

// portable is the band's tile of the portable path for so many outputs.
func (b *tileBand) portable(out int) Tile {
	if out <= narrowOut {
		return b.Narrow
	}
	return b.Wide
}

// fitting is the first of the tiles that is for these widths and that runs, or none. runs may be nil where all do.
func fitting(tiles []widthTile, in, out int, runs func(tensorTile) bool) tensorTile {
	for _, t := range tiles {
		if in >= t.MinIn && out >= t.MinOut && (runs == nil || runs(t.tensorTile)) {
			return t.tensorTile
		}
	}
	return tensorTile{}
}

// tuning is the table in force on a device.
func tuning(dev *vk.Device) *Tuning { return tuningState(dev).current.Load() }
