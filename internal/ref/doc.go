// Package ref is the oracle of the library: every operation computed in float64 by plain loops, without cgo and
// without a GPU. Kernels, layers and the conformance suite are judged against it, so it is written to be read, not to
// be fast: one file per stem, each function the equation it states.
//
// Shapes use the letters of the whole module: T tokens, E experts, K choices per token, D model width, H hidden
// width of one expert; of attention, B sequences, Heads query heads, KVHeads key and value heads. A slot s = t·K + j is
// choice j of token t; a grouped position p is the place of a slot once slots are sorted by expert. All arrays are
// row-major and dense.
//
// Inputs are float32 or float64 slices and are never written; results are freshly allocated float64 slices. Besides
// the value Y of each element the sums return Abs, the same sum over absolute values: the scale against which
// rounding errors grow, so that a result near zero from large cancelling terms is judged fairly (see Tolerance).
//
// Lengths that disagree are mistakes of the calling test: functions panic and name the operand.
package ref

import "fmt"

// Float is an input element: float32 as kernels read it, or float64 as another oracle function returned it.
type Float interface{ ~float32 | ~float64 }

// A Result is a computed array and the scale of its rounding errors.
type Result struct {
	Y   []float64 // the values
	Abs []float64 // per element the sum of the absolute values of the terms that make it; same shape as Y
}

func newResult(n int) Result { return Result{make([]float64, n), make([]float64, n)} }

// requireLen panics unless an operand has as many elements as its shape says.
func requireLen(op, operand string, got, want int) {
	if got != want {
		panic(fmt.Sprintf("ref.%s: %s has %d elements, its shape says %d", op, operand, got, want))
	}
}

// Widen converts a slice to float64.
func Widen[F Float](x []F) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
