package moe

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// activationConfigs are all activations, with the constants of gpt-oss close enough to clamp, and gated ones with their columns in
// turn too.
func activationConfigs() []ActivationConfig {
	var list []ActivationConfig
	for a := SwiGLU; a <= ClampedSwiGLU; a++ {
		c := ActivationConfig{Function: a}
		if a == ClampedSwiGLU {
			c.Alpha, c.Limit = 1.5, 0.75
		}
		list = append(list, c)
		if c.Interleaved = a.Gated(); c.Interleaved {
			list = append(list, c)
		}
	}
	return list
}

// refEpilogue is the oracle's form of an activation.
func refEpilogue(c ActivationConfig) ref.Epilogue {
	e := ref.Epilogue{Activation: refActivations[c.Function], Gated: c.Function.Gated(), Interleaved: c.Interleaved}
	if c.Function == ClampedSwiGLU {
		alpha, limit := c.constants()
		e.Activation, e.Clamp = ref.SiLU, &ref.Clamp{Alpha: float64(alpha), Limit: float64(limit)}
	}
	return e
}

// activatedCase is a linearCase with an activation. The case's out counts the layer's outputs.
type activatedCase struct {
	linearCase
	act   ActivationConfig
	keepZ bool
}

// recordActivated records the layer with the activation on a kit; z is nil unless it is kept.
func (c activatedCase) recordActivated(k *kit, st storage) (run linearRun, z *vk.Tensor) {
	k.T.Helper()
	run = c.setUp(k, st)
	slots := c.tokens * c.k
	run.opts.Activation = &c.act
	if c.keepZ {
		z = k.Output("z", st.y, slots, c.out)
		run.opts.Z = z
	}
	hidden := c.out
	if c.act.Function.Gated() {
		hidden /= 2
	}
	run.y = k.Output("h", st.y, slots, hidden)
	require.NoError(k.T, run.layer.Forward(k.Rec, run.device, run.xs, run.y, run.opts))
	return run, z
}

// check holds the case against the oracle: h against the activation of the oracle's sums, or, where z is kept, z against those and
// h against the activation of z.
func (c activatedCase) check(t *testing.T, st storage, prepare func(k *kit)) {
	t.Helper()
	k := newKit(t)
	defer k.Close()
	if prepare != nil {
		prepare(k)
	}
	run, zs := c.recordActivated(k, st)
	k.Run()
	name := fmt.Sprintf("%v %+v %+v keepZ=%v", c.linearCase, c.act, st, c.keepZ)
	rows, hidden := run.y.Dim(0), run.y.Dim(1)
	z := ref.Scatter2scatter(run.weights, run.x, run.routing, c.layout, []float32(nil))
	dz := z.Bound(ref.F32, c.in+st.roundings())
	if zs != nil {
		got := gputest.Download[float32](t, zs)
		gputest.RequireClose(t, got, z.Y, z.Bound(gputest.Oracle(st.y), c.in+st.roundings()), name+" z")
		for i, v := range got {
			z.Y[i], dz[i] = float64(v), 0
		}
	}
	var gates []float64
	if c.gates {
		gates = make([]float64, rows)
		for s := range rows {
			if run.routing.Valid(s) {
				gates[c.layout.OutRow(run.routing, s)] = float64(run.gates[s])
			}
		}
	}
	e := refEpilogue(c.act)
	h := e.Apply(z, rows, hidden, gates)
	gputest.RequireClose(t, gputest.Download[float32](t, run.y), h.Y, e.Bound(z, dz, h, rows, hidden, gates, gputest.Oracle(st.y)), name)
}

// activatedShapes are ragged: widths of whole chunks and not, one token, none, more experts than slots. The outputs are of a layer
// whose activation is gated; others take half.
var activatedShapes = []struct{ tokens, experts, k, in, out int }{
	{1, 1, 1, 1, 2}, {7, 3, 2, 3, 6}, {33, 4, 3, 21, 70}, {0, 4, 2, 8, 8}, {70, 8, 4, 36, 44}, {9, 64, 2, 40, 24}, {20, 3, 2, 24, 164},
}

// TestActivationsInTheEpilogue goes through activations, storage types and shapes on the portable path.
func TestActivationsInTheEpilogue(t *testing.T) {
	n := 0
	for i, act := range activationConfigs() {
		for d, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
			for j, s := range activatedShapes {
				if n++; (i+d+j)%5 != 0 && testing.Short() {
					continue
				}
				c := activatedCase{linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[n%len(spreads)], ref.Layouts[n%len(ref.Layouts)],
					(i+j)%2 == 0, n%3 == 0, (d+j)%2 == 0, n % 2, Tile{}, tenths}, act, n%2 == 0}
				c.check(t, uniform(dtype), nil)
			}
		}
	}
}

