package moe

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

// TestActivationsIn16Bits covers all activations, and the gated ones in both column orders in all three types.
func TestActivationsIn16Bits(t *testing.T) {
	for a := range refActivations {
		for _, interleaved := range []bool{false, true} {
			if interleaved && !a.Gated() {
				continue
			}
			for _, s := range []struct{ rows, width, shift int }{
				{0, 4, 0}, {3, 1, 0}, {7, 3, 0}, {7, 3, 1}, {5, 100, 0}, {5, 100, 1}, {2, 1025, 0}, {3, 66, 0}, {30, 8, 0},
			} {
				for _, dtype := range gputest.Storages {
					if dtype == vk.F32 && !interleaved {
						continue // TestActivationsEqualTheOracle
					}
					k := newKit(t)
					k.Shift = s.shift
					r := rand.New(rand.NewSource(int64(s.width)))
					z := make([]float32, s.rows*a.columns(s.width))
					for i := range z {
						z[i] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()))
					}
					z = vk.Round(dtype, z)
					h := k.Output("h", dtype, s.rows, s.width)
					x := k.Floats("z", dtype, z, s.rows, a.columns(s.width))
					if interleaved {
						require.NoError(t, ActivateWith(k.Rec, ActivationConfig{Function: a, Interleaved: true}, x, h))
						z = ref.Separate(z, s.rows, s.width, false)
					} else {
						require.NoError(t, Activate(k.Rec, a, x, h))
					}
					k.Run()
					want := refActivate(a, z, s.rows, s.width)
					oracle := gputest.Oracle(dtype)
					bound := want.BoundBy(ref.ActivationTolerance(oracle), ref.Underflow(oracle, 1))
					gputest.RequireClose(t, gputest.Download[float32](t, h), want.Y, bound, fmt.Sprint(a, dtype, s, interleaved))
					k.Close()
				}
			}
		}
	}
}

func TestInterleavedNeedsAGatedActivation(t *testing.T) {
	k := newKit(t)
	z := k.F32("z", make([]float32, 8), 1, 8)
	h := k.Output("h", vk.F32, 1, 8)
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	var config *ConfigError
	require.ErrorAs(t, ActivateWith(rec, ActivationConfig{Function: ReLU, Interleaved: true}, z, h), &config)
	cfg := MLPConfig{Experts: 2, TopK: 1, Width: 4, Hidden: 4, Activation: ReLU, Interleaved: true}
	require.ErrorAs(t, cfg.Validate(), &config)
	cfg.Activation = SwiGLU
	require.NoError(t, cfg.Validate())
	cfg.DType = vk.I32
	require.ErrorAs(t, cfg.Validate(), &config)
	require.Equal(t, "DType", config.Field)
}

// TestCombineIn16Bits covers layouts, gates and alignments; one slot has no expert and a NaN in its row.
func TestCombineIn16Bits(t *testing.T) {
	for i, s := range []struct{ tokens, experts, k, width int }{
		{0, 4, 2, 8}, {1, 1, 1, 1}, {33, 8, 2, 3}, {9, 8, 4, 100}, {70, 64, 16, 5}, {57, 4, 2, 600}, {10, 4, 3, 1025},
	} {
		for flags := range 8 {
			dtype := halfTypes[(flags+i)%2]
			layout, gated := Layout(flags>>1&1), flags>>2 == 1
			k := newKit(t)
			k.Shift = flags & 1
			r := rand.New(rand.NewSource(int64(i)))
			ids := spreads[0].ids(9, s.tokens*s.k, s.experts)
			y := vk.Round(dtype, gputest.Normal(r, len(ids)*s.width))
			if len(ids) > 2 {
				ids[1] = int32(s.experts)
			}
			bits := make([]uint32, len(y))
			for j, v := range y {
				bits[j] = vk.Bits(dtype, v)
			}
			if len(ids) > 2 && layout == Scattered {
				bits[s.width] = 0x7fff
			}
			ys := k.Bits("y", dtype, bits, len(ids), s.width)
			routing := k.guardedRouting(ids, s.tokens, s.k, s.experts)
			var gates *vk.Tensor
			var gateData []float32
			if gated {
				gateData = gputest.Normal(r, len(ids))
				gates = k.F32("gates", gateData, s.tokens, s.k)
			}
			out := k.Output("out", dtype, s.tokens, s.width)
			require.NoError(t, Combine(k.Rec, routing, ys, gates, out, layout))
			k.Run()
			want := ref.Combine(y, gateData, ref.Route(ids, s.tokens, s.experts, s.k), s.width, layout == Grouped)
			gputest.RequireClose(t, gputest.Download[float32](t, out), want.Y, want.Bound(gputest.Oracle(dtype), s.k), fmt.Sprint(s, dtype, flags))
			k.Close()
		}
	}
}

// TestMLPIn16Bits compares every stage with the oracle on what the device had before it, and the whole with the oracle run
// in one go within a multiple of the storage's rounding: three stored intermediates and the output, each rounded to half
// an ulp, amplified by the two linear maps and the activation, whose gain on these data is below 4.
func TestMLPIn16Bits(t *testing.T) {
	for _, dtype := range halfTypes {
		for _, cfg := range []MLPConfig{
			{Experts: 1, TopK: 1, Width: 1, Hidden: 1},
			{Experts: 8, TopK: 2, Width: 32, Hidden: 48, Mode: SoftmaxTopKNorm},
			{Experts: 8, TopK: 8, Width: 33, Hidden: 7, Activation: GEGLU, Bias: true, RouterBias: true, Interleaved: true},
			{Experts: 16, TopK: 4, Width: 20, Hidden: 12, Activation: SwiGLU, Mode: TopKSoftmax, Bias: true, InOut: true, Interleaved: true},
			{Experts: 6, TopK: 4, Width: 64, Hidden: 30, Activation: ReLU2, InOut: true},
			{Experts: 4, TopK: 2, Width: 20, Hidden: 16, OutputBias: true},
			{Experts: 4, TopK: 2, Width: 21, Hidden: 16, OutputBias: true},
		} {
			cfg.DType = dtype
			l := newLayer(t, cfg)
			for _, tokens := range []int{0, 1, 61} {
				k := newKit(t)
				data := vk.Round(dtype, gputest.Normal(rand.New(rand.NewSource(int64(tokens))), tokens*cfg.Width))
				x := k.Floats("x", dtype, data, tokens, cfg.Width)
				y := k.Output("y", dtype, tokens, cfg.Width)
				saved, err := l.Forward(k.Rec, x, y)
				require.NoError(t, err)
				k.Run()
				got := gputest.Download[float32](t, y)
				l.requireStages(t, saved, data, got, tokens)
				if cfg.Width > 1 && !cfg.Interleaved {
					whole := ref.ForwardChosen(l.oracle, data, tokens, ref.DenseLinear(l.oracle.Router, data, tokens),
						gputest.Download[int32](t, saved.Routing.IDs))
					relative := ref.RelativeFrobenius(got, whole.Out.Y)
					require.True(t, relative <= 16*gputest.Oracle(dtype).Storage(), "%+v: relative error %v", cfg, relative)
				}
				k.Close()
			}
		}
	}
}
