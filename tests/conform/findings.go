package conform

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// The checks that a Failure may be of.
const (
	CheckOracle     = "oracle"
	CheckGuard      = "guard"
	CheckInput      = "input"
	CheckUnwritten  = "unwritten"
	CheckRepeat     = "repeat"
	CheckValidation = "validation"
	CheckError      = "error" // a call failed that should not have, or the reverse
)

// A Failure is one thing wrong with a case's run.
type Failure struct {
	Check   string `json:"check"`
	Tensor  string `json:"tensor,omitempty"`
	Message string `json:"message"`

	Worst     *Element `json:"worst,omitempty"`
	Histogram []int    `json:"histogram,omitempty"` // elements by error: see HistogramEdges
}

// An Element is the element of a tensor that is furthest off.
type Element struct {
	Index int    `json:"index"`
	Got   Number `json:"got"`
	Want  Number `json:"want"`
	Bound Number `json:"bound"`
}

// HistogramEdges are the upper ends of a histogram's bins, as shares of the bound; one more bin holds what is above, and a
// last one what is not finite and should be, or the reverse.
var HistogramEdges = []float64{0, 0.01, 0.1, 0.5, 1, 2, 10, 1e3, 1e6}

// maxFailures bounds what is kept of one case.
const maxFailures = 8

// findings collects what the checks of one case find.
type findings struct {
	failures []Failure
	worst    float64 // the largest error in units of its bound
	wants    map[string][]float64
}

func (f *findings) add(x Failure) {
	if len(f.failures) < maxFailures {
		f.failures = append(f.failures, x)
	}
}

// Fail reports something wrong that no other method finds.
func (k *Kit) Fail(check, tensor, format string, args ...any) {
	k.found.add(Failure{Check: check, Tensor: tensor, Message: fmt.Sprintf(format, args...)})
}

// Close compares a tensor's values with the oracle's within a bound per element, or exactly when bound is nil.
func (k *Kit) Close(name string, t *vk.Tensor, want, bound []float64) {
	k.compare(name, k.Values(t), want, bound)
}

// Values downloads a tensor as float32.
func (k *Kit) Values(t *vk.Tensor) []float32 {
	data, err := vk.Download[float32](k.Ctx, t)
	k.must(err)
	return data
}

// Ints downloads an I32 tensor.
func (k *Kit) Ints(t *vk.Tensor) []int32 {
	data, err := vk.Download[int32](k.Ctx, t)
	k.must(err)
	return data
}

func (k *Kit) compare(name string, got []float32, want, bound []float64) {
	if len(got) != len(want) || len(bound) > 1 && len(bound) != len(want) {
		k.Fail(CheckError, name, "%d values, the oracle has %d", len(got), len(want))
		return
	}
	c := ref.Compare(got, want, bound)
	k.found.wants[name] = want
	if c.Worst.Index >= 0 {
		k.found.worst = max(k.found.worst, c.Worst.Ratio)
	}
	if c.OK() {
		return
	}
	w := c.Worst
	k.found.add(Failure{Check: CheckOracle, Tensor: name, Message: c.String(), Histogram: histogram(got, want, bound),
		Worst: &Element{w.Index, Number(w.Got), Number(w.Want), Number(w.Bound)}})
}

// EqualInts compares integers exactly.
func (k *Kit) EqualInts(name string, got, want []int32) {
	if len(got) != len(want) {
		k.Fail(CheckError, name, "%d values, the oracle has %d", len(got), len(want))
		return
	}
	wrong, first := 0, -1
	for i := range got {
		if got[i] != want[i] {
			wrong++
			if first < 0 {
				first = i
			}
		}
	}
	if wrong > 0 {
		k.found.add(Failure{Check: CheckOracle, Tensor: name,
			Message: fmt.Sprintf("%d of %d integers differ, the first [%d]: got %d want %d", wrong, len(got), first, got[first], want[first]),
			Worst:   &Element{first, Number(got[first]), Number(want[first]), 0}})
	}
}

func histogram(got []float32, want, bound []float64) []int {
	bins := make([]int, len(HistogramEdges)+2)
	for i, w := range want {
		g, b := float64(got[i]), 0.0
		switch {
		case len(bound) == 1:
			b = bound[0]
		case len(bound) > 1:
			b = bound[i]
		}
		share := math.Abs(g-w) / b
		bin := len(HistogramEdges)
		switch {
		case g == w || math.IsNaN(g) && math.IsNaN(w):
			bin = 0
		case math.IsNaN(share) || math.IsInf(g, 0) || math.IsInf(w, 0):
			bin++
		default:
			for j, edge := range HistogramEdges {
				if share <= edge {
					bin = j
					break
				}
			}
		}
		bins[bin]++
	}
	return bins
}
