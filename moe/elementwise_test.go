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

// refActivations maps each activation to the oracle's function.
var refActivations = map[Activation]ref.Activation{
	SwiGLU: ref.SiLU, GEGLU: ref.GELU, GEGLUTanh: ref.GELUTanh,
	GELU: ref.GELU, GELUTanh: ref.GELUTanh, SiLU: ref.SiLU, ReLU: ref.ReLU, ReLU2: ref.ReLU2,
}

// refActivate is the oracle of Activate.
func refActivate(a Activation, z []float32, rows, hidden int) ref.Result {
	if a.Gated() {
		return ref.ActivateGated(refActivations[a], z, rows, hidden)
	}
	return ref.Activate(refActivations[a], z)
}

func TestActivationsEqualTheOracle(t *testing.T) {
	for a := range refActivations {
		for _, s := range []struct{ rows, width, shift int }{
			{0, 4, 0}, {1, 1, 0}, {3, 3, 0}, {5, 100, 0}, {5, 100, 1}, {2, 1025, 0}, {1, 600, 1}, {300, 8, 0}, {1, 4096, 0},
		} {
			t.Run(fmt.Sprintf("%v %v", a, s), func(t *testing.T) {
				k := newKit(t)
				k.Shift = s.shift
				r := rand.New(rand.NewSource(int64(s.width)))
				z := make([]float32, s.rows*a.columns(s.width))
				for i := range z {
					z[i] = float32(r.NormFloat64() * math.Exp(2*r.NormFloat64()))
				}
				h := k.Output("h", vk.F32, s.rows, s.width)
				require.NoError(t, Activate(k.Rec, a, k.F32("z", z, s.rows, a.columns(s.width)), h))
				k.Run()
				want := refActivate(a, z, s.rows, s.width)
				bound := want.BoundBy(ref.ActivationTolerance(ref.F32), 0x1p-120)
				gputest.RequireClose(t, gputest.Download[float32](t, h), want.Y, bound, a.String())
			})
		}
	}
}

// TestActivationTails sweeps the whole range, where a naive formula overflows or cancels, and asks for the relative
// accuracy of the value itself rather than of |x|.
func TestActivationTails(t *testing.T) {
	var z []float32
	for x := -12.0; x <= 12; x += 1.0 / 64 {
		z = append(z, float32(x))
	}
	inf := float32(math.Inf(1))
	z = append(z, -3e38, -1e20, -1000, -90, -50, 50, 90, 1000, 1e18, inf, float32(math.NaN()), 0)
	for a, f := range refActivations {
		if a.Gated() {
			continue
		}
		k := newKit(t)
		h := k.Output("h", vk.F32, len(z), 1)
		require.NoError(t, Activate(k.Rec, a, k.F32("z", z, len(z), 1), h))
		k.Run()
		want := ref.Activate(f, z).Y
		for i, got := range gputest.Download[float32](t, h) {
			if a == ReLU2 && math.Abs(float64(z[i])) > 1e18 {
				continue // beyond f32
			}
			x := math.Abs(float64(z[i]))
			// An exponential's argument of size x² carries x² rounding errors; values below 1e-35 may flush to zero.
			tolerance := math.Abs(want[i])*(16+2*x*x)*ref.UnitF32 + 1e-35
			ok := math.Abs(float64(got)-want[i]) <= tolerance || float64(got) == want[i] ||
				math.IsNaN(float64(got)) && math.IsNaN(want[i])
			require.True(t, ok, "%v(%v) = %v, want %v ± %v", a, z[i], got, want[i], tolerance)
		}
	}
}

func TestActivateArguments(t *testing.T) {
	k := newKit(t)
	z := k.F32("z", make([]float32, 24), 3, 8)
	h := k.Output("h", vk.F32, 3, 4)
	var shape *vk.ShapeError
	var config *ConfigError
	overlap, err := z.View(12, 3, 4)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		a      Activation
		z, h   *vk.Tensor
		target any
	}{
		"not gated":     {SiLU, z, h, &shape},
		"too many rows": {SwiGLU, z, k.F32("h", make([]float32, 16), 4, 4), &shape},
		"no output":     {SwiGLU, z, nil, &shape},
		"no input":      {SwiGLU, nil, h, &shape},
		"integers":      {ReLU, z, k.I32("i", make([]int32, 24), 3, 8), &shape},
		"overlap":       {SwiGLU, z, overlap, &shape},
		"unknown":       {ClampedSwiGLU + 1, z, h, &config},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, Activate(rec, c.a, c.z, c.h), c.target, name)
		require.NoError(t, rec.Close())
	}
	require.Equal(t, "swiglu", SwiGLU.String())
	require.Equal(t, "activation 99", Activation(99).String())
}

