package conform

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// flashConfigs are the features of an attention, one or several at a time.
var flashConfigs = []struct {
	name  string
	cfg   attention.FlashConfig
	sinks bool
}{
	{"full", attention.FlashConfig{Heads: 4, KVHeads: 4, Width: 16, ValueWidth: 16}, false},
	{"causal", attention.FlashConfig{Heads: 4, KVHeads: 2, Width: 16, ValueWidth: 16, Causal: true}, false},
	{"tiled", attention.FlashConfig{Heads: 6, KVHeads: 2, Width: 12, ValueWidth: 8, Causal: true, Tiled: true}, false},
	{"multi_query", attention.FlashConfig{Heads: 4, KVHeads: 1, Width: 24, ValueWidth: 16, Causal: true}, false},
	{"window", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 16, ValueWidth: 16, Causal: true, Window: 9}, false},
	{"open_window", attention.FlashConfig{Heads: 2, KVHeads: 2, Width: 8, ValueWidth: 8, Window: 5}, false},
	{"soft_cap", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 16, ValueWidth: 12, Causal: true, SoftCap: 1.5, Scale: 0.7}, false},
	{"sinks", attention.FlashConfig{Heads: 4, KVHeads: 2, Width: 16, ValueWidth: 16, Causal: true}, true},
	{"odd_widths", attention.FlashConfig{Heads: 3, KVHeads: 3, Width: 19, ValueWidth: 7, Causal: true}, true},
	{"wide", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 128, ValueWidth: 96, Causal: true}, false},
	{"all", attention.FlashConfig{Heads: 6, KVHeads: 3, Width: 12, ValueWidth: 20, Tiled: true, Causal: true, Window: 50, SoftCap: 2}, true},
}

// flashLengths are sequences' lengths.
var flashLengths = []struct {
	name          string
	queries, keys []int
}{
	{"n1", []int{1}, nil}, {"n65", []int{65}, nil}, {"ragged", []int{1, 2, 0, 17, 40}, nil}, {"none", []int{0, 0}, nil},
	{"keys", []int{5, 0, 3, 20}, []int{9, 3, 0, 41}}, {"decode", []int{1, 1, 1}, []int{33, 1, 70}},
	{"long", []int{1}, []int{1100}}, // so few queries of so many keys that the keys are cut
}

// flashCases are attentions, forward and backward.
func flashCases(add func(Case)) {
	for _, dtype := range storages {
		for i, f := range flashConfigs {
			for j, n := range flashLengths {
				c := flashCase{cfg: f.cfg, queries: n.queries, keys: n.keys, sinks: f.sinks}
				c.cfg.DType, c.cfg.Path = dtype, moe.PathPortable
				for _, layout := range []string{"rows", "heads_odd"} {
					if layout != "rows" && j != 2 && j != 4 {
						continue
					}
					c.headMajor, c.odd = layout != "rows", layout != "rows"
					name := fmt.Sprintf("%v.portable.%s.%s.%s", dtype, f.name, n.name, layout)
					required := j == 2 && (i == 7 && !c.odd || i == 8 && c.odd)
					cut := j == 6 && f.cfg.KVHeads == 1 && f.cfg.Heads == 4
					add(Case{Name: "flash.forward." + name, Required: required || cut, Record: c.forward})
					add(Case{Name: "flash.backward." + name, Required: required, Record: c.backward})
					if j == 2 && !c.odd {
						acc := c
						acc.accumulate = true
						add(Case{Name: "flash.backward." + name + "_accumulate", Record: acc.backward})
					}
				}
			}
		}
	}
}

// flashMatrixConfigs are features of an attention by cooperative matrices, which take widths of whole sixteens.
var flashMatrixConfigs = []struct {
	name  string
	cfg   attention.FlashConfig
	sinks bool
}{
	{"full", attention.FlashConfig{Heads: 4, KVHeads: 4, Width: 16, ValueWidth: 16}, false},
	{"causal", attention.FlashConfig{Heads: 4, KVHeads: 2, Width: 16, ValueWidth: 16, Causal: true}, false},
	{"tiled", attention.FlashConfig{Heads: 6, KVHeads: 2, Width: 16, ValueWidth: 32, Causal: true, Tiled: true}, false},
	{"multi_query", attention.FlashConfig{Heads: 5, KVHeads: 1, Width: 48, ValueWidth: 16, Causal: true}, false},
	{"window", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 16, ValueWidth: 16, Causal: true, Window: 9}, false},
	{"open_window", attention.FlashConfig{Heads: 2, KVHeads: 2, Width: 16, ValueWidth: 16, Window: 5}, false},
	{"soft_cap", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 16, ValueWidth: 16, Causal: true, SoftCap: 1.5, Scale: 0.7}, false},
	{"sinks", attention.FlashConfig{Heads: 4, KVHeads: 2, Width: 16, ValueWidth: 16, Causal: true}, true},
	{"wide", attention.FlashConfig{Heads: 2, KVHeads: 1, Width: 128, ValueWidth: 96, Causal: true}, false},
	{"all", attention.FlashConfig{Heads: 6, KVHeads: 3, Width: 32, ValueWidth: 16, Tiled: true, Causal: true, Window: 50, SoftCap: 2}, true},
}

