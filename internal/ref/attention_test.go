package ref

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// attentionCases are the features one by one and together, on ragged sequences of which one is empty, one has more
// queries than keys and one more keys than queries.
func attentionCases() map[string]Attention {
	base := Attention{Heads: 4, KVHeads: 2, Width: 3, ValueWidth: 2, QueryOffsets: []int32{0, 3, 3, 7, 9}}
	with := func(change func(a *Attention)) Attention {
		a := base
		change(&a)
		return a
	}
	return map[string]Attention{
		"full":        base,
		"causal":      with(func(a *Attention) { a.Causal = true }),
		"tiled":       with(func(a *Attention) { a.Tiled, a.Causal = true, true }),
		"window":      with(func(a *Attention) { a.Causal, a.Window = true, 2 }),
		"open window": with(func(a *Attention) { a.Window = 2 }),
		"cap":         with(func(a *Attention) { a.SoftCap, a.Scale = 1.5, 2 }),
		"sinks":       with(func(a *Attention) { a.Sinks = []float32{0.5, -1, 2, 0} }),
		"keys": with(func(a *Attention) {
			a.KeyOffsets, a.Causal = []int32{0, 2, 4, 10, 10}, true
		}),
		"all": with(func(a *Attention) {
			a.KeyOffsets, a.Causal, a.Window, a.SoftCap, a.Tiled = []int32{0, 2, 4, 10, 10}, true, 3, 2, true
			a.Sinks = []float32{0.5, -1, 2, 0}
		}),
	}
}

func attentionInput(rng *rand.Rand, a Attention) (q, k, v, dOut []float64) {
	return normals64(rng, a.Queries()*a.Heads*a.Width), normals64(rng, a.Keys()*a.KVHeads*a.Width),
		normals64(rng, a.Keys()*a.KVHeads*a.ValueWidth), normals64(rng, a.Queries()*a.Heads*a.ValueWidth)
}

// naiveAttention evaluates the definition once more: whole sequences, masks by comparing positions, exponentials that are
// divided by their sum.
func naiveAttention(a Attention, q, k, v []float64) (out, lse []float64) {
	keyOffsets := a.KeyOffsets
	if keyOffsets == nil {
		keyOffsets = a.QueryOffsets
	}
	for b := range len(a.QueryOffsets) - 1 {
		n, m := int(a.QueryOffsets[b+1]-a.QueryOffsets[b]), int(keyOffsets[b+1]-keyOffsets[b])
		for i := range n {
			for h := range a.Heads {
				kv := h / (a.Heads / a.KVHeads)
				if a.Tiled {
					kv = h % a.KVHeads
				}
				sum, row := 0.0, make([]float64, a.ValueWidth)
				if a.Sinks != nil {
					sum = math.Exp(float64(a.Sinks[h]))
				}
				for j := range m {
					position := i + m - n
					if a.Causal && j > position || a.Window > 0 && j <= position-a.Window {
						continue
					}
					scale := a.Scale
					if scale == 0 {
						scale = math.Pow(float64(a.Width), -0.5)
					}
					key, t := int(keyOffsets[b])+j, int(a.QueryOffsets[b])+i
					s := scale * dot(q[(t*a.Heads+h)*a.Width:(t*a.Heads+h+1)*a.Width], k[(key*a.KVHeads+kv)*a.Width:(key*a.KVHeads+kv+1)*a.Width])
					if a.SoftCap > 0 {
						s = a.SoftCap * math.Tanh(s/a.SoftCap)
					}
					sum += math.Exp(s)
					for c := range row {
						row[c] += math.Exp(s) * v[(key*a.KVHeads+kv)*a.ValueWidth+c]
					}
				}
				for c := range row {
					if row[c] != 0 {
						row[c] /= sum
					}
				}
				out, lse = append(out, row...), append(lse, math.Log(sum))
			}
		}
	}
	return out, lse
}

func TestAttentionForward(t *testing.T) {
	for name, a := range attentionCases() {
		q, k, v, _ := attentionInput(rand.New(rand.NewPCG(21, 22)), a)
		want, wantLSE := naiveAttention(a, q, k, v)
		got := AttentionForward(a, q, k, v)
		require.InDeltaSlice(t, want, got.Out.Y, 1e-12, name)
		for i, lse := range wantLSE {
			require.True(t, same(lse, got.LSE[i]) || math.Abs(lse-got.LSE[i]) < 1e-12, "%s LSE[%d]: %v, want %v", name, i, got.LSE[i], lse)
		}
		for row := range a.Queries() * a.Heads {
			out, lse := AttentionQuery(a, q, k, v, row/a.Heads, row%a.Heads)
			require.Equal(t, got.Out.Y[row*a.ValueWidth:(row+1)*a.ValueWidth], out.Y, name)
			require.Equal(t, got.LSE[row], lse, name)
		}
	}
}

