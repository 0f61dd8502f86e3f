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

// everyActivation lists all activations with unusual parameters, gated ones also interleaved.
func everyActivation() []ActivationConfig {
	var list []ActivationConfig
	for a := range activations {
		cfg := ActivationConfig{Function: Activation(a)}
		if cfg.Function == ClampedSwiGLU {
			cfg.Alpha, cfg.Limit = 1.3, 2
		}
		list = append(list, cfg)
		if cfg.Function.Gated() {
			cfg.Interleaved = true
			list = append(list, cfg)
		}
	}
	return list
}

// refBoth is the oracle of ActivateWith and ActivateBackward.
func refBoth(cfg ActivationConfig, z, dh []float32, rows, hidden int) (h, dz ref.Result) {
	if cfg.Interleaved {
		z = ref.Separate(z, rows, hidden, false)
	}
	alpha, limit := cfg.constants()
	clamp := ref.Clamp{Alpha: float64(alpha), Limit: float64(limit)}
	switch {
	case cfg.Function == ClampedSwiGLU:
		h, dz = ref.ActivateClamped(clamp, z, rows, hidden), ref.ActivateClampedBackward(clamp, z, dh, rows, hidden)
	case cfg.Function.Gated():
		a := refActivations[cfg.Function]
		h, dz = ref.ActivateGated(a, z, rows, hidden), ref.ActivateGatedBackward(a, z, dh, rows, hidden)
	default:
		a := refActivations[cfg.Function]
		h, dz = ref.Activate(a, z), ref.ActivateBackward(a, z, dh)
	}
	if cfg.Interleaved {
		dz.Y, dz.Abs = ref.Separate(dz.Y, rows, hidden, true), ref.Separate(dz.Abs, rows, hidden, true)
	}
	return h, dz
}

func TestActivateBackwardEqualsTheOracle(t *testing.T) {
	for _, cfg := range everyActivation() {
		for _, s := range []struct{ rows, width, shift int }{
			{0, 4, 0}, {1, 1, 0}, {3, 3, 0}, {5, 100, 0}, {5, 100, 1}, {2, 1025, 0}, {300, 8, 0},
		} {
			t.Run(fmt.Sprintf("%+v %v", cfg, s), func(t *testing.T) {
				k := newKit(t)
				k.Shift = s.shift
				r := rand.New(rand.NewSource(int64(s.width)))
				columns := cfg.Function.columns(s.width)
				z, dh := make([]float32, s.rows*columns), gputest.Normal(r, s.rows*s.width)
				for i := range z {
					z[i] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()))
				}
				zs, dhs := k.F32("z", z, s.rows, columns), k.F32("dh", dh, s.rows, s.width)
				h, dz := k.Output("h", vk.F32, s.rows, s.width), k.Output("dz", vk.F32, s.rows, columns)
				inPlace := k.InOut("in place", vk.F32, z, s.rows, columns)
				require.NoError(t, ActivateWith(k.Rec, cfg, zs, h))
				require.NoError(t, ActivateBackward(k.Rec, cfg, zs, dhs, dz))
				require.NoError(t, ActivateBackward(k.Rec, cfg, inPlace, dhs, inPlace))
				k.Run()
				wantH, wantZ := refBoth(cfg, z, dh, s.rows, s.width)
				gputest.RequireClose(t, gputest.Download[float32](t, h), wantH.Y, wantH.BoundBy(ref.ActivationTolerance(ref.F32), 0x1p-120), "h")
				// The derivative's terms cancel where it changes its sign.
				bound := wantZ.BoundBy(2*ref.ActivationTolerance(ref.F32), 0x1p-120)
				gputest.RequireClose(t, gputest.Download[float32](t, dz), wantZ.Y, bound, "dz")
				require.Equal(t, gputest.Words(t, dz), gputest.Words(t, inPlace))
			})
		}
	}
}

// TestActivateBackwardOfUnusualValues asks for what IEEE arithmetic makes of NaN and large values.
func TestActivateBackwardOfUnusualValues(t *testing.T) {
	nan := float32(math.NaN())
	values := []float32{nan, 0, 30, -30, 1e30, -1e30, 88, -88, 7, -7, 7.5}
	for _, cfg := range everyActivation() {
		if cfg.Interleaved {
			continue
		}
		k := newKit(t)
		z := append([]float32(nil), values...)
		if cfg.Function.Gated() {
			for range values {
				z = append(z, 1.5)
			}
		}
		ones := make([]float32, len(values))
		for i := range ones {
			ones[i] = 1
		}
		dz := k.Output("dz", vk.F32, 1, len(z))
		require.NoError(t, ActivateBackward(k.Rec, cfg, k.F32("z", z, 1, len(z)), k.F32("dh", ones, 1, len(values)), dz))
		k.Run()
		_, want := refBoth(cfg, z, ones, 1, len(values))
		got := gputest.Download[float32](t, dz)
		for i, w := range want.Y {
			if math.IsNaN(w) || math.Abs(w) > math.MaxFloat32 {
				continue // checked below, or beyond f32
			}
			require.True(t, math.Abs(float64(got[i])-w) <= 1e-5*want.Abs[i]+1e-30, "%v of %v: %v, want %v", cfg, z[i], got[i], w)
		}
		require.True(t, math.IsNaN(float64(got[0])), "%v keeps NaN", cfg)
		k.Close()
	}
}

