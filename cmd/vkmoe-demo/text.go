package main

import (
	_ "embed"
	"fmt"
	"os"
	"strings"
	"unicode"
)

// opticks is the beginning of the first book of Isaac Newton's Opticks (fourth edition, London 1730): the first eight
// definitions, without the headings, blank lines and marks of italics of the transcription.
//
//go:embed opticks.txt
var opticks string

// maxCharacters bounds the text that is routed; of a longer file the beginning is taken.
const maxCharacters = 1 << 17

// A document is a text as the layer gets it: one token a character.
type document struct {
	Name       string
	Characters []rune
	Cut        int // characters of the file that were left out
}

// loadText reads a text file, or takes the built-in text when path is "". Line ends become "\n"; bytes that are not
// UTF-8 become the replacement character.
func loadText(path string) (*document, error) {
	name, text := "Newton, Opticks (1730)", opticks
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the text: %w", err)
		}
		name, text = path, string(data)
	}
	text = strings.NewReplacer("\ufeff", "", "\r\n", "\n", "\r", "\n").Replace(text)
	d := &document{Name: name, Characters: []rune(text)}
	if len(d.Characters) == 0 {
		return nil, fmt.Errorf("the text %s is empty", path)
	}
	if extra := len(d.Characters) - maxCharacters; extra > 0 {
		d.Characters, d.Cut = d.Characters[:maxCharacters], extra
	}
	return d, nil
}

// The vocabulary: the reference models know 64 tokens, which stand for nothing, so the demo gives them a meaning.
//
//	0        every character that has no token of its own
//	1, 2     not used: the models' configurations keep them for the beginning and the end of a text
//	3        space, tab and every other space but the line break
//	4        line break
//	5–30     a to z; capitals are folded into them
//	31–40    0 to 9
//	41–63    the characters of punctuation, in that order
const (
	tokenOther  = 0
	tokenSpace  = 3
	tokenBreak  = 4
	tokenLetter = 5
	tokenDigit  = 31
	tokenPunct  = 41

	vocabulary  = 64
	punctuation = `.,;:!?'"()[]-_/&*+=<>#%`
)

// typographic maps characters of print to the ones of punctuation.
var typographic = map[rune]rune{'‘': '\'', '’': '\'', '“': '"', '”': '"', '–': '-', '—': '-', '‐': '-', '×': '*', '−': '-'}

// token returns the token id of a character, 0 to 63.
func token(ch rune) int {
	ch = unicode.ToLower(ch)
	if plain, ok := typographic[ch]; ok {
		ch = plain
	}
	switch {
	case ch == '\n':
		return tokenBreak
	case unicode.IsSpace(ch):
		return tokenSpace
	case ch >= 'a' && ch <= 'z':
		return tokenLetter + int(ch-'a')
	case ch >= '0' && ch <= '9':
		return tokenDigit + int(ch-'0')
	}
	if i := strings.IndexRune(punctuation, ch); i >= 0 {
		return tokenPunct + i
	}
	return tokenOther
}

const help = `Routes a text through one Mixture-of-Experts layer on a Vulkan device, compares the result with a float64
reference on the CPU, and draws which expert each character went to (routing.png).

The built-in models granitemoe, mixtral, olmoe and qwen3moe are tiny decoders with random weights: they show how
the layer routes, not what a trained model knows. Each character is one token: space, line break, a to z (case
folded), 0 to 9, the punctuation ` + punctuation + `, and one token for all the rest. The layer's input is
RMSNorm(h), h[t] = embedding[t] + context · h[t−1]: the running mix stands in for the attention, which the demo does
not run, and makes a character's experts depend on what precedes it.

Exit codes: 0 the device agrees with the reference, 1 it does not or a run failed, 2 something cannot be used.`
