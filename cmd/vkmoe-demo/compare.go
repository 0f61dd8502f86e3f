package main

import (
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/tests/golden"
)

// tolerance is the largest relative error, in the Frobenius norm, that counts as agreement in f32.
const tolerance = 1e-5

// A sample is the tokens that are compared with the reference: count of them, spread evenly over the text.
type sample struct {
	total, count int
	taken        int
	x, y         []float32 // [taken,D]
	ids          []int32   // [taken,K]
	gates        []float32 // [taken,K]
}

func newSample(total, limit int) sample { return sample{total: total, count: min(total, limit)} }

// at is the token that the i-th place of the sample holds.
func (s *sample) at(i int) int { return int(int64(i) * int64(s.total) / int64(s.count)) }

// take keeps the sampled rows of a batch, whose first token is first. Batches come in the order of the text.
func (s *sample) take(first, tokens int, x, y []float32, ids []int32, gates []float32) {
	width, k := len(x)/tokens, len(ids)/tokens
	for ; s.taken < s.count && s.at(s.taken) < first+tokens; s.taken++ {
		row := s.at(s.taken) - first
		s.x = append(s.x, x[row*width:(row+1)*width]...)
		s.y = append(s.y, y[row*width:(row+1)*width]...)
		s.ids = append(s.ids, ids[row*k:(row+1)*k]...)
		s.gates = append(s.gates, gates[row*k:(row+1)*k]...)
	}
}

// An agreement says how far the device is from the reference on the sampled tokens.
type agreement struct {
	Tokens      int     // compared
	Error       float64 // relative Frobenius error of the outputs
	GateError   float64 // the same of the gates
	SameChoices int     // tokens whose set of experts is the reference's
	NearTies    int     // tokens whose set differs where rounding leaves the choice open
	Pass        bool
}

// compare computes the sampled tokens with the float64 reference. Where the reference's logits leave the choice open
// within the rounding errors of f32, the device's own choice is followed; any other difference of choice fails.
func compare(l *layer, s sample) (agreement, error) {
	m, err := golden.Oracle(l.MLPWeights)
	if err != nil {
		return agreement{}, err
	}
	experts, k := l.Config.Experts, l.Config.TopK
	a := agreement{Tokens: s.taken}
	logits := ref.DenseLinear(m.Router, s.x, s.taken)
	rules := m.Rules()
	want := ref.Select(rules, logits.Y, s.taken)
	margins := ref.RouterMargins(rules, logits.Y, s.taken)
	followed := append([]int32(nil), want...)
	for t := range s.taken {
		got := s.ids[t*k : (t+1)*k]
		switch {
		case !distinct(got, experts):
			continue
		case len(ref.CompareChoices(got, want[t*k:(t+1)*k], margins[t:t+1], k)) == 0:
			a.SameChoices++
		case margins[t] <= rules.NearTie(logits.Abs[t*experts:(t+1)*experts], l.Config.Width, 0):
			a.NearTies++
		default:
			continue
		}
		copy(followed[t*k:], got)
	}
	out := ref.ForwardChosen(m, s.x, s.taken, logits, followed)
	a.Error = ref.RelativeFrobenius(s.y, out.Out.Y)
	a.GateError = ref.RelativeFrobenius(s.gates, out.Gates)
	a.Pass = a.SameChoices+a.NearTies == a.Tokens && a.Error <= tolerance && a.GateError <= tolerance
	return a, nil
}

// distinct reports whether ids are different experts of those there are.
func distinct(ids []int32, experts int) bool {
	for j, e := range ids {
		if e < 0 || int(e) >= experts {
			return false
		}
		for _, other := range ids[:j] {
			if e == other {
				return false
			}
		}
	}
	return true
}

// A load is how the text's choices spread over the experts.
type load struct {
	Counts  []int   // [E], choices that went to each expert
	Choices int     // their sum
	Balance float64 // the busiest expert's count over the mean; 1 is even
	Entropy float64 // of the distribution, bits
	Idle    int     // experts that got nothing
}

func measureLoad(ids []int32, experts int) load {
	l := load{Counts: make([]int, experts)}
	for _, e := range ids {
		if e >= 0 && int(e) < experts {
			l.Counts[e]++
			l.Choices++
		}
	}
	largest := 0
	for _, n := range l.Counts {
		largest = max(largest, n)
		if n == 0 {
			l.Idle++
			continue
		}
		p := float64(n) / float64(l.Choices)
		l.Entropy -= p * math.Log2(p)
	}
	if l.Choices > 0 {
		l.Balance = float64(largest) * float64(experts) / float64(l.Choices)
	}
	l.Entropy = math.Abs(l.Entropy) // a single busy expert gives −0
	return l
}
