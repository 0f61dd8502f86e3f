package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dlclark/regexp2"
	"golang.org/x/text/unicode/norm"
)

// parser reads a tokenizer.json into t; the first fault sticks.
type parser struct {
	path string
	t    *Tokenizer
	err  error
}

func (p *parser) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = &FormatError{p.path, field, fmt.Sprintf(format, args...)}
	}
}

// absent reports a member that is not there or null.
func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// read decodes a member.
func (p *parser) read(raw json.RawMessage, field string, to any) bool {
	if err := json.Unmarshal(raw, to); err != nil {
		p.fail(field, "%v", err)
	}
	return p.err == nil
}

// maxTokens bounds the ids of a vocabulary.
const maxTokens = 1 << 24

func (p *parser) model(raw json.RawMessage) {
	var m struct {
		Type         string            `json:"type"`
		Vocab        map[string]int32  `json:"vocab"`
		Merges       []json.RawMessage `json:"merges"`
		Unknown      *string           `json:"unk_token"`
		Prefix       string            `json:"continuing_subword_prefix"`
		Suffix       string            `json:"end_of_word_suffix"`
		Dropout      float64           `json:"dropout"`
		FuseUnknown  bool              `json:"fuse_unk"`
		ByteFallback bool              `json:"byte_fallback"`
		IgnoreMerges bool              `json:"ignore_merges"`
	}
	if absent(raw) {
		p.fail("model", "is absent")
		return
	}
	if !p.read(raw, "model", &m) {
		return
	}
	switch {
	case m.Type != "BPE" && m.Type != "":
		p.fail("model.type", "%q is not supported, only BPE is", m.Type)
	case m.Prefix != "" || m.Suffix != "":
		p.fail("model.continuing_subword_prefix", "is not supported, nor is end_of_word_suffix")
	case m.Dropout != 0:
		p.fail("model.dropout", "%v is not supported", m.Dropout)
	}
	b := bpe{ids: m.Vocab, ranks: map[[2]int32]merge{}, unknown: -1, fuseUnknown: m.FuseUnknown, byteFallback: m.ByteFallback,
		ignoreMerges: m.IgnoreMerges}
	p.t.model = b
	for token, id := range m.Vocab {
		p.place(token, id, "model.vocab")
	}
	if m.Unknown != nil {
		id, ok := m.Vocab[*m.Unknown]
		if !ok {
			p.fail("model.unk_token", "%q is not in the vocabulary", *m.Unknown)
		}
		p.t.model.unknown = id
	}
	for rank, raw := range m.Merges {
		p.merge(rank, raw)
	}
	p.t.model.setBytes()
}

// place puts a token into the table of texts.
func (p *parser) place(token string, id int32, field string) {
	if id < 0 || id >= maxTokens {
		p.fail(field, "%q has id %d", token, id)
		return
	}
	b := &p.t.model
	for int(id) >= len(b.tokens) {
		b.tokens, b.known = append(b.tokens, ""), append(b.known, false)
	}
	b.tokens[id], b.known[id] = token, true
}

// merge reads "left right" or ["left", "right"].
func (p *parser) merge(rank int, raw json.RawMessage) {
	var pair []string
	var text string
	if json.Unmarshal(raw, &pair) != nil {
		if !p.read(raw, "model.merges", &text) {
			return
		}
		pair = strings.Split(text, " ")
	}
	if len(pair) != 2 {
		p.fail("model.merges", "%d is %s", rank, raw)
		return
	}
	left, okLeft := p.t.model.ids[pair[0]]
	right, okRight := p.t.model.ids[pair[1]]
	both, ok := p.t.model.ids[pair[0]+pair[1]]
	if !okLeft || !okRight || !ok {
		p.fail("model.merges", "%d, %s, is not of the vocabulary", rank, raw)
		return
	}
	if _, had := p.t.model.ranks[[2]int32{left, right}]; !had {
		p.t.model.ranks[[2]int32{left, right}] = merge{rank, both}
	}
}

func (p *parser) addedTokens(list []addedToken) {
	for _, a := range list {
		if a.Content == "" || a.SingleWord {
			p.fail("added_tokens", "%q: empty or single_word ones are not supported", a.Content)
		}
		p.place(a.Content, a.ID, "added_tokens")
		if a.Special {
			p.t.special[a.ID] = true
		}
		p.t.added = append(p.t.added, a)
	}
	slices.SortStableFunc(p.t.added, func(a, b addedToken) int { return cmp.Compare(len(b.Content), len(a.Content)) })
}

// step is any normalizer, pre-tokenizer, post-processor or decoder.
type step struct {
	Type string `json:"type"`

	Normalizers   []json.RawMessage `json:"normalizers"`
	PreTokenizers []json.RawMessage `json:"pretokenizers"`
	Processors    []json.RawMessage `json:"processors"`
	Decoders      []json.RawMessage `json:"decoders"`

	Prepend     string `json:"prepend"`
	Content     string `json:"content"`
	Start       int    `json:"start"`
	Stop        int    `json:"stop"`
	Behavior    string `json:"behavior"`
	Invert      bool   `json:"invert"`
	PrefixSpace bool   `json:"add_prefix_space"`
	UseRegex    *bool  `json:"use_regex"`
	Individual  bool   `json:"individual_digits"`
	Replacement string `json:"replacement"`
	Scheme      string `json:"prepend_scheme"`
	Split       *bool  `json:"split"`

	Pattern *struct {
		String *string `json:"String"`
		Regex  *string `json:"Regex"`
	} `json:"pattern"`

	Single []struct {
		SpecialToken *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
		Sequence *struct{} `json:"Sequence"`
	} `json:"single"`
	SpecialTokens map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
}

