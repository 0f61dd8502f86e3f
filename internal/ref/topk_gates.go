package ref

import (
	"fmt"
	"math"
	"slices"
)

// A RouterMode says how gates follow from router logits.
type RouterMode uint8

const (
	// SoftmaxTopK takes the softmax over all E logits and then the K largest; the gates are those probabilities
	// (OLMoE).
	SoftmaxTopK RouterMode = iota
	// SoftmaxTopKNorm is SoftmaxTopK with the K gates divided by their sum (Mixtral, Qwen3).
	SoftmaxTopKNorm
	// TopKSoftmax takes the K largest logits and then the softmax over those (JetMoE, GraniteMoE).
	TopKSoftmax
	// SigmoidTopK scores each expert by the sigmoid of its logit; the gates are the K chosen scores.
	SigmoidTopK
	// SigmoidTopKNorm is SigmoidTopK with the K gates divided by their sum + SigmoidNormEpsilon (DeepSeek-V3).
	SigmoidTopKNorm
)

// SigmoidNormEpsilon keeps SigmoidTopKNorm from dividing by 0.
const SigmoidNormEpsilon = 1e-20

// RouterModes lists every mode.
var RouterModes = []RouterMode{SoftmaxTopK, SoftmaxTopKNorm, TopKSoftmax, SigmoidTopK, SigmoidTopKNorm}

// Sigmoid reports whether the mode scores each expert on its own.
func (m RouterMode) Sigmoid() bool { return m == SigmoidTopK || m == SigmoidTopKNorm }

func (m RouterMode) String() string {
	switch m {
	case SoftmaxTopK:
		return "softmax-topk"
	case SoftmaxTopKNorm:
		return "softmax-topk-norm"
	case TopKSoftmax:
		return "topk-softmax"
	case SigmoidTopK:
		return "sigmoid-topk"
	case SigmoidTopKNorm:
		return "sigmoid-topk-norm"
	}
	return fmt.Sprintf("router mode %d", uint8(m))
}

// TopKGates selects k experts per token from logits [T,E] and computes their gates:
// ids [T,k] by SelectTopK and gates [T,k] by GatesOf.
func TopKGates[F Float](mode RouterMode, logits []F, tokens, experts, k int) (ids []int32, gates []float64) {
	ids = SelectTopK(logits, tokens, experts, k)
	return ids, GatesOf(mode, logits, ids, tokens, experts, k)
}

// SelectTopK returns ids [T,k]: for each row of logits [T,E] the k largest, largest first. Equal values go to the lower
// id first. NaN counts as below −Inf, so a row always yields k distinct valid ids.
func SelectTopK[F Float](logits []F, tokens, experts, k int) []int32 {
	requireLen("SelectTopK", "logits", len(logits), tokens*experts)
	if k < 0 || k > experts {
		panic(fmt.Sprintf("ref.SelectTopK: k = %d of %d experts", k, experts))
	}
	ids := make([]int32, tokens*k)
	for t := range tokens {
		selectRow(logits[t*experts:(t+1)*experts], ids[t*k:(t+1)*k])
	}
	return ids
}

// selectRow fills best with the experts of the largest values of one row. Experts come in ascending order and stop behind
// their equals, so the lower id wins a tie.
func selectRow[F Float](row []F, best []int32) {
	n := 0
	for e, v := range row {
		at := n
		for at > 0 && ranksAbove(float64(v), float64(row[best[at-1]])) {
			at--
		}
		if at == len(best) {
			continue
		}
		n = min(n+1, len(best))
		copy(best[at+1:n], best[at:])
		best[at] = int32(e)
	}
}

// ranksAbove reports whether a is strictly above b in the order −NaN- < −Inf < … < +Inf, where every NaN is lowest.
func ranksAbove(a, b float64) bool {
	if math.IsNaN(b) {
		return !math.IsNaN(a)
	}
	return a > b
}

// GatesOf returns gates [T,k] of chosen experts ids [T,k] under logits [T,E]. It does not ask whether the ids are the top
// ones, so it also serves to judge a device that broke a near tie the other way.
//
// A row that holds a NaN or +Inf has only NaN gates; so has a row of nothing but −Inf (over all E, or over the k chosen
// for TopKSoftmax). Other −Inf logits have probability 0. In the sigmoid modes only a NaN in the row makes its gates NaN;
// an infinite logit has score 0 or 1.
func GatesOf[F Float](mode RouterMode, logits []F, ids []int32, tokens, experts, k int) []float64 {
	requireLen("GatesOf", "logits", len(logits), tokens*experts)
	requireLen("GatesOf", "ids", len(ids), tokens*k)
	gates := make([]float64, tokens*k)
	for t := 0; t < tokens; t++ {
		row := Widen(logits[t*experts : (t+1)*experts])
		gatesOfRow(mode, row, ids[t*k:(t+1)*k], gates[t*k:(t+1)*k])
	}
	return gates
}

func gatesOfRow(mode RouterMode, row []float64, ids []int32, gates []float64) {
	if mode.Sigmoid() {
		sigmoidGatesOfRow(mode, row, ids, gates)
		return
	}
	chosen := make([]float64, len(ids))
	for j, e := range ids {
		chosen[j] = row[e]
	}
	domain := row
	if mode == TopKSoftmax {
		domain = chosen
	}
	top := math.Inf(-1)
	for _, v := range domain {
		top = math.Max(top, v)
	}
	if holdsNaNOrPosInf(row) || math.IsInf(top, -1) {
		for j := range gates {
			gates[j] = math.NaN()
		}
		return
	}
	sum := 0.0
	for _, v := range domain {
		sum += math.Exp(v - top)
	}
	total := 0.0
	for j, v := range chosen {
		gates[j] = math.Exp(v-top) / sum
		total += gates[j]
	}
	if mode == SoftmaxTopKNorm {
		for j := range gates {
			gates[j] /= total
		}
	}
}

func sigmoidGatesOfRow(mode RouterMode, row []float64, ids []int32, gates []float64) {
	total := 0.0
	for j, e := range ids {
		gates[j] = sigmoid(row[e])
		total += gates[j]
	}
	for j := range gates {
		switch {
		case slices.ContainsFunc(row, math.IsNaN):
			gates[j] = math.NaN()
		case mode == SigmoidTopKNorm:
			gates[j] /= total + SigmoidNormEpsilon
		}
	}
}

func holdsNaNOrPosInf(row []float64) bool {
	for _, v := range row {
		if math.IsNaN(v) || math.IsInf(v, 1) {
			return true
		}
	}
	return false
}

// Margins returns per token how far the choice is from changing: the gap between the lowest chosen and the highest
// unchosen logit of logits [T,E], +Inf where k = E. A device whose logits are off by more than half a token's margin may
// choose differently there without being wrong. A row with a NaN has margin NaN.
func Margins[F Float](logits []F, tokens, experts, k int) []float64 {
	ids := SelectTopK(logits, tokens, experts, k)
	margins := make([]float64, tokens)
	for t := range margins {
		row := Widen(logits[t*experts : (t+1)*experts])
		chosen := make(map[int32]bool, k)
		lowest, highest := math.Inf(1), math.Inf(-1)
		for _, e := range ids[t*k : (t+1)*k] {
			chosen[e] = true
			lowest = math.Min(lowest, row[e])
		}
		for e, v := range row {
			if !chosen[int32(e)] {
				highest = math.Max(highest, v)
			}
		}
		margins[t] = lowest - highest
	}
	return margins
}
