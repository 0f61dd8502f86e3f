package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// denseLinear are linear layers of one expert without routing, forward and backward: routers and shared experts.
func denseLinear(add func(Case)) {
	sizes := []struct{ rows, in, out int }{{1, 1, 1}, {0, 8, 4}, {7, 3, 5}, {33, 36, 60}, {70, 100, 8}, {130, 64, 33}}
	for _, dtype := range storages {
		for i, s := range sizes {
			for j, option := range []string{"plain", "bias", "inout", "odd", "inout_bias", "f32out"} {
				c := uniform(dtype)
				if option == "f32out" {
					if dtype == vk.F32 {
						continue
					}
					c.y, option = vk.F32, "plain"
				}
				c.shape = shape{1, 1, s.rows, s.in, s.out}
				c = c.withOption(option)
				types := dtype.String()
				if c.y != dtype {
					types += "_f32"
				}
				size := fmt.Sprintf("r%d_i%d_o%d", s.rows, s.in, s.out)
				add(Case{Name: fmt.Sprintf("dense.forward.%s.portable.%s.%s", types, size, option), Record: c.dense,
					Required: i == 3 && j%5 == 0})
				if c.y == dtype {
					for _, option := range []string{option, joinOption(option, "accumulate")} {
						c := c.withOption(option)
						add(Case{Name: fmt.Sprintf("dense.backward.%s.portable.%s.%s", types, size, option),
							Record: c.denseBackward, Required: i == 3 && j == 1})
					}
				}
			}
		}
	}
}

func joinOption(a, b string) string {
	if a == "plain" {
		return b
	}
	return a + "_" + b
}

// denseLayer makes the layer and its input.
func (c linearCase) denseLayer(k *Kit) (*moe.ParallelLinear, ref.Linear[float32], *vk.Tensor, []float32) {
	if c.odd {
		k.Shift = 1
	}
	xs := c.values(k, c.x, c.tokens*c.in)
	weights := ref.Linear[float32]{Experts: 1, In: c.in, Out: c.out, InOut: c.inOut, Weight: c.values(k, c.w, c.in*c.out)}
	layer := &moe.ParallelLinear{Config: moe.ParallelLinearConfig{Experts: 1, In: c.in, Out: c.out, Bias: c.bias, InOut: c.inOut,
		DType: c.w, Path: c.path}}
	layer.Weight = c.bank(k, "weight", c.w, weights.Weight, c.weightShape()...)
	if c.bias {
		weights.Bias = c.values(k, c.w, c.out)
		layer.Bias = c.bank(k, "bias", c.w, weights.Bias, 1, c.out)
	}
	return layer, weights, k.Floats("x", c.x, xs, c.tokens, c.in), xs
}

func (c linearCase) dense(k *Kit) func() {
	c.experts = 1
	layer, weights, x, xs := c.denseLayer(k)
	y := c.target(k, "y", c.y, false, c.tokens, c.out)
	k.must(layer.Dense(k.Rec, x, y.t))
	return func() {
		want := ref.DenseLinear(weights, xs, c.tokens)
		y.judge(k, "y", want, want.Bound(refTypes[c.y], c.in), c.exact)
	}
}

func (c linearCase) denseBackward(k *Kit) func() {
	c.experts = 1
	layer, weights, x, xs := c.denseLayer(k)
	dys := c.values(k, c.w, c.tokens*c.out)
	dy := k.Floats("dy", c.w, dys, c.tokens, c.out)
	dx, dw := c.target(k, "dx", c.x, false, c.tokens, c.in), c.target(k, "dw", c.w, false, c.weightShape()...)
	g := moe.LinearGrads{X: dx.t, Weight: k.bankOf(dw.t), AccumulateX: c.accumulate, AccumulateWeights: c.accumulate}
	var db target
	if c.bias {
		db = c.target(k, "db", c.w, false, 1, c.out)
		g.Bias = k.bankOf(db.t)
	}
	k.must(layer.DenseBackward(k.Rec, x, dy, g))
	return func() {
		w := ref.Scatter2scatterBackward(weights, xs, ref.Dense(c.tokens), ref.Layout{}, []float32(nil), dys)
		dx.judge(k, "dx", w.X, gradientBound(w.X, c.x, c.out+1, c.w), c.exact)
		dw.judge(k, "dw", w.Weight, gradientBound(w.Weight, c.w, c.tokens+1, vk.F32), c.exact)
		db.judge(k, "db", w.Bias, gradientBound(w.Bias, c.w, c.tokens, vk.F32), c.exact)
	}
}
