package tokenizer

import "strings"

// The byte-level alphabet of GPT-2 writes every byte as a character that can be seen: printable Latin-1 characters as
// themselves, the 68 other bytes as the characters from U+0100 on.
var (
	byteChars [256]rune
	charBytes = map[rune]byte{}
)

func init() {
	next := rune(256)
	for b := range 256 {
		c := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae) {
			c = next
			next++
		}
		byteChars[b] = c
		charBytes[c] = byte(b)
	}
}

// toAlphabet writes a text's bytes in the alphabet.
func toAlphabet(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		b.WriteRune(byteChars[c])
	}
	return b.String()
}

// fromAlphabet reads a text in the alphabet; what is not in it stays as it is.
func fromAlphabet(text string) []byte {
	var out []byte
	for _, r := range text {
		if b, ok := charBytes[r]; ok {
			out = append(out, b)
		} else {
			out = append(out, string(r)...)
		}
	}
	return out
}
