package ref

import (
	"cmp"
	"math"
	"slices"
)

// Sampling says how a token is drawn from logits.
type Sampling struct {
	Temperature float64 // 0 takes the largest
	TopK        int     // 0 for all
	TopP        float64 // 1 for all
}

// Candidate is a token that may be drawn and where it lies in the distribution: it is drawn for u in [From, To).
type Candidate struct {
	ID       int
	From, To float64
}

// Candidates returns the tokens that may be drawn from a row of logits without NaN, by id: the TopK largest, of those the
// fewest largest whose share of the probability is at least TopP. Ties rank by id, lower first.
func (s Sampling) Candidates(logits []float32) []Candidate {
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	if s.Temperature == 0 {
		return []Candidate{{order[0], 0, 1}}
	}
	if s.TopK > 0 && s.TopK < len(order) {
		order = order[:s.TopK]
	}
	top := float64(logits[order[0]])
	weight := func(id int) float64 { return math.Exp((float64(logits[id]) - top) / s.Temperature) }
	var total float64
	for _, id := range order {
		total += weight(id)
	}
	if s.TopP < 1 {
		var mass float64
		for i, id := range order {
			mass += weight(id)
			if mass >= s.TopP*total {
				order, total = order[:i+1], mass
				break
			}
		}
	}
	slices.Sort(order)
	var list []Candidate
	var at float64
	for _, id := range order {
		next := at + weight(id)/total
		list = append(list, Candidate{id, at, next})
		at = next
	}
	return list
}

// SamplingUniform is the number in [0, 1) by which row b of a step draws.
func SamplingUniform(row int, seed uint64, step, stream uint32) float64 {
	words := Philox4x32([4]uint32{uint32(row), 0, step, stream}, [2]uint32{uint32(seed), uint32(seed >> 32)})
	return float64(words[0]>>8) / (1 << 24)
}
