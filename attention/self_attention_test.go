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

// selfCase is a layer and the batch that it is tested with.
type selfCase struct {
	name    string
	cfg     SelfAttentionConfig
	rope    *RoPEConfig
	lengths []int
}

var selfCases = []selfCase{
	{"mixtral", SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 2, HeadWidth: 16, Causal: true}, &RoPEConfig{Width: 16, Base: 1e6},
		[]int{17, 1, 63}},
	{"qwen2", SelfAttentionConfig{Width: 24, Heads: 3, KVHeads: 3, HeadWidth: 8, Causal: true, Bias: true}, &RoPEConfig{Width: 8}, []int{5, 64, 2}},
	{"qwen3", SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 1, HeadWidth: 20, Causal: true, QKNorm: NormHead, Eps: 1e-6},
		&RoPEConfig{Width: 12}, []int{65, 3}},
	{"olmoe", SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 2, HeadWidth: 8, Causal: true, QKNorm: NormRow, Eps: 1e-5}, &RoPEConfig{Width: 8},
		[]int{9, 0, 31}},
	{"gpt-oss", SelfAttentionConfig{Width: 32, Heads: 8, KVHeads: 2, HeadWidth: 16, Causal: true, Bias: true, OutputBias: true, Sinks: true,
		Window: 8}, &RoPEConfig{Width: 16, Base: 150000, Scaling: ScaleYaRN, Factor: 32, OriginalPositions: 4096, NoTruncate: true},
		[]int{30, 7, 1}},
	{"encoder", SelfAttentionConfig{Width: 15, Heads: 3, KVHeads: 1, HeadWidth: 7, SoftCap: 3, Scale: 0.5}, nil, []int{4, 11}},
	{"interleaved", SelfAttentionConfig{Width: 9, Heads: 2, KVHeads: 2, HeadWidth: 6, Causal: true, QKNorm: NormHead},
		&RoPEConfig{Width: 6, Interleaved: true}, []int{8}},
	{"no rows", SelfAttentionConfig{Width: 8, Heads: 2, KVHeads: 1, HeadWidth: 4, Causal: true, QKNorm: NormRow, Sinks: true, Bias: true},
		&RoPEConfig{Width: 4}, []int{0, 0}},
}

// A selfTest is a layer with random weights and the oracle's twin.
type selfTest struct {
	selfCase
	layer  *SelfAttention
	oracle ref.SelfAttention[float32]
	x, dy  []float32
	tokens int
}

// newSelfTest makes a layer that the test closes.
func newSelfTest(t testing.TB, c selfCase, dtype vk.DType) *selfTest {
	t.Helper()
	gputest.Need(t, dev)
	c.cfg.DType = dtype
	r := rand.New(rand.NewSource(int64(len(c.name))))
	s := &selfTest{selfCase: c}
	var rope *RoPE
	if c.rope != nil {
		rope = newRoPE(t, *c.rope, 100)
		s.oracle.RoPE = c.rope.oracle(0)
	} else {
		s.oracle.RoPE = ref.RoPE{Base: 1}
	}
	var err error
	s.layer, err = NewSelfAttention(dev, c.cfg, rope)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.layer.Close()) })
	for i, linear := range []*ref.Linear[float32]{&s.oracle.Query, &s.oracle.Key, &s.oracle.Value, &s.oracle.Output} {
		*linear = randomLinear(t, r, *s.layer.parts()[i].layer)
	}
	s.oracle.QueryNorm, s.oracle.KeyNorm = randomVector(t, r, s.layer.QueryNorm), randomVector(t, r, s.layer.KeyNorm)
	s.oracle.Epsilon = float64(c.cfg.Eps)
	s.oracle.Attention = ref.Attention{Heads: c.cfg.Heads, KVHeads: c.cfg.KVHeads, Width: c.cfg.HeadWidth, ValueWidth: c.cfg.HeadWidth,
		Causal: c.cfg.Causal, Window: c.cfg.Window, SoftCap: float64(c.cfg.SoftCap), Scale: float64(c.cfg.Scale),
		Sinks: randomVector(t, r, s.layer.Sinks), QueryOffsets: offsetsOf(c.lengths)}
	for _, n := range c.lengths {
		s.tokens += n
	}
	s.x, s.dy = vk.Round(dtype, gputest.Normal(r, s.tokens*c.cfg.Width)), vk.Round(dtype, gputest.Normal(r, s.tokens*c.cfg.Width))
	return s
}

