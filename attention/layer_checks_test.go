package attention

import (
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// TestLayersGiveTheSameBits runs both passes of both layers 20 times.
func TestLayersGiveTheSameBits(t *testing.T) {
	self := newSelfTest(t, selfCases[2], vk.BF16)
	latent := newMLATest(t, mlaCases[1], vk.F16)
	k := newKit(t)
	var outs []*vk.Tensor
	keep := func(t *vk.Tensor) *vk.Tensor { outs = append(outs, t); return t }
	banks := func(parts []gradPart, vectors []gradVector) {
		for _, p := range parts {
			for _, b := range []*moe.ExpertBank{p.grads.Weight, p.grads.Bias} {
				if b != nil {
					keep(b.Parts()[0])
				}
			}
		}
		for _, v := range vectors {
			if *v.grad != nil {
				keep(*v.grad)
			}
		}
	}

	x, y := self.matrix(k, "x", self.x), keep(k.Output("y", vk.BF16, self.tokens, self.cfg.Width))
	g, err := self.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, g.Close()) }()
	g.X = keep(k.Output("dx", vk.BF16, self.tokens, self.cfg.Width))
	banks(self.layer.gradParts(g), self.layer.gradVectors(g))
	saved, err := self.layer.Forward(k.Rec, x, y, Sequences{Offsets: self.offsets(k)})
	require.NoError(t, err)
	require.NoError(t, self.layer.Backward(k.Rec, saved, x, self.matrix(k, "dy", self.dy), *g))

	x, y = latent.matrix(k, "x", latent.x), keep(k.Output("y", vk.F16, latent.tokens, latent.cfg.Width))
	l, err := latent.layer.NewGrads()
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	l.X = keep(k.Output("dx", vk.F16, latent.tokens, latent.cfg.Width))
	banks(latent.layer.gradParts(l), latent.layer.gradVectors(l))
	kept, err := latent.layer.Forward(k.Rec, x, y, latent.sequences(k))
	require.NoError(t, err)
	require.NoError(t, latent.layer.Backward(k.Rec, kept, x, latent.matrix(k, "dy", latent.dy), *l))

	k.RunAlike(outs...)
}

// TestLayersIgnorePadding runs layers on batches with rows of no sequence behind the sequences' and asks for what they give
// without these rows, in memory that held NaN before.
func TestLayersIgnorePadding(t *testing.T) {
	t.Run("self-attention", func(t *testing.T) {
		c := selfCases[2]
		c.lengths = []int{6, 5}
		s := newSelfTest(t, c, vk.F32)
		run := func(pad bool) (y, dx []float32, weights [][]float32) {
			k := newKit(t)
			p := newPadding(s.x, s.dy, c.cfg.Width, c.lengths, pad)
			p.dirty(k, c.cfg.queryWidth(), c.cfg.keyWidth())
			x, out := k.F32("x", p.x, p.tokens, c.cfg.Width), k.Output("y", vk.F32, p.tokens, c.cfg.Width)
			g, err := s.layer.NewGrads()
			require.NoError(t, err)
			defer func() { require.NoError(t, g.Close()) }()
			g.X = k.Output("dx", vk.F32, p.tokens, c.cfg.Width)
			saved, err := s.layer.Forward(k.Rec, x, out, p.sequences(k))
			require.NoError(t, err)
			require.NoError(t, s.layer.Backward(k.Rec, saved, x, k.F32("dy", p.dy, p.tokens, c.cfg.Width), *g))
			k.Run()
			for _, part := range s.layer.gradParts(g) {
				weights = append(weights, bankValues(t, part.grads.Weight))
			}
			return p.rows(gputest.Download[float32](t, out)), p.rows(gputest.Download[float32](t, g.X)), append(weights, gputest.Download[float32](t, g.QueryNorm), gputest.Download[float32](t, g.KeyNorm))
		}
		requireSamePass(t, run)
	})
	t.Run("mla", func(t *testing.T) {
		c := mlaCases[0]
		c.lengths = []int{6, 5}
		m := newMLATest(t, c, vk.F32)
		run := func(pad bool) (y, dx []float32, weights [][]float32) {
			k := newKit(t)
			p := newPadding(m.x, m.dy, c.cfg.Width, c.lengths, pad)
			p.dirty(k, c.cfg.Heads*c.cfg.headWidth(), c.cfg.Heads*c.cfg.upWidth(), c.cfg.Heads*c.cfg.ValueWidth)
			x, out := k.F32("x", p.x, p.tokens, c.cfg.Width), k.Output("y", vk.F32, p.tokens, c.cfg.Width)
			g, err := m.layer.NewGrads()
			require.NoError(t, err)
			defer func() { require.NoError(t, g.Close()) }()
			g.X = k.Output("dx", vk.F32, p.tokens, c.cfg.Width)
			saved, err := m.layer.Forward(k.Rec, x, out, p.sequences(k))
			require.NoError(t, err)
			require.NoError(t, m.layer.Backward(k.Rec, saved, x, k.F32("dy", p.dy, p.tokens, c.cfg.Width), *g))
			k.Run()
			for _, part := range m.layer.gradParts(g) {
				weights = append(weights, bankValues(t, part.grads.Weight))
			}
			return p.rows(gputest.Download[float32](t, out)), p.rows(gputest.Download[float32](t, g.X)), append(weights, gputest.Download[float32](t, g.QueryNorm), gputest.Download[float32](t, g.KVNorm))
		}
		requireSamePass(t, run)
	})
}

