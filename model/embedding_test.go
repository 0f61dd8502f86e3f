package model

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// tokensOf draws ids, some of them outside [0, vocabulary).
func tokensOf(rng *rand.Rand, n, vocabulary int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.Intn(vocabulary))
		switch rng.Intn(20) {
		case 0:
			ids[i] = -1
		case 1:
			ids[i] = int32(vocabulary)
		}
	}
	return ids
}

// longestRun is the largest number of tokens with one id.
func longestRun(ids []int32) int {
	count, most := map[int32]int{}, 0
	for _, id := range ids {
		count[id]++
		most = max(most, count[id])
	}
	return most
}

func TestEmbeddingEqualsTheOracle(t *testing.T) {
	for _, s := range []struct{ tokens, vocabulary, width int }{{0, 3, 4}, {1, 1, 1}, {7, 5, 3}, {64, 256, 32}, {300, 11, 33}, {1000, 2, 8}} {
		for _, dtype := range gputest.Storages {
			for shift := range 2 {
				t.Run(fmt.Sprintf("%+v %v shift %d", s, dtype, shift), func(t *testing.T) {
					k := gputest.New(t, dev)
					k.Shift = shift
					rng := rand.New(rand.NewSource(int64(s.tokens)))
					ids := tokensOf(rng, s.tokens, s.vocabulary)
					table := vk.Round(dtype, gputest.Normal(rng, s.vocabulary*s.width))
					dy := vk.Round(dtype, gputest.Normal(rng, s.tokens*s.width))
					before := vk.Round(dtype, gputest.Normal(rng, s.vocabulary*s.width))
					idsT := k.I32("ids", ids, s.tokens)
					y := k.Output("y", dtype, s.tokens, s.width)
					require.NoError(t, Embed(k.Rec, k.Floats("table", dtype, table, s.vocabulary, s.width), idsT, y, 1.5))
					dyT := k.Floats("dy", dtype, dy, s.tokens, s.width)
					sum := k.InOut("sum", dtype, before, s.vocabulary, s.width)
					require.NoError(t, EmbedBackward(k.Rec, idsT, dyT, sum, 0.75, true))
					narrow := k.InOut("narrow", dtype, before, s.vocabulary, s.width)
					require.NoError(t, EmbedBackward(k.Rec, idsT, dyT, narrow, 0.75, false))
					wide := k.InOut("wide", vk.F32, before, s.vocabulary, s.width)
					require.NoError(t, EmbedBackward(k.Rec, idsT, dyT, wide, 0.75, false))
					k.Run()

					want := ref.Embedding(table, ids, s.vocabulary, s.width, 1.5)
					gputest.RequireClose(t, gputest.Download[float32](t, y), want.Y, want.Bound(gputest.Oracle(dtype), 1), "y")
					back := ref.EmbeddingBackward(dy, ids, s.vocabulary, s.width, 0.75)
					run := longestRun(ids)
					gputest.RequireClose(t, gputest.Download[float32](t, wide), back.Y, back.Bound(ref.F32, run), "overwritten")
					gputest.RequireClose(t, gputest.Download[float32](t, narrow), back.Y, back.Bound(gputest.Oracle(dtype), run), "overwritten")
					for i, v := range before {
						back.Y[i] += float64(v)
						back.Abs[i] += math.Abs(float64(v))
					}
					gputest.RequireClose(t, gputest.Download[float32](t, sum), back.Y, back.Bound(gputest.Oracle(dtype), run+1), "added")
				})
			}
		}
	}
}

func TestEmbeddingRefusesBadArguments(t *testing.T) {
	k := gputest.New(t, dev)
	table := k.F32("table", make([]float32, 6), 3, 2)
	ids := k.I32("ids", make([]int32, 4), 4)
	y := k.F32("y", make([]float32, 8), 4, 2)
	for name, call := range map[string]func(*vk.Recorder) error{
		"y of other width": func(r *vk.Recorder) error { return Embed(r, table, ids, table, 1) },
		"no ids":           func(r *vk.Recorder) error { return Embed(r, table, nil, y, 1) },
		"float ids":        func(r *vk.Recorder) error { return Embed(r, table, y, y, 1) },
		"dy of other rows": func(r *vk.Recorder) error { return EmbedBackward(r, ids, table, table, 1, false) },
		"no gradient":      func(r *vk.Recorder) error { return EmbedBackward(r, ids, y, nil, 1, false) },
		"in place":         func(r *vk.Recorder) error { return ScaledAdd(r, y, table, y, 1, 1) },
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var shape *vk.ShapeError
		require.ErrorAs(t, call(rec), &shape, name)
		require.Error(t, rec.Run(t.Context()), name)
		require.NoError(t, rec.Close())
	}
}

func TestScaledAddEqualsTheOracle(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 255, 256, 1001} {
		for _, dtype := range gputest.Storages {
			k := gputest.New(t, dev)
			k.Shift = n % 2
			rng := rand.New(rand.NewSource(int64(n)))
			a, b := vk.Round(dtype, gputest.Normal(rng, n)), vk.Round(dtype, gputest.Normal(rng, n))
			at, bt := k.Floats("a", dtype, a, n), k.Floats("b", dtype, b, n)
			y, scaled, place := k.Output("y", dtype, n), k.Output("scaled", dtype, n), k.InOut("in place", dtype, a, n)
			require.NoError(t, ScaledAdd(k.Rec, at, bt, y, 1, 0.22))
			require.NoError(t, ScaledAdd(k.Rec, at, nil, scaled, -3, 0))
			require.NoError(t, ScaledAdd(k.Rec, bt, place, place, 2, 1))
			k.Run()
			for _, c := range []struct {
				got         *vk.Tensor
				a, b        []float32
				alpha, beta float64
			}{{y, a, b, 1, float64(float32(0.22))}, {scaled, a, nil, -3, 0}, {place, b, a, 2, 1}} {
				want := ref.ScaledAdd(c.a, c.b, c.alpha, c.beta)
				gputest.RequireClose(t, gputest.Download[float32](t, c.got), want.Y, want.Bound(gputest.Oracle(dtype), 2), fmt.Sprint(dtype, n))
			}
		}
	}
}
