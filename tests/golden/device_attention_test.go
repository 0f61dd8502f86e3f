package golden

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A gradRun downloads the gradients of a layer under the names that checkpoints give its parameters.
type gradRun struct {
	t     *testing.T
	grads map[string][]float32
}

func (r gradRun) bank(name string, b *moe.ExpertBank) {
	if b != nil {
		values, err := moe.DownloadBank[float32](r.t.Context(), b)
		require.NoError(r.t, err)
		r.grads[name] = values
	}
}

func (r gradRun) linear(name string, g moe.WeightGrads) {
	r.bank(name+".weight", g.Weight)
	r.bank(name+".bias", g.Bias)
}

func (r gradRun) vector(name string, v *vk.Tensor) {
	if v != nil {
		values, err := vk.Download[float32](r.t.Context(), v)
		require.NoError(r.t, err)
		r.grads[name] = values
	}
}

// deviceGrads runs a layer forward and backward on x and dOut [T,D] and returns the gradients of x and of the parameters.
func deviceGrads(t *testing.T, d Device, w *model.AttentionWeights, x, dOut []float32, offsets []int32) (dX []float32, grads map[string][]float32) {
	t.Helper()
	run, err := d.newAttention(t.Context(), w, vk.F32, x, offsets)
	require.NoError(t, err)
	defer func() { require.NoError(t, run.close()) }()
	tensor := func() *vk.Tensor {
		v, err := d.NewTensor(vk.F32, run.x.Shape()...)
		require.NoError(t, err)
		return v
	}
	dy, dx := tensor(), tensor()
	defer func() { require.NoError(t, errors.Join(dy.Close(), dx.Close())) }()
	require.NoError(t, vk.Upload(t.Context(), dy, dOut))
	rec, err := d.NewRecorder()
	require.NoError(t, err)
	defer func() { require.NoError(t, rec.Close()) }()
	saved, err := run.forward(rec)
	require.NoError(t, err)
	g := gradRun{t, map[string][]float32{}}
	switch l := run.layer; {
	case l.SelfAttention != nil:
		g.selfAttention(rec, l.SelfAttention, saved.self, run.x, dy, dx)
	case l.MLA != nil:
		g.mla(rec, l.MLA, saved.mla, run.x, dy, dx)
	default:
		g.mixture(rec, l.Mixture, saved.mixture, run.x, dy, dx)
	}
	g.vector("", dx)
	dX = g.grads[""]
	delete(g.grads, "")
	return dX, g.grads
}

func (r gradRun) selfAttention(rec *vk.Recorder, l *attention.SelfAttention, saved *attention.SelfAttentionSaved, x, dy, dx *vk.Tensor) {
	g, err := l.NewGrads()
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, g.Close()) }()
	g.X = dx
	require.NoError(r.t, l.Backward(rec, saved, x, dy, *g))
	require.NoError(r.t, rec.Run(r.t.Context()))
	r.linear("q_proj", g.Query)
	r.linear("k_proj", g.Key)
	r.linear("v_proj", g.Value)
	r.linear("o_proj", g.Output)
	r.vector("q_norm.weight", g.QueryNorm)
	r.vector("k_norm.weight", g.KeyNorm)
	r.vector("sinks", g.Sinks)
}

func (r gradRun) mla(rec *vk.Recorder, l *attention.MLA, saved *attention.MLASaved, x, dy, dx *vk.Tensor) {
	g, err := l.NewGrads()
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, g.Close()) }()
	g.X = dx
	require.NoError(r.t, l.Backward(rec, saved, x, dy, *g))
	require.NoError(r.t, rec.Run(r.t.Context()))
	query := "q_proj"
	if l.Config.QueryRank > 0 {
		query = "q_b_proj"
	}
	r.linear(query, g.QueryUp)
	r.linear("q_a_proj", g.QueryDown)
	r.vector("q_a_layernorm.weight", g.QueryNorm)
	r.linear("kv_a_proj_with_mqa", g.KVDown)
	r.vector("kv_a_layernorm.weight", g.KVNorm)
	r.linear("kv_b_proj", g.KVUp)
	r.linear("o_proj", g.Output)
}

