package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

func TestColumnsOfSlots(t *testing.T) {
	for _, c := range []struct{ slots, width, want int }{
		{0, 4096, 4096}, {16384, 4096, 4096}, {16385, 4096, 2048}, {32768, 4096, 2048}, {245760, 4096, 2048}, {1 << 24, 768, 512},
		{1 << 24, 4, 4}, {1 << 24, 257, 256}, {1 << 24, 5000, 2560},
	} {
		require.Equal(t, c.want, columnsOfSlots(c.slots, c.width, vk.BF16), "%+v", c)
	}
}

// TestSumOfSlotsInParts asks for the bits that all columns at once have, wherever parts end, and for guard bands left alone.
func TestSumOfSlotsInParts(t *testing.T) {
	for i, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for _, columns := range []int{16, 32, 72} {
			k := newKit(t)
			c := linearCase{33, 4, 3, 24, 70, spreads[i], ref.Layout{GroupedIn: true}, true, true, i%2 == 0, 0, Tile{}, tenths}
			run := c.setUp(k, uniform(dtype))
			slots := c.tokens * c.k
			r := rand.New(rand.NewSource(3))
			o := CombineOptions{Bias: k.Floats("bias", dtype, vk.Round(dtype, gputest.Normal(r, c.out)), c.out), Accumulate: i == 1}
			start := vk.Round(dtype, gputest.Normal(r, c.tokens*c.out))
			whole, parts := k.InOut("whole", dtype, start, c.tokens, c.out), k.InOut("parts", dtype, start, c.tokens, c.out)
			rows := k.Output("rows", dtype, slots, c.out)
			require.NoError(t, run.layer.Forward(k.Rec, run.device, run.xs, rows, LinearOptions{In: Grouped}))
			require.NoError(t, CombineWith(k.Rec, run.device, rows, run.opts.Gates, whole, Scattered, o))
			rows = k.PartialOutput("narrow rows", dtype, slots, columns)
			require.NoError(t, sumSlots(k.Rec, run.device, run.layer, run.xs, run.opts.Gates, rows, parts, o))
			k.Run()
			require.NotEqual(t, start, gputest.Download[float32](t, parts))
			require.Equal(t, gputest.Words(t, whole), gputest.Words(t, parts), fmt.Sprintf("%v, %d columns at a time", dtype, columns))
			k.Close()
		}
	}
}
