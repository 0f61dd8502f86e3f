package ref

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func randomDense(rng *rand.Rand, in, out int, bias bool) Linear[float64] {
	return randomExperts(rng, 1, in, out, bias)
}

func randomExperts(rng *rand.Rand, experts, in, out int, bias bool) Linear[float64] {
	l := Linear[float64]{Experts: experts, In: in, Out: out, Weight: normals64(rng, experts*in*out)}
	if bias {
		l.Bias = normals64(rng, experts*out)
	}
	return l
}

// requireLinearGradient checks weights and, where there is one, bias.
func requireLinearGradient(t *testing.T, what string, l Linear[float64], g LinearGrads, loss func() float64) {
	t.Helper()
	requireGradient(t, what, l.Weight, g.Weight.Y, loss)
	if l.Bias != nil {
		requireGradient(t, what+" bias", l.Bias, g.Bias.Y, loss)
	}
}

func TestSelfAttentionBackward(t *testing.T) {
	const width = 5
	offsets := []int32{0, 4, 4, 7}
	for _, norms := range []string{"", "head", "row"} {
		rng := rand.New(rand.NewPCG(41, 42))
		a := Attention{Heads: 4, KVHeads: 2, Width: 4, ValueWidth: 3, Causal: true, Window: 3, SoftCap: 4, QueryOffsets: offsets,
			Sinks: []float32{0.5, -1, 1, 0}}
		s := SelfAttention[float64]{Attention: a, RoPE: RoPE{Width: 2, Base: 100}, Epsilon: 0.1,
			Query: randomDense(rng, width, 16, true), Key: randomDense(rng, width, 8, true),
			Value: randomDense(rng, width, 6, true), Output: randomDense(rng, 12, width, true)}
		switch norms {
		case "head":
			s.QueryNorm, s.KeyNorm = normals64(rng, 4), normals64(rng, 4)
		case "row":
			s.QueryNorm, s.KeyNorm = normals64(rng, 16), normals64(rng, 8)
		}
		x, dOut := normals64(rng, 7*width), normals64(rng, 7*width)
		loss := func() float64 { return dot(SelfAttentionForward(s, x).Out.Y, dOut) }
		g := SelfAttentionBackward(s, x, SelfAttentionForward(s, x), dOut)
		requireGradient(t, norms+" dX", x, g.X, loss)
		requireLinearGradient(t, "query", s.Query, g.Query, loss)
		requireLinearGradient(t, "value", s.Value, g.Value, loss)
		requireLinearGradient(t, "output", s.Output, g.Output, loss)
		requireGradient(t, "key", s.Key.Weight, g.Key.Weight.Y, loss)
		if norms == "" {
			require.Nil(t, g.QueryNorm)
		} else {
			requireGradient(t, "query norm", s.QueryNorm, g.QueryNorm, loss)
			requireGradient(t, "key norm", s.KeyNorm, g.KeyNorm, loss)
		}
		requireSinksGradient(t, a.Sinks, g.Sinks, loss)
	}
}

func TestMLABackward(t *testing.T) {
	const width, heads, plain, rotated, value, rank, queryRank = 5, 2, 3, 2, 4, 3, 4
	for _, compressed := range []bool{true, false} {
		rng := rand.New(rand.NewPCG(43, 44))
		m := MLA[float64]{
			Attention: Attention{Heads: heads, KVHeads: heads, Width: plain + rotated, ValueWidth: value, Causal: true, Scale: 0.7,
				QueryOffsets: []int32{0, 2, 6}},
			RoPE:    RoPE{First: plain, Width: rotated, Base: 100, Interleaved: true},
			QueryUp: randomDense(rng, width, heads*(plain+rotated), false),
			KVDown:  randomDense(rng, width, rank+rotated, true), KVNorm: normals64(rng, rank),
			KVUp: randomDense(rng, rank, heads*(plain+value), false), Output: randomDense(rng, heads*value, width, true), Epsilon: 0.1,
		}
		if compressed {
			down := randomDense(rng, width, queryRank, true)
			m.QueryDown, m.QueryNorm = &down, normals64(rng, queryRank)
			m.QueryUp = randomDense(rng, queryRank, heads*(plain+rotated), false)
		}
		x, dOut := normals64(rng, 6*width), normals64(rng, 6*width)
		loss := func() float64 { return dot(MLAForward(m, x).Out.Y, dOut) }
		g := MLABackward(m, x, MLAForward(m, x), dOut)
		requireGradient(t, "dX", x, g.X, loss)
		if compressed {
			requireLinearGradient(t, "query down", *m.QueryDown, g.QueryDown, loss)
			requireGradient(t, "query norm", m.QueryNorm, g.QueryNorm, loss)
		}
		requireLinearGradient(t, "query up", m.QueryUp, g.QueryUp, loss)
		requireLinearGradient(t, "kv down", m.KVDown, g.KVDown, loss)
		requireGradient(t, "kv norm", m.KVNorm, g.KVNorm, loss)
		requireLinearGradient(t, "kv up", m.KVUp, g.KVUp, loss)
		requireLinearGradient(t, "output", m.Output, g.Output, loss)
	}
}

