package moe

import (
	"errors"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

var quantFormats = []WeightFormat{WeightsInt8, WeightsQ4}

// refFormats maps the formats to the oracle's.
var refFormats = map[WeightFormat]ref.WeightFormat{WeightsInt8: ref.Int8, WeightsQ4: ref.Q4}

// roundings is how many more there are than of full weights: that of the scale, and that of the oracle's weights to f32.
func (st storage) roundings() int {
	if st.format == WeightsFull {
		return 0
	}
	return 2
}

// exact reports whether weights ±1 have exact values that are multiples of 1/8. The scale of int8 is no power of two.
func (st storage) exact() bool { return st.format != WeightsInt8 }

// quantizedBank makes a banded bank and quantizes data into it on the device.
func (st storage) quantizedBank(k *kit, name string, c ParallelLinearConfig, data []float32) *ExpertBank {
	k.T.Helper()
	b := emptyQuantizedBank(k, name, c, st.part)
	require.NoError(k.T, UploadBank(k.Ctx, b, data))
	for _, part := range b.parts { // from now on it is an input
		k.Settle(part)
	}
	return b
}

// emptyQuantizedBank makes a bank of outputs, part experts in a tensor. The words behind an expert stay as they are.
func emptyQuantizedBank(k *kit, name string, c ParallelLinearConfig, part int) *ExpertBank {
	if part == 0 {
		part = c.Experts
	}
	b := &ExpertBank{shape: c.weightShape(), format: c.Weights, values: c.DType, inOut: c.InOut}
	size := int(c.Weights.ExpertBytes(c.DType, c.In, c.Out) / 4)
	for e := 0; e < c.Experts; e += part {
		b.parts = append(b.parts, k.PartialOutput(fmt.Sprintf("%s of experts from %d", name, e), vk.U32, min(part, c.Experts-e), size))
		b.first = append(b.first, e)
	}
	require.NoError(k.T, b.makeTable(dev))
	k.OnClose(b.Close)
	return b
}

func dequantizedBank(t testing.TB, b *ExpertBank) []float32 {
	t.Helper()
	values, err := DownloadBank[float32](t.Context(), b)
	require.NoError(t, err)
	return values
}

// requireCodes compares a bank with the oracle's codes of one expert after the other, [out,in] each. Scales are equal; a code
// may be the neighbour where the weight is within rounding errors of the tie.
func requireCodes(t testing.TB, b *ExpertBank, w []float32, what string) {
	t.Helper()
	in, out := b.widths()
	for e := range b.Experts() {
		tensor, err := b.Expert(e)
		require.NoError(t, err)
		got := gputest.Words(t, tensor)
		matrix := w[e*in*out : (e+1)*in*out]
		want, err := ref.Quantize(refFormats[b.format], matrix, out, in)
		require.NoError(t, err)
		packed := want.Pack()
		require.Len(t, got, len(packed))
		codes, scales := b.format.rowWords(in)
		require.Equal(t, packed[codes*out:(codes+scales)*out], got[codes*out:(codes+scales)*out], "%s: scales of expert %d", what, e)
		mine := ref.Unpack(refFormats[b.format], got, out, in)
		for i, c := range want.Codes {
			d := mine.Codes[i]
			if c == d {
				continue
			}
			row, at := i/ref.Padded(in), i%ref.Padded(in)
			require.Less(t, at, in, "%s: a code beyond the row", what)
			ratio := float64(matrix[row*in+at]) / want.Scale(row, at)
			require.InDelta(t, math.Round(math.Abs(ratio)-0.5)+0.5, math.Abs(ratio), 1e-4, "%s: %v has code %d, not %d", what, ratio, d, c)
			require.InDelta(t, ratio, float64(d), 0.5001)
		}
	}
}

// TestQuantizedBanks uploads every kind of weight in every type, split and order.
func TestQuantizedBanks(t *testing.T) {
	kinds := map[string]func(r *rand.Rand) float64{
		"normal":   func(r *rand.Rand) float64 { return r.NormFloat64() / 50 },
		"tiny":     func(r *rand.Rand) float64 { return r.NormFloat64() * 0x1p-22 },
		"smallest": func(r *rand.Rand) float64 { return r.NormFloat64() * 0x1p-120 },
		"large":    func(r *rand.Rand) float64 { return 60000 * (2*r.Float64() - 1) },
		"zero":     func(r *rand.Rand) float64 { return math.Copysign(0, r.NormFloat64()) },
		"sparse":   func(r *rand.Rand) float64 { return r.NormFloat64() * float64(r.Intn(40)/39) },
		"spread":   func(r *rand.Rand) float64 { return math.Ldexp(r.NormFloat64(), r.Intn(40)-36) },
	}
	shapes := [][3]int{{1, 1, 1}, {3, 33, 5}, {4, 64, 7}, {2, 2100, 3}, {5, 31, 2}}
	for name, value := range kinds {
		for i, shape := range shapes {
			for flags := range 4 {
				dtype := []vk.DType{vk.F32, vk.F16, vk.BF16}[(i+flags)%3]
				st := storage{w: dtype, part: (i + flags) % 3, format: quantFormats[flags&1]}
				if dtype == vk.F16 && (name == "smallest" || name == "spread") {
					continue
				}
				c := ParallelLinearConfig{Experts: shape[0], In: shape[1], Out: shape[2], DType: dtype, InOut: flags&2 != 0, Weights: st.format}
				r := rand.New(rand.NewSource(int64(i)))
				w := make([]float32, shape[0]*shape[1]*shape[2])
				for i := range w {
					w[i] = float32(value(r))
				}
				w = vk.Round(dtype, w)
				k := newKit(t)
				k.Shift = flags & 1
				ordered := w
				if c.InOut {
					ordered = transposedExperts(w, c.Experts, c.Out, c.In)
				}
				what := fmt.Sprintf("%s %+v", name, c)
				b := st.quantizedBank(k, "bank", c, ordered)
				requireCodes(t, b, w, what)
				values := dequantizedBank(t, b)
				if dtype != vk.F32 { // the same from the bits
					bits := make([]uint16, len(ordered))
					for i, v := range ordered {
						bits[i] = uint16(vk.Bits(dtype, v))
					}
					require.NoError(t, UploadBank(k.Ctx, b, bits))
					require.Equal(t, values, dequantizedBank(t, b))
				}
				k.Verify()
				k.Close()
			}
		}
	}
}

// transposedExperts turns [E,rows,columns] into [E,columns,rows].
func transposedExperts(w []float32, experts, rows, columns int) []float32 {
	out := make([]float32, len(w))
	for e := range experts {
		for r := range rows {
			for c := range columns {
				out[(e*columns+c)*rows+r] = w[(e*rows+r)*columns+c]
			}
		}
	}
	return out
}

// TestWeightsWithoutCodesAreNamed, and nothing but their rows is different.
func TestWeightsWithoutCodesAreNamed(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for i, c := range []struct {
		format WeightFormat
		value  float32
		fails  bool
	}{{WeightsInt8, nan, true}, {WeightsQ4, nan, true}, {WeightsInt8, inf, true}, {WeightsQ4, inf, true},
		{WeightsQ4, 64512, true}, {WeightsQ4, 64511, false}, {WeightsInt8, 1e38, false}} {
		for _, inOut := range []bool{false, true} {
			k := newKit(t)
			cfg := ParallelLinearConfig{Experts: 5, In: 70, Out: 6, InOut: inOut, Weights: c.format}
			b := emptyQuantizedBank(k, "bank", cfg, 1+i%3)
			w := tenths(rand.New(rand.NewSource(1)), 5*6*70)
			upload := func(w []float32) error {
				if inOut {
					w = transposedExperts(w, 5, 6, 70)
				}
				return UploadBank(k.Ctx, b, w)
			}
			require.NoError(t, upload(w))
			before := dequantizedBank(t, b)
			w[(3*6+4)*70+33], w[(4*6+1)*70] = c.value, c.value
			err := upload(w)
			if !c.fails {
				require.NoError(t, err)
				k.Close()
				continue
			}
			var fault *QuantizeError
			require.ErrorAs(t, err, &fault)
			require.Equal(t, QuantizeError{c.format, 3, 4}, *fault)
			require.ErrorContains(t, err, "row 4 of expert 3")
			after := dequantizedBank(t, b)
			if inOut {
				before, after = transposedExperts(before, 5, 70, 6), transposedExperts(after, 5, 70, 6)
			}
			require.Equal(t, before[:(3*6+4)*70], after[:(3*6+4)*70])
			require.Zero(t, after[(3*6+4)*70+33])
			k.Verify()
			k.Close()
		}
	}
}

func TestUploadBankAt(t *testing.T) {
	for _, format := range quantFormats {
		k := newKit(t)
		l, err := NewParallelLinear(dev, ParallelLinearConfig{Experts: 3, In: 40, Out: 5, DType: vk.BF16, Weights: format})
		require.NoError(t, err)
		k.OnClose(l.Close)
		w := vk.Round(vk.BF16, gputest.Normal(rand.New(rand.NewSource(2)), 3*5*40))
		require.NoError(t, UploadBank(k.Ctx, l.Weight, w))
		want := dequantizedBank(t, l.Weight)
		require.NoError(t, UploadBank(k.Ctx, l.Weight, make([]float32, len(w))))
		for from := 0; from < len(w); from += 4 * 40 { // pieces that cross experts
			require.NoError(t, UploadBankAt(k.Ctx, l.Weight, from, w[from:min(from+4*40, len(w))]))
		}
		require.Equal(t, want, dequantizedBank(t, l.Weight))
		require.Equal(t, format, l.Weight.Format())
		require.Equal(t, 3*format.ExpertBytes(vk.BF16, 40, 5), l.Weight.Bytes())
		require.Equal(t, vk.BF16, l.Weight.DType())
		require.Equal(t, format.String()+"[3 5 40]", l.Weight.String())

		var shape *vk.ShapeError
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, 20, w[:40]), &shape)
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, 40, w[:60]), &shape)
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, 40, w), &shape)
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, -40, w[:40]), &shape)
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, 0, make([]int32, 40)), &shape)
		require.ErrorAs(t, UploadBankAt(k.Ctx, l.Weight, 0, make([]byte, 79)), &shape)
		require.ErrorAs(t, UploadBank(k.Ctx, l.Weight, w[:40]), &shape)
		require.Equal(t, want, dequantizedBank(t, l.Weight), "what is refused changes nothing")
		_, err = DownloadBank[uint16](k.Ctx, l.Weight)
		require.ErrorAs(t, err, &shape)
		plain := bankOf(t, k.F32("plain", make([]float32, 40), 1, 1, 40))
		require.ErrorAs(t, UploadBankAt(k.Ctx, plain, 0, w[:40]), &shape)
		require.ErrorAs(t, Quantize(k.Rec, plain, 0, plain.parts[0]), &shape)
		k.Close()
	}
}

