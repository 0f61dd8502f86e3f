package golden

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
)

// A wholeModel is a recorded model on the oracle.
type wholeModel struct {
	ref.Decoder
	ids   []int32
	grads map[string][]float64 // of the blocks' parameters, once the model has run, under the names of the recorded ones
	all   Gradients            // of all parameters of the blocks, under names that tell them apart

	expected, expectedGrads *safetensors.File
}

// openWhole builds the oracle of a recorded model from its checkpoint.
func openWhole(t *testing.T, name string) *wholeModel {
	t.Helper()
	return openWeights(t, name, filepath.Join(dataDir, name))
}

// openWeights builds the oracle of a recorded model from another checkpoint of it, in dir.
func openWeights(t *testing.T, name, dir string) *wholeModel {
	t.Helper()
	file := func(name string) *safetensors.File {
		f, err := safetensors.Open(name)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, f.Close()) })
		return f
	}
	weights, records := file(filepath.Join(dir, safetensors.SingleFile)), filepath.Join(dataDir, name)
	m := &wholeModel{grads: map[string][]float64{}, all: Gradients{},
		expected: file(filepath.Join(records, expectedFile)), expectedGrads: file(filepath.Join(records, gradsFile))}
	checkpoint, err := model.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, checkpoint.Close()) })

	info, err := m.expected.Info("input_ids")
	require.NoError(t, err)
	m.ids, err = m.expected.Int32s("input_ids")
	require.NoError(t, err)
	for b := range info.Shape[0] + 1 {
		m.Offsets = append(m.Offsets, int32(b*info.Shape[1]))
	}
	weight := func(name string) []float64 {
		data, err := weights.Float32s(name)
		require.NoError(t, err)
		return ref.Widen(data)
	}
	var scales struct {
		Epsilon   float64  `json:"rms_norm_eps"`
		Embedding *float64 `json:"embedding_multiplier"`
		Residual  *float64 `json:"residual_multiplier"`
		Logits    *float64 `json:"logits_scaling"`
		Tied      bool     `json:"tie_word_embeddings"`
	}
	text, err := os.ReadFile(filepath.Join(dir, model.ConfigFile))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &scales))
	for from, to := range map[*float64]*float64{scales.Embedding: &m.EmbeddingScale, scales.Residual: &m.ResidualScale, scales.Logits: &m.LogitScale} {
		if from != nil {
			*to = *from
		}
	}
	m.Width, m.Epsilon = checkpoint.Config.Width, scales.Epsilon
	m.Embedding, m.Norm = weight("model.embed_tokens.weight"), weight("model.norm.weight")
	if !scales.Tied {
		m.Head = weight("lm_head.weight")
	}
	for l := range checkpoint.Config.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", l)
		m.Layers = append(m.Layers, ref.DecoderLayer{
			MixNorm: weight(prefix + "input_layernorm.weight"), MLPNorm: weight(prefix + "post_attention_layernorm.weight"),
			Mix: m.attention(t, checkpoint, l), MLP: m.mlp(t, checkpoint, l),
		})
	}
	return m
}

// attention is a layer's attention, which notes its parameters' gradients.
func (m *wholeModel) attention(t *testing.T, c *model.Checkpoint, layer int) ref.DecoderBlock {
	w, err := c.LoadAttention(layer)
	require.NoError(t, err)
	o, err := OracleAttention(w, m.Offsets)
	require.NoError(t, err)
	return func(x []float64) ([]float64, func([]float64) []float64) {
		out, _ := o.Forward(x)
		return out, func(dOut []float64) []float64 {
			dX, grads := o.Backward(x, dOut)
			for name, g := range grads {
				m.grads[attentionPrefix(c, layer)+name] = g.Grad
				m.all[attentionPrefix(c, layer)+name] = g
			}
			return dX
		}
	}
}

func attentionPrefix(c *model.Checkpoint, layer int) string {
	module := "self_attn"
	if c.Config.Type == "jetmoe" {
		module = "self_attention"
	}
	return fmt.Sprintf("model.layers.%d.%s.", layer, module)
}

