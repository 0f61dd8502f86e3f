package conform

import (
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// formats are the quantized formats of weights, with the oracle's.
var formats = []struct {
	moe.WeightFormat
	ref ref.WeightFormat
}{{moe.WeightsInt8, ref.Int8}, {moe.WeightsQ4, ref.Q4}}

func refFormat(f moe.WeightFormat) ref.WeightFormat {
	for _, x := range formats {
		if x.WeightFormat == f {
			return x.ref
		}
	}
	panic("conform: no format " + f.String())
}

// Adopt makes memory that a constructor of the library allocated take part in the checks that need no bands. Not all of it need be
// written.
func (k *Kit) Adopt(name string, t *vk.Tensor) {
	b := &banded{name: name, root: t, view: t, output: true, partial: true, start: make([]uint32, t.Elements())}
	for i := range b.start {
		b.start[i] = k.poison(t.DType())
	}
	k.must(k.fill(b))
	k.bands = append(k.bands, b)
}

// quantized makes a layer's weights in a quantized format, by the device and within the recording.
func (k *Kit) quantized(cfg moe.ParallelLinearConfig, values []float32, from vk.DType) *moe.ParallelLinear {
	l, err := moe.NewParallelLinear(k.Dev, cfg)
	k.must(err)
	k.closes = append(k.closes, l.Close)
	for i, part := range l.Weight.Parts() {
		k.Adopt("codes"+suffix(i), part)
	}
	k.must(moe.Quantize(k.Rec, l.Weight, 0, k.Floats("values", from, values, len(values))))
	return l
}

// judgeCodes compares the codes of all experts with the oracle's. Scales are equal; a code may be the neighbour where the weight is
// within rounding errors of the tie.
func (k *Kit) judgeCodes(l *moe.ParallelLinear, values []float32) {
	c, format := l.Config, refFormat(l.Config.Weights)
	size := c.In * c.Out
	for e := range c.Experts {
		t, err := l.Weight.Expert(e)
		k.must(err)
		words, err := vk.Download[uint32](k.Ctx, t)
		k.must(err)
		matrix := values[e*size : (e+1)*size]
		if c.InOut {
			matrix = ref.Transposed(matrix, c.In, c.Out)
		}
		want, err := ref.Quantize(format, matrix, c.Out, c.In)
		k.must(err)
		got := ref.Unpack(format, words, c.Out, c.In)
		for i, s := range want.Scales {
			if math.Float32bits(got.Scales[i]) != math.Float32bits(s) {
				k.Fail(CheckOracle, "codes", "scale %d of expert %d is %v, not %v", i, e, got.Scales[i], s)
				return
			}
		}
		for i, code := range want.Codes {
			row, at := i/ref.Padded(c.In), i%ref.Padded(c.In)
			if got.Codes[i] == code {
				continue
			}
			ratio := math.Inf(1) // a code beyond the row is 0
			if at < c.In {
				ratio = float64(matrix[row*c.In+at]) / want.Scale(row, at)
			}
			if tie := math.Floor(ratio) + 0.5; !(math.Abs(ratio-tie) <= 1e-4 && math.Abs(ratio-float64(got.Codes[i])) <= 0.5001) {
				k.Fail(CheckOracle, "codes", "input %d of output %d of expert %d, %v scales, has the code %d and should have %d", at, row, e, ratio,
					got.Codes[i], code)
				return
			}
		}
	}
}

// weightKinds are weights that a format has to do well on.
var weightKinds = []struct {
	name string
	draw func(k *Kit) float64
}{
	{"normal", func(k *Kit) float64 { return k.Rand.NormFloat64() / 50 }},
	{"tiny", func(k *Kit) float64 { return k.Rand.NormFloat64() * 0x1p-22 }},
	{"large", func(k *Kit) float64 { return 60000 * (2*k.Rand.Float64() - 1) }},
	{"zero", func(k *Kit) float64 { return math.Copysign(0, k.Rand.NormFloat64()) }},
	{"sparse", func(k *Kit) float64 { return k.Rand.NormFloat64() * float64(k.Rand.Intn(40)/39) }},
}

// quantizeCases turn values into codes on the device.
func quantizeCases(add func(Case)) {
	for _, format := range formats {
		for d, dtype := range storages {
			for i, s := range []shape{{experts: 1, in: 1, out: 1}, {experts: 3, in: 33, out: 5}, {experts: 4, in: 64, out: 7}, {experts: 2, in: 2100, out: 3},
				{experts: 5, in: 31, out: 2}} {
				for j, kind := range weightKinds {
					for m, order := range []string{"rows", "inout_odd"} {
						if m == 1 && (i+j)%2 == 1 {
							continue
						}
						add(Case{Name: fmt.Sprintf("quantize.codes.%v_%v.e%d_i%d_o%d.%s.%s", dtype, format.WeightFormat, s.experts, s.in, s.out, kind.name, order),
							Required: i == 2 && j == 0 && m == d%2, Record: func(k *Kit) func() {
								k.oddIf(m == 1)
								cfg := moe.ParallelLinearConfig{Experts: s.experts, In: s.in, Out: s.out, DType: dtype, Weights: format.WeightFormat, InOut: m == 1}
								values := make([]float32, s.experts*s.in*s.out)
								for i := range values {
									values[i] = float32(kind.draw(k))
								}
								values = vk.Round(dtype, values)
								l := k.quantized(cfg, values, dtype)
								return func() { k.judgeCodes(l, values) }
							}})
					}
				}
			}
		}
		add(Case{Name: fmt.Sprintf("quantize.unusual.f32_%v", format.WeightFormat), Required: true,
			Record: func(k *Kit) func() { return unusualWeights(k, format.WeightFormat) }})
	}
}

// unusualWeights has weights without a code: the run has to name the first row of them, and to get all other rows right.
func unusualWeights(k *Kit, format moe.WeightFormat) func() {
	cfg := moe.ParallelLinearConfig{Experts: 2, In: 40, Out: 3, DType: vk.F32, Weights: format}
	values := k.Normal(vk.F32, 240)
	values[200], values[170] = float32(math.NaN()), float32(math.Inf(-1)) // expert 1, rows 2 and 1
	l := k.quantized(cfg, values, vk.F32)
	k.ExpectRunError(func(err error) error {
		var bad *moe.QuantizeError
		if !errors.As(err, &bad) || bad.Expert != 1 || bad.Row != 1 || bad.Format != format {
			return fmt.Errorf("the run returned %v and should have named row 1 of expert 1", err)
		}
		return nil
	})
	return func() {
		first := &moe.ParallelLinear{Config: cfg, Weight: l.Weight}
		first.Config.Experts = 1
		k.judgeCodes(first, values[:120])
	}
}

// linearQuantized are layers of quantized weights, on every path. The oracle multiplies by the values of the device's codes, which
// are judged too.
func linearQuantized(add func(Case)) {
	paths := []struct {
		path    moe.Path
		shapes  []shape
		options []string
	}{
		{moe.PathPortable, []shape{{8, 2, 1, 33, 7}, {5, 2, 20, 36, 40}, {8, 4, 70, 100, 25}, {3, 2, 37, 24, 16}},
			[]string{"plain", "inout", "bias_gates", "accumulate"}},
		{moe.PathDecode, []shape{{8, 2, 1, 2048, 40}, {4, 2, 3, 64, 17}, {3, 2, 37, 96, 33}, {16, 4, 8, 1056, 30}}, []string{"plain", "bias_gates", "inout", "accumulate"}},
		{moe.PathCoopMat, []shape{{1, 1, 1, 8, 8}, {3, 2, 37, 24, 16}, {8, 4, 70, 104, 72}, {4, 2, 130, 200, 128}, {3, 2, 37, 264, 72}},
			[]string{"plain", "bias", "gates", "inout_bias_gates"}},
	}
	for _, format := range formats {
		for d, dtype := range storages {
			for _, p := range paths {
				if p.path == moe.PathCoopMat && dtype == vk.F32 {
					continue
				}
				for l := range layouts {
					for i, s := range p.shapes {
						for j, sp := range spreads {
							if (i+j+l)%2 == 1 {
								continue
							}
							option := p.options[(i+j/2+l)%len(p.options)]
							c := uniform(dtype)
							c.path, c.shape, c.spread, c.layout, c.format = p.path, s, sp, layouts[l].layout, format.WeightFormat
							c = c.withOption(option)
							kase := Case{Name: linearName("forward", c, fmt.Sprintf("%v_%v", dtype, format.WeightFormat), layouts[l].name, option),
								Record: c.forward, Required: i == 2 && l == (d+int(p.path))%len(layouts) && j < 2 ||
									p.path == moe.PathDecode && i == 0 && l == d && j == d}
							if p.path == moe.PathCoopMat {
								kase.Needs = []vk.Feature{vk.FeatureCoopMat}
							}
							add(kase)
						}
					}
				}
			}
		}
	}
}
