package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// byteVocab is every byte in the byte-level alphabet, id by byte, and the merges given.
func byteVocab(merges ...string) (map[string]int, []string) {
	vocab := map[string]int{}
	for b := range 256 {
		vocab[string(byteChars[b])] = b
	}
	for _, m := range merges {
		vocab[strings.ReplaceAll(m, " ", "")] = len(vocab)
	}
	return vocab, merges
}

// file is a tokenizer.json with the members given.
func file(t *testing.T, vocab map[string]int, merges any, members map[string]any, model map[string]any) []byte {
	t.Helper()
	m := map[string]any{"type": "BPE", "vocab": vocab, "merges": merges}
	for k, v := range model {
		m[k] = v
	}
	f := map[string]any{"model": m}
	for k, v := range members {
		f[k] = v
	}
	text, err := json.Marshal(f)
	require.NoError(t, err)
	return text
}

func parsed(t *testing.T, text []byte) *Tokenizer {
	t.Helper()
	tok, err := Parse("test", text)
	require.NoError(t, err)
	return tok
}

var (
	byteLevelStep = map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}
	byteDecoder   = map[string]any{"type": "ByteLevel"}
	endOfText     = []any{map[string]any{"id": 400, "content": "<|end|>", "special": true}}
)

// qwenWords is the pattern of Qwen 2 and 3, with the look-ahead that Go's own regexp does not have.
const qwenWords = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// words are the pieces that a tokenizer cuts a text into before merging.
func words(t *Tokenizer, text string) []string {
	pieces := []string{text}
	for _, s := range t.split {
		var finer []string
		for i, p := range pieces {
			finer = append(finer, s(p, i == 0)...)
		}
		pieces = finer
	}
	for i := range pieces {
		pieces[i] = string(fromAlphabet(pieces[i]))
	}
	return pieces
}

func TestByteLevelTokenizers(t *testing.T) {
	vocab, merges := byteVocab("h e", "he l", "Ġ w", "l l")
	gpt2 := parsed(t, file(t, vocab, merges, map[string]any{"pre_tokenizer": byteLevelStep, "decoder": byteDecoder, "added_tokens": endOfText}, nil))
	require.Equal(t, []string{"Hello", ",", "  ", " don", "'t", " 12", " é", "\n", "\n"}, append(words(gpt2, "Hello,   don't 12 é\n"), "\n"))
	require.Equal(t, []int32{257, 'l', 'o', 258, 'o', 'r', 'l', 'd'}, gpt2.Encode("hello world", false))
	require.Equal(t, []int32{'a', 259}, gpt2.Encode("all", false), "l l is the last merge")
	require.Equal(t, []int32{'a', 400, 257, 'p'}, gpt2.Encode("a<|end|>help", false))
	require.Equal(t, "a<|end|>help", gpt2.Decode([]int32{'a', 400, 257, 'p', 9999, -1}, false))
	require.Equal(t, "ahelp", gpt2.Decode([]int32{'a', 400, 257, 'p'}, true))
	require.Equal(t, "\ufffd", gpt2.Decode([]int32{0xc3}, false))
	require.Equal(t, 401, gpt2.Vocabulary())
	id, ok := gpt2.ID("<|end|>")
	require.True(t, ok)
	require.Equal(t, int32(400), id)
	_, ok = gpt2.Token(300)
	require.False(t, ok)

	qwen := parsed(t, file(t, vocab, [][]string{{"h", "e"}, {"he", "l"}}, map[string]any{"decoder": byteDecoder,
		"normalizer": map[string]any{"type": "NFC"},
		"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []any{
			map[string]any{"type": "Split", "pattern": map[string]any{"Regex": qwenWords}, "behavior": "Isolated"},
			map[string]any{"type": "ByteLevel", "use_regex": false},
		}}}, nil))
	require.Equal(t, []string{"WE", "'LL", " see", "  ", " x", "1", "2", "!!\n", "\t\n\n", " a"}, words(qwen, "WE'LL see   x12!!\n\t\n\n a"))
	require.Equal(t, qwen.Encode("\u00e9", false), qwen.Encode("e\u0301", false), "NFC")

	granite := parsed(t, file(t, vocab, merges, map[string]any{"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []any{
		map[string]any{"type": "Digits", "individual_digits": true}, byteLevelStep,
	}}}, nil))
	require.Equal(t, []string{"a", " ", "1", "2", " b"}, words(granite, "a 12 b"))
}