// TestQuantizedWeightsInEveryLayout is the portable path, with a small tile: some drivers compile others for seconds.
func TestQuantizedWeightsInEveryLayout(t *testing.T) {
	for i, s := range []struct{ tokens, experts, k, in, out int }{
		{0, 4, 2, 8, 8}, {7, 3, 2, 3, 1}, {33, 4, 3, 1, 3}, {20, 5, 2, 36, 40}, {70, 8, 4, 100, 25}, {1, 8, 2, 600, 100}, {40, 1024, 1, 12, 1},
	} {
		for j, layout := range ref.Layouts {
			flags := i + j
			st := uniform([]vk.DType{vk.F32, vk.F16, vk.BF16}[(i+j)%3])
			st.format, st.part = quantFormats[(i+j/2)%2], (i+j)%4
			linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], layout, flags&1 != 0, flags&2 != 0, j%3 == 0, flags >> 1 & 1,
				Tile{8, 8, 8, 2, 2}, tenths}.checkIn(t, st, false)
			linearCase{s.tokens, s.experts, s.k, s.in, s.out, spreads[flags%len(spreads)], layout, flags&1 != 0, flags&2 != 0, j%3 == 1, flags & 1,
				Tile{8, 8, 8, 2, 2}, signs}.checkIn(t, st, st.exact() && (st.y != vk.BF16 || s.in <= 40))
		}
	}
}