// mlp is a layer's MLP, which notes the gradient of its router.
func (m *wholeModel) mlp(t *testing.T, c *model.Checkpoint, layer int) ref.DecoderBlock {
	w, err := c.LoadMLP(layer)
	require.NoError(t, err)
	o, err := Oracle(w)
	require.NoError(t, err)
	routers := map[string]string{"granitemoe": "block_sparse_moe.router.weight", "jetmoe": "mlp.router.layer.weight", "gpt_oss": "mlp.router.weight"}
	router, ok := routers[c.Config.Type]
	if !ok {
		router = "mlp.gate.weight"
	}
	return func(x []float64) ([]float64, func([]float64) []float64) {
		res := ref.Forward(o, x, len(m.ids))
		return res.Out.Y, func(dOut []float64) []float64 {
			g := ref.MLPBackward(o, x, res, dOut)
			prefix := fmt.Sprintf("model.layers.%d.", layer)
			if !c.Config.Dense(layer) {
				m.grads[prefix+router] = g.Router.Weight.Y
				m.all.linear(prefix+"mlp.router", o.Router, g.Router)
			}
			m.all.linear(prefix+"mlp.up", o.Up, g.Up)
			m.all.linear(prefix+"mlp.down", o.Down, g.Down)
			m.all.vector(prefix+"mlp.output.bias", o.OutputBias, g.OutputBias)
			if o.Shared != nil {
				m.all.linear(prefix+"mlp.shared_up", o.Shared.Up, g.Shared.Up)
				m.all.linear(prefix+"mlp.shared_down", o.Shared.Down, g.Shared.Down)
				if o.Shared.Gate != nil {
					m.all.linear(prefix+"mlp.shared_gate", *o.Shared.Gate, g.Shared.Gate)
				}
			}
			return g.X
		}
	}
}

// A plainGradient is that of a parameter outside the blocks.
type plainGradient struct{ value, grad []float64 }

// plain are the gradients of the parameters outside the blocks.
func (m *wholeModel) plain(res ref.DecoderResult) map[string]plainGradient {
	all := map[string]plainGradient{"model.embed_tokens.weight": {m.Embedding, res.Embedding}, "model.norm.weight": {m.Norm, res.Norm}}
	if m.Head != nil {
		all["lm_head.weight"] = plainGradient{m.Head, res.Head}
	}
	for l, r := range res.Layers {
		prefix, layer := fmt.Sprintf("model.layers.%d.", l), m.Layers[l]
		all[prefix+"input_layernorm.weight"] = plainGradient{layer.MixNorm, r.DMixNorm}
		all[prefix+"post_attention_layernorm.weight"] = plainGradient{layer.MLPNorm, r.DMLPNorm}
	}
	return all
}

// TestOracleReproducesWholeModels runs the recorded models from tokens to loss and back, in float64 from the oracles of the
// blocks, and finds the recorded logits, loss, and gradients of attention, routers, norms, embedding and head.
func TestOracleReproducesWholeModels(t *testing.T) {
	for _, name := range recorded {
		t.Run(name, func(t *testing.T) {
			m := openWhole(t, name)
			res := ref.RunDecoder(m.Decoder, m.ids)
			want, err := m.expected.Float32s("logits")
			require.NoError(t, err)
			require.True(t, ref.RelativeFrobenius(res.Logits, ref.Widen(want)) <= 1e-6)
			loss, err := m.expected.Float32s("loss")
			require.NoError(t, err)
			require.InDelta(t, float64(loss[0]), res.Loss, 1e-6)

			for name, p := range m.plain(res) {
				m.grads[name] = p.grad
			}
			worst := 0.0
			for name, got := range m.grads {
				want, err := m.expectedGrads.Float32s(name)
				require.NoError(t, err)
				diff := ref.RelativeFrobenius(got, ref.Widen(want))
				require.True(t, diff <= 1e-5, "%s: %g", name, diff)
				worst = max(worst, diff)
			}
			t.Logf("%d gradients, the worst off by %.2g", len(m.grads), worst)
			for _, info := range m.expectedGrads.Tensors() {
				if strings.Contains(info.Name, "attn.") || strings.Contains(info.Name, "attention.") {
					require.Contains(t, m.grads, info.Name, "every gradient of an attention is compared")
				}
			}
		})
	}
}
