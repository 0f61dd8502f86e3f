package attention

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlaCase is a layer and the batch that it is tested with.
type mlaCase struct {
	name    string
	cfg     MLAConfig
	rope    RoPEConfig
	lengths []int
}

var mlaCases = []mlaCase{
	{"deepseek-v3", MLAConfig{Width: 32, Heads: 4, QueryRank: 24, KVRank: 32, PlainWidth: 16, TurnedWidth: 8, ValueWidth: 16, Eps: 1e-6,
		Causal: true}, RoPEConfig{Width: 8, Interleaved: true}, []int{17, 1, 40}},
	{"yarn", MLAConfig{Width: 20, Heads: 3, QueryRank: 8, KVRank: 12, PlainWidth: 10, TurnedWidth: 6, ValueWidth: 5, Eps: 1e-6,
		Causal: true, Bias: true, Window: 9}, RoPEConfig{Width: 6, Interleaved: true, Scaling: ScaleYaRN, Factor: 40,
		OriginalPositions: 4096, MScale: 1, MScaleAllDim: 1}, []int{30, 0, 3}},
	{"one query", MLAConfig{Width: 16, Heads: 2, KVRank: 9, PlainWidth: 7, TurnedWidth: 4, ValueWidth: 11, Eps: 1e-5, Causal: true},
		RoPEConfig{Width: 4}, []int{65}},
	{"no rows", MLAConfig{Width: 8, Heads: 2, QueryRank: 4, KVRank: 4, PlainWidth: 4, TurnedWidth: 4, ValueWidth: 4, Causal: true},
		RoPEConfig{Width: 4}, []int{0}},
}

// An mlaTest is a layer with random weights and the oracle's twin.
type mlaTest struct {
	mlaCase
	layer  *MLA
	oracle ref.MLA[float32]
	x, dy  []float32
	tokens int
}

// newMLATest makes a layer that the test closes.
func newMLATest(t testing.TB, c mlaCase, dtype vk.DType) *mlaTest {
	t.Helper()
	c.cfg.DType = dtype
	r := rand.New(rand.NewSource(int64(len(c.name))))
	m := &mlaTest{mlaCase: c}
	rope := newRoPE(t, c.rope, 100)
	var err error
	m.layer, err = NewMLA(dev, c.cfg, rope)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.layer.Close()) })
	o := &m.oracle
	if c.cfg.QueryRank > 0 {
		down := randomLinear(t, r, m.layer.QueryDown)
		o.QueryDown, o.QueryNorm = &down, randomVector(t, r, m.layer.QueryNorm)
	}
	o.QueryUp, o.KVDown = randomLinear(t, r, m.layer.QueryUp), randomLinear(t, r, m.layer.KVDown)
	o.KVUp, o.Output = randomLinear(t, r, m.layer.KVUp), randomLinear(t, r, m.layer.Output)
	o.KVNorm, o.Epsilon = randomVector(t, r, m.layer.KVNorm), float64(c.cfg.Eps)
	o.RoPE = c.rope.oracle(c.cfg.PlainWidth)
	o.Attention = ref.Attention{Heads: c.cfg.Heads, KVHeads: c.cfg.Heads, Width: c.cfg.headWidth(), ValueWidth: c.cfg.ValueWidth,
		Causal: c.cfg.Causal, Window: c.cfg.Window, Scale: float64(c.cfg.flash(rope).Scale), QueryOffsets: offsetsOf(c.lengths)}
	for _, n := range c.lengths {
		m.tokens += n
	}
	m.x, m.dy = vk.Round(dtype, gputest.Normal(r, m.tokens*c.cfg.Width)), vk.Round(dtype, gputest.Normal(r, m.tokens*c.cfg.Width))
	return m
}

// matrix makes a banded input of the layer's rows.
func (m *mlaTest) matrix(k *kit, name string, data []float32) *vk.Tensor {
	return k.Floats(name, m.layer.Config.DType, data, m.tokens, m.cfg.Width)
}

func (m *mlaTest) sequences(k *kit) Sequences {
	return Sequences{Offsets: k.I32("offsets", m.oracle.Attention.QueryOffsets, len(m.lengths)+1)}
}

func TestMLAMatchesTheOracle(t *testing.T) {
	for _, c := range mlaCases {
		for _, dtype := range gputest.Storages {
			for _, save := range []moe.Save{moe.SaveAll, moe.SaveNothing} {
				if save != moe.SaveAll && dtype != vk.F32 {
					continue
				}
				t.Run(fmt.Sprintf("%s %v save %d", c.name, dtype, save), func(t *testing.T) {
					m := newMLATest(t, c, dtype)
					k := newKit(t)
					y := k.Output("y", dtype, m.tokens, c.cfg.Width)
					saved, err := m.layer.ForwardWith(k.Rec, m.matrix(k, "x", m.x), y, m.sequences(k), MLAOptions{Save: save})
					require.NoError(t, err)
					k.Run()
					want := ref.MLAForward(m.oracle, m.x)
					requireNear(t, gputest.Download[float32](t, y), want.Out.Y, layerTolerance(dtype, 4), "y")
					require.Equal(t, save != moe.SaveNothing, saved.Heads != nil)
				})
			}
		}
	}
}

func TestMLAGradientsMatchTheOracle(t *testing.T) {
	for i, c := range mlaCases {
		for _, dtype := range gputest.Storages {
			for _, save := range []moe.Save{moe.SaveAll, moe.RecomputeActivation} {
				if dtype != vk.F32 && (save != moe.SaveAll || !sixteenBits[c.name]) {
					continue
				}
				accumulate := (i+int(save))%2 == 0
				t.Run(fmt.Sprintf("%s %v save %d accumulate %v", c.name, dtype, save, accumulate), func(t *testing.T) {
					newMLATest(t, c, dtype).requireGradients(t, save, accumulate)
				})
			}
		}
	}
}

// requireGradients records both passes and compares every gradient with the oracle's, added to ones where accumulate says so.
func (m *mlaTest) requireGradients(t *testing.T, save moe.Save, accumulate bool) {
	dtype := m.layer.Config.DType
	k := newKit(t)
	x, y := m.matrix(k, "x", m.x), k.Output("y", dtype, m.tokens, m.cfg.Width)
	g, err := m.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	fill := 0.0
	if accumulate {
		fill = 1
		fillGrads(t, m.layer.gradParts(g), m.layer.gradVectors(g))
	}
	g.AccumulateWeights = accumulate
	g.X = k.Output("dx", dtype, m.tokens, m.cfg.Width)
	saved, err := m.layer.ForwardWith(k.Rec, x, y, m.sequences(k), MLAOptions{Save: save})
	require.NoError(t, err)
	require.NoError(t, m.layer.Backward(k.Rec, saved, x, m.matrix(k, "dy", m.dy), *g))
	k.Run()
	want := ref.MLABackward(m.oracle, m.x, ref.MLAForward(m.oracle, m.x), m.dy)
	requireLayerGradients(t, layerGradients{g.X, m.layer.gradParts(g), m.layer.gradVectors(g)}, fill, want.X,
		[]ref.LinearGrads{want.QueryDown, want.QueryUp, want.KVDown, want.KVUp, want.Output}, [][]float64{want.QueryNorm, want.KVNorm})
}
