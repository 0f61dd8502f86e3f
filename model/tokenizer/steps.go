package tokenizer

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// A splitter cuts a piece of text into finer ones; first says that the piece is the first of its text.
type splitter func(piece string, first bool) []string

// A decoder changes the tokens of a text.
type decoder func(tokens []string) []string

// gpt2Words is how GPT-2 cuts a text into words (the ByteLevel pre-tokenizer's own pattern).
const gpt2Words = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// matchTimeout bounds one match of a pattern from a stranger's file.
const matchTimeout = 10 * time.Second

func compile(pattern string) (*regexp2.Regexp, error) {
	re, err := regexp2.Compile(pattern, regexp2.None)
	if err == nil {
		re.MatchTimeout = matchTimeout
	}
	return re, err
}

// A span is a part of a piece, and whether the pattern matched it.
type span struct {
	text    string
	matched bool
}

// spans cuts a piece at the matches of a pattern. A match that takes too long ends the cutting: the rest is one span.
func spans(re *regexp2.Regexp, piece string) []span {
	runes := []rune(piece)
	var list []span
	at := 0
	add := func(to int, matched bool) {
		if to > at {
			list = append(list, span{string(runes[at:to]), matched})
			at = to
		}
	}
	for m, err := re.FindRunesMatch(runes); m != nil && err == nil; m, err = re.FindNextMatch(m) {
		add(m.Index, false)
		add(m.Index+m.Length, true)
	}
	add(len(runes), false)
	return list
}

// isolate cuts at the matches of a pattern, or with invert at what lies between; both are pieces, or with remove only what is
// no delimiter.
func isolate(re *regexp2.Regexp, invert, remove bool) splitter {
	return func(piece string, _ bool) []string {
		var out []string
		for _, s := range spans(re, piece) {
			if !remove || s.matched == invert {
				out = append(out, s.text)
			}
		}
		return out
	}
}

// byteLevel writes pieces in the byte-level alphabet, after cutting them into words unless re is nil.
func byteLevel(re *regexp2.Regexp, prefixSpace bool) splitter {
	return func(piece string, first bool) []string {
		if prefixSpace && first && !strings.HasPrefix(piece, " ") {
			piece = " " + piece
		}
		words := []string{piece}
		if re != nil {
			words = isolate(re, false, false)(piece, first)
		}
		for i := range words {
			words[i] = toAlphabet(words[i])
		}
		return words
	}
}

// digits cuts numbers from text, digit by digit or whole.
func digits(individual bool) splitter {
	return func(piece string, _ bool) []string {
		var out []string
		last := false
		for _, r := range piece {
			is := unicode.IsNumber(r)
			if len(out) == 0 || is != last || is && individual {
				out = append(out, "")
			}
			out[len(out)-1] += string(r)
			last = is
		}
		return out
	}
}

// metaspace writes spaces as a visible character, which it also puts before the text; with split every such character begins a
// piece.
func metaspace(mark string, prepend string, split bool) splitter {
	return func(piece string, first bool) []string {
		piece = strings.ReplaceAll(piece, " ", mark)
		if (prepend == "always" || prepend == "first" && first) && !strings.HasPrefix(piece, mark) {
			piece = mark + piece
		}
		if !split || mark == "" {
			return []string{piece}
		}
		var out []string
		for piece != "" {
			end := strings.Index(piece[min(len(mark), len(piece)):], mark)
			if end < 0 {
				return append(out, piece)
			}
			out, piece = append(out, piece[:len(mark)+end]), piece[len(mark)+end:]
		}
		return out
	}
}

// decodeBytes reads tokens that stand for bytes, <0x00> to <0xFF>. Bytes that are no UTF-8 together become U+FFFD each.
func decodeBytes(tokens []string) []string {
	var out []string
	var raw []byte
	flush := func() {
		if utf8.Valid(raw) {
			if len(raw) > 0 {
				out = append(out, string(raw))
			}
		} else {
			for range raw {
				out = append(out, "\ufffd")
			}
		}
		raw = nil
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			raw = append(raw, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// byteToken reads <0xNN>.
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || !strings.HasPrefix(t, "<0x") || t[5] != '>' {
		return 0, false
	}
	var b byte
	for _, c := range []byte(t[3:5]) {
		switch {
		case c >= '0' && c <= '9':
			b = b<<4 | (c - '0')
		case c >= 'A' && c <= 'F':
			b = b<<4 | (c - 'A' + 10)
		default:
			return 0, false
		}
	}
	return b, true
}

// decodeByteLevel reads tokens in the byte-level alphabet.
func decodeByteLevel(tokens []string) []string {
	var raw []byte
	for _, t := range tokens {
		raw = append(raw, fromAlphabet(t)...)
	}
	return []string{strings.ToValidUTF8(string(raw), "\ufffd")}
}

// strip removes up to left and right times a text from the ends of every token.
func strip(content string, left, right int) decoder {
	return func(tokens []string) []string {
		for i, t := range tokens {
			for n := 0; n < left && strings.HasPrefix(t, content); n++ {
				t = t[len(content):]
			}
			for n := 0; n < right && strings.HasSuffix(t, content); n++ {
				t = t[:len(t)-len(content)]
			}
			tokens[i] = t
		}
		return tokens
	}
}
