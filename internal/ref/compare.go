package ref

import (
	"fmt"
	"math"
)

// A Comparison says how far an array is from its reference.
type Comparison struct {
	Elements int

	// Frobenius is ‖got − want‖ / ‖want‖ over the finite elements. It is NaN as soon as one element is not finite where the
	// other is, so test it as !(c.Frobenius <= tol). It is +Inf when the reference is all zero and got is not.
	Frobenius float64

	Worst   Element // the element with the largest error/bound, or the first that does not match a NaN or Inf
	Outside int     // elements outside their bound, mismatched NaN and Inf included
}

// An Element is one compared element.
type Element struct {
	Index     int // −1 when there are no elements
	Got, Want float64
	Bound     float64
	Ratio     float64 // |Got − Want| / Bound; 0 when they are equal, +Inf for a mismatched NaN or Inf
}

// OK reports whether every element is within its bound.
func (c Comparison) OK() bool { return c.Outside == 0 }

func (c Comparison) String() string {
	return fmt.Sprintf("%d of %d elements outside, relative Frobenius error %.3g, worst [%d] got %v want %v, error/bound %.3g",
		c.Outside, c.Elements, c.Frobenius, c.Worst.Index, c.Worst.Got, c.Worst.Want, c.Worst.Ratio)
}

// Compare judges got against want element by element: |got − want| ≤ bound. A NaN equals only a NaN, an infinity only the
// same infinity. bound has one element per element, or one for all, or is nil for exact equality.
func Compare[F Float](got []F, want, bound []float64) Comparison {
	requireLen("Compare", "got", len(got), len(want))
	if len(bound) > 1 {
		requireLen("Compare", "bound", len(bound), len(want))
	}
	c := Comparison{Elements: len(want), Worst: Element{Index: -1}}
	var diff2, want2 sumOfSquares
	for i, w := range want {
		el := Element{Index: i, Got: float64(got[i]), Want: w}
		switch len(bound) {
		case 0:
		case 1:
			el.Bound = bound[0]
		default:
			el.Bound = bound[i]
		}
		el.Ratio = el.ratio()
		if !(el.Ratio <= 1) {
			c.Outside++
		}
		if c.Worst.Index < 0 || el.Ratio > c.Worst.Ratio {
			c.Worst = el
		}
		if !same(el.Got, w) {
			diff2.add(el.Got - w)
		}
		if !math.IsNaN(w) && !math.IsInf(w, 0) {
			want2.add(w)
		}
	}
	c.Frobenius = relative(diff2.root(), want2.root())
	return c
}

// same is equality in which a NaN equals a NaN.
func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func (e Element) ratio() float64 {
	if same(e.Got, e.Want) {
		return 0
	}
	r := math.Abs(e.Got-e.Want) / e.Bound
	if math.IsNaN(r) || math.IsInf(e.Got, 0) || math.IsInf(e.Want, 0) {
		return math.Inf(1)
	}
	return r
}

// RelativeFrobenius returns ‖got − want‖ / ‖want‖ with the rules of Comparison.Frobenius.
func RelativeFrobenius[F Float](got []F, want []float64) float64 {
	return Compare(got, want, nil).Frobenius
}

func relative(diff, want float64) float64 {
	switch {
	case math.IsInf(diff, 0):
		return math.NaN() // an infinity against a number is a mismatch, not a large error
	case diff == 0:
		return 0
	}
	return diff / want
}

// sumOfSquares adds squares without overflow or underflow by keeping the largest magnitude apart.
type sumOfSquares struct{ scale, sum float64 }

func (s *sumOfSquares) add(v float64) {
	v = math.Abs(v)
	switch {
	case v == 0:
	case math.IsNaN(v) || math.IsInf(v, 0):
		s.scale, s.sum = v, 1
	case v > s.scale:
		s.sum = 1 + s.sum*(s.scale/v)*(s.scale/v)
		s.scale = v
	case math.IsNaN(s.scale):
	default:
		s.sum += (v / s.scale) * (v / s.scale)
	}
}

func (s *sumOfSquares) root() float64 { return s.scale * math.Sqrt(s.sum) }

// A ChoiceDiff is one token whose chosen experts differ from the oracle's.
type ChoiceDiff struct {
	Token     int
	Got, Want []int32
	Margin    float64 // of the oracle's choice
}

// CompareChoices lists the tokens whose set of chosen experts differs; the order within a token does not matter. got and
// want are ids [T,k], margins [T] are the oracle's: Margins or RouterMargins.
func CompareChoices(got, want []int32, margins []float64, k int) []ChoiceDiff {
	requireLen("CompareChoices", "got", len(got), len(margins)*k)
	requireLen("CompareChoices", "want", len(want), len(margins)*k)
	var diffs []ChoiceDiff
	for t, margin := range margins {
		g, w := got[t*k:(t+1)*k], want[t*k:(t+1)*k]
		count := make(map[int32]int, k)
		for j := range w {
			count[w[j]]++
			count[g[j]]--
		}
		for _, n := range count {
			if n != 0 {
				diffs = append(diffs, ChoiceDiff{t, g, w, margin})
				break
			}
		}
	}
	return diffs
}
