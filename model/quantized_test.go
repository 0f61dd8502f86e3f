package model

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

func quantized(t *testing.T, dir string, dtype vk.DType, format moe.WeightFormat) *Decoder {
	t.Helper()
	gputest.Need(t, dev)
	c, err := Open(dir)
	require.NoError(t, err)
	defer c.Close()
	d, err := LoadDecoderWith(t.Context(), dev, c, LoadOptions{DType: dtype, Positions: 64, Weights: format})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// TestSavedQuantizedDecodersComputeTheSame: saved, they are checkpoints of the values that their codes stand for. In f32 their
// loss is the same within rounding, and quantized once more they keep their values.
func TestSavedQuantizedDecodersComputeTheSame(t *testing.T) {
	for _, name := range []string{"qwen2moe", "gptoss", "deepseekv3"} { // shared experts, experts [E,in,out], a dense layer
		for _, format := range []moe.WeightFormat{moe.WeightsInt8, moe.WeightsQ4} {
			d := quantized(t, filepath.Join(golden, name), vk.F32, format)
			dir := t.TempDir()
			require.NoError(t, d.Save(t.Context(), dir))
			loss, _ := lossRun(t, d, LossPass{NoGrads: true}, 1)
			full, _ := lossRun(t, quantized(t, dir, vk.F32, moe.WeightsFull), LossPass{NoGrads: true}, 1)
			require.InDelta(t, full, loss, 1e-5, "%s %v", name, format)

			again := quantized(t, dir, vk.F32, format)
			require.NoError(t, again.Load(t.Context(), dir))
			for i, n := range again.Tensors() {
				was := d.Tensors()[i]
				require.Equal(t, was.Quantized != nil, n.Quantized != nil, n.Name)
				if n.Quantized == nil {
					continue
				}
				a, err := moe.DownloadBankAt(t.Context(), was.Quantized, was.At, was.Elements())
				require.NoError(t, err)
				b, err := moe.DownloadBankAt(t.Context(), n.Quantized, n.At, n.Elements())
				require.NoError(t, err)
				for j := range a {
					require.InDelta(t, a[j], b[j], 1e-6*math.Abs(float64(a[j])), n.Name)
				}
			}
		}
	}
}

// TestQuantizedDecodersIn16Bits also reads tensors whose bytes go to the device as they are.
func TestQuantizedDecodersIn16Bits(t *testing.T) {
	for _, c := range []struct {
		format moe.WeightFormat
		dtype  vk.DType
		limit  float64
	}{{moe.WeightsInt8, vk.F16, 0.01}, {moe.WeightsQ4, vk.BF16, 0.06}} {
		want, _ := lossRun(t, quantized(t, filepath.Join(golden, "mixtral"), vk.F32, c.format), LossPass{NoGrads: true}, 1)
		d := quantized(t, filepath.Join(golden, "mixtral"), c.dtype, c.format)
		loss, _ := lossRun(t, d, LossPass{NoGrads: true}, 1)
		require.InDelta(t, want, loss, c.limit, "%v %v", c.dtype, c.format)
		dir := t.TempDir()
		require.NoError(t, d.Save(t.Context(), dir))
		again := quantized(t, dir, c.dtype, c.format) // from bytes of the same dtype
		loss, _ = lossRun(t, again, LossPass{NoGrads: true}, 1)
		require.InDelta(t, want, loss, 2*c.limit, "%v %v", c.dtype, c.format)
	}
}

func TestQuantizedWeightBytesAreWhatTheDeviceCounts(t *testing.T) {
	gputest.Need(t, dev)
	for _, name := range []string{"mixtral", "gptoss", "deepseekv3"} {
		var sizes []uint64
		for _, format := range []moe.WeightFormat{moe.WeightsFull, moe.WeightsInt8, moe.WeightsQ4} {
			cfg, err := ReadConfig(filepath.Join(golden, name))
			require.NoError(t, err)
			c, err := cfg.Decoder(vk.BF16)
			require.NoError(t, err)
			c.Positions, c.Weights = 1, format
			want, err := c.WeightBytes()
			require.NoError(t, err)
			before := dev.Memory().LiveBytes
			d, err := NewDecoder(t.Context(), dev, c)
			require.NoError(t, err)
			got := dev.Memory().LiveBytes - before - 256*uint64(len(d.ropes)) // their tables of one position
			require.NoError(t, d.Close())
			require.Equal(t, want, got, "%s %v", name, format)
			sizes = append(sizes, want)
		}
		require.True(t, sizes[0] > sizes[1] && sizes[1] > sizes[2], "%v", sizes)
	}
}

func TestQuantizedDecodersAreForInference(t *testing.T) {
	d := quantized(t, filepath.Join(golden, "mixtral"), vk.F32, moe.WeightsQ4)
	var config *moe.ConfigError
	require.ErrorAs(t, d.NewGrads(vk.F32), &config)
	require.Equal(t, "Weights", config.Field)
	require.ErrorAs(t, d.Initialize(t.Context(), 1, 0.02), &config)
	bad := d.Config
	bad.Weights = 7
	_, err := bad.WeightBytes()
	require.ErrorAs(t, err, &config)
	for _, p := range d.Parameters() {
		require.NotEqual(t, vk.U32, p.Value.DType(), p.Name)
	}
}

// TestWeightsWithoutCodesNameTheirTensor loads a checkpoint with a NaN in an expert.
func TestWeightsWithoutCodesNameTheirTensor(t *testing.T) {
	d := quantized(t, filepath.Join(golden, "mixtral"), vk.F32, moe.WeightsFull)
	const name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
	for _, n := range d.Tensors() {
		if n.Name == name {
			values := gputest.Download[float32](t, n.Parts[0])
			values[3*n.Shape[1]+1] = float32(math.NaN())
			require.NoError(t, vk.Upload(t.Context(), n.Parts[0], values))
		}
	}
	dir := t.TempDir()
	require.NoError(t, d.Save(t.Context(), dir))
	require.FileExists(t, filepath.Join(dir, safetensors.SingleFile))
	c, err := Open(dir)
	require.NoError(t, err)
	defer c.Close()
	_, err = LoadDecoderWith(t.Context(), dev, c, LoadOptions{DType: vk.BF16, Weights: moe.WeightsInt8})
	var fault *moe.QuantizeError
	require.ErrorAs(t, err, &fault)
	require.Equal(t, moe.QuantizeError{Format: moe.WeightsInt8, Expert: 2, Row: 3}, *fault)
	require.ErrorContains(t, err, name)
}