// TestByteLevelRoundTrips: a byte-level tokenizer loses nothing, and merges as the definition says.
func TestByteLevelRoundTrips(t *testing.T) {
	vocab, merges := byteVocab("a b", "b a", "ab ab", "a a", "ba b", "Ġ a", "abab a")
	tok := parsed(t, file(t, vocab, merges, map[string]any{"pre_tokenizer": byteLevelStep, "decoder": byteDecoder}, nil))
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringMatching(`[ab ]{0,20}`).Draw(r, "letters") + rapid.String().Draw(r, "text")
		if utf8.ValidString(text) && tok.Decode(tok.Encode(text, true), true) != text {
			r.Fatalf("%q becomes %q", text, tok.Decode(tok.Encode(text, true), true))
		}
		symbols := tok.model.symbols(toAlphabet(text))
		if want, got := naive(tok.model, slices.Clone(symbols)), tok.model.merge(symbols); !slices.Equal(want, got) {
			r.Fatalf("%q: %v, want %v", text, got, want)
		}
	})
}

// naive merges the best pair of all, again and again.
func naive(b bpe, s []int32) []int32 {
	for {
		at := -1
		for i := 0; i+1 < len(s); i++ {
			m, ok := b.ranks[[2]int32{s[i], s[i+1]}]
			if ok && (at < 0 || m.rank < b.ranks[[2]int32{s[at], s[at+1]}].rank) {
				at = i
			}
		}
		if at < 0 {
			return s
		}
		s[at] = b.ranks[[2]int32{s[at], s[at+1]}].symbol
		s = slices.Delete(s, at+1, at+2)
	}
}