func TestActivateBackwardArguments(t *testing.T) {
	k := newKit(t)
	z, dh, dz := k.F32("z", make([]float32, 24), 3, 8), k.F32("dh", make([]float32, 12), 3, 4), k.Output("dz", vk.F32, 3, 8)
	var config *ConfigError
	var shape *vk.ShapeError
	for name, c := range map[string]struct {
		cfg       ActivationConfig
		z, dh, dz *vk.Tensor
		target    any
	}{
		"no dh":                  {ActivationConfig{}, z, nil, dz, &shape},
		"dz of another shape":    {ActivationConfig{}, z, dh, dh, &shape},
		"not gated":              {ActivationConfig{Function: GELU}, z, dh, dz, &shape},
		"interleaved, not gated": {ActivationConfig{Function: GELU, Interleaved: true}, z, dh, dz, &config},
		"limit of another":       {ActivationConfig{Limit: 3}, z, dh, dz, &config},
		"limit below 0":          {ActivationConfig{Function: ClampedSwiGLU, Limit: -3}, z, dh, dz, &config},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, ActivateBackward(rec, c.cfg, c.z, c.dh, c.dz), c.target, name)
		require.NoError(t, rec.Close())
	}
}

func TestCombineBackwardEqualsTheOracle(t *testing.T) {
	for _, s := range []struct{ tokens, experts, k, width, shift int }{
		{0, 3, 2, 4, 0}, {1, 1, 1, 1, 0}, {33, 5, 3, 7, 0}, {33, 5, 3, 100, 1}, {70, 8, 4, 128, 0},
	} {
		for flags := range 16 {
			layout, gated, inPlace, accumulate := Layout(flags&1), flags&2 != 0, flags&4 != 0, flags&8 != 0
			k := newKit(t)
			k.Shift = s.shift
			r := rand.New(rand.NewSource(int64(flags)))
			slots := s.tokens * s.k
			ids := spreads[flags%len(spreads)].ids(1, slots, s.experts)
			routing := k.guardedRouting(ids, s.tokens, s.k, s.experts)
			y, dOut, before := gputest.Normal(r, slots*s.width), gputest.Normal(r, s.tokens*s.width), gputest.Normal(r, slots)
			var gates []float32
			var gatesTensor *vk.Tensor
			if gated {
				gates = gputest.Normal(r, slots)
				gatesTensor = k.F32("gates", gates, s.tokens, s.k)
			}
			ys := k.F32("y", y, slots, s.width)
			g := CombineGrads{Y: ys, AccumulateGates: accumulate}
			if inPlace {
				k.Overwritten(ys)
			} else {
				g.Y = k.PartialOutput("dy", vk.F32, slots, s.width)
			}
			g.Gates = k.InOut("dgates", vk.F32, before, s.tokens, s.k)
			require.NoError(t, CombineBackward(k.Rec, routing, ys, gatesTensor, k.F32("dout", dOut, s.tokens, s.width), g, layout))
			k.Run()
			rr := ref.Route(ids, s.tokens, s.experts, s.k)
			wantY, wantGates := ref.CombineBackward(y, gates, dOut, rr, s.width, layout == Grouped)
			got := gputest.Download[float32](t, g.Y)
			for p := range slots { // grouped rows of nobody are left alone
				if layout == Grouped && p >= len(rr.Order) {
					copy(got[p*s.width:(p+1)*s.width], make([]float32, s.width))
				}
			}
			gputest.RequireClose(t, got, wantY.Y, wantY.Bound(ref.F32, 1), "dY")
			if accumulate {
				for i, v := range before {
					wantGates.Y[i] += float64(v)
					wantGates.Abs[i] += math.Abs(float64(v))
				}
			}
			gputest.RequireClose(t, gputest.Download[float32](t, g.Gates), wantGates.Y, wantGates.Bound(ref.F32, s.width+1), "dGates")
			k.Close()
		}
	}
}
