package golden

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// changeBy is how far quantized weights may move the logits of a recorded model's median token, relative to those of the weights as
// they were. A matrix's relative error is 0.6 to 0.8 % in int8 and 8 to 9 % in q4 (TestRelativeErrorOfNormalWeights in
// internal/ref), the experts are a part of what the residual stream adds up, and the models have two layers: the medians
// measured are 0.2 to 0.5 % and 4 to 12 %. Tokens for which a router chooses another expert, a handful in some models, move
// by 20 to 80 %, which is why it is the median.
var changeBy = map[moe.WeightFormat]float64{moe.WeightsInt8: 0.01, moe.WeightsQ4: 0.14}

// TestQuantizedModelsMultiplyByWhatTheirCodesMean loads the recorded models with quantized weights. Saved, they are checkpoints of
// the codes' values, on which the float64 oracle must find the device's logits within what f32 allows.
func TestQuantizedModelsMultiplyByWhatTheirCodesMean(t *testing.T) {
	opts := openDevice(t)
	runner, _, err := opts.Open()
	require.NoError(t, err)
	dev := runner.(Device).Device
	for _, name := range recorded {
		for format, limit := range changeBy {
			c, err := model.Open(filepath.Join(dataDir, name))
			require.NoError(t, err)
			d, err := model.LoadDecoderWith(t.Context(), dev, c, model.LoadOptions{DType: vk.F32, Weights: format})
			require.NoError(t, err)
			dir := t.TempDir()
			require.NoError(t, d.Save(t.Context(), dir))
			m := openWeights(t, name, dir)
			want := ref.RunDecoder(m.Decoder, m.ids).Logits

			k := gputest.New(t, dev)
			logits, err := d.Logits(k.Rec, model.Batch{IDs: k.I32("ids", m.ids, len(m.ids)),
				Sequences: attention.Sequences{Offsets: k.I32("offsets", m.Offsets, len(m.Offsets))}})
			require.NoError(t, err)
			k.Run()
			got := gputest.Download[float32](t, logits)
			off := ref.RelativeFrobenius(got, want)
			require.True(t, off <= 1e-5, "%s %v: %g", name, format, off)
			full, err := m.expected.Float32s("logits")
			require.NoError(t, err)
			change := medianChange(got, full, len(m.ids))
			require.True(t, change > 1e-4 && change <= limit, "%s %v changes the logits by %g", name, format, change)
			t.Logf("%-10s %-4v logits %.2g from the oracle; from those of the weights as they were: median token %.2g, all %.2g", name,
				format, off, change, ref.RelativeFrobenius(got, ref.Widen(full)))
			k.Close()
			require.NoError(t, d.Close())
			require.NoError(t, c.Close())
		}
	}
}

// medianChange is the relative difference of the median row.
func medianChange(got, want []float32, rows int) float64 {
	width := len(want) / rows
	var all []float64
	for i := range rows {
		all = append(all, ref.RelativeFrobenius(got[i*width:(i+1)*width], ref.Widen(want[i*width:(i+1)*width])))
	}
	slices.Sort(all)
	return all[rows/2]
}