var matrixFlash = map[vk.DType]*vk.Kernel{vk.F16: shaders.FlashAttentionCoopmatF16, vk.BF16: shaders.FlashAttentionCoopmatBf16}

// flashCoopMat are attentions by cooperative matrices, forward and backward.
func flashCoopMat(add func(Case)) {
	for d, dtype := range storages[1:] {
		for i, f := range flashMatrixConfigs {
			for j, n := range flashLengths[:6] {
				for m, layout := range []string{"rows", "heads"} {
					if m == 1 && (i+j)%3 > 0 {
						continue
					}
					c := flashCase{cfg: f.cfg, queries: n.queries, keys: n.keys, sinks: f.sinks, headMajor: m == 1}
					c.cfg.DType, c.cfg.Path = dtype, moe.PathCoopMat
					name := fmt.Sprintf("%v.coopmat.%s.%s.%s", dtype, f.name, n.name, layout)
					required := m == 0 && (j == 2 && i == 7 || j == 1 && i == 1 || j == 4 && i == 4)
					needs := matrixFlash[dtype].Needs // also where there is nothing to compute
					add(Case{Name: "flash.forward." + name, Needs: needs, Required: required, Record: c.forward})
					add(Case{Name: "flash.backward." + name, Needs: needs, Required: required && i != 1, Record: c.backward})
					if j == 2 && m == 0 && i%3 == d {
						c.accumulate = true
						add(Case{Name: "flash.backward." + name + "_accumulate", Needs: needs, Record: c.backward})
					}
				}
			}
		}
	}
}

// normCase is one normalization.
type normCase struct {
	dtype, weight      vk.DType
	rows, heads, width int
	odd, accumulate    bool
}

func normCases(add func(Case)) {
	for _, dtype := range storages {
		for _, weight := range []vk.DType{dtype, vk.F32} {
			if weight == dtype && dtype == vk.F32 {
				continue
			}
			types := fmt.Sprintf("%v_%v", dtype, weight)
			for i, s := range [][3]int{{1, 1, 1}, {0, 2, 12}, {3, 1, 4}, {17, 3, 10}, {5, 2, 64}, {2, 1, 1031}, {300, 3, 12}} {
				for _, odd := range []bool{false, true} {
					c := normCase{dtype: dtype, weight: weight, rows: s[0], heads: s[1], width: s[2], odd: odd}
					name := fmt.Sprintf("%s.t%d_h%d_w%d", types, s[0], s[1], s[2])
					option := "plain"
					if odd {
						option = "odd"
					}
					required := i == 3 && odd || i == 4 && !odd
					add(Case{Name: fmt.Sprintf("rms_norm.forward.%s.%s", name, option), Required: required, Record: c.forward})
					add(Case{Name: fmt.Sprintf("rms_norm.backward.%s.%s", name, option), Required: required, Record: c.backward})
					c.accumulate = true
					add(Case{Name: fmt.Sprintf("rms_norm.backward.%s.%s", name, joinOption(option, "accumulate")), Record: c.backward})
				}
			}
		}
	}
}

const normEps = 1e-5

// scaleError is the relative error of 1/√(Σ x²/n + eps): sums and products under a root, a division, and what Vulkan allows of
// an inverse root, 2 ulp.
func scaleError(n int) float64 { return ref.Gamma(n+2)/2 + 6*ref.UnitF32 }

func (c normCase) forward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	x, w := k.Normal(c.dtype, c.rows*c.heads*c.width), k.Normal(c.weight, c.width)
	y := k.Output("y", c.dtype, c.rows, c.heads*c.width)
	k.must(attention.RMSNorm(k.Rec, k.Floats("x", c.dtype, x, c.rows, c.heads*c.width), k.Floats("weight", c.weight, w, c.width), normEps, y))
	return func() {
		want, t := ref.RMSNorm(x, w, c.width, float64(float32(normEps))), refTypes[c.dtype]
		k.Close("y", y, want.Y, want.BoundBy(scaleError(c.width)+ref.Tolerance(t, 2), ref.Underflow(t, 2)))
	}
}

