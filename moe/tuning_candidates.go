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
	TuneRows      TuningStep = iota // rows per tile, and the tiles of the path that 16-bit layers take
	TuneVectors                     // the tile of the decode path
	TuneGradients                   // weight gradients; of the whole table
	TuneQ4                          // the tensor path's tiles of as many rows for 4-bit weights
	TuneVectorsQ4                   // the tile of the decode path for them
	TuneInt8                        // the same two for int8 weights
	TuneVectorsInt8
	TunePortable // the portable path's wide tile of as many rows
)

// TuningSteps are all of them.
var TuningSteps = []TuningStep{TuneRows, TuneVectors, TuneGradients, TuneQ4, TuneVectorsQ4, TuneInt8, TuneVectorsInt8, TunePortable}

func (s TuningStep) String() string {
	return [...]string{"rows and tiles", "decode path", "weight gradients", "q4 tiles", "decode path, q4", "int8 tiles", "decode path, int8",
		"portable tile"}[s]
}

// Weights is the format of the weights that the question is about.
func (s TuningStep) Weights() WeightFormat {
	switch s {
	case TuneInt8, TuneVectorsInt8:
		return WeightsInt8
	case TuneQ4, TuneVectorsQ4:
		return WeightsQ4
	}
	return WeightsFull
}

// A TuningCandidate is a table with another answer to one question.
type TuningCandidate struct {
	Table *Tuning
	What  string // the answer, in words
	tile  tensorTile
}

// BandRows are the least mean rows of each band, from the most to the least.
func (t *Tuning) BandRows() []int {
	rows := make([]int, len(t.Bands))
	for i, b := range t.Bands {
		rows[i] = b.MeanRows
	}
	return rows
}

// clone copies what candidates change.
func (t *Tuning) clone() *Tuning {
	own := *t
	own.Bands, own.Gradients, own.Key = slices.Clone(t.Bands), slices.Clone(t.Gradients), nil
	return &own
}