// combineCase is one use of Combine.
type combineCase struct {
	tokens, experts, k, width, shift int
	layout                           Layout
	gated                            bool
}

func (c combineCase) check(t *testing.T) {
	k := newKit(t)
	k.Shift = c.shift
	r := rand.New(rand.NewSource(int64(c.width)))
	ids := spreads[0].ids(9, c.tokens*c.k, c.experts)
	if len(ids) > 2 {
		ids[1] = int32(c.experts) // no expert: must add 0 whatever its row holds
	}
	y := gputest.Normal(r, len(ids)*c.width)
	if len(ids) > 2 && c.layout == Scattered {
		y[c.width] = float32(math.NaN())
	}
	routing := k.guardedRouting(ids, c.tokens, c.k, c.experts)
	var gates *vk.Tensor
	var gateData []float32
	if c.gated {
		gateData = gputest.Normal(r, len(ids))
		gates = k.F32("gates", gateData, c.tokens, c.k)
	}
	out := k.Output("out", vk.F32, c.tokens, c.width)
	require.NoError(t, Combine(k.Rec, routing, k.F32("y", y, len(ids), c.width), gates, out, c.layout))
	k.Run()
	want := ref.Combine(y, gateData, ref.Route(ids, c.tokens, c.experts, c.k), c.width, c.layout == Grouped)
	gputest.RequireClose(t, gputest.Download[float32](t, out), want.Y, want.Bound(ref.F32, c.k), "out")
}

func TestCombineEqualsTheOracle(t *testing.T) {
	for _, c := range []combineCase{
		{tokens: 0, experts: 4, k: 2, width: 8}, {tokens: 1, experts: 1, k: 1, width: 1}, {tokens: 3, experts: 8, k: 2, width: 3},
		{tokens: 9, experts: 8, k: 4, width: 100}, {tokens: 9, experts: 8, k: 4, width: 100, shift: 1},
		{tokens: 70, experts: 1024, k: 64, width: 5}, {tokens: 257, experts: 4, k: 2, width: 600},
		{tokens: 10, experts: 4, k: 3, width: 1025},
	} {
		for _, c.layout = range []Layout{Scattered, Grouped} {
			for _, c.gated = range []bool{false, true} {
				t.Run(fmt.Sprintf("%+v", c), c.check)
			}
		}
	}
}

func TestCombineArguments(t *testing.T) {
	k := newKit(t)
	routing := k.guardedRouting([]int32{0, 1, 1, 0}, 2, 2, 2)
	y := k.F32("y", make([]float32, 12), 4, 3)
	out := k.Output("out", vk.F32, 2, 3)
	inside, err := y.View(3, 2, 3)
	require.NoError(t, err)
	var shape *vk.ShapeError
	for name, c := range map[string]struct {
		r             *Routing
		y, gates, out *vk.Tensor
	}{
		"no routing":   {nil, y, nil, out},
		"no y":         {routing, nil, nil, out},
		"no out":       {routing, y, nil, nil},
		"y too short":  {routing, inside, nil, out},
		"out too long": {routing, y, nil, y},
		"gates":        {routing, y, k.F32("g", make([]float32, 4), 4, 1), out},
		"overlap":      {routing, y, nil, inside},
	} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, Combine(rec, c.r, c.y, c.gates, c.out, Scattered), &shape, name)
		require.NoError(t, rec.Close())
	}
	closed := *routing
	closed.Order, err = dev.NewTensor(vk.I32, 4)
	require.NoError(t, err)
	require.NoError(t, closed.Order.Close())
	require.ErrorIs(t, Combine(k.Rec, &closed, y, nil, out, Scattered), vk.ErrClosed)
}
