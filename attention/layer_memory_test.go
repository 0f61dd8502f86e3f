package attention

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// memoryConfigs are layers whose memory is counted; SaveAll of the norm's configurations takes queries and keys twice.
var selfMemoryConfigs = []SelfAttentionConfig{
	{Width: 64, Heads: 4, KVHeads: 2, HeadWidth: 32, Causal: true, Bias: true, OutputBias: true, Sinks: true},
	{Width: 100, Heads: 3, KVHeads: 1, HeadWidth: 24, Causal: true, QKNorm: NormHead, DType: vk.BF16},
	{Width: 64, Heads: 4, KVHeads: 4, HeadWidth: 16, Causal: true, QKNorm: NormRow, DType: vk.F16},
}

var mlaMemoryConfigs = []MLAConfig{
	{Width: 64, Heads: 4, QueryRank: 48, KVRank: 32, PlainWidth: 16, TurnedWidth: 8, ValueWidth: 24, Bias: true, Causal: true},
	{Width: 48, Heads: 3, KVRank: 20, PlainWidth: 32, TurnedWidth: 8, ValueWidth: 16, Causal: true, DType: vk.BF16},
}

func TestLayerMemoryIsWhatTheFormulasSay(t *testing.T) {
	for _, cfg := range selfMemoryConfigs {
		rope := newRoPE(t, RoPEConfig{Width: cfg.HeadWidth}, 2000)
		before := dev.Memory().LiveBytes
		layer, err := NewSelfAttention(dev, cfg, rope)
		require.NoError(t, err)
		require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		grads, err := layer.NewGrads()
		require.NoError(t, err)
		require.Equal(t, 2*cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		// What may share memory: delta, sinks, scales and partial sums.
		small := func(tokens int) uint64 { return 4 * uint64(tokens) * uint64(3*cfg.Heads+8) }
		pass := func(rec *vk.Recorder, x, y, dy *vk.Tensor, seq Sequences, p LayerPass) error {
			saved, err := layer.ForwardWith(rec, x, y, seq, SelfAttentionOptions{Save: p.Save})
			if err == nil && p.Backward {
				grads.X = dy
				err = layer.Backward(rec, saved, x, dy, *grads)
			}
			return err
		}
		requirePassBytes(t, fmt.Sprintf("%+v", cfg), cfg.DType, cfg.Width, pass, cfg.PassBytes, small)
		require.NoError(t, grads.Close())
		require.NoError(t, layer.Close())
	}
	for _, cfg := range mlaMemoryConfigs {
		rope := newRoPE(t, RoPEConfig{Width: cfg.TurnedWidth}, 2000)
		before := dev.Memory().LiveBytes
		layer, err := NewMLA(dev, cfg, rope)
		require.NoError(t, err)
		require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		grads, err := layer.NewGrads()
		require.NoError(t, err)
		require.Equal(t, 2*cfg.WeightBytes(), dev.Memory().LiveBytes-before)
		small := func(tokens int) uint64 { return 4 * uint64(tokens) * uint64(cfg.Heads+8) }
		pass := func(rec *vk.Recorder, x, y, dy *vk.Tensor, seq Sequences, p LayerPass) error {
			saved, err := layer.ForwardWith(rec, x, y, seq, MLAOptions{Save: p.Save})
			if err == nil && p.Backward {
				grads.X = dy
				err = layer.Backward(rec, saved, x, dy, *grads)
			}
			return err
		}
		requirePassBytes(t, fmt.Sprintf("%+v", cfg), cfg.DType, cfg.Width, pass, cfg.PassBytes, small)
		require.NoError(t, grads.Close())
		require.NoError(t, layer.Close())
	}
}

// requirePassBytes records passes and asks that a forward pass takes PassBytes exactly, and one with its backward pass at most
// that and no less than that without its small tensors. Twice as many tokens take twice as much: nothing grows with T².
func requirePassBytes(t *testing.T, name string, dtype vk.DType, width int,
	pass func(rec *vk.Recorder, x, y, dy *vk.Tensor, seq Sequences, p LayerPass) error,
	passBytes func(tokens int, p LayerPass) uint64, small func(tokens int) uint64) {
	t.Helper()
	for _, tokens := range []int{640, 1280} {
		for _, p := range []LayerPass{{Save: moe.SaveAll}, {Save: moe.SaveNothing, Positions: true}, {Save: moe.RecomputeActivation},
			{Save: moe.SaveAll, Backward: true, Positions: true}, {Save: moe.RecomputeActivation, Backward: true}} {
			t.Run(fmt.Sprintf("%s T=%d %+v", name, tokens, p), func(t *testing.T) {
				tensor := func(dtype vk.DType, shape ...int) *vk.Tensor {
					x, err := dev.NewTensor(dtype, shape...)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, x.Close()) })
					return x
				}
				x, y, dy := tensor(dtype, tokens, width), tensor(dtype, tokens, width), tensor(dtype, tokens, width)
				seq := Sequences{Offsets: tensor(vk.I32, 2)}
				if !p.Positions {
					seq.Positions = tensor(vk.I32, tokens)
				}
				rec, err := dev.NewRecorder()
				require.NoError(t, err)
				before := dev.Memory().LiveBytes
				dev.ResetPeak()
				require.NoError(t, pass(rec, x, y, dy, seq, p))
				got, want := dev.Memory().PeakBytes-before, passBytes(tokens, p)
				if p.Backward {
					require.LessOrEqual(t, got, want)
					require.GreaterOrEqual(t, got, want-small(tokens))
				} else {
					require.Equal(t, want, got)
				}
				require.NoError(t, rec.Close())
				require.Equal(t, before, dev.Memory().LiveBytes)
			})
		}
	}
}
