package model

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// sampled runs one draw for every row.
func sampled(t *testing.T, logits []float32, rows int, cfg SamplingConfig) []int32 {
	k := gputest.New(t, dev)
	k.Shift = rows % 2
	ids := k.Output("ids", vk.I32, rows)
	require.NoError(t, Sample(k.Rec, k.F32("logits", logits, rows, len(logits)/max(rows, 1)), ids, cfg))
	k.Run()
	return gputest.Download[int32](t, ids)
}

// TestSampleDrawsWhatTheOracleDraws allows a neighbour only where u lies within rounding of the border between the two, and a
// candidate more or less only where its border does.
func TestSampleDrawsWhatTheOracleDraws(t *testing.T) {
	for _, vocabulary := range []int{1, 2, 50, 128, 256, 1000} {
		for _, c := range []SamplingConfig{
			{Temperature: 1}, {Temperature: 0.5, TopK: 1}, {Temperature: 2, TopK: 7}, {Temperature: 1, TopP: 0.6},
			{Temperature: 1.3, TopK: 40, TopP: 0.9}, {TopK: 3}, {Temperature: 1, TopP: 1e-9}, {Temperature: 1, TopK: 1 << 20},
		} {
			t.Run(fmt.Sprintf("V=%d %v %d %v", vocabulary, c.Temperature, c.TopK, c.TopP), func(t *testing.T) {
				const rows = 41
				rng := rand.New(rand.NewSource(int64(vocabulary)))
				logits := gputest.Normal(rng, rows*vocabulary)
				for i := range logits {
					logits[i] = float32(math.Round(float64(logits[i])*8) / 4) // ties
				}
				c.Seed, c.Stream = 0x1234567890abcdef, 3
				oracle := ref.Sampling{Temperature: float64(c.Temperature), TopK: c.TopK, TopP: float64(c.TopP)}
				if c.TopP == 0 {
					oracle.TopP = 1
				}
				for b, id := range sampled(t, logits, rows, c) {
					u := ref.SamplingUniform(b, c.Seed, 0, 3)
					row := logits[b*vocabulary : (b+1)*vocabulary]
					require.True(t, drawable(oracle, row, int(id), u), "row %d: %d for %v", b, id, u)
				}
			})
		}
	}
}

// drawable reports whether the oracle draws id at a number within 1e-5 of u.
func drawable(s ref.Sampling, row []float32, id int, u float64) bool {
	for _, c := range s.Candidates(row) {
		if c.ID == id && u >= c.From-1e-5 && u <= c.To+1e-5 {
			return true
		}
	}
	return false
}

func TestSampleFollowsTheDistribution(t *testing.T) {
	const rows = 20000
	probabilities := []float64{0.5, 0.25, 0.125, 0.125}
	logits := make([]float32, 0, 4*rows)
	for range rows {
		for _, p := range probabilities {
			logits = append(logits, float32(math.Log(p)))
		}
	}
	var counts [4]float64
	for _, id := range sampled(t, logits, rows, SamplingConfig{Temperature: 1, Seed: 5}) {
		counts[id]++
	}
	for i, p := range probabilities { // within five standard deviations
		require.InDelta(t, p*rows, counts[i], 5*math.Sqrt(rows*p*(1-p)))
	}
}

func TestSampleOfRowsWithoutADistribution(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	logits := []float32{
		-inf, -inf, -inf,
		nan, nan, nan,
		nan, -5, nan,
		1, inf, 2,
		-inf, 3, -inf,
	}
	for _, c := range []SamplingConfig{{}, {Temperature: 1}, {Temperature: 1, TopK: 2, TopP: 0.5}} {
		require.Equal(t, []int32{0, 0, 1, 1, 1}, sampled(t, logits, 5, c))
	}
	k := gputest.New(t, dev)
	require.NoError(t, Sample(k.Rec, k.F32("logits", nil, 0, 3), k.Output("ids", vk.I32, 0), SamplingConfig{}))
	k.Run()
}

// TestSampleReadsItsStepOnTheDevice submits one recording for several steps.
func TestSampleReadsItsStepOnTheDevice(t *testing.T) {
	k := gputest.New(t, dev)
	step, err := dev.NewTensor(vk.U32, 1)
	require.NoError(t, err)
	defer step.Close()
	ids := k.Output("ids", vk.I32, 1)
	require.NoError(t, Sample(k.Rec, k.F32("logits", make([]float32, 1000), 1, 1000), ids, SamplingConfig{Temperature: 1, Step: step}))
	for s := range uint32(5) {
		require.NoError(t, vk.Upload(t.Context(), step, []uint32{s}))
		require.NoError(t, k.Rec.Run(t.Context()))
		u := ref.SamplingUniform(0, 0, s, 0)
		require.InDelta(t, u*1000, float64(gputest.Download[int32](t, ids)[0])+0.5, 0.6)
	}
}
