package ref

import (
	"fmt"
	"math"
	"slices"
)

// A Router is everything that decides the experts and gates of a token once its logits are known.
//
// The sigmoid modes choose by score + Bias, where the score is the sigmoid of the logit, but weight by the score alone.
// With Groups they choose as DeepSeek-V3 does (arXiv 2412.19437, section 2.1.2): the experts come in Groups runs of equal
// length, a group's score is the sum of its two largest biased scores (its only one when it has one expert), and only
// experts of the TopGroups best groups can be chosen.
type Router struct {
	Mode       RouterMode
	Experts, K int
	Scale      float64   // multiplies every gate; 0 means 1
	Bias       []float32 // [E], sigmoid modes only; nil for none
	Groups     int       // 0 for none; divides Experts; sigmoid modes only
	TopGroups  int       // 1 to Groups; its groups hold at least K experts
}

// Rules are all that decides experts and gates of an MLP from its logits.
func (m MLP[F]) Rules() Router {
	r := m.Gating
	r.Mode, r.Experts, r.K = m.Mode, m.Router.Out, m.K
	return r
}

func (r Router) check(op string) {
	limited := r.Groups > 0
	switch {
	case r.K < 0 || r.K > r.Experts:
		panic(fmt.Sprintf("ref.%s: k = %d of %d experts", op, r.K, r.Experts))
	case (limited || r.Bias != nil) && !r.Mode.Sigmoid():
		panic(fmt.Sprintf("ref.%s: %v has neither bias nor groups", op, r.Mode))
	case limited && (r.Experts%r.Groups != 0 || r.TopGroups < 1 || r.TopGroups > r.Groups || r.TopGroups*r.Experts/r.Groups < r.K):
		panic(fmt.Sprintf("ref.%s: %d of %d groups of %d experts for %d choices", op, r.TopGroups, r.Groups, r.Experts, r.K))
	}
	if r.Bias != nil {
		requireLen(op, "Bias", len(r.Bias), r.Experts)
	}
}

func (r Router) scale() float64 {
	if r.Scale == 0 {
		return 1
	}
	return r.Scale
}

// keys returns what a row of logits [E] is ranked by, and which experts may be chosen at all.
func (r Router) keys(row []float64) (keys []float64, allowed []bool) {
	keys = append([]float64(nil), row...)
	allowed = make([]bool, len(row))
	if r.Mode.Sigmoid() {
		for e := range keys {
			keys[e] = sigmoid(keys[e])
			if r.Bias != nil {
				keys[e] += float64(r.Bias[e])
			}
		}
	}
	if r.Groups == 0 {
		for e := range allowed {
			allowed[e] = true
		}
		return keys, allowed
	}
	scores, size := r.groupScores(keys)
	for _, g := range SelectTopK(scores, 1, r.Groups, r.TopGroups) {
		for e := int(g) * size; e < (int(g)+1)*size; e++ {
			allowed[e] = true
		}
	}
	return keys, allowed
}

// groupScores returns the sum of the two largest keys of each group, and a group's size.
func (r Router) groupScores(keys []float64) (scores []float64, size int) {
	size = r.Experts / r.Groups
	scores = make([]float64, r.Groups)
	for g := range scores {
		group := keys[g*size : (g+1)*size]
		for _, e := range SelectTopK(group, 1, size, min(2, size)) {
			scores[g] += group[e]
		}
	}
	return scores, size
}

// selectRow returns the k allowed experts with the largest keys, by SelectTopK's order.
func (r Router) selectRow(keys []float64, allowed []bool) []int32 {
	var candidates []int32
	var values []float64
	for e, ok := range allowed {
		if ok {
			candidates = append(candidates, int32(e))
			values = append(values, keys[e])
		}
	}
	ids := SelectTopK(values, 1, len(values), r.K)
	for j, c := range ids {
		ids[j] = candidates[c]
	}
	return ids
}

// Select returns ids [T,K] for logits [T,E], best first, ties to the lower id.
func Select[F Float](r Router, logits []F, tokens int) []int32 {
	r.check("Select")
	requireLen("Select", "logits", len(logits), tokens*r.Experts)
	ids := make([]int32, 0, tokens*r.K)
	for t := 0; t < tokens; t++ {
		keys, allowed := r.keys(Widen(logits[t*r.Experts : (t+1)*r.Experts]))
		ids = append(ids, r.selectRow(keys, allowed)...)
	}
	return ids
}

// RouterGates returns gates [T,K] of given experts ids [T,K], scaled. A row is NaN where GatesOf says so, and where a
// bias makes a biased score NaN.
func RouterGates[F Float](r Router, logits []F, ids []int32, tokens int) []float64 {
	r.check("RouterGates")
	gates := GatesOf(r.Mode, logits, ids, tokens, r.Experts, r.K)
	for i := range gates {
		gates[i] *= r.scale()
		if r.Bias != nil {
			for _, b := range r.Bias {
				if math.IsNaN(float64(b)) {
					gates[i] = math.NaN()
				}
			}
		}
	}
	return gates
}

// RouterMargins returns per token how far the choice is from changing, in units of a key: the gap between the lowest
// chosen and the highest unchosen key, or half the gap between the group scores at the cut where that is less. It is
// +Inf where nothing else can be chosen and NaN for a row with a NaN.
func RouterMargins[F Float](r Router, logits []F, tokens int) []float64 {
	r.check("RouterMargins")
	margins := make([]float64, tokens)
	for t := range margins {
		keys, allowed := r.keys(Widen(logits[t*r.Experts : (t+1)*r.Experts]))
		var candidates []float64
		for e, ok := range allowed {
			if ok {
				candidates = append(candidates, keys[e])
			}
		}
		margins[t] = Margins(candidates, 1, len(candidates), r.K)[0]
		if r.Groups > 0 {
			scores, _ := r.groupScores(keys)
			margins[t] = min(margins[t], Margins(scores, 1, r.Groups, r.TopGroups)[0]/2)
		}
	}
	return margins
}

// NearTie is the largest margin of a token (RouterMargins) that rounding may close: two keys, each from a logit that is a
// sum of width products in f32 of operands off by input, relative. abs [E] are the scales of the token's logits.
func (r Router) NearTie(abs []float64, width int, input float64) float64 {
	logit := slices.Max(abs) * (Tolerance(F32, width) + input)
	if !r.Mode.Sigmoid() {
		return 2 * logit
	}
	// The sigmoid's slope is at most 1/4. It has an error of its own, and so has the sum with the bias; as many more as
	// that come with the sum of a group's two keys, of which RouterMargins takes half.
	largest := 1.0
	for _, b := range r.Bias {
		largest = max(largest, 1+math.Abs(float64(b)))
	}
	return 2 * (logit/4 + SigmoidTolerance + 2*largest*UnitF32)
}