// requireSamePass compares a pass with padding with one without.
func requireSamePass(t *testing.T, run func(pad bool) (y, dx []float32, weights [][]float32)) {
	t.Helper()
	y, dx, weights := run(false)
	padded, dPadded, dWeights := run(true)
	requireNear(t, padded, widen(y), 1e-6, "y")
	requireNear(t, dPadded, widen(dx), 1e-6, "dx")
	for i := range weights {
		requireNear(t, dWeights[i], widen(weights[i]), 1e-6, "a weight's gradient")
	}
}

// padding is a batch of two sequences with three rows behind them, or without.
type padding struct {
	x, dy         []float32
	offsets       []int32
	tokens, width int
	real          int
}

// newPadding puts rows behind the sequences'. Their x is finite, for its product with a gradient of 0 goes to the weights.
func newPadding(x, dy []float32, width int, lengths []int, pad bool) padding {
	p := padding{x: x, dy: dy, offsets: offsetsOf(lengths), width: width, tokens: len(x) / width, real: len(x) / width}
	if pad {
		r := rand.New(rand.NewSource(9))
		p.x, p.dy = append(append([]float32{}, x...), gputest.Normal(r, 3*width)...), append(append([]float32{}, dy...), make([]float32, 3*width)...)
		p.tokens += 3
	}
	return p
}

// dirty fills memory with NaN that the pass will take for matrices of these widths.
func (p padding) dirty(k *kit, widths ...int) {
	var taken []*vk.Tensor
	for range 8 {
		for _, w := range widths {
			taken = append(taken, k.Rec.Scratch(vk.F32, p.tokens, w))
			k.Rec.Fill(taken[len(taken)-1], gputest.Poison(vk.F32))
		}
	}
	for _, t := range taken {
		k.Rec.Release(t)
	}
}

func (p padding) sequences(k *kit) Sequences {
	return Sequences{Offsets: k.I32("offsets", p.offsets, len(p.offsets)), Padded: p.tokens > p.real}
}

// rows are those of the sequences; what padding gets must be finite.
func (p padding) rows(data []float32) []float32 {
	for i, v := range data {
		if math.IsNaN(float64(v)) {
			data[i%(p.real*p.width)] = v
		}
	}
	return data[:p.real*p.width]
}

func widen(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

func TestSequencesMustCoverAllRows(t *testing.T) {
	c := selfCases[0]
	c.lengths = []int{3, 4}
	s := newSelfTest(t, c, vk.F32)
	k := newKit(t)
	y := k.PartialOutput("y", vk.F32, 7, c.cfg.Width)
	_, err := s.layer.Forward(k.Rec, s.matrix(k, "x", s.x), y, Sequences{Offsets: k.I32("offsets", []int32{0, 3, 6}, 3)})
	require.NoError(t, err)
	var sequence *SequenceError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &sequence)
	require.Equal(t, SequenceError{Last: 6, Rows: 7}, *sequence)
}