// TestAttentionWithoutKeys pins what a query gets that sees nothing.
func TestAttentionWithoutKeys(t *testing.T) {
	a := attentionCases()["keys"] // the last sequence has no keys, the first query of the first stands before its keys
	q, k, v, dOut := attentionInput(rand.New(rand.NewPCG(23, 24)), a)
	res := AttentionForward(a, q, k, v)
	grads := AttentionBackward(a, q, k, v, dOut)
	for _, row := range []int{0, 7, 8} {
		require.Equal(t, make([]float64, 8), res.Out.Y[row*8:(row+1)*8])
		require.Equal(t, make([]float64, 12), grads.DQ.Y[row*12:(row+1)*12])
		for h := range a.Heads {
			require.True(t, math.IsInf(res.LSE[row*4+h], -1))
		}
	}
	require.Equal(t, make([]float64, 12), grads.DK.Y[2*6:4*6], "keys of a sequence without queries")
	a.Sinks = []float32{1, 2, 3, 4}
	require.Equal(t, []float64{1, 2, 3, 4}, AttentionForward(a, q, k, v).LSE[28:32])
}

func TestAttentionBackward(t *testing.T) {
	for name, a := range attentionCases() {
		q, k, v, dOut := attentionInput(rand.New(rand.NewPCG(25, 26)), a)
		loss := func() float64 { return dot(AttentionForward(a, q, k, v).Out.Y, dOut) }
		g := AttentionBackward(a, q, k, v, dOut)
		requireGradient(t, name+" dQ", q, g.DQ.Y, loss)
		requireGradient(t, name+" dK", k, g.DK.Y, loss)
		requireGradient(t, name+" dV", v, g.DV.Y, loss)
		requireSinksGradient(t, a.Sinks, g.DSinks.Y, loss)
	}
}

// requireSinksGradient differentiates with steps that float32 holds exactly.
func requireSinksGradient(t *testing.T, sinks []float32, gradient []float64, loss func() float64) {
	t.Helper()
	require.Len(t, gradient, len(sinks))
	for h, s := range sinks {
		const step = 0x1p-12
		sinks[h] = s + step
		above := loss()
		sinks[h] = s - step
		below := loss()
		sinks[h] = s
		require.InDelta(t, (above-below)/(2*step), gradient[h], 1e-6, "sinks[%d]", h)
	}
}

// TestAttentionBounds computes in f32 what the oracle does in f64, in two other orders, and stays within the bounds; a
// result without its last key leaves them.
func TestAttentionBounds(t *testing.T) {
	for name, a := range attentionCases() {
		rng := rand.New(rand.NewPCG(27, 28))
		q, k, v, dOut := attentionInput(rng, a)
		for i := range q {
			q[i] *= 8 // sharp rows, where logits' errors matter
		}
		want := AttentionForward(a, q, k, v)
		out, lse := want.Bounds(F32)
		rounded := make([]float64, len(want.Out.Y))
		for row := range a.Queries() * a.Heads {
			copy(rounded[row*a.ValueWidth:], singleAttentionRow(a, q, k, v, row))
		}
		c := Compare(rounded, want.Out.Y, out)
		require.True(t, c.OK(), "%s: %v", name, c)
		require.Greater(t, c.Worst.Ratio, 1e-4, "%s: the bound is far from any error", name)
		require.True(t, Compare(want.LSE, want.LSE, lse).OK(), name)
		for _, dtype := range DTypes {
			dq, dk, dv, _ := AttentionBackward(a, q, k, v, dOut).Bounds(dtype)
			for _, bound := range [][]float64{dq, dk, dv} {
				for _, b := range bound {
					require.True(t, b > 0 && !math.IsInf(b, 1), name)
				}
			}
		}
	}
}

// singleAttentionRow is one row by online softmax in float32, the last key first.
func singleAttentionRow(a Attention, q, k, v []float64, row int) []float64 {
	t, h := row/a.Heads, row%a.Heads
	first, end := a.Visible(t)
	top, sum := float32(math.Inf(-1)), float32(0)
	if a.Sinks != nil {
		top, sum = a.Sinks[h], 1
	}
	acc := make([]float32, a.ValueWidth)
	for j := end - 1; j >= first; j-- {
		s := float32(0)
		for i := range a.Width {
			s += float32(q[row*a.Width+i]) * float32(k[(j*a.KVHeads+a.KVHead(h))*a.Width+i])
		}
		s *= float32(a.scale())
		if a.SoftCap > 0 {
			s = float32(a.SoftCap) * float32(math.Tanh(float64(s/float32(a.SoftCap))))
		}
		old := top
		top = max(top, s)
		shrink, p := float32(math.Exp(float64(old-top))), float32(math.Exp(float64(s-top)))
		sum = sum*shrink + p
		for c := range acc {
			acc[c] = acc[c]*shrink + p*float32(v[(j*a.KVHeads+a.KVHead(h))*a.ValueWidth+c])
		}
	}
	for c := range acc {
		if sum > 0 {
			acc[c] /= sum
		}
	}
	return Widen(acc)
}

func TestAttentionRefusesBadShapes(t *testing.T) {
	for i, a := range []Attention{
		{Heads: 3, KVHeads: 2, QueryOffsets: []int32{0}},
		{Heads: 1, KVHeads: 1, QueryOffsets: []int32{1}},
		{Heads: 1, KVHeads: 1, QueryOffsets: []int32{0, 2, 1}},
		{Heads: 1, KVHeads: 1, QueryOffsets: []int32{0, 1}, KeyOffsets: []int32{0}},
		{Heads: 1, KVHeads: 1, Width: 1, ValueWidth: 1, QueryOffsets: []int32{0, 1}},
	} {
		require.Panics(t, func() { AttentionForward[float32](a, nil, nil, nil) }, fmt.Sprint(i))
	}
}
