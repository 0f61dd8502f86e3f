// Package tokenizer turns text into tokens and back as a tokenizer.json of Hugging Face says. It knows byte-pair encoding (BPE)
// with what decoders around it use: byte-level alphabets (GPT-2, OLMoE, Granite, Qwen, gpt-oss, DeepSeek) and SentencePiece's
// with byte fallback (Mixtral, JetMoE). A file that asks for anything else is refused when it is opened, never read in part.
//
// A Tokenizer may be used from several goroutines at once.
package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// File is the name of the tokenizer in a checkpoint folder.
const File = "tokenizer.json"

// A FormatError is a tokenizer.json that is damaged, or asks for what this package does not do.
type FormatError struct {
	Path   string // of the file
	Field  string // for example "pre_tokenizer.type"
	Detail string // what is wrong, in words
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("tokenizer: %s: %s: %s", e.Path, e.Field, e.Detail)
}

// A Tokenizer is what a tokenizer.json describes.
type Tokenizer struct {
	model     bpe
	added     []addedToken // longest first
	special   map[int32]bool
	normalize []func(string) string
	split     []splitter
	decode    []decoder
	spaced    bool // tokens are joined with spaces: there is no decoder
	before    []int32
	after     []int32
}

// addedToken is a token that is found in the text before anything else.
type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// Open reads the tokenizer.json of a checkpoint folder. It returns the file system's error or a *FormatError.
func Open(dir string) (*Tokenizer, error) {
	path := filepath.Join(dir, File)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// Parse reads the text of a tokenizer.json; path is used in errors only.
func Parse(path string, text []byte) (*Tokenizer, error) {
	var f struct {
		Added         []addedToken    `json:"added_tokens"`
		Normalizer    json.RawMessage `json:"normalizer"`
		PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
		PostProcessor json.RawMessage `json:"post_processor"`
		Decoder       json.RawMessage `json:"decoder"`
		Model         json.RawMessage `json:"model"`
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, &FormatError{path, "file", err.Error()}
	}
	t := &Tokenizer{special: map[int32]bool{}}
	p := &parser{path: path, t: t}
	p.model(f.Model)
	p.addedTokens(f.Added)
	p.normalizer(f.Normalizer, "normalizer")
	p.preTokenizer(f.PreTokenizer, "pre_tokenizer")
	p.postProcessor(f.PostProcessor, "post_processor")
	if t.spaced = absent(f.Decoder); !t.spaced {
		p.decoder(f.Decoder, "decoder")
	}
	if p.err != nil {
		return nil, p.err
	}
	return t, nil
}

// Vocabulary is one more than the largest token.
func (t *Tokenizer) Vocabulary() int { return len(t.model.tokens) }

// Token is the text of a token in the vocabulary, not decoded.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(t.model.tokens) || !t.model.known[id] {
		return "", false
	}
	return t.model.tokens[id], true
}

// ID is the token of a text that is one, added or not.
func (t *Tokenizer) ID(token string) (int32, bool) {
	for _, a := range t.added {
		if a.Content == token {
			return a.ID, true
		}
	}
	id, ok := t.model.ids[token]
	return id, ok
}

// Encode turns text into tokens. special adds those that the file puts before and after a text, such as a beginning of
// sequence; added tokens within the text are recognized either way.
func (t *Tokenizer) Encode(text string, special bool) []int32 {
	var out []int32
	if special {
		out = append(out, t.before...)
	}
	for text != "" {
		at, token := t.findAdded(text)
		out = t.encodePlain(out, text[:at])
		if token == nil {
			break
		}
		out = append(out, token.ID)
		if text = text[at:]; token.LStrip {
			text = strings.TrimLeft(text, whitespace)
		}
		if text = strings.TrimPrefix(text, token.Content); token.RStrip {
			text = strings.TrimLeft(text, whitespace)
		}
	}
	if special {
		out = append(out, t.after...)
	}
	return out
}

const whitespace = " \t\n\r\v\f"

// findAdded finds the first added token and where the text before it ends; of several at one place it is the longest.
func (t *Tokenizer) findAdded(text string) (int, *addedToken) {
	best, at := (*addedToken)(nil), len(text)
	for i := range t.added {
		if j := strings.Index(text, t.added[i].Content); j >= 0 && j < at {
			best, at = &t.added[i], j
		}
	}
	if best != nil && best.LStrip {
		at = len(strings.TrimRight(text[:at], whitespace))
	}
	return at, best
}

// encodePlain appends the tokens of a text without added ones.
func (t *Tokenizer) encodePlain(out []int32, text string) []int32 {
	if text == "" {
		return out
	}
	for _, n := range t.normalize {
		text = n(text)
	}
	pieces := []string{text}
	for _, s := range t.split {
		var finer []string
		for i, p := range pieces {
			finer = append(finer, s(p, i == 0)...)
		}
		pieces = finer
	}
	for _, p := range pieces {
		out = t.model.encode(out, p)
	}
	return out
}

// Decode turns tokens into text. Those that no token has are passed over, as special ones are where skipSpecial says so.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	var tokens []string
	for _, id := range ids {
		if token, ok := t.Token(id); ok && !(skipSpecial && t.special[id]) {
			tokens = append(tokens, token)
		}
	}
	for _, d := range t.decode {
		tokens = d(tokens)
	}
	if t.spaced {
		return strings.Join(tokens, " ")
	}
	return strings.Join(tokens, "")
}