// TestQuantizedWeightsInTiles: also those whose steps are shorter than a block, or no part of one.
func TestQuantizedWeightsInTiles(t *testing.T) {
	for i, tile := range []Tile{{}, {16, 16, 4, 2, 2}, {24, 24, 24, 4, 4}} {
		for _, format := range quantFormats {
			st := uniform([]vk.DType{vk.F32, vk.BF16}[i%2])
			st.format = format
			linearCase{60, 4, 2, 101, 67, spreads[0], ref.Layout{}, true, true, false, 0, tile, tenths}.checkIn(t, st, false)
			linearCase{60, 4, 2, 101, 67, spreads[0], ref.Layout{}, true, true, false, 0, tile, signs}.checkIn(t, st, st.exact())
		}
	}
}

func TestQuantizedWeightsAreForInference(t *testing.T) {
	for _, format := range quantFormats {
		k := newKit(t)
		cfg := ParallelLinearConfig{Experts: 1, In: 32, Out: 32, DType: vk.BF16, Weights: format}
		l, err := NewParallelLinear(dev, cfg)
		require.NoError(t, err)
		k.OnClose(l.Close)
		x := k.Floats("x", vk.BF16, make([]float32, 96), 3, 32)
		dx := k.Output("dx", vk.BF16, 3, 32)
		routing := k.guardedRouting([]int32{0, 0, 0}, 3, 1, 1)
		var config *ConfigError
		fails := func(record func(rec *vk.Recorder) error) {
			t.Helper()
			rec, err := dev.NewRecorder()
			require.NoError(t, err)
			require.ErrorAs(t, record(rec), &config)
			require.Equal(t, "Weights", config.Field)
			require.NoError(t, rec.Close())
		}
		fails(func(rec *vk.Recorder) error {
			return l.Backward(rec, routing, x, x, LinearGrads{X: dx}, LinearOptions{})
		})
		fails(func(rec *vk.Recorder) error { return l.DenseBackward(rec, x, x, LinearGrads{X: dx}) })
		fails(func(rec *vk.Recorder) error { return l.Transposed().Forward(rec, routing, x, dx, LinearOptions{}) })
		fails(func(rec *vk.Recorder) error { return l.Transposed().Dense(rec, x, dx) })
		mlp, err := NewMLP(dev, MLPConfig{Experts: 2, TopK: 1, Width: 32, Hidden: 32, DType: vk.BF16, Weights: format})
		require.NoError(t, err)
		k.OnClose(mlp.Close)
		fails(func(*vk.Recorder) error { _, err := mlp.NewGrads(); return err })
		fails(func(rec *vk.Recorder) error {
			y, err := dev.NewTensor(vk.BF16, 3, 32)
			require.NoError(t, err)
			k.OnClose(y.Close)
			saved, err := mlp.Forward(rec, x, y)
			require.NoError(t, err)
			return mlp.Backward(rec, saved, x, y, MLPGrads{})
		})
		_, err = NewParallelLinearFromExperts(dev, cfg, []*vk.Tensor{x}, nil)
		require.ErrorAs(t, err, &config)

		var shape *vk.ShapeError
		wide := k.F32("wide", make([]float32, 96), 3, 32)
		require.ErrorAs(t, l.Dense(k.Rec, wide, dx), &shape, "rows have the layer's dtype")
		other := *l
		other.Config.Weights = WeightsFull
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, other.Dense(rec, x, dx), &shape)
		require.NoError(t, rec.Close())
		cfg.Weights = 9
		require.True(t, errors.As(cfg.Validate(), &config) && config.Field == "Weights")
		k.Close()
	}
}