func TestMixtureOfAttentionBackward(t *testing.T) {
	const width, experts, k, h, d, dv = 5, 4, 2, 2, 4, 3
	for _, mode := range RouterModes {
		rng := rand.New(rand.NewPCG(45, 46))
		a := Attention{Heads: k * h, KVHeads: h, Width: d, ValueWidth: dv, Tiled: true, Causal: true, QueryOffsets: []int32{0, 3, 7},
			Sinks: []float32{0.5, -1, 1, 0}}
		m := MixtureOfAttention[float64]{Attention: a, RoPE: RoPE{Width: d, Base: 100}, Gating: Router{Mode: mode},
			Router: randomDense(rng, width, experts, true), Query: randomExperts(rng, experts, width, h*d, true),
			Output: randomExperts(rng, experts, h*dv, width, true), KeyValue: randomDense(rng, width, h*(d+dv), false),
			Bias: normals64(rng, width)}
		x, dOut := normals64(rng, 7*width), normals64(rng, 7*width)
		saved := MixtureOfAttentionForward(m, x)
		for token, margin := range RouterMargins(m.rules(), saved.Logits.Y, 7) {
			require.Greater(t, margin, 1e-3, "token %d would change experts under the difference", token)
		}
		loss := func() float64 { return dot(MixtureOfAttentionForward(m, x).Out.Y, dOut) }
		g := MixtureOfAttentionBackward(m, x, saved, dOut)
		requireGradient(t, mode.String()+" dX", x, g.X, loss)
		requireLinearGradient(t, "router", m.Router, g.Router, loss)
		requireLinearGradient(t, "query", m.Query, g.Query, loss)
		requireLinearGradient(t, "output", m.Output, g.Output, loss)
		requireLinearGradient(t, "key and value", m.KeyValue, g.KeyValue, loss)
		requireGradient(t, "bias", m.Bias, g.Bias, loss)
		requireSinksGradient(t, a.Sinks, g.Sinks, loss)
	}
}

// TestMixtureOfAttentionIsGroupedQueryAttention: with one expert, which every token chooses, the mixture is multi-head
// attention; with K experts that are equal and gates that are 1/K it is the mean over K equal halves.
func TestMixtureOfAttentionIsGroupedQueryAttention(t *testing.T) {
	rng := rand.New(rand.NewPCG(47, 48))
	const width, h, d = 5, 2, 4
	plain := SelfAttention[float64]{
		Attention: Attention{Heads: h, KVHeads: h, Width: d, ValueWidth: d, Causal: true, QueryOffsets: []int32{0, 4}},
		RoPE:      RoPE{Width: d, Base: 100},
		Query:     randomDense(rng, width, h*d, false), Key: randomDense(rng, width, h*d, false),
		Value: randomDense(rng, width, h*d, false), Output: randomDense(rng, h*d, width, false),
	}
	x := normals64(rng, 4*width)
	want := SelfAttentionForward(plain, x).Out.Y
	for k := range 3 {
		k++
		a := plain.Attention
		a.Heads, a.Tiled = k*h, true
		repeated := func(l Linear[float64]) Linear[float64] {
			l.Experts, l.Weight = k, repeatRows(l.Weight, len(l.Weight), k)
			return l
		}
		m := MixtureOfAttention[float64]{Attention: a, RoPE: plain.RoPE, Gating: Router{Mode: TopKSoftmax},
			Router: Linear[float64]{Experts: 1, In: width, Out: k, Weight: make([]float64, width*k)},
			Query:  repeated(plain.Query), Output: repeated(plain.Output),
			KeyValue: Linear[float64]{Experts: 1, In: width, Out: 2 * h * d, Weight: append(append([]float64(nil), plain.Key.Weight...), plain.Value.Weight...)}}
		require.InDeltaSlice(t, want, MixtureOfAttentionForward(m, x).Out.Y, 1e-12, "%d equal experts", k)
	}
}