// matrix makes a banded input of the layer's rows.
func (s *selfTest) matrix(k *kit, name string, data []float32) *vk.Tensor {
	return k.Floats(name, s.layer.Config.DType, data, s.tokens, s.cfg.Width)
}

func (s *selfTest) offsets(k *kit) *vk.Tensor {
	return k.I32("offsets", s.oracle.Attention.QueryOffsets, len(s.lengths)+1)
}

func TestSelfAttentionMatchesTheOracle(t *testing.T) {
	for _, c := range selfCases {
		for _, dtype := range gputest.Storages {
			for _, save := range []moe.Save{moe.SaveAll, moe.SaveNothing} {
				if save != moe.SaveAll && dtype != vk.F32 {
					continue
				}
				t.Run(fmt.Sprintf("%s %v save %d", c.name, dtype, save), func(t *testing.T) {
					s := newSelfTest(t, c, dtype)
					k := newKit(t)
					y := k.Output("y", dtype, s.tokens, c.cfg.Width)
					saved, err := s.layer.ForwardWith(k.Rec, s.matrix(k, "x", s.x), y, Sequences{Offsets: s.offsets(k)},
						SelfAttentionOptions{Save: save})
					require.NoError(t, err)
					k.Run()
					want := ref.SelfAttentionForward(s.oracle, s.x)
					requireNear(t, gputest.Download[float32](t, y), want.Out.Y, layerTolerance(dtype, 4), "y")
					require.Equal(t, save != moe.SaveNothing, saved.Heads != nil)
				})
			}
		}
	}
}

// sixteenBits are the cases whose gradients are also taken in 16 bits: kernels are compiled for each, which takes most of the time.
var sixteenBits = map[string]bool{"qwen3": true, "gpt-oss": true, "encoder": true, "yarn": true}

func TestSelfAttentionGradientsMatchTheOracle(t *testing.T) {
	for i, c := range selfCases {
		for _, dtype := range gputest.Storages {
			for _, save := range []moe.Save{moe.SaveAll, moe.RecomputeActivation} {
				if dtype != vk.F32 && (save != moe.SaveAll || !sixteenBits[c.name]) {
					continue
				}
				accumulate := (i+int(save))%2 == 0
				t.Run(fmt.Sprintf("%s %v save %d accumulate %v", c.name, dtype, save, accumulate), func(t *testing.T) {
					s := newSelfTest(t, c, dtype)
					s.requireGradients(t, save, accumulate)
				})
			}
		}
	}
}

// requireGradients records both passes and compares every gradient with the oracle's, added to ones where accumulate says so.
func (s *selfTest) requireGradients(t *testing.T, save moe.Save, accumulate bool) {
	dtype := s.layer.Config.DType
	k := newKit(t)
	x, y := s.matrix(k, "x", s.x), k.Output("y", dtype, s.tokens, s.cfg.Width)
	g, err := s.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	fill := 0.0
	if accumulate {
		fill = 1
		fillGrads(t, s.layer.gradParts(g), s.layer.gradVectors(g))
	}
	g.AccumulateWeights = accumulate
	g.X = k.Output("dx", dtype, s.tokens, s.cfg.Width)
	saved, err := s.layer.ForwardWith(k.Rec, x, y, Sequences{Offsets: s.offsets(k)}, SelfAttentionOptions{Save: save})
	require.NoError(t, err)
	require.NoError(t, s.layer.Backward(k.Rec, saved, x, s.matrix(k, "dy", s.dy), *g))
	k.Run()
	want := ref.SelfAttentionBackward(s.oracle, s.x, ref.SelfAttentionForward(s.oracle, s.x), s.dy)
	requireLayerGradients(t, layerGradients{g.X, s.layer.gradParts(g), s.layer.gradVectors(g)}, fill, want.X,
		[]ref.LinearGrads{want.Query, want.Key, want.Value, want.Output}, [][]float64{want.QueryNorm, want.KeyNorm, want.Sinks})
}