func (r gradRun) mixture(rec *vk.Recorder, l *attention.Mixture, saved *attention.MixtureSaved, x, dy, dx *vk.Tensor) {
	g, err := l.NewGrads()
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, g.Close()) }()
	g.X = dx
	require.NoError(r.t, l.Backward(rec, saved, x, dy, *g))
	require.NoError(r.t, rec.Run(r.t.Context()))
	r.linear("experts.router.layer", g.Router)
	r.linear("experts.input_linear", g.Query)
	r.linear("experts.output_linear", g.Output)
	r.linear("kv_proj", g.KeyValue)
	r.bank("experts.bias", g.OutputBias)
	r.vector("sinks", g.Sinks)
}

// TestDeviceReproducesTheRecordedAttentionGradients runs every attention of the recorded models forward and backward from the
// input and the output's gradient that the oracle's whole model gives, and finds the recorded gradients of its parameters.
func TestDeviceReproducesTheRecordedAttentionGradients(t *testing.T) {
	opts := openDevice(t)
	runner, _, err := opts.Open()
	require.NoError(t, err)
	for _, name := range recorded {
		m := openWhole(t, name)
		res := ref.RunDecoder(m.Decoder, m.ids)
		checkpoint, err := model.Open(filepath.Join(dataDir, name))
		require.NoError(t, err)
		compared := 0
		for layer, r := range res.Layers {
			w, err := checkpoint.LoadAttention(layer)
			require.NoError(t, err)
			dX, grads := deviceGrads(t, runner.(Device), w, narrow(r.MixIn), narrow(r.DMixOut), m.Offsets)
			o, err := OracleAttention(w, m.Offsets)
			require.NoError(t, err)
			want, _ := o.Backward(r.MixIn, r.DMixOut)
			worst := ref.RelativeFrobenius(dX, want)
			require.True(t, worst <= 1e-5, "%s layer %d dX: %g", name, layer, worst)
			for parameter, got := range grads {
				want, err := m.expectedGrads.Float32s(attentionPrefix(checkpoint, layer) + parameter)
				require.NoError(t, err)
				diff := ref.RelativeFrobenius(got, ref.Widen(want))
				require.True(t, diff <= 1e-5, "%s layer %d %s: %g", name, layer, parameter, diff)
				worst = max(worst, diff)
				compared++
			}
			t.Logf("%s layer %d: %d gradients, the worst off by %.2g", name, layer, len(grads), worst)
		}
		recordedHere := 0
		for _, info := range m.expectedGrads.Tensors() {
			if strings.Contains(info.Name, "attn.") || strings.Contains(info.Name, "attention.") {
				recordedHere++
			}
		}
		require.Equal(t, recordedHere, compared, name)
		require.NoError(t, checkpoint.Close())
	}
}

// TestEveryAttentionWeightMatters zeroes one array at a time and asks that the judge sees it, so that a pass says that all
// were used.
func TestEveryAttentionWeightMatters(t *testing.T) {
	opts := openDevice(t)
	runner, _, err := opts.Open()
	require.NoError(t, err)
	for _, name := range []string{"gptoss", "olmoe", "jetmoe", "deepseekv3"} {
		c, err := openCase(filepath.Join(dataDir, name))
		require.NoError(t, err)
		b, err := c.block(1, attentionModules)
		require.NoError(t, err)
		w, err := c.checkpoint.LoadAttention(1)
		require.NoError(t, err)
		for what, array := range attentionArrays(w) {
			if *array == nil {
				continue
			}
			kept := *array
			*array = make([]float32, len(kept))
			got, ids, err := runner.(Device).RunAttention(t.Context(), w, vk.F32, b.in, b.offsets)
			require.NoError(t, err)
			*array = kept
			require.False(t, judgeAttention(w, vk.F32, b, got, ids).Pass, "%s without %s", name, what)
		}
		c.close()
	}
}

// attentionArrays names the arrays of weights.
func attentionArrays(w *model.AttentionWeights) map[string]*[]float32 {
	return map[string]*[]float32{
		"Query": &w.Query, "Key": &w.Key, "Value": &w.Value, "Output": &w.Output, "QueryBias": &w.QueryBias, "KeyBias": &w.KeyBias, "ValueBias": &w.ValueBias,
		"OutputBias": &w.OutputBias, "QueryNorm": &w.QueryNorm, "KeyNorm": &w.KeyNorm, "Sinks": &w.Sinks, "QueryDown": &w.QueryDown,
		"QueryUp": &w.QueryUp, "KVDown": &w.KVDown, "KVNorm": &w.KVNorm, "KVUp": &w.KVUp, "RouterWeight": &w.RouterWeight, "KeyValue": &w.KeyValue,
	}
}