// Candidates are the answers to a question about a band that are worth measuring on a device: those that fit it, the present one
// first. There may be none.
func (t *Tuning) Candidates(dev *vk.Device, band int, step TuningStep) []TuningCandidate {
	b := &t.Bands[band]
	decodes := b.Vectors != (vectorTile{}) // then no other path is taken
	var list []TuningCandidate
	add := func(what fmt.Stringer, change func(own *Tuning)) {
		own := t.clone()
		if change(own); own.Validate() == nil {
			list = append(list, TuningCandidate{Table: own, What: what.String()})
		}
	}
	switch step {
	case TuneRows, TuneInt8, TuneQ4, TuneGradients:
		if step != TuneGradients && decodes {
			break
		}
		if tiles := t.tilesOf(band, step); len(tiles) > 0 {
			return t.tileCandidates(dev, band, step, tiles)
		}
		if step != TuneRows {
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
	case TuneVectors, TuneVectorsInt8, TuneVectorsQ4:
		if !decodes {
			break
		}
		present := b.vectors(step.Weights())
		for i, v := range append([]vectorTile{present}, vectorCandidates...) {
			if i == 0 || v != present {
				add(v, func(own *Tuning) {
					if i > 0 {
						*own.Bands[band].own()[step.Weights()].vectors = v
					}
				})
			}
		}
	}
	return list
}

// tilesOf are the tensor path's tiles that a question is about.
func (t *Tuning) tilesOf(band int, step TuningStep) []widthTile {
	if step == TuneGradients {
		return t.Gradients
	}
	return t.Bands[band].matrices(step.Weights())
}

// setTiles answers a question about them.
func (t *Tuning) setTiles(band int, step TuningStep, tiles []widthTile) {
	if step == TuneGradients {
		t.Gradients = tiles
		return
	}
	b := &t.Bands[band]
	*b.own()[step.Weights()].matrices = tiles
	if rows := tiles[0].BM; rows != b.Wide.BM { // only where the question is how many rows
		b.setWide(wideOf(rows))
		b.MatricesInt8, b.MatricesQ4 = nil, nil // of other rows
	}
}

// setWide changes the wide tile, and the narrow one where it then has another number of rows.
func (b *tileBand) setWide(wide Tile) {
	if b.Wide = wide; b.Narrow.BM != wide.BM {
		b.Narrow = narrowOf(wide.BM)
	}
}

// tileCandidates are tables with one tile of the tensor path for all widths; the first keeps the present ones.
func (t *Tuning) tileCandidates(dev *vk.Device, band int, step TuningStep, present []widthTile) []TuningCandidate {
	m, n, k, ok := matrixShape(dev.Caps(), vk.BF16)
	if !ok {
		m, n, k, ok = matrixShape(dev.Caps(), vk.F16)
	}
	list := []TuningCandidate{{Table: t.clone(), What: wordsOf(present)}}
	if !ok {
		return list
	}
	rows := t.Bands[band].Wide.BM
	var tiles []tensorTile
	switch step {
	case TuneGradients:
		tiles = gradientCandidates
	case TuneRows:
		for _, bm := range []int{m, 2 * m, 3 * m, 4 * m, 5 * m, 6 * m, 8 * m, 9 * m, 10 * m, 12 * m} {
			if 2*bm >= rows && bm <= 2*rows {
				tiles = append(tiles, matrixCandidates(bm, m, n, k)...)
			}
		}
	default:
		tiles = matrixCandidates(rows, m, n, k)
	}
	for _, tile := range tiles {
		own := t.clone()
		own.setTiles(band, step, []widthTile{{tensorTile: tile}})
		alone := len(present) == 1 && tile == present[0].tensorTile
		fits := step == TuneGradients || tile.sharedBytes(m, false) <= int(dev.Caps().SharedMemoryBytes)
		if !alone && fits && own.Validate() == nil {
			list = append(list, TuningCandidate{Table: own, What: tile.String(), tile: tile})
		}
	}
	return list
}

// matrixCandidates are tiles of bm rows for matrices of m × n results of k products.
func matrixCandidates(bm, m, n, k int) []tensorTile {
	var list []tensorTile
	if bm < 8*m { // more is too much for one row of subgroups
		list = []tensorTile{{bm, 8 * n, 4 * k, 1, 4}, {bm, 8 * n, 8 * k, 1, 4}, {bm, 4 * n, 8 * k, 1, 2}, {bm, 16 * n, 4 * k, 1, 4}}
	}
	for _, tile := range []tensorTile{{bm, 8 * n, 4 * k, 2, 2}, {bm, 8 * n, 2 * k, 2, 2}, {bm, 6 * n, 4 * k, 2, 2}, {bm, 10 * n, 4 * k, 2, 2},
		{bm, 12 * n, 4 * k, 2, 4}, {bm, 16 * n, 2 * k, 2, 4}, {bm, 4 * n, 4 * k, 2, 2}} {
		if bm%(2*m) == 0 && bm >= 4*m {
			list = append(list, tile)
		}
	}
	if bm%(3*m) == 0 && bm >= 6*m {
		list = append(list, tensorTile{bm, 12 * n, 4 * k, 3, 4}) // twelve subgroups: three for each of four schedulers
	}
	return list
}

// wideOf is a portable tile of so many rows for GPUs.
func wideOf(bm int) Tile {
	tm := 8
	for bm%tm != 0 || bm/tm < 4 {
		tm /= 2
	}
	switch {
	case bm > 128:
		return Tile{bm, 64, 8, tm, 8}
	case bm >= 96:
		return Tile{bm, 64, 16, tm, 8}
	}
	return Tile{bm, 64, 16, tm, 4}
}

// narrowOf is a portable tile of so many rows for narrow outputs.
func narrowOf(bm int) Tile {
	for _, t := range []Tile{{bm, 16, 16, 8, 2}, {bm, 16, 8, 8, 2}, {bm, 16, 16, 4, 2}, {bm, 16, 16, 2, 2}, {bm, 16, 16, 1, 2}} {
		if bm%t.TM == 0 && t.valid() && t.Threads() >= 64 {
			return t
		}
	}
	return Tile{bm, 8, 8, bm / 4, 2}
}

// portableCandidates are portable tiles of so many rows, or of any number around the present one's for 0.
func portableCandidates(class deviceClass, present Tile, rows int) []Tile {
	list := []Tile{present}
	sizes := []int{8, 16, 32, 48, 64, 96, 128}
	if rows != 0 {
		sizes = []int{rows}
	}
	for _, bm := range sizes {
		if 2*bm < present.BM || bm > 2*present.BM {
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
var vectorCandidates = []vectorTile{{128, 32, 2, 4}, {128, 32, 4, 4}, {128, 32, 4, 2}, {128, 32, 8, 2}, {128, 16, 4, 4}, {256, 32, 4, 4},
	{256, 32, 2, 4}, {64, 32, 4, 4}, {64, 32, 2, 4}, {128, 64, 4, 4}, {128, 128, 4, 4}}

// gradientCandidates are tiles of weight gradients on the tensor path.
var gradientCandidates = []tensorTile{{128, 128, 64, 2, 2}, {128, 128, 32, 2, 2}, {64, 128, 64, 1, 4}, {128, 64, 64, 2, 2}, {64, 64, 64, 2, 2},
	{128, 256, 32, 2, 4}, {256, 128, 32, 4, 2}, {128, 192, 64, 2, 4}}
