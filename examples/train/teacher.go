package train

import (
	"math"
	"math/rand"
	"slices"
)

// Normal is n values of the normal distribution with mean 0 and the given deviation.
func Normal(random *rand.Rand, n int, deviation float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(random.NormFloat64() * deviation)
	}
	return out
}

// Multiply is w·x on the host, for w [rows,len(x)].
func Multiply(w, x []float32) []float32 {
	out := make([]float32, len(w)/len(x))
	for i := range out {
		for j, v := range x {
			out[i] += w[i*len(x)+j] * v
		}
	}
	return out
}

// Choose is a router on the host: the experts with the k largest logits, and the softmax over these logits. It agrees with
// moe.SoftmaxTopKNorm.
func Choose(logits []float32, k int) (experts []int, gates []float32) {
	for e := range logits {
		experts = append(experts, e)
	}
	slices.SortStableFunc(experts, func(a, b int) int {
		if logits[a] > logits[b] {
			return -1
		}
		if logits[a] < logits[b] {
			return 1
		}
		return 0
	})
	experts = experts[:k]
	var sum float32
	for _, e := range experts {
		g := float32(math.Exp(float64(logits[e] - logits[experts[0]])))
		gates = append(gates, g)
		sum += g
	}
	for j := range gates {
		gates[j] /= sum
	}
	return experts, gates
}
