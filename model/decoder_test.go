package model

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// golden are recorded models; package tests/golden judges all of them by what was recorded.
const golden = "../tests/testdata/golden"

func loaded(t *testing.T, name string, dtype vk.DType) *Decoder {
	t.Helper()
	gputest.Need(t, dev)
	c, err := Open(filepath.Join(golden, name))
	require.NoError(t, err)
	defer c.Close()
	d, err := LoadDecoder(t.Context(), dev, c, dtype, 64)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// lossRun runs one loss pass on two sequences and returns its loss and all gradients.
func lossRun(t *testing.T, d *Decoder, o LossPass, times int) (float32, [][]uint32) {
	t.Helper()
	k := gputest.New(t, dev)
	ids, targets := make([]int32, 31), make([]int32, 31)
	for i := range ids {
		ids[i], targets[i] = int32(i*7%64), int32((i*7+7)%64)
	}
	targets[11], targets[30] = -1, -1
	in := Batch{IDs: k.I32("ids", ids, 31), Sequences: attention.Sequences{Offsets: k.I32("offsets", []int32{0, 12, 31}, 3)}}
	if !o.NoGrads {
		require.NoError(t, d.NewGrads(vk.F32))
	}
	var losses *DecoderLosses
	for i := range times {
		o.Accumulate = i > 0
		var err error
		losses, err = d.Loss(k.Rec, in, k.I32("targets", targets, 31), o)
		require.NoError(t, err)
	}
	k.Run()
	var grads [][]uint32
	if !o.NoGrads {
		for _, p := range d.Parameters() {
			grads = append(grads, gputest.Words(t, p.Grad))
		}
	}
	return gputest.Download[float32](t, losses.CrossEntropy)[0], grads
}

func TestRecomputedLayersGiveTheSameBits(t *testing.T) {
	for _, name := range []string{"jetmoe", "granitemoe", "deepseekv3", "qwen2moe"} {
		d := loaded(t, name, vk.F32)
		router := moe.LossConfig{Balance: 0.1, Z: 0.01}
		loss, grads := lossRun(t, d, LossPass{Router: router}, 1)
		again, recomputed := lossRun(t, d, LossPass{Router: router, Recompute: true, ChunkRows: 31}, 1)
		require.Equal(t, loss, again)
		require.Equal(t, grads, recomputed, name)
		judged, _ := lossRun(t, d, LossPass{NoGrads: true, Router: router}, 1)
		require.Equal(t, loss, judged)
	}
}

func TestRouterLossesReachTheRouters(t *testing.T) {
	d := loaded(t, "jetmoe", vk.F32)
	_, without := lossRun(t, d, LossPass{}, 1)
	_, with := lossRun(t, d, LossPass{Router: moe.LossConfig{Balance: 1}}, 1)
	for i, p := range d.Parameters() {
		if p.Name == "model.layers.1.mlp.router#0" || p.Name == "model.layers.1.self_attention.router#0" {
			require.NotEqual(t, without[i], with[i], p.Name)
		}
		if p.Name == "model.norm.weight#0" {
			require.Equal(t, without[i], with[i], p.Name)
		}
	}
}

// TestAccumulatedGradientsAreSums runs one batch four times: powers of two are exact.
func TestAccumulatedGradientsAreSums(t *testing.T) {
	d := loaded(t, "qwen3moe", vk.F32)
	_, once := lossRun(t, d, LossPass{}, 1)
	_, four := lossRun(t, d, LossPass{GradientScale: 0.25}, 4)
	for i := range once {
		for j := range once[i] {
			a, b := float64(math.Float32frombits(once[i][j])), float64(math.Float32frombits(four[i][j]))
			require.InDelta(t, a, b, 1e-6+1e-4*math.Abs(a), d.Parameters()[i].Name)
		}
	}
}

// TestAnEmptyBatchHasNoLoss also asks for gradients, which are 0.
func TestAnEmptyBatchHasNoLoss(t *testing.T) {
	d := loaded(t, "jetmoe", vk.F32)
	require.NoError(t, d.NewGrads(vk.F32))
	k := gputest.New(t, dev)
	in := Batch{IDs: k.I32("ids", nil, 0), Sequences: attention.Sequences{Offsets: k.I32("offsets", []int32{0, 0}, 2)}}
	losses, err := d.Loss(k.Rec, in, k.I32("targets", nil, 0), LossPass{})
	require.NoError(t, err)
	k.Run()
	require.Zero(t, gputest.Download[float32](t, losses.CrossEntropy)[0])
	for _, p := range d.Parameters() {
		require.Equal(t, make([]float32, p.Grad.Elements()), gputest.Download[float32](t, p.Grad), p.Name)
	}
}

func TestDecodersIn16Bits(t *testing.T) {
	for _, name := range []string{"mixtral", "olmoe", "gptoss"} {
		exact := loaded(t, name, vk.F32)
		want, _ := lossRun(t, exact, LossPass{}, 1)
		for dtype, limit := range map[vk.DType]float64{vk.F16: 0.01, vk.BF16: 0.06} {
			d := loaded(t, name, dtype)
			loss, _ := lossRun(t, d, LossPass{GradientScale: 16}, 1)
			require.InDelta(t, want, loss, limit, "%s %v", name, dtype)
		}
	}
}

// TestSavedDecodersAreWhatWasLoaded saves under the public names and compares with the file that was loaded.
func TestSavedDecodersAreWhatWasLoaded(t *testing.T) {
	for _, name := range []string{"mixtral", "jetmoe", "granitemoe", "olmoe", "qwen2moe", "qwen3moe", "gptoss", "deepseekv3"} {
		d := loaded(t, name, vk.F32)
		dir := filepath.Join(t.TempDir(), "saved")
		require.NoError(t, d.Save(t.Context(), dir))
		was, err := safetensors.OpenFolder(filepath.Join(golden, name))
		require.NoError(t, err)
		defer was.Close()
		is, err := safetensors.OpenFolder(dir)
		require.NoError(t, err)
		defer is.Close()
		require.Equal(t, was.Names(), is.Names())
		for _, tensor := range was.Names() {
			info, err := was.Info(tensor)
			require.NoError(t, err)
			a, b := make([]float32, info.Elements()), make([]float32, info.Elements())
			require.NoError(t, was.ReadFloat32(tensor, a))
			require.NoError(t, is.ReadFloat32(tensor, b))
			require.Equal(t, a, b, tensor)
		}
		require.NoError(t, d.Load(t.Context(), dir))
	}
}

func TestLoadDecoderNamesTheTensorAtFault(t *testing.T) {
	gputest.Need(t, dev)
	for fault, change := range map[TensorFault]func([]safetensors.Entry) []safetensors.Entry{
		Missing: func(e []safetensors.Entry) []safetensors.Entry {
			return slices.DeleteFunc(e, func(e safetensors.Entry) bool { return e.Name == "model.norm.weight" })
		},
		Unexpected: func(e []safetensors.Entry) []safetensors.Entry {
			return append(e, safetensors.Float32("model.norm.bias", []int{32}, make([]float32, 32)))
		},
		MisShaped: func(e []safetensors.Entry) []safetensors.Entry {
			for i := range e {
				if e[i].Name == "lm_head.weight" {
					e[i] = safetensors.Float32(e[i].Name, []int{32, 64}, make([]float32, 2048))
				}
			}
			return e
		},
	} {
		d := loaded(t, "mixtral", vk.F32)
		var entries []safetensors.Entry
		for _, n := range d.Tensors() {
			entries = append(entries, TensorEntry(context.Background(), n))
		}
		dir := t.TempDir()
		require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), change(entries), nil))
		config, err := os.ReadFile(filepath.Join(golden, "mixtral", ConfigFile))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o644))
		c, err := Open(dir)
		require.NoError(t, err)
		_, err = LoadDecoder(t.Context(), dev, c, vk.F32, 0)
		var tensor *TensorError
		require.ErrorAs(t, err, &tensor)
		require.Equal(t, fault, tensor.Fault)
		require.NoError(t, c.Close())
		require.ErrorAs(t, d.Load(t.Context(), dir), &tensor)
		require.Equal(t, fault, tensor.Fault)
	}
}

