package moe

import (
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// A TuningStep is one question that a tuner asks about a band of a table.
type TuningStep uint8

// The steps, in the order in which a tuner takes them: each keeps what the one before found.
const (
	TuneRows      TuningStep = iota // rows per tile, and the tile of the path that 16-bit layers take
	TunePortable                    // the portable path's wide tile of as many rows
	TuneVectors                     // the decode path, or none
	TuneGradients                   // weight gradients; of the whole table
)

func (s TuningStep) String() string {
	return [...]string{"rows and tile", "portable tile", "decode path", "weight gradients"}[s]
}

// A TuningCandidate is a table with another answer to one question.
type TuningCandidate struct {
	Table *Tuning
	What  string // the answer, in words
}

// BandRows are the least mean rows of each band, from the most to the least.
func (t *Tuning) BandRows() []int {
	rows := make([]int, len(t.Bands))
	for i, b := range t.Bands {
		rows[i] = b.MeanRows
	}
	return rows
}

// Candidates are the answers to a question about a band that are worth measuring on a device: those that fit it, the present one
// first. There may be none.
func (t *Tuning) Candidates(dev *vk.Device, band int, step TuningStep) []TuningCandidate {
	var list []TuningCandidate
	add := func(what fmt.Stringer, change func(own *Tuning)) {
		own := *t
		own.Bands, own.Gradients, own.Key = slices.Clone(t.Bands), slices.Clone(t.Gradients), nil
		change(&own)
		if own.Validate() == nil {
			list = append(list, TuningCandidate{&own, what.String()})
		}
	}
	b := t.Bands[band]
	decodes := b.Vectors != (vectorTile{}) // then no other path is taken
	switch step {
	case TuneRows:
		if decodes {
			break
		}
		if len(b.Matrices) > 0 {
			t.matricesCandidates(dev, band, add)
			break
		}
		for _, tile := range portableCandidates(classOf(dev), b.Wide, 0) {
			add(tile, func(own *Tuning) { own.Bands[band].setWide(tile) })
		}
	case TunePortable:
		if len(b.Matrices) == 0 || decodes {
			break // TuneRows has answered it, or it does not matter
		}
		for _, tile := range portableCandidates(classOf(dev), b.Wide, b.Wide.BM) {
			add(tile, func(own *Tuning) { own.Bands[band].Wide = tile })
		}
	case TuneVectors:
		if !decodes {
			break
		}
		for _, v := range append([]vectorTile{b.Vectors}, vectorCandidates...) {
			if v != b.Vectors || len(list) == 0 {
				add(v, func(own *Tuning) { own.Bands[band].Vectors = v })
			}
		}
	case TuneGradients:
		for i, m := range append(slices.Clone(t.Gradients), gradientCandidates...) {
			if len(t.Gradients) > 0 && (i == 0 || m != t.Gradients[0]) {
				add(m.tensorTile, func(own *Tuning) { own.Gradients = []widthTile{m} })
			}
		}
	}
	return list
}

// setWide changes the wide tile, and the narrow one where it then has another number of rows.
func (b *tileBand) setWide(wide Tile) {
	if b.Wide = wide; b.Narrow.BM != wide.BM {
		b.Narrow = narrowOf(wide.BM)
	}
}

// matricesCandidates are tiles of the tensor path around the band's.
func (t *Tuning) matricesCandidates(dev *vk.Device, band int, add func(fmt.Stringer, func(*Tuning))) {
	b, dtype := t.Bands[band], vk.BF16
	m, n, k, ok := matrixShape(dev.Caps(), dtype)
	if !ok {
		m, n, k, ok = matrixShape(dev.Caps(), vk.F16)
	}
	present := b.Matrices[0]
	add(present.tensorTile, func(*Tuning) {})
	for _, bm := range []int{m, 2 * m, 3 * m, 4 * m, 6 * m, 8 * m} {
		if !ok || 2*bm < b.Wide.BM || bm > 2*b.Wide.BM {
			continue
		}
		for _, tile := range []tensorTile{{bm, 8 * n, 4 * k, 1, 4}, {bm, 8 * n, 8 * k, 1, 4}, {bm, 4 * n, 8 * k, 1, 2}, {bm, 8 * n, 4 * k, 2, 2},
			{bm, 16 * n, 4 * k, 2, 4}, {bm, 8 * n, 2 * k, 2, 2}, {bm, 4 * n, 4 * k, 2, 2}} {
			if tile != present.tensorTile {
				add(tile, func(own *Tuning) {
					if own.Bands[band].Wide.BM != bm {
						own.Bands[band].setWide(wideOf(bm))
					}
					own.Bands[band].Matrices = []widthTile{{tensorTile: tile}}
				})
			}
		}
	}
}

// wideOf is a portable tile of so many rows for GPUs.
func wideOf(bm int) Tile {
	tm := 8
	for bm%tm != 0 || bm/tm < 4 {
		tm /= 2
	}
	if bm >= 96 {
		return Tile{bm, 64, 16, tm, 8}
	}
	return Tile{bm, 64, 16, tm, 4}
}

// narrowOf is a portable tile of so many rows for narrow outputs.
func narrowOf(bm int) Tile {
	for _, t := range []Tile{{bm, 16, 16, 8, 2}, {bm, 16, 16, 4, 2}, {bm, 16, 16, 2, 2}, {bm, 16, 16, 1, 2}} {
		if bm%t.TM == 0 && t.Threads() >= 64 {
			return t
		}
	}
	return Tile{bm, 8, 16, bm / 4, 2}
}

// portableCandidates are portable tiles of so many rows, or of any number around the present one's for 0.
func portableCandidates(class deviceClass, present Tile, rows int) []Tile {
	list := []Tile{present}
	for _, bm := range []int{8, 16, 32, 48, 64, 96, 128} {
		if rows != 0 && bm != rows || 2*bm < present.BM || bm > 2*present.BM {
			continue
		}
		for _, shape := range [][4]int{{32, 16, 4, 4}, {32, 16, 8, 4}, {32, 16, 8, 8}, {64, 16, 4, 4}, {64, 16, 8, 4}, {64, 16, 8, 8}, {32, 32, 4, 4},
			{64, 16, 2, 4}, {32, 8, 4, 4}, {16, 16, 4, 4}, {128, 16, 8, 8}} {
			t := Tile{bm, shape[0], shape[1], shape[2], shape[3]}
			// A GPU wants whole subgroups; a software device compiles large bodies slowly.
			if fits := class == classSoftware || t.TM > 0 && t.BM%t.TM == 0 && t.Threads() >= 32; fits && t != present {
				list = append(list, t)
			}
		}
	}
	return list
}

// vectorCandidates are tiles of the decode path.
var vectorCandidates = []vectorTile{{128, 32, 2, 4}, {128, 32, 4, 2}, {128, 32, 8, 2}, {128, 16, 4, 4}, {256, 32, 4, 4}, {256, 32, 2, 4},
	{64, 32, 4, 4}, {64, 32, 2, 4}, {128, 64, 4, 4}, {128, 128, 4, 4}}

// gradientCandidates are tiles of weight gradients on the tensor path.
var gradientCandidates = []widthTile{{tensorTile: tensorTile{128, 128, 64, 2, 2}}, {tensorTile: tensorTile{128, 128, 32, 2, 2}},
	{tensorTile: tensorTile{64, 128, 64, 1, 4}}, {tensorTile: tensorTile{128, 64, 64, 2, 2}}, {tensorTile: tensorTile{64, 64, 64, 2, 2}},
	{tensorTile: tensorTile{128, 256, 32, 2, 4}}}
