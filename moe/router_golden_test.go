package moe

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/vk"
)

// TestRouterOfDeepSeekV3 routes the recorded tokens of the DeepSeek-V3 model in tests/testdata/golden, whose block the
// oracle reproduces, with its own correction bias and groups.
func TestRouterOfDeepSeekV3(t *testing.T) {
	const prefix, tokens, experts, width = "model.layers.1.mlp.", 48, 16, 32
	dir := filepath.Join("..", "tests", "testdata", "golden", "deepseekv3")
	weights, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	defer weights.Close()
	expected, err := safetensors.Open(filepath.Join(dir, "expected.safetensors"))
	require.NoError(t, err)
	defer expected.Close()
	x, err := expected.Float32s(prefix + "input")
	require.NoError(t, err)
	router, bias := make([]float32, experts*width), make([]float32, experts)
	require.NoError(t, weights.ReadFloat32(prefix+"gate.weight", router))
	require.NoError(t, weights.ReadFloat32(prefix+"gate.e_score_correction_bias", bias))

	k := newKit(t)
	cfg := RouterConfig{TopK: 4, Mode: SigmoidTopKNorm, Scale: 2.5, CorrectionBias: k.F32("bias", bias, experts), Groups: 4, TopGroups: 2}
	layer, err := NewParallelLinear(dev, ParallelLinearConfig{Experts: 1, In: width, Out: experts})
	require.NoError(t, err)
	k.OnClose(layer.Close)
	require.NoError(t, UploadBank(k.Ctx, layer.Weight, router))
	logits := k.Output("logits", vk.F32, tokens, experts)
	require.NoError(t, layer.Dense(k.Rec, k.F32("x", x, tokens, width), logits))
	r, err := Route(k.Rec, logits, cfg)
	require.NoError(t, err)
	k.Run()

	oracle := oracleRouter(cfg, experts, bias)
	exact := ref.DenseLinear(ref.Linear[float32]{Experts: 1, In: width, Out: experts, Weight: router}, x, tokens).Y
	ids := gputest.Download[int32](t, r.IDs)
	require.Equal(t, ref.Select(oracle, exact, tokens), ids)
	diff := ref.RelativeFrobenius(gputest.Download[float32](t, r.Gates), ref.RouterGates(oracle, exact, ids, tokens))
	t.Logf("relative Frobenius error of the gates %.2g", diff)
	require.True(t, diff <= 1e-6, "%v", diff)
}