// TestActivationsInTheEpilogueOfEveryTile also has the dtypes mixed and the weights in tables of experts.
func TestActivationsInTheEpilogueOfEveryTile(t *testing.T) {
	seen := map[Tile]bool{}
	acts := activationConfigs()
	n := 0
	for _, band := range builtInBands() {
		for _, tile := range []Tile{band.Wide, band.Narrow} {
			if seen[tile] {
				continue
			}
			seen[tile] = true
			for _, inOut := range []bool{false, true} {
				act := acts[n%5] // SwiGLU to GEGLUTanh, in both orders
				c := activatedCase{linearCase{60, 4, 2, 40, 68 + 2*(n%3), spreads[0], ref.Layout{GroupedOut: true}, true, true, inOut, 0, tile, tenths}, act, n%2 == 0}
				st := storage{vk.F32, halfTypes[n%2], halfTypes[n%2], n % 3, WeightsFull}
				c.check(t, st, nil)
				n++
			}
		}
	}
}

func TestActivationsInTheEpilogueOfQuantizedWeights(t *testing.T) {
	for i, format := range quantFormats {
		for d, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
			for j, act := range []ActivationConfig{{Function: SwiGLU}, {Function: ClampedSwiGLU, Interleaved: true}, {Function: GELU}} {
				c := activatedCase{linearCase{37, 3, 2, 72, 70, spreads[0], ref.Layout{GroupedOut: true}, true, d == 0, j == 1, 0, Tile{}, tenths},
					act, (i+d+j)%2 == 0}
				c.check(t, storage{x: dtype, w: dtype, y: dtype, format: format}, nil)
				c.in = 64
				tile := vectorTiles()[(d+j)%3]
				c.check(t, storage{x: dtype, w: dtype, y: dtype, format: format}, func(k *kit) { k.vectors = tile })
			}
		}
	}
}

func TestActivationsInTheEpilogueOfTheDecodePath(t *testing.T) {
	n := 0
	for i, act := range activationConfigs() {
		for d, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
			for j, s := range []struct{ tokens, experts, k, in, out int }{{1, 8, 2, 264, 44}, {3, 4, 2, 24, 18}, {0, 3, 1, 8, 8}, {16, 3, 2, 64, 70}} {
				if n++; (i+d+j)%4 != 0 && testing.Short() {
					continue
				}
				tile := vectorTiles()[n%len(vectorTiles())]
				c := activatedCase{linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[n%len(spreads)], ref.Layouts[n%len(ref.Layouts)],
					n%2 == 0, n%5 == 0, false, 0, Tile{}, tenths}, act, n%3 == 0}
				c.check(t, uniform(dtype), func(k *kit) { k.vectors = tile })
			}
		}
	}
}

func TestActivationsInTheEpilogueOfTheTensorPath(t *testing.T) {
	shapes := []struct{ tokens, experts, k, in, out int }{{37, 3, 2, 24, 16}, {70, 8, 4, 104, 80}, {130, 4, 2, 64, 128}, {9, 64, 8, 136, 48}}
	n := 0
	for d, dtype := range matrixTypes(t) {
		for i, tile := range tensorTiles(dtype) {
			for a, act := range activationConfigs() {
				if software(dev) && (a+i+d)%4 != 0 { // each takes lavapipe seconds to compile
					continue
				}
				s := shapes[n%len(shapes)]
				c := activatedCase{linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[n%len(spreads)], ref.Layouts[n%len(ref.Layouts)],
					n%2 == 0, n%3 == 0, n/2%2 == 1, 0, Tile{}, tenths}, act, n%3 != 1}
				st := uniform(dtype)
				if n++; n%4 == 0 && !c.inOut {
					st.format = quantFormats[n/4%2]
				}
				l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: c.in, Out: c.out, DType: dtype, InOut: c.inOut, Weights: st.format},
					epilogue: &epilogue{cfg: act}}
				probe, err := dev.NewTensor(dtype, 1, 8)
				require.NoError(t, err)
				_, ok := tensorSpec(dev, tile, l, probe, probe)
				require.NoError(t, probe.Close())
				require.True(t, ok || tile.BN/tile.SN < 16, "%+v", tile)
				if ok {
					c.check(t, st, func(k *kit) { k.matrices = tile })
				}
			}
		}
	}
}

// TestKeptZIsWhatTheUnfusedPassHas: with Z the epilogue changes no bit of a layer and the activation after it.
func TestKeptZIsWhatTheUnfusedPassHas(t *testing.T) {
	for i, act := range activationConfigs() {
		dtype := []vk.DType{vk.F16, vk.BF16, vk.F32}[i%3]
		k := newKit(t)
		c := activatedCase{linearCase{61, 4, 2, 40, 72, spreads[0], ref.Layout{GroupedOut: true}, true, false, false, 0, Tile{}, tenths}, act, true}
		run, z := c.recordActivated(k, uniform(dtype))
		z2, h2 := k.Output("z2", dtype, z.Shape()...), k.Output("h2", dtype, run.y.Shape()...)
		opts := run.opts
		opts.Activation, opts.Z = nil, nil
		require.NoError(t, run.layer.Forward(k.Rec, run.device, run.xs, z2, opts))
		require.NoError(t, ActivateWith(k.Rec, act, z2, h2))
		k.RunAlike(run.y)
		require.Equal(t, gputest.Words(t, z2), gputest.Words(t, z), "%+v", act)
		require.Equal(t, gputest.Words(t, h2), gputest.Words(t, run.y), "%+v", act)
		k.Close()
	}
}
