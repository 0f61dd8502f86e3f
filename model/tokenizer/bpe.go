package tokenizer

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// bpe is byte-pair encoding (Sennrich, Haddow and Birch, arXiv 1508.07909): neighbouring symbols are merged, the pair of the
// lowest rank first, until no pair has one.
type bpe struct {
	ids    map[string]int32
	tokens []string // by id
	known  []bool
	ranks  map[[2]int32]merge

	unknown      int32 // −1 for none
	fuseUnknown  bool
	byteFallback bool
	ignoreMerges bool // a piece that is a token is one
	bytes        [256]int32
}

// merge is what a pair of symbols becomes, and when.
type merge struct {
	rank   int
	symbol int32
}

// setBytes looks up the tokens that stand for single bytes, <0x00> to <0xFF>.
func (b *bpe) setBytes() {
	for i := range b.bytes {
		b.bytes[i] = -1
		if id, ok := b.ids[fmt.Sprintf("<0x%02X>", i)]; ok {
			b.bytes[i] = id
		}
	}
}

// encode appends the tokens of one piece of text.
func (b *bpe) encode(out []int32, piece string) []int32 {
	if piece == "" {
		return out
	}
	if id, ok := b.ids[piece]; ok && b.ignoreMerges {
		return append(out, id)
	}
	return append(out, b.merge(b.symbols(piece))...)
}

// symbols are the tokens of a piece's characters.
func (b *bpe) symbols(piece string) []int32 {
	var list []int32
	unknown := false // the last symbol is the unknown token
	for at := 0; at < len(piece); {
		_, size := utf8.DecodeRuneInString(piece[at:])
		character := piece[at : at+size]
		at += size
		if id, ok := b.ids[character]; ok {
			list, unknown = append(list, id), false
			continue
		}
		if b.byteFallback && !slices.ContainsFunc([]byte(character), func(c byte) bool { return b.bytes[c] < 0 }) {
			for _, c := range []byte(character) {
				list = append(list, b.bytes[c])
			}
			unknown = false
			continue
		}
		if b.unknown >= 0 && !(unknown && b.fuseUnknown) {
			list, unknown = append(list, b.unknown), true
		}
	}
	return list
}

// merge merges pairs in place. A heap holds the candidates by rank and then by place, since a text without a pre-tokenizer is
// one piece.
func (b *bpe) merge(s []int32) []int32 {
	next, previous := make([]int, len(s)), make([]int, len(s))
	for i := range s {
		next[i], previous[i] = i+1, i-1
	}
	var heap candidates
	push := func(i int) {
		if i >= 0 && next[i] < len(s) {
			if m, ok := b.ranks[[2]int32{s[i], s[next[i]]}]; ok {
				heap.push(candidate{m, i, s[i], s[next[i]]})
			}
		}
	}
	for i := range s {
		push(i)
	}
	for len(heap) > 0 {
		c := heap.pop()
		right := next[c.at]
		if right >= len(s) || s[c.at] != c.left || s[right] != c.right || next[right] < 0 {
			continue // one of the two was merged meanwhile
		}
		s[c.at] = c.symbol
		next[c.at] = next[right]
		if next[right] < len(s) {
			previous[next[right]] = c.at
		}
		s[right], next[right] = -1, -1
		push(previous[c.at])
		push(c.at)
	}
	return slices.DeleteFunc(s, func(id int32) bool { return id < 0 })
}

// candidate is a pair that may be merged: the symbols that it had when it was found, the first of them at s[at].
type candidate struct {
	merge
	at          int
	left, right int32
}

// candidates is a binary heap, the lowest rank and then the leftmost place on top.
type candidates []candidate

func (h candidates) less(i, j int) bool {
	return h[i].rank < h[j].rank || h[i].rank == h[j].rank && h[i].at < h[j].at
}

func (h *candidates) push(c candidate) {
	*h = append(*h, c)
	for i := len(*h) - 1; i > 0 && h.less(i, (i-1)/2); i = (i - 1) / 2 {
		(*h)[i], (*h)[(i-1)/2] = (*h)[(i-1)/2], (*h)[i]
	}
}

func (h *candidates) pop() candidate {
	top, last := (*h)[0], len(*h)-1
	(*h)[0] = (*h)[last]
	*h = (*h)[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child+1 < last && h.less(child+1, child) {
			child++
		}
		if child >= last || !h.less(child, i) {
			return top
		}
		(*h)[i], (*h)[child] = (*h)[child], (*h)[i]
		i = child
	}
}
