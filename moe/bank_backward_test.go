package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// gradients makes a bank of outputs, split as st says.
func (st storage) gradients(k *kit, name string, dtype vk.DType, shape ...int) *ExpertBank {
	k.T.Helper()
	part := st.part
	if part == 0 {
		part = shape[0]
	}
	b := &ExpertBank{shape: shape}
	for e := 0; e < shape[0]; e += part {
		n := min(part, shape[0]-e)
		t := k.Output(fmt.Sprintf("%s of experts from %d", name, e), dtype, append([]int{n}, shape[1:]...)...)
		b.parts, b.first = append(b.parts, t), append(b.first, e)
	}
	require.NoError(k.T, b.makeTable(dev))
	k.OnClose(b.Close)
	return b
}

// TestBackwardThroughSplitBanks compares every gradient, bit by bit, of weights and gradients in one tensor and in several.
func TestBackwardThroughSplitBanks(t *testing.T) {
	const tokens, experts, choices = 30, 5, 2
	for _, dtype := range gputest.Storages {
		for flags := range 4 {
			in, out, inOut := 20+flags%2, 28-flags%2, flags >= 2
			gradType := dtype
			if flags == 1 {
				gradType = vk.F32
			}
			var first []uint32
			for _, part := range []int{0, 1, 3} {
				k := newKit(t)
				k.Shift = flags & 1
				r := rand.New(rand.NewSource(7))
				st := uniform(dtype)
				st.part = part
				l := &ParallelLinear{Config: ParallelLinearConfig{Experts: experts, In: in, Out: out, Bias: true, InOut: inOut, DType: dtype}}
				l.Weight = st.bank(k, "weight", vk.Round(dtype, gputest.Normal(r, experts*in*out)), l.Config.weightShape()...)
				l.Bias = st.bank(k, "bias", vk.Round(dtype, gputest.Normal(r, experts*out)), experts, out)
				x := k.Floats("x", dtype, vk.Round(dtype, gputest.Normal(r, tokens*in)), tokens, in)
				dy := k.Floats("dy", dtype, vk.Round(dtype, gputest.Normal(r, tokens*choices*out)), tokens*choices, out)
				gates := k.F32("gates", gputest.Normal(r, tokens*choices), tokens, choices)
				routing := k.guardedRouting(spreads[0].ids(3, tokens*choices, experts), tokens, choices, experts)
				g := LinearGrads{X: k.Output("dx", dtype, tokens, in), Gates: k.Output("dgates", vk.F32, tokens, choices),
					Weight: st.gradients(k, "dw", gradType, l.Config.weightShape()...), Bias: st.gradients(k, "db", gradType, experts, out)}
				require.NoError(t, l.Backward(k.Rec, routing, x, dy, g, LinearOptions{Gates: gates}))
				k.Run()
				got := append(gputest.Words(t, g.X), gputest.Words(t, g.Gates)...)
				for _, b := range []*ExpertBank{g.Weight, g.Bias} {
					for _, p := range b.Parts() {
						got = append(got, gputest.Words(t, p)...)
					}
				}
				if first == nil {
					first = got
				}
				require.Equal(t, first, got, "%v, flags %d, %d experts a tensor", dtype, flags, part)
				k.Close()
			}
		}
	}
}
