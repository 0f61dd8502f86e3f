package moe

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A TuningTrial is a layer that all candidates of a question were timed on.
type TuningTrial struct {
	In, Out int
	// Times are the candidates' relative to the first's, which is 1; infinite where a candidate does not run.
	Times []float64
}

const (
	tuningNoise = 0.985 // of the present answer's time: what is not below is no faster
	tuningLoss  = 1.02  // what is above is slower
)

// A TuningAnswer is what a tuner makes of its trials.
type TuningAnswer struct {
	Table *Tuning
	What  string  // the answer, in words
	Time  float64 // relative to the present answer's, as a geometric mean over the trials; 1 where that is kept
}

// widthClass is a pair of widths and the candidates' mean logarithms of times on it.
type widthClass struct {
	in, out int
	scores  []float64
}

// classesOf gathers trials of the same widths, from the narrowest to the widest.
func classesOf(candidates int, trials []TuningTrial) []widthClass {
	var classes []widthClass
	counts := map[[2]int]float64{}
	for _, trial := range trials {
		counts[[2]int{trial.In, trial.Out}]++
	}
	for widths, count := range counts {
		c := widthClass{widths[0], widths[1], make([]float64, candidates)}
		for _, trial := range trials {
			for i := range c.scores {
				if trial.In == c.in && trial.Out == c.out {
					c.scores[i] += math.Log(trial.Times[i]) / count
				}
			}
		}
		classes = append(classes, c)
	}
	slices.SortFunc(classes, func(a, b widthClass) int { return cmp.Or(cmp.Compare(a.in, b.in), cmp.Compare(a.out, b.out)) })
	return classes
}

// Best answers a question from trials of its candidates: the least time over all widths, but nothing that is slower on some, and
// the present answer where what is faster may be noise. Tiles of the tensor path may differ by widths.
func (t *Tuning) Best(band int, step TuningStep, candidates []TuningCandidate, trials []TuningTrial) TuningAnswer {
	classes := classesOf(len(candidates), trials)
	present := t.tilesOf(band, step)
	best := TuningAnswer{candidates[0].Table, candidates[0].What, 1}
	least := math.Log(tuningNoise)
	groups := map[int][]int{} // candidates that one answer may combine: those of as many rows, and all of what has no tiles alone
	for i, c := range candidates {
		switch {
		case c.tile == (tensorTile{}):
			groups[-i] = []int{i}
		case step == TuneGradients:
			groups[1] = append(groups[1], i)
		default:
			groups[c.tile.BM] = append(groups[c.tile.BM], i)
		}
	}
	for _, rows := range slices.Sorted(maps.Keys(groups)) {
		group := groups[rows]
		tiles := rows > 0
		if tiles && (step == TuneGradients || rows == present[0].BM) {
			group = append([]int{0}, group...)
		}
		total, slow := 0.0, false
		var list []widthTile
		for _, c := range classes {
			i := c.fastest(group)
			total += c.scores[i] / float64(len(classes))
			slow = slow || !(c.scores[i] <= math.Log(tuningLoss))
			if tile := candidates[i].tile; tiles && i == 0 {
				list = prepend(list, c, fitting(present, c.in, c.out, nil))
			} else if tiles {
				list = prepend(list, c, tile)
			}
		}
		if slow || !(total < least) {
			continue
		}
		least = total
		best = TuningAnswer{candidates[group[0]].Table, candidates[group[0]].What, math.Exp(total)}
		if tiles {
			best.Table, best.What = t.clone(), wordsOf(list)
			best.Table.setTiles(band, step, list)
		}
	}
	return best
}

// fastest is the candidate of the least time; the present answer, if it is in the group, unless another is faster beyond noise.
func (c widthClass) fastest(group []int) int {
	best := group[0]
	for _, i := range group[1:] {
		if limit := c.scores[best]; c.scores[i] < limit && (best != 0 || c.scores[i] < limit+math.Log(tuningNoise)) {
			best = i
		}
	}
	return best
}

// prepend adds the tile of a class to those of narrower ones, if they do not give it already.
func prepend(list []widthTile, c widthClass, tile tensorTile) []widthTile {
	switch {
	case len(list) == 0:
		return []widthTile{{tensorTile: tile}}
	case fitting(list, c.in, c.out, nil) == tile:
		return list
	}
	return append([]widthTile{{c.in, c.out, tile}}, list...)
}

// wordsOf says which tile is for which widths.
func wordsOf(tiles []widthTile) string {
	var words []string
	for _, t := range tiles {
		text := t.String()
		if t.MinIn > 0 || t.MinOut > 0 {
			text = fmt.Sprintf("from %d→%d on %s", t.MinIn, t.MinOut, text)
		}
		words = append(words, text)
	}
	return strings.Join(words, "; ")
}
