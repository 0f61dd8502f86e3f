package session

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/tokenizer"
	"github.com/vkmoe/vkmoe/vk"
)

// checkpoint writes a tiny model with random weights in Hugging Face's form, its vocabulary being the bytes and "th".
func checkpoint(t *testing.T, vocabulary int) string {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf(`{"model_type":"mixtral","hidden_size":32,"num_hidden_layers":2,"num_local_experts":8,"num_experts_per_tok":3,
		"intermediate_size":16,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"max_position_embeddings":64,
		"rms_norm_eps":1e-5,"rope_theta":10000,"vocab_size":%d,"hidden_act":"silu","tie_word_embeddings":false}`, vocabulary)
	require.NoError(t, os.WriteFile(filepath.Join(dir, model.ConfigFile), []byte(config), 0o600))
	vocab, others := map[string]int{"th": 256}, 0
	for b := range 256 {
		r := rune(b)
		if b < '!' || b > '~' && b < '¡' || b == '\u00ad' { // the byte-level alphabet moves what cannot be printed behind the rest
			r = rune(256 + others)
			others++
		}
		vocab[string(r)] = b
	}
	text, err := json.Marshal(map[string]any{
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []string{"t h"}},
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel"},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, tokenizer.File), text, 0o600))

	cfg, err := model.ReadConfig(dir)
	require.NoError(t, err)
	decoder, err := cfg.Decoder(vk.F32)
	require.NoError(t, err)
	dev, err := vk.Open(vk.Options{})
	require.NoError(t, err)
	defer dev.Close()
	d, err := model.NewDecoder(t.Context(), dev, decoder)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Initialize(t.Context(), 5, 0.3))
	require.NoError(t, d.Save(t.Context(), dir))
	return dir
}

func TestReadingACheckpoint(t *testing.T) {
	open(t, config(t)).Close()
	cfg := config(t)
	cfg.Model = checkpoint(t, 257)
	cfg.Text = []byte("the other path\n")
	s := open(t, cfg)
	n := s.Snapshot()
	require.Equal(t, dashboard.Reading, n.State)
	require.Equal(t, []string{"th", "e", " ", "o", "th", "e", "r", " ", "p", "a", "th", "\n"}, n.Text)
	require.Len(t, n.Routers, 2)
	require.Equal(t, [3]int{2, 8, 3}, [3]int{n.Layers, n.Experts, n.K})
	require.Contains(t, n.Model, "mixtral")
	for layer, r := range n.Routers {
		require.Equal(t, layer, r.Layer)
		require.Equal(t, "MLP", r.Block)
		require.Len(t, r.IDs, 12*3)
		load := make([]int, 8)
		for _, e := range r.IDs {
			load[e]++
		}
		require.Equal(t, load, r.Load)
		// Equal tokens in different places may go to different experts, but the first ones have seen the same.
		for slot := 0; slot < len(r.Gates); slot += 3 {
			require.InDelta(t, 1, r.Gates[slot]+r.Gates[slot+1]+r.Gates[slot+2], 1e-5)
		}
	}
	for _, kind := range []dashboard.Kind{dashboard.Pause, dashboard.SetK, dashboard.Save, dashboard.Load, dashboard.ToggleDense} {
		s.Do(dashboard.Action{Kind: kind, N: 1})
	}
	until(t, s, "told", func(n *dashboard.Snapshot) bool { return strings.Contains(n.Notice, "is read, not trained") })
	s.Do(dashboard.Action{Kind: dashboard.Write, Text: "the "})
	n = until(t, s, "written", func(n *dashboard.Snapshot) bool { return n.Answers == 1 })
	require.NotEmpty(t, n.Written)
	require.NoError(t, s.Close())
	require.False(t, s.Saved())

	cfg.Model = checkpoint(t, 200)
	_, err := Open(t.Context(), cfg)
	require.ErrorContains(t, err, "the tokenizer does not fit the model: token 0 is 256, the model has 200")
}