func TestSentencePieceTokenizers(t *testing.T) {
	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	for b := range 256 {
		vocab[fmt.Sprintf("<0x%02X>", b)] = 3 + b
	}
	for _, s := range []string{"▁", "h", "e", "l", "o", "w", "he", "▁w"} {
		vocab[s] = len(vocab)
	}
	members := map[string]any{
		"normalizer": map[string]any{"type": "Sequence", "normalizers": []any{
			map[string]any{"type": "Prepend", "prepend": "▁"},
			map[string]any{"type": "Replace", "pattern": map[string]any{"String": " "}, "content": "▁"},
		}},
		"post_processor": map[string]any{"type": "TemplateProcessing",
			"single":         []any{map[string]any{"SpecialToken": map[string]any{"id": "<s>"}}, map[string]any{"Sequence": map[string]any{"id": "A"}}},
			"special_tokens": map[string]any{"<s>": map[string]any{"ids": []int{1}}}},
		"decoder": map[string]any{"type": "Sequence", "decoders": []any{
			map[string]any{"type": "Replace", "pattern": map[string]any{"String": "▁"}, "content": " "},
			map[string]any{"type": "ByteFallback"}, map[string]any{"type": "Fuse"},
			map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0},
		}},
		"added_tokens": []any{map[string]any{"id": 1, "content": "<s>", "special": true}, map[string]any{"id": 2, "content": "</s>", "special": true}},
	}
	tok := parsed(t, file(t, vocab, []string{"h e", "▁ w"}, members, map[string]any{"unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true}))
	got := tok.Encode("hello wé", true)
	var text []string
	for _, id := range got {
		s, ok := tok.Token(id)
		require.True(t, ok)
		text = append(text, s)
	}
	require.Equal(t, []string{"<s>", "▁", "he", "l", "l", "o", "▁w", "<0xC3>", "<0xA9>"}, text)
	require.Equal(t, "hello wé", tok.Decode(got, true))
	require.Equal(t, "\ufffdo", tok.Decode([]int32{3 + 0xc3, int32(vocab["o"])}, true))

	delete(vocab, "<0xC3>")
	tok = parsed(t, file(t, vocab, nil, members, map[string]any{"unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true}))
	require.Equal(t, []int32{int32(vocab["▁"]), 0, int32(vocab["o"])}, tok.Encode("ééo", false), "unknown ones are one")

	meta := parsed(t, file(t, vocab, []string{"h e"}, map[string]any{"pre_tokenizer": map[string]any{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
		"decoder": map[string]any{"type": "Metaspace", "replacement": "▁"}}, nil))
	require.Equal(t, []string{"▁he", "▁", "▁wo"}, words(meta, "he  wo"))
	require.Equal(t, "he  wo", meta.Decode(meta.Encode("he  wo", false), false))
}

func TestIgnoredMergesAndStrippedSpaces(t *testing.T) {
	vocab, _ := byteVocab("h e")
	vocab["hello"] = 300
	tok := parsed(t, file(t, vocab, []string{"h e"}, map[string]any{"added_tokens": []any{
		map[string]any{"id": 301, "content": "<x>", "lstrip": true, "rstrip": true}, map[string]any{"id": 302, "content": "<x><y>"},
	}}, map[string]any{"ignore_merges": true}))
	require.Equal(t, []int32{300}, tok.Encode("hello", false))
	require.Equal(t, []int32{'a', 301, 'b'}, tok.Encode("a  <x>\n b", false))
	require.Equal(t, []int32{302}, tok.Encode("<x><y>", false), "the longest")
	require.Equal(t, "a b", tok.Decode([]int32{'a', 'b'}, false), "without a decoder tokens are words")
}

func TestParseRefusesWhatItDoesNotDo(t *testing.T) {
	vocab, merges := byteVocab("h e")
	for field, text := range map[string][]byte{
		"file":                []byte("{"),
		"model":               []byte("{}"),
		"model.type":          file(t, vocab, merges, nil, map[string]any{"type": "WordPiece"}),
		"model.dropout":       file(t, vocab, merges, nil, map[string]any{"dropout": 0.1}),
		"model.merges":        file(t, vocab, []string{"h x y"}, nil, nil),
		"model.unk_token":     file(t, vocab, merges, nil, map[string]any{"unk_token": "?!"}),
		"model.vocab":         file(t, map[string]int{"a": -1}, nil, nil, nil),
		"added_tokens":        file(t, vocab, merges, map[string]any{"added_tokens": []any{map[string]any{"id": 1 << 30, "content": "x"}}}, nil),
		"normalizer.type":     file(t, vocab, merges, map[string]any{"normalizer": map[string]any{"type": "BertNormalizer"}}, nil),
		"normalizer.pattern":  file(t, vocab, merges, map[string]any{"normalizer": map[string]any{"type": "Replace"}}, nil),
		"pre_tokenizer.type":  file(t, vocab, merges, map[string]any{"pre_tokenizer": map[string]any{"type": "BertPreTokenizer"}}, nil),
		"post_processor.type": file(t, vocab, merges, map[string]any{"post_processor": map[string]any{"type": "RobertaProcessing"}}, nil),
		"decoder.type":        file(t, vocab, merges, map[string]any{"decoder": map[string]any{"type": "WordPiece"}}, nil),
		"pre_tokenizer.pattern": file(t, vocab, merges, map[string]any{"pre_tokenizer": map[string]any{"type": "Split", "behavior": "Isolated",
			"pattern": map[string]any{"Regex": "("}}}, nil),
		"pre_tokenizer.behavior": file(t, vocab, merges, map[string]any{"pre_tokenizer": map[string]any{"type": "Split", "behavior": "Contiguous",
			"pattern": map[string]any{"String": " "}}}, nil),
	} {
		_, err := Parse("test", text)
		var format *FormatError
		require.ErrorAs(t, err, &format, field)
		require.Equal(t, field, format.Field)
	}
	_, err := Open(t.TempDir())
	require.ErrorIs(t, err, os.ErrNotExist)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, File), file(t, vocab, merges, nil, nil), 0o644))
	tok, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, []int32{256}, tok.Encode("he", false))
}
