package train

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// choosing is tiny with k experts per token.
func choosing(t *testing.T, k int, dtype vk.DType) *model.Decoder {
	t.Helper()
	cfg := tiny(t, dtype).Config
	for i, l := range cfg.Layers {
		mixture := *l.Mixture
		mixture.TopK = k
		l.Mixture = &mixture
		if l.MLP != nil {
			mlp := *l.MLP
			mlp.TopK = k
			l.MLP = &mlp
		}
		cfg.Layers[i] = l
	}
	d, err := model.NewDecoder(t.Context(), dev, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestStateContinuesBitForBit(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.BF16} {
		first := newTrainer(t, tiny(t, dtype), config(dtype))
		steps(t, first, 2)
		state, err := first.State(t.Context())
		require.NoError(t, err)
		want := steps(t, first, 2)

		second := newTrainer(t, choosing(t, 2, dtype), config(dtype))
		require.NoError(t, second.SetState(t.Context(), state))
		require.Equal(t, 2, second.Steps())
		require.Equal(t, want, steps(t, second, 2))
		require.Equal(t, bits(t, first.Decoder), bits(t, second.Decoder))
	}
}

// The parameters go over to other numbers of choices and to another dtype, and there they are what is computed with.
func TestStateGoesToAnotherConfiguration(t *testing.T) {
	first := newTrainer(t, tiny(t, vk.F32), config(vk.F32))
	steps(t, first, 3)
	state, err := first.State(t.Context())
	require.NoError(t, err)
	ids, targets, err := cycle().Batch(1, 4, 8)
	require.NoError(t, err)
	loss := func(tr *Trainer) float64 {
		v, err := tr.Loss(t.Context(), ids, targets)
		require.NoError(t, err)
		return v
	}
	for _, k := range []int{1, 3, 4} {
		other := newTrainer(t, choosing(t, k, vk.F32), config(vk.F32))
		require.NoError(t, other.SetState(t.Context(), state))
		got := loss(other)
		require.False(t, math.IsNaN(got))
		require.NotEqual(t, loss(first), got, "k = %d", k)
		back, err := other.State(t.Context())
		require.NoError(t, err)
		require.Equal(t, state, back)
		steps(t, other, 1)
	}
	rounded := newTrainer(t, choosing(t, 2, vk.BF16), config(vk.F32))
	require.NoError(t, rounded.SetState(t.Context(), state))
	require.InDelta(t, loss(first), loss(rounded), 0.02)
	back, err := rounded.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, state, back, "the master copies keep every bit")
}

func TestStateOfOtherParametersIsRefused(t *testing.T) {
	tr := newTrainer(t, tiny(t, vk.F32), config(vk.F32))
	before := bits(t, tr.Decoder)
	for _, c := range []struct {
		param string
		spoil func(s *State)
	}{
		{"the model", func(s *State) { s.Params = s.Params[1:] }},
		{"the model", func(s *State) { s.Steps = -1 }},
		{"parameter 1", func(s *State) { s.Params[1].Name = "other" }},
		{tr.Decoder.Parameters()[1].Name, func(s *State) { s.Params[1].M = s.Params[1].M[1:] }},
	} {
		s, err := tr.State(t.Context())
		require.NoError(t, err)
		for i := range s.Params {
			s.Params[i].Value[0]++
		}
		c.spoil(s)
		err = tr.SetState(t.Context(), s)
		var state *StateError
		require.ErrorAs(t, err, &state)
		require.Equal(t, c.param, state.Param)
	}
	require.Equal(t, before, bits(t, tr.Decoder))
}

// An observer's copies hold what the routers chose in that very step.
func TestObserve(t *testing.T) {
	d := tiny(t, vk.F32)
	ids := map[Observation]*vk.Tensor{}
	cfg := config(vk.F32)
	cfg.Observe = func(o Observation) error {
		at, err := dev.NewTensor(vk.I32, o.Routing.Tokens, o.Routing.K)
		if err != nil {
			return err
		}
		o.Recorder.Copy(at, o.Routing.IDs)
		o.Recorder, o.Routing = nil, nil
		ids[o] = at
		return nil
	}
	tr := newTrainer(t, d, cfg)
	for _, at := range ids {
		t.Cleanup(func() { require.NoError(t, at.Close()) })
	}
	require.Len(t, ids, 2*2*3, "a step and a judgement of 2 batches, 3 routers each")
	steps(t, tr, 1)
	words, targets, err := cycle().Batch(1, 4, 8)
	require.NoError(t, err)
	_, err = tr.Loss(t.Context(), words, targets)
	require.NoError(t, err)
	for o, at := range ids {
		chosen, err := vk.Download[int32](t.Context(), at)
		require.NoError(t, err)
		require.NoError(t, moe.CheckIDs(chosen, 4))
		distinct := 0
		for s := 0; s < len(chosen); s += 2 {
			require.NotEqual(t, chosen[s], chosen[s+1], "%+v token %d", o, s/2)
			if chosen[s] != chosen[0] {
				distinct++
			}
		}
		require.NotZero(t, distinct, "%+v: not all tokens choose the same", o)
	}

	refused := errors.New("refused")
	cfg.Observe = func(Observation) error { return refused }
	_, err = New(t.Context(), d, cfg)
	require.ErrorIs(t, err, refused)
}
