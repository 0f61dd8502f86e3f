package attention

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// moveCases are shapes of copyHeads and sumHeads, with layouts of source and destination.
var moveCases = []struct {
	tokens, heads, width int
	from, to             headLayout
}{
	{0, 2, 4, headLayout{}, headLayout{}},
	{1, 1, 1, headLayout{}, headLayout{}},
	{5, 3, 8, headLayout{first: 4, pad: 4}, headLayout{gap: 4}},
	{7, 2, 7, headLayout{first: 1, pad: 2, gap: 3}, headLayout{first: 3, pad: 1}},
	{3, 5, 266, headLayout{}, headLayout{pad: 2}},
}

func TestCopyHeads(t *testing.T) {
	for _, c := range moveCases {
		for _, dtype := range gputest.Storages {
			t.Run(fmt.Sprintf("%+v %v", c, dtype), func(t *testing.T) {
				r := rand.New(rand.NewSource(1))
				x := vk.Round(dtype, gputest.Normal(r, c.tokens*c.heads*c.width))
				k := newKit(t)
				from, to := c.from.spread(x, c.tokens, c.heads, c.width, 2), c.to.spread(x, c.tokens, c.heads, c.width, 2)
				in, out := k.Floats("x", dtype, from, len(from)), k.PartialOutput("y", dtype, len(to))
				require.NoError(t, copyHeads(k.Rec, c.tokens, c.heads, c.width, c.from.heads(in, c.heads, c.width),
					c.to.heads(out, c.heads, c.width)))
				k.Run()
				got := c.to.unpoisoned(gputest.Download[float32](t, out), c.tokens, c.heads, c.width, 2)
				require.Equal(t, x, c.to.dense(t, got, c.tokens, c.heads, c.width, 2))
			})
		}
	}
}

func TestSumHeads(t *testing.T) {
	for _, c := range moveCases {
		for _, dtype := range gputest.Storages {
			t.Run(fmt.Sprintf("%+v %v", c, dtype), func(t *testing.T) {
				r := rand.New(rand.NewSource(2))
				x := vk.Round(dtype, gputest.Normal(r, c.tokens*c.heads*c.width))
				want := ref.Result{Y: make([]float64, c.tokens*c.width), Abs: make([]float64, c.tokens*c.width)}
				for i, v := range x {
					at := i/(c.heads*c.width)*c.width + i%c.width
					want.Y[at] += float64(v)
					want.Abs[at] += max(float64(v), -float64(v))
				}
				k := newKit(t)
				from := c.from.spread(x, c.tokens, c.heads, c.width, 2)
				to := c.to.spread(make([]float32, c.tokens*c.width), c.tokens, 1, c.width, 2)
				in, out := k.Floats("x", dtype, from, len(from)), k.PartialOutput("y", dtype, len(to))
				require.NoError(t, sumHeads(k.Rec, c.tokens, c.heads, c.width, c.from.heads(in, c.heads, c.width),
					c.to.heads(out, 1, c.width)))
				k.Run()
				got := c.to.unpoisoned(gputest.Download[float32](t, out), c.tokens, 1, c.width, 2)
				bound := want.Bound(gputest.Oracle(dtype), c.heads)
				gputest.RequireClose(t, c.to.dense(t, got, c.tokens, 1, c.width, 2), want.Y, bound, "sum")
			})
		}
	}
}

func TestMovingHeadsRefuses(t *testing.T) {
	k := newKit(t)
	x, half := k.F32("x", make([]float32, 24), 24), k.Floats("half", vk.F16, make([]float32, 24), 24)
	heads := func(t *vk.Tensor, offset, row, head int) Heads { return Heads{t, offset, row, head} }
	var shape *vk.ShapeError
	for name, c := range map[string][2]Heads{
		"the same memory": {heads(x, 0, 4, 2), heads(x, 1, 4, 2)},
		"another dtype":   {heads(x, 0, 4, 2), heads(half, 0, 4, 2)},
		"too few rows":    {heads(x, 20, 4, 2), heads(half, 0, 4, 2)},
		"no tensor":       {heads(nil, 0, 4, 2), heads(x, 0, 4, 2)},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, copyHeads(rec, 2, 2, 2, c[0], c[1]), &shape, name)
		require.NoError(t, rec.Close())
		rec, err = dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, sumHeads(rec, 2, 2, 2, c[0], c[1]), &shape, name)
		require.NoError(t, rec.Close())
	}
}