// TestCheckpointsInOtherDTypes saves in 16 bits and loads that as it is and as another type.
func TestCheckpointsInOtherDTypes(t *testing.T) {
	for _, dtype := range gputest.Storages {
		d := loaded(t, "qwen2moe", dtype)
		dir := t.TempDir()
		require.NoError(t, d.Save(t.Context(), dir))
		c, err := Open(dir)
		require.NoError(t, err)
		stored, ok := c.DType()
		require.True(t, ok)
		require.Equal(t, dtype, stored)
		for _, as := range []vk.DType{stored, vk.F32} {
			again, err := LoadDecoder(t.Context(), dev, c, as, 16)
			require.NoError(t, err)
			for i, n := range again.Tensors() {
				want := gputest.Download[float32](t, d.Tensors()[i].Parts[0])
				require.Equal(t, want, gputest.Download[float32](t, n.Parts[0]), n.Name)
			}
			require.NoError(t, again.Close())
		}
		require.NoError(t, c.Close())
	}
}

func TestMemoryErrorMatchesOutOfMemory(t *testing.T) {
	err := error(&MemoryError{Weights: 8 << 30, Budget: 1 << 30})
	require.True(t, errors.Is(err, vk.ErrOutOfMemory))
	require.ErrorContains(t, err, "8192 MiB")
}

