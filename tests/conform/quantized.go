package conform

import (
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// refFormats are the oracle's names of the formats of quantized weights.
var refFormats = map[moe.WeightFormat]ref.WeightFormat{moe.WeightsInt8: ref.Int8, moe.WeightsQ4: ref.Q4}

// quantize records the quantization of weights, in the order of the layer's shape, into a bank.
func (c linearCase) quantize(k *Kit, cfg moe.ParallelLinearConfig, weights []float32) *moe.ExpertBank {
	cfg.Bias = false // the case has its own
	layer, err := moe.NewParallelLinear(k.Dev, cfg)
	k.must(err)
	k.closes = append(k.closes, layer.Close)
	k.must(moe.Quantize(k.Rec, layer.Weight, 0, k.Floats("weight", c.w, weights, c.weightShape()...)))
	return layer.Weight
}

// dequantize returns the values of a bank's codes and judges them by the weights that they were made of.
func (c linearCase) dequantize(k *Kit, bank *moe.ExpertBank, weights []float32) []float32 {
	values, err := moe.DownloadBank[float32](k.Ctx, bank)
	k.must(err)
	want, bound := make([]float64, len(weights)), make([]float64, len(weights))
	for e := range c.experts {
		// at is the place of a weight of the expert.
		at := func(o, i int) int {
			if c.inOut {
				return (e*c.in+i)*c.out + o
			}
			return (e*c.out+o)*c.in + i
		}
		matrix := make([]float32, c.out*c.in)
		for o := range c.out {
			for i := range c.in {
				matrix[o*c.in+i] = weights[at(o, i)]
			}
		}
		q, err := ref.Quantize(refFormats[c.format], matrix, c.out, c.in)
		k.must(err)
		for o := range c.out {
			for i := range c.in {
				w, scale := float64(weights[at(o, i)]), q.Scale(o, i)
				want[at(o, i)] = w
				bound[at(o, i)] = refFormats[c.format].QuantizationBound(w, scale) + 1e-4*math.Abs(scale) // of the codes' division
			}
		}
	}
	k.compare("weight", values, want, bound)
	return values
}

// linearQuantized are forward passes with quantized weights on every path.
func linearQuantized(add func(Case)) {
	emit := func(c linearCase, l int, option string, required bool, needs ...vk.Feature) {
		c.layout = layouts[l].layout
		c = c.withOption(option)
		add(Case{Name: linearName("forward", c, c.w.String()+"_"+c.format.String(), layouts[l].name, option), Record: c.forward,
			Required: required, Needs: needs})
	}
	for d, dtype := range storages {
		for f, format := range []moe.WeightFormat{moe.WeightsInt8, moe.WeightsQ4} {
			for l := range layouts {
				for i, option := range []string{"plain", "bias_gates", "inout_bias", "accumulate", "odd"} {
					c := uniform(dtype)
					c.format, c.spread = format, spreads[(d+f+l+i)%len(spreads)]
					c.shape = optionShapes[(l+i)%2]
					emit(c, l, option, i == 1 && l == d+f)
					if option != "odd" {
						c.path, c.shape = moe.PathDecode, []shape{{8, 2, 1, 256, 40}, {16, 4, 8, 1024, 30}, {3, 2, 37, 64, 33}}[(l+i)%3]
						emit(c, l, option, i == 1 && l == d+f)
						if dtype != vk.F32 {
							c.path, c.shape = moe.PathCoopMat, coopMatShapes[1+(l+i)%3]
							emit(c, l, option, i == 1 && l == d+f, vk.FeatureCoopMat)
						}
					}
				}
			}
		}
	}
}
