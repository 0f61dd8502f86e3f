package model

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

func newGenerator(t *testing.T, d *Decoder, cfg GeneratorConfig) *Generator {
	t.Helper()
	g, err := NewGenerator(t.Context(), d, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.Close()) })
	return g
}

// greedy continues a prompt by running the whole sequence anew for every token.
func greedy(t *testing.T, d *Decoder, prompt []int32, n int) []int32 {
	tokens := slices.Clone(prompt)
	for range n {
		k := gputest.New(t, dev)
		logits, err := d.Logits(k.Rec, Batch{IDs: k.I32("ids", tokens, len(tokens)),
			Sequences: attention.Sequences{Offsets: k.I32("offsets", []int32{0, int32(len(tokens))}, 2)}})
		require.NoError(t, err)
		k.Run()
		row := gputest.Download[float32](t, logits)[(len(tokens)-1)*d.Config.Vocabulary:]
		best := 0
		for i, v := range row {
			if v > row[best] {
				best = i
			}
		}
		tokens = append(tokens, int32(best))
	}
	return tokens[len(prompt):]
}

var prompts = [][]int32{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {40}, {9, 8, 7}}

// TestGenerationWithACacheEqualsWholeForwards covers every kind of attention; gpt-oss slides.
func TestGenerationWithACacheEqualsWholeForwards(t *testing.T) {
	for _, name := range []string{"mixtral", "jetmoe", "granitemoe", "olmoe", "qwen2moe", "qwen3moe", "gptoss", "deepseekv3"} {
		d := loaded(t, name, vk.F32)
		g := newGenerator(t, d, GeneratorConfig{Sequences: 3, Capacity: 16})
		for range 2 { // the second time over forgotten caches
			got, err := g.Generate(t.Context(), Request{Prompts: prompts, Tokens: 4})
			require.NoError(t, err, name)
			for b, p := range prompts {
				require.Equal(t, greedy(t, d, p, 4), got[b], "%s, prompt %d", name, b)
			}
		}
	}
}

func TestGenerationStreamsAndStops(t *testing.T) {
	d := loaded(t, "jetmoe", vk.F32)
	g := newGenerator(t, d, GeneratorConfig{Sequences: 3, Capacity: 40, Sampling: SamplingConfig{Temperature: 1.5, TopK: 40, TopP: 0.95, Seed: 3}})
	var streamed [3][]int32
	got, err := g.Generate(t.Context(), Request{Prompts: prompts, Tokens: 20, Token: func(b int, token int32) bool {
		streamed[b] = append(streamed[b], token)
		return true
	}})
	require.NoError(t, err)
	require.Equal(t, streamed[:], got)

	again := newGenerator(t, d, g.Config)
	same, err := again.Generate(t.Context(), Request{Prompts: prompts, Tokens: 20})
	require.NoError(t, err)
	require.Equal(t, got, same, "the seed decides")
	other, err := again.Generate(t.Context(), Request{Prompts: prompts, Tokens: 20})
	require.NoError(t, err)
	require.NotEqual(t, got, other, "later draws are others")

	stopper := newGenerator(t, d, g.Config)
	stopped, err := stopper.Generate(t.Context(), Request{Prompts: prompts, Tokens: 20, Stop: []int32{got[0][2]}})
	require.NoError(t, err)
	end := slices.Index(got[0], got[0][2]) + 1
	require.Equal(t, got[0][:end], stopped[0])

	calls := 0
	_, err = again.Generate(t.Context(), Request{Prompts: prompts, Tokens: 20, Token: func(int, int32) bool { calls++; return false }})
	require.NoError(t, err)
	require.Equal(t, 1, calls)
	none, err := again.Generate(t.Context(), Request{Prompts: prompts})
	require.NoError(t, err)
	require.Equal(t, make([][]int32, 3), none)
}

func TestGenerationIn16Bits(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		g := newGenerator(t, loaded(t, "qwen3moe", dtype), GeneratorConfig{Sequences: 3, Capacity: 16})
		first, err := g.Generate(t.Context(), Request{Prompts: prompts, Tokens: 4})
		require.NoError(t, err)
		again, err := g.Generate(t.Context(), Request{Prompts: prompts, Tokens: 4})
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.Len(t, first[2], 4)
	}
}

func TestGenerationRefusals(t *testing.T) {
	d := loaded(t, "mixtral", vk.F32)
	for _, cfg := range []GeneratorConfig{{Capacity: 8}, {Sequences: 1}, {Sequences: 1, Capacity: 65},
		{Sequences: 1, Capacity: 8, Sampling: SamplingConfig{TopK: -1}}} {
		_, err := NewGenerator(t.Context(), d, cfg)
		var config *moe.ConfigError
		require.ErrorAs(t, err, &config)
	}
	g := newGenerator(t, d, GeneratorConfig{Sequences: 1, Capacity: 8})
	for _, r := range []Request{{}, {Prompts: [][]int32{{}}}, {Prompts: [][]int32{{64}}}, {Prompts: [][]int32{{-1}}},
		{Prompts: [][]int32{{1, 2}}, Tokens: 8}, {Prompts: [][]int32{{1}}, Tokens: -1}} {
		_, err := g.Generate(t.Context(), r)
		var prompt *PromptError
		require.ErrorAs(t, err, &prompt, "%+v", r)
	}
	_, err := g.Generate(t.Context(), Request{Prompts: [][]int32{{1, 2}}, Tokens: 7})
	require.NoError(t, err, "the last token is not cached")
}