// TestWeightBytesAreWhatTheDeviceCounts holds the estimate against the allocator.
func TestWeightBytesAreWhatTheDeviceCounts(t *testing.T) {
	gputest.Need(t, dev)
	for _, name := range []string{"mixtral", "jetmoe", "qwen2moe", "gptoss", "deepseekv3"} {
		for _, dtype := range gputest.Storages {
			cfg, err := ReadConfig(filepath.Join(golden, name))
			require.NoError(t, err)
			c, err := cfg.Decoder(dtype)
			require.NoError(t, err)
			c.Positions = 1
			want, err := c.WeightBytes()
			require.NoError(t, err)
			before := dev.Memory().LiveBytes
			d, err := NewDecoder(t.Context(), dev, c)
			require.NoError(t, err)
			got := dev.Memory().LiveBytes - before - 256*uint64(len(d.ropes)) // their tables of one position
			require.NoError(t, d.Close())
			require.Equal(t, want, got, "%s %v", name, dtype)
		}
	}
}

func TestDecoderConfigRefusals(t *testing.T) {
	good := DecoderConfig{Type: "jetmoe", Vocabulary: 4, Width: 4, Positions: 8, Layers: []LayerConfig{{
		SelfAttention: &attention.SelfAttentionConfig{Heads: 1, KVHeads: 1, HeadWidth: 4, Causal: true},
		Dense:         &DenseConfig{Hidden: 3, Activation: moe.SwiGLU},
	}}}
	_, err := good.WeightBytes()
	require.NoError(t, err)
	for name, change := range map[string]func(*DecoderConfig){
		"no vocabulary": func(c *DecoderConfig) { c.Vocabulary = 0 },
		"no width":      func(c *DecoderConfig) { c.Width = 0 },
		"no layers":     func(c *DecoderConfig) { c.Layers = nil },
		"an int dtype":  func(c *DecoderConfig) { c.DType = vk.I32 },
		"a NaN scale":   func(c *DecoderConfig) { c.LogitScale = float32(math.NaN()) },
		"no positions":  func(c *DecoderConfig) { c.Positions = 0 },
		"unknown names": func(c *DecoderConfig) { c.Type = "llama" },
		"two MLPs": func(c *DecoderConfig) {
			c.Layers[0].MLP = &moe.MLPConfig{Experts: 2, TopK: 1, Hidden: 3, Activation: moe.SwiGLU}
		},
		"no attention":   func(c *DecoderConfig) { c.Layers[0].SelfAttention = nil },
		"an ungated MLP": func(c *DecoderConfig) { c.Layers[0].Dense = &DenseConfig{Hidden: 3, Activation: moe.ReLU} },
		"heads of no width": func(c *DecoderConfig) {
			c.Layers[0].SelfAttention = &attention.SelfAttentionConfig{Heads: 1, KVHeads: 1}
		},
	} {
		c := good
		c.Layers = slices.Clone(good.Layers)
		change(&c)
		_, err := c.WeightBytes()
		require.Error(t, err, name)
	}
}

// TestInitializedDecodersAreRepeatable also looks at the first loss, which is about ln V.
func TestInitializedDecodersAreRepeatable(t *testing.T) {
	d := loaded(t, "jetmoe", vk.F32)
	require.NoError(t, d.Initialize(t.Context(), 7, 0.02))
	first, _ := lossRun(t, d, LossPass{NoGrads: true}, 1)
	require.InDelta(t, math.Log(64), first, 0.2)
	require.NoError(t, d.Initialize(t.Context(), 8, 0.02))
	other, _ := lossRun(t, d, LossPass{NoGrads: true}, 1)
	require.NotEqual(t, first, other)
	require.NoError(t, d.Initialize(t.Context(), 7, 0.02))
	again, _ := lossRun(t, d, LossPass{NoGrads: true}, 1)
	require.Equal(t, first, again)
	for _, n := range d.Tensors() {
		if n.Name == "model.norm.weight" {
			require.Equal(t, slices.Repeat([]float32{1}, 32), gputest.Download[float32](t, n.Parts[0]))
		}
		if n.Name == "model.layers.0.mlp.output_linear.weight" {
			values := gputest.Download[float32](t, n.Parts[0])
			require.InEpsilon(t, 0.02/2*math.Sqrt(float64(len(values))), ref.GlobalNorm([][]float32{values}, 1), 0.05)
		}
	}
}
