package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
)

func TestTokens(t *testing.T) {
	for ch, want := range map[rune]int{
		' ': 3, '\t': 3, '\u00a0': 3, '\n': 4, 'a': 5, 'A': 5, 'z': 30, 'Z': 30, '0': 31, '9': 40, '.': 41, '%': 63,
		'’': 47, '“': 48, '—': 53, 'é': 0, 'Æ': 0, '光': 0, '\ufffd': 0, 0: 0, -1: 0,
	} {
		require.Equal(t, want, token(ch), "%q", ch)
	}
	// Every id from 3 on has one ASCII character of its own, capitals and spaces aside.
	owners := map[int]int{}
	for ch := rune(0); ch < 128; ch++ {
		id := token(ch)
		require.True(t, id >= 0 && id < vocabulary)
		require.NotContains(t, []int{1, 2}, id)
		if !unicode.IsUpper(ch) && (!unicode.IsSpace(ch) || ch == ' ' || ch == '\n') {
			owners[id]++
		}
	}
	for id := tokenSpace; id < vocabulary; id++ {
		require.Equal(t, 1, owners[id], "token %d", id)
	}
}

func TestBuiltInTextIsOrdinary(t *testing.T) {
	doc, err := loadText("")
	require.NoError(t, err)
	require.Greater(t, len(doc.Characters), 2000)
	for _, line := range strings.Split(opticks, "\n") {
		require.LessOrEqual(t, len([]rune(line)), 72, "a line and its break fit the picture")
	}
	others := 0
	for _, ch := range doc.Characters {
		if token(ch) == tokenOther {
			others++
		}
	}
	require.LessOrEqual(t, others, 2)
}

func TestLoadText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte("\ufeffa\r\nb\rc\xff"), 0o600))
	doc, err := loadText(path)
	require.NoError(t, err)
	require.Equal(t, []rune("a\nb\nc\ufffd"), doc.Characters)
	require.Equal(t, path, doc.Name)
	require.Zero(t, doc.Cut)

	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("é", maxCharacters+5)), 0o600))
	doc, err = loadText(path)
	require.NoError(t, err)
	require.Len(t, doc.Characters, maxCharacters)
	require.Equal(t, 5, doc.Cut)
}

// tiny writes a checkpoint of width 2 whose embeddings are (id, 1), with one expert.
func tiny(t *testing.T, rows int, extra string, drop string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, model.ConfigFile), []byte(`{"model_type":"mixtral","hidden_size":2,`+
		`"num_hidden_layers":1,"num_local_experts":1,"num_experts_per_tok":1,"intermediate_size":1`+extra+`}`), 0o600))
	embedding := make([]float32, 2*rows)
	for i := range rows {
		embedding[2*i], embedding[2*i+1] = float32(i), 1
	}
	const p = "model.layers.0."
	var entries []safetensors.Entry
	for _, e := range []safetensors.Entry{
		safetensors.Float32("model.embed_tokens.weight", []int{rows, 2}, embedding),
		safetensors.Float32(p+"post_attention_layernorm.weight", []int{2}, []float32{1, 10}),
		safetensors.Float32(p+"block_sparse_moe.gate.weight", []int{1, 2}, []float32{1, 1}),
		safetensors.Float32(p+"block_sparse_moe.experts.0.w1.weight", []int{1, 2}, []float32{1, 1}),
		safetensors.Float32(p+"block_sparse_moe.experts.0.w3.weight", []int{1, 2}, []float32{1, 1}),
		safetensors.Float32(p+"block_sparse_moe.experts.0.w2.weight", []int{2, 1}, []float32{1, 1}),
	} {
		if e.Name != drop {
			entries = append(entries, e)
		}
	}
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, safetensors.SingleFile), entries, nil))
	return dir
}

func TestInputRows(t *testing.T) {
	l, err := loadLayer(tiny(t, 70, `,"rms_norm_eps":0.5`, ""), 0)
	require.NoError(t, err)
	require.Len(t, l.embedding, 2*vocabulary)
	norm := func(a, b float64) []float32 {
		scale := 1 / math.Sqrt((a*a+b*b)/2+0.5)
		return []float32{float32(a * scale), float32(10 * b * scale)}
	}
	text := []rune("ab\n") // tokens 5, 6, 4
	in := newInput(l, text, 0.5)
	x := make([]float32, 6)
	want := append(append(norm(5, 1), norm(6+2.5, 1.5)...), norm(4+4.25, 1.75)...)
	in.rows(x[:2])
	in.rows(x[2:])
	require.InDeltaSlice(t, want, x, 1e-6)
	in.rewind()
	again := make([]float32, 6)
	in.rows(again)
	require.Equal(t, x, again)

	newInput(l, text, 0).rows(x)
	require.InDeltaSlice(t, append(append(norm(5, 1), norm(6, 1)...), norm(4, 1)...), x, 1e-6)
}

func TestEmbeddingMultiplier(t *testing.T) {
	l, err := loadLayer(tiny(t, 64, `,"embedding_multiplier":3`, ""), 0)
	require.NoError(t, err)
	require.Equal(t, []float32{15, 3}, l.embedding[10:12])
	require.Equal(t, 1e-6, l.epsilon, "transformers' default")
}

func TestLoadLayerNamesWhatIsWrong(t *testing.T) {
	for want, dir := range map[string]string{
		"the model has 63 tokens":                tiny(t, 63, "", ""),
		"model.embed_tokens.weight":              tiny(t, 64, "", "model.embed_tokens.weight"),
		"post_attention_layernorm.weight":        tiny(t, 64, "", "model.layers.0.post_attention_layernorm.weight"),
		"experts.0.w2.weight":                    tiny(t, 64, "", "model.layers.0.block_sparse_moe.experts.0.w2.weight"),
		"config.json: json: cannot unmarshal st": tiny(t, 64, `,"rms_norm_eps":"small"`, ""),
	} {
		_, err := loadLayer(dir, 0)
		require.ErrorContains(t, err, want)
	}
}

// A built-in model's temporary files are gone after loading.
func TestUnpackLeavesNothing(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp)
	l, err := loadLayer("qwen3moe", 1)
	require.NoError(t, err)
	require.Equal(t, 16, l.Config.Experts)
	require.Empty(t, fileNames(t, temp))
	_, err = loadLayer("qwen3moe", 7)
	require.Error(t, err)
	require.Empty(t, fileNames(t, temp))
}