func (c normCase) backward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	n := c.heads * c.width
	x, dy, w := k.Normal(c.dtype, c.rows*n), k.Normal(c.dtype, c.rows*n), k.Normal(c.weight, c.width)
	lin := linearCase{accumulate: c.accumulate}
	dx, dw := lin.target(k, "dx", c.dtype, false, c.rows, n), lin.target(k, "dweight", c.weight, false, c.width)
	k.must(attention.RMSNormBackward(k.Rec, k.Floats("x", c.dtype, x, c.rows, n), k.Floats("weight", c.weight, w, c.width), normEps,
		k.Floats("dy", c.dtype, dy, c.rows, n),
		attention.RMSNormGrads{X: dx.t, Weight: dw.t, AccumulateX: c.accumulate, AccumulateWeight: c.accumulate}))
	return func() {
		want := ref.RMSNormBackward(x, w, c.width, float64(float32(normEps)), dy)
		t, wt := refTypes[c.dtype], refTypes[c.weight]
		relative := 3*scaleError(c.width) + ref.Gamma(c.width+6) + t.Storage()
		dx.judge(k, "dx", want.X, want.X.BoundBy(relative, ref.Underflow(t, 4)), false)
		relative = scaleError(c.width) + ref.Gamma(c.rows*c.heads+3) + wt.Storage()
		dw.judge(k, "dweight", want.Weight, want.Weight.BoundBy(relative, ref.Underflow(wt, 4)), false)
	}
}

// ropeConfigs are rotary embeddings of released models, narrower.
var ropeConfigs = []struct {
	name   string
	cfg    attention.RoPEConfig
	oracle ref.RoPE
}{
	{"plain", attention.RoPEConfig{Width: 8}, ref.RoPE{Width: 8, Base: 10000}},
	{"interleaved", attention.RoPEConfig{Width: 6, Interleaved: true, Base: 1e6}, ref.RoPE{Width: 6, Interleaved: true, Base: 1e6}},
	{"linear", attention.RoPEConfig{Width: 12, Scaling: attention.ScaleLinear, Factor: 4},
		ref.RoPE{Width: 12, Base: 10000, Scaling: ref.RoPEScaling{Kind: ref.LinearScaling, Factor: 4}}},
	{"llama3", attention.RoPEConfig{Width: 64, Base: 500000, Scaling: attention.ScaleLlama3, Factor: 8, OriginalPositions: 8192,
		LowFreqFactor: 1, HighFreqFactor: 4}, ref.RoPE{Width: 64, Base: 500000, Scaling: ref.RoPEScaling{Kind: ref.Llama3Scaling, Factor: 8,
		OriginalLength: 8192, LowFrequencyFactor: 1, HighFrequencyFactor: 4}}},
}

func ropeCases(add func(Case)) {
	for _, dtype := range storages {
		for i, r := range ropeConfigs {
			for j, tokens := range []int{0, 1, 17, 100} {
				for _, extra := range []int{0, 3} { // elements of a head that do not turn
					for n, op := range []string{"forward", "backward"} {
						heads, odd := 1+(i+j)%4, (i+j+n)%2 == 1
						add(Case{Name: fmt.Sprintf("rope.%s.%v.%s.t%d_h%d_w%d", op, dtype, r.name, tokens, heads, r.cfg.Width+extra),
							Required: j == 2 && i < 2 && extra == i*3, Record: func(k *Kit) func() {
								return rotate(k, dtype, r.cfg, r.oracle, tokens, heads, r.cfg.Width+extra, op == "backward", odd)
							}})
					}
				}
			}
		}
	}
}

func rotate(k *Kit, dtype vk.DType, cfg attention.RoPEConfig, oracle ref.RoPE, tokens, heads, width int, back, odd bool) func() {
	if odd {
		k.Shift = 1
	}
	const positions = 3000
	rope, err := attention.NewRoPE(context.Background(), k.Dev, cfg, positions)
	k.must(err)
	k.closes = append(k.closes, rope.Close)
	at := make([]int32, tokens)
	for i := range at {
		at[i] = int32(k.Rand.Intn(positions))
	}
	x := k.Normal(dtype, tokens*heads*width)
	in := attention.DenseHeads(k.Floats("x", dtype, x, tokens, heads, width), heads, width)
	y := k.Output("y", dtype, tokens, heads, width)
	out, index := attention.DenseHeads(y, heads, width), k.I32("positions", at, tokens)
	if back {
		k.must(rope.RotateBackward(k.Rec, index, heads, width, in, out))
	} else {
		k.must(rope.Rotate(k.Rec, index, heads, width, in, out))
	}
	return func() {
		want := ref.Rotate(oracle, x, at, heads, width)
		if back {
			want = ref.RotateBackward(oracle, x, at, heads, width)
		}
		t := refTypes[dtype]
		bound := want.BoundBy(ref.Gamma(4)+t.Storage(), ref.Underflow(t, 2)) // cos and sin are rounded once; two products and a sum
		for i := range bound {
			if i%width >= cfg.Width {
				bound[i] = 0 // copied
			}
		}
		k.Close("y", y, want.Y, bound)
	}
}