// step reads a step; absent ones do nothing.
func (p *parser) step(raw json.RawMessage, field string) (s step, ok bool) {
	if absent(raw) || p.err != nil {
		return s, false
	}
	return s, p.read(raw, field, &s)
}

// pattern compiles a step's pattern.
func (p *parser) pattern(s step, field string) *regexp2.Regexp {
	text := ""
	switch {
	case s.Pattern == nil:
		p.fail(field+".pattern", "is absent")
		return nil
	case s.Pattern.String != nil:
		text = regexp2.Escape(*s.Pattern.String)
	case s.Pattern.Regex != nil:
		text = *s.Pattern.Regex
	}
	re, err := compile(text)
	if err != nil {
		p.fail(field+".pattern", "%v", err)
	}
	return re
}

func (p *parser) normalizer(raw json.RawMessage, field string) {
	s, ok := p.step(raw, field)
	if !ok {
		return
	}
	add := func(f func(string) string) { p.t.normalize = append(p.t.normalize, f) }
	switch s.Type {
	case "Sequence":
		for _, inner := range s.Normalizers {
			p.normalizer(inner, field)
		}
	case "NFC":
		add(norm.NFC.String)
	case "NFKC":
		add(norm.NFKC.String)
	case "NFD":
		add(norm.NFD.String)
	case "NFKD":
		add(norm.NFKD.String)
	case "Prepend":
		add(func(text string) string { return s.Prepend + text })
	case "Replace":
		if re := p.pattern(s, field); re != nil {
			add(replace(re, s.Content))
		}
	default:
		p.fail(field+".type", "%q is not supported", s.Type)
	}
}

// replace replaces all matches of a pattern.
func replace(re *regexp2.Regexp, with string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for _, s := range spans(re, text) {
			if s.matched {
				b.WriteString(with)
			} else {
				b.WriteString(s.text)
			}
		}
		return b.String()
	}
}

func (p *parser) preTokenizer(raw json.RawMessage, field string) {
	s, ok := p.step(raw, field)
	if !ok {
		return
	}
	add := func(f splitter) { p.t.split = append(p.t.split, f) }
	switch s.Type {
	case "Sequence":
		for _, inner := range s.PreTokenizers {
			p.preTokenizer(inner, field)
		}
	case "Split":
		re := p.pattern(s, field)
		switch s.Behavior {
		case "Isolated", "Removed":
			add(isolate(re, s.Invert, s.Behavior == "Removed"))
		default:
			p.fail(field+".behavior", "%q is not supported", s.Behavior)
		}
	case "ByteLevel":
		var re *regexp2.Regexp
		if s.UseRegex == nil || *s.UseRegex {
			var err error
			if re, err = compile(gpt2Words); err != nil {
				p.fail(field, "%v", err)
			}
		}
		add(byteLevel(re, s.PrefixSpace))
	case "Digits":
		add(digits(s.Individual))
	case "Metaspace":
		add(metaspace(s.Replacement, cmp.Or(s.Scheme, "always"), s.Split == nil || *s.Split))
	default:
		p.fail(field+".type", "%q is not supported", s.Type)
	}
}

func (p *parser) postProcessor(raw json.RawMessage, field string) {
	s, ok := p.step(raw, field)
	if !ok {
		return
	}
	switch s.Type {
	case "Sequence":
		for _, inner := range s.Processors {
			p.postProcessor(inner, field)
		}
	case "ByteLevel": // changes offsets only
	case "TemplateProcessing":
		list := &p.t.before
		for _, part := range s.Single {
			switch {
			case part.Sequence != nil:
				list = &p.t.after
			case part.SpecialToken != nil:
				token, ok := s.SpecialTokens[part.SpecialToken.ID]
				if !ok {
					p.fail(field+".special_tokens", "%q is absent", part.SpecialToken.ID)
				}
				*list = append(*list, token.IDs...)
			}
		}
	default:
		p.fail(field+".type", "%q is not supported", s.Type)
	}
}

func (p *parser) decoder(raw json.RawMessage, field string) {
	s, ok := p.step(raw, field)
	if !ok {
		return
	}
	add := func(f decoder) { p.t.decode = append(p.t.decode, f) }
	switch s.Type {
	case "Sequence":
		for _, inner := range s.Decoders {
			p.decoder(inner, field)
		}
	case "ByteLevel":
		add(decodeByteLevel)
	case "ByteFallback":
		add(decodeBytes)
	case "Fuse":
		add(func(tokens []string) []string { return []string{strings.Join(tokens, "")} })
	case "Strip":
		add(strip(s.Content, s.Start, s.Stop))
	case "Replace":
		if re := p.pattern(s, field); re != nil {
			f := replace(re, s.Content)
			add(func(tokens []string) []string {
				for i := range tokens {
					tokens[i] = f(tokens[i])
				}
				return tokens
			})
		}
	case "Metaspace":
		add(func(tokens []string) []string {
			for i, t := range tokens {
				if i == 0 && cmp.Or(s.Scheme, "always") != "never" {
					t = strings.TrimPrefix(t, s.Replacement)
				}
				tokens[i] = strings.ReplaceAll(t, s.Replacement, " ")
			}
			return tokens
		})
	default:
		p.fail(field+".type", "%q is not supported", s.Type)
	}
}
