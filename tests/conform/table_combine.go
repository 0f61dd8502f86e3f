package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// combineCase is one gate-weighted sum.
type combineCase struct {
	shape
	dtype          vk.DType
	spread         spread
	grouped, gates bool
	odd            bool
}

func combineCases(add func(Case)) {
	shapes := []shape{{3, 2, 0, 0, 4}, {1, 1, 1, 0, 1}, {5, 3, 33, 0, 7}, {5, 3, 33, 0, 100}, {8, 4, 70, 0, 128}, {16, 8, 20, 0, 36}}
	for _, dtype := range storages {
		for i, s := range shapes {
			for j, sp := range spreads {
				for _, grouped := range []bool{false, true} {
					for _, gates := range []bool{false, true} {
						if j > 0 && gates == ((i+j)%2 == 0) {
							continue
						}
						c := combineCase{shape: s, dtype: dtype, spread: sp, grouped: grouped, gates: gates, odd: (i+j)%3 == 1}
						layout, weight := "scattered", "sum"
						if grouped {
							layout = "grouped"
						}
						if gates {
							weight = "gates"
						}
						name := fmt.Sprintf("%v.%s.e%d_k%d_t%d_w%d.%s.%s", dtype, layout, s.experts, s.k, s.tokens, s.out, sp.name, weight)
						required := (i == 2 || i == 4) && j%3 == 0 && gates
						add(Case{Name: "combine.forward." + name, Required: required, Record: c.forward})
						add(Case{Name: "combine.backward." + name, Required: required, Record: c.backward})
					}
				}
			}
		}
	}
}

// setUp makes the routing, y and the gates.
func (c combineCase) setUp(k *Kit) (r *moe.Routing, want *ref.Routing, ys, gates []float32, gateTensor *vk.Tensor) {
	if c.odd {
		k.Shift = 1
	}
	r, want = k.route(c.spread.ids(k.Rand, c.slots(), c.experts), c.shape)
	ys = k.Normal(c.dtype, c.slots()*c.out)
	if c.gates {
		gates = k.Normal(vk.F32, c.slots())
		gateTensor = k.F32("gates", gates, c.tokens, c.k)
	}
	return r, want, ys, gates, gateTensor
}

func (c combineCase) forward(k *Kit) func() {
	r, routing, ys, gates, gateTensor := c.setUp(k)
	out := k.Output("out", c.dtype, c.tokens, c.out)
	k.must(moe.Combine(k.Rec, r, k.Floats("y", c.dtype, ys, c.slots(), c.out), gateTensor, out, groupedIf(c.grouped)))
	return func() {
		want := ref.Combine(ys, gates, routing, c.out, c.grouped)
		k.Close("out", out, want.Y, want.Bound(refTypes[c.dtype], c.k))
	}
}

func (c combineCase) backward(k *Kit) func() {
	r, routing, ys, gates, gateTensor := c.setUp(k)
	dOut := k.Normal(c.dtype, c.tokens*c.out)
	before := k.Normal(vk.F32, c.slots())
	none := linearCase{spread: c.spread}
	dy := none.target(k, "dy", c.dtype, true, c.slots(), c.out)
	dGates := target{k.InOut("dgates", vk.F32, before, c.tokens, c.k), before}
	k.must(moe.CombineBackward(k.Rec, r, k.Floats("y", c.dtype, ys, c.slots(), c.out), gateTensor,
		k.Floats("dout", c.dtype, dOut, c.tokens, c.out), moe.CombineGrads{Y: dy.t, Gates: dGates.t, AccumulateGates: true},
		groupedIf(c.grouped)))
	return func() {
		wantY, wantGates := ref.CombineBackward(ys, gates, dOut, routing, c.out, c.grouped)
		dy.judge(k, "dy", wantY, wantY.Bound(refTypes[c.dtype], 1), false)
		dGates.judge(k, "dgates", wantGates, wantGates.Bound(ref.F32, c.out+1), false)
	}
}
