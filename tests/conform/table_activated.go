package conform

import (
	"strings"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// activatedCase is a linear map with an activation in its stores.
type activatedCase struct {
	linearCase
	act   moe.ActivationConfig
	keepZ bool
}

// linearActivated are linear maps with activations, on every path.
func linearActivated(add func(Case)) {
	paths := []struct {
		path   moe.Path
		shapes []shape // of gated activations; others make as many columns with half the outputs
	}{
		{moe.PathPortable, []shape{{6, 3, 50, 61, 34}, {5, 2, 37, 48, 72}, {8, 2, 1, 33, 6}}},
		{moe.PathDecode, []shape{{8, 2, 1, 256, 40}, {4, 2, 3, 64, 18}, {3, 2, 37, 96, 36}}},
		{moe.PathCoopMat, []shape{{3, 2, 37, 24, 16}, {8, 4, 70, 104, 80}, {4, 2, 130, 200, 128}}},
	}
	n := 0
	for d, dtype := range storages {
		for _, p := range paths {
			if p.path == moe.PathCoopMat && dtype == vk.F32 {
				continue
			}
			for f, function := range functions {
				for v, variant := range []string{"plain", "interleaved_bias", "z_bias_gates", "inout_z", "inout_bias_gates", "interleaved_inout_z",
					"z_accumulate", "int8_bias", "q4_interleaved_z"} {
					c := activatedCase{linearCase: uniform(dtype), act: moe.ActivationConfig{Function: function.Activation}}
					c.path, c.shape, c.spread, c.layout = p.path, p.shapes[(f+v)%3], spreads[(n+v)%len(spreads)], layouts[(n+f)%len(layouts)].layout
					layout := layouts[(n+f)%len(layouts)].name
					n++
					c = c.with(variant)
					if c.act.Interleaved && !function.Gated() || c.inOut && p.path == moe.PathDecode {
						continue
					}
					if function.Activation == moe.ClampedSwiGLU {
						c.act.Alpha, c.act.Limit = 1.3, 2
					}
					if !function.Gated() {
						c.out /= 2
						if p.path == moe.PathCoopMat {
							c.out *= 2
						}
					}
					kase := Case{Name: linearName("activated", c.linearCase, dtype.String(), layout, activationName(function.Activation)+"_"+variant),
						Record: c.record, Required: (f+v+d)%9 == 0 || f == 0 && v == 3 || f == 0 && v > 6}
					if p.path == moe.PathCoopMat {
						kase.Needs = []vk.Feature{vk.FeatureCoopMat}
					}
					add(kase)
				}
			}
		}
	}
}

// with sets what the words of a variant's name say.
func (c activatedCase) with(variant string) activatedCase {
	var rest []string
	for _, word := range strings.Split(variant, "_") {
		switch word {
		case "interleaved":
			c.act.Interleaved = true
		case "z":
			c.keepZ = true
		case "int8":
			c.format = moe.WeightsInt8
		case "q4":
			c.format = moe.WeightsQ4
		default:
			rest = append(rest, word)
		}
	}
	if rest != nil {
		c.linearCase = c.withOption(strings.Join(rest, "_"))
	}
	return c
}

// epilogue is the oracle's form of the activation.
func (c activatedCase) epilogue() ref.Epilogue {
	e := ref.Epilogue{Gated: c.act.Function.Gated(), Interleaved: c.act.Interleaved}
	for _, f := range functions {
		if f.Activation == c.act.Function {
			e.Activation = f.ref
		}
	}
	if c.act.Function == moe.ClampedSwiGLU {
		e.Clamp = &ref.Clamp{Alpha: float64(c.act.Alpha), Limit: float64(c.act.Limit)}
	}
	return e
}

// record records h = f(ParallelLinear(x)).
func (c activatedCase) record(k *Kit) func() {
	run := c.setUp(k)
	hidden := c.out
	if c.act.Function.Gated() {
		hidden /= 2
	}
	run.opts.Activation, run.opts.Accumulate = &c.act, c.accumulate
	var z target
	if c.keepZ {
		overwritten := linearCase{spread: c.spread} // whatever h is
		z = overwritten.target(k, "z", c.y, true, c.slots(), c.out)
		run.opts.Z = z.t
	}
	h := c.target(k, "h", c.y, true, c.slots(), hidden)
	k.must(run.layer.Forward(k.Rec, run.routing, run.x, h.t, run.opts))
	return func() { c.judge(k, run, z, h, hidden) }
}

// judge compares z with the oracle's sums, and h with the activation of z, or of the oracle's sums where z is not kept.
func (c activatedCase) judge(k *Kit, run linearRun, z, h target, hidden int) {
	terms := c.in
	if c.format != moe.WeightsFull {
		var err error
		run.weights.Weight, err = moe.DownloadBank[float32](k.Ctx, run.layer.Weight)
		k.must(err)
		terms += 2
	}
	sums := ref.Scatter2scatter(run.weights, run.xs, run.want, c.layout, []float32(nil))
	errors := sums.Bound(ref.F32, terms)
	if z.t != nil {
		z.judge(k, "z", sums, sums.Bound(refTypes[c.y], terms), false)
		for i, v := range k.Values(z.t) {
			if sums.Abs[i] != 0 { // else it belongs to no slot
				sums.Y[i], errors[i] = float64(v), 0
			}
		}
	}
	var gates []float64
	if c.gates {
		gates = make([]float64, c.slots())
		for s := range gates {
			if run.want.Valid(s) {
				gates[c.layout.OutRow(run.want, s)] = float64(run.gates[s])
			}
		}
	}
	e := c.epilogue()
	want := e.Apply(sums, c.slots(), hidden, gates)
	h.judge(k, "h", want, e.Bound(sums, errors, want, c.slots(), hidden, gates, refTypes[c.y]), false)
}
