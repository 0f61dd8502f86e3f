package attention

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

// A headLayout spreads heads over a tensor: pad elements after each head, and gap after each row.
type headLayout struct{ first, pad, gap int }

// at is where element i of head h of row t is.
func (l headLayout) at(t, h, i, heads, width int) int {
	return l.first + t*(heads*(width+l.pad)+l.gap) + h*(width+l.pad) + i
}

// spread lays dense rows [T,heads,width] out; what is between them is fill.
func (l headLayout) spread(data []float32, tokens, heads, width int, fill float32) []float32 {
	out := make([]float32, l.first+tokens*(heads*(width+l.pad)+l.gap))
	for i := range out {
		out[i] = fill
	}
	for i, v := range data {
		out[l.at(i/(heads*width), i/width%heads, i%width, heads, width)] = v
	}
	return out
}

// dense is the reverse of spread, and asks that what is between the heads is fill still.
func (l headLayout) dense(t testing.TB, data []float32, tokens, heads, width int, fill float32) []float32 {
	t.Helper()
	out := make([]float32, tokens*heads*width)
	inside := make([]bool, len(data))
	for i := range out {
		at := l.at(i/(heads*width), i/width%heads, i%width, heads, width)
		out[i], inside[at] = data[at], true
	}
	for i, v := range data {
		if !inside[i] {
			require.Equal(t, fill, v, "element %d between heads", i)
		}
	}
	return out
}

// heads makes the Heads of a tensor laid out so.
func (l headLayout) heads(x *vk.Tensor, heads, width int) Heads {
	return Heads{Tensor: x, Offset: l.first, RowStride: heads*(width+l.pad) + l.gap, HeadStride: width + l.pad}
}

// unpoisoned replaces what a kernel left alone between heads, which then is poison, by fill.
func (l headLayout) unpoisoned(data []float32, tokens, heads, width int, fill float32) []float32 {
	inside := map[int]bool{}
	for i := range tokens * heads * width {
		inside[l.at(i/(heads*width), i/width%heads, i%width, heads, width)] = true
	}
	for i, v := range data {
		if !inside[i] && v != v {
			data[i] = fill
		}
	}
	return data
}
