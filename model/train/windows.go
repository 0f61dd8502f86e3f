package train

import (
	"fmt"
	"math/rand/v2"

	"github.com/vkmoe/vkmoe/moe"
)

// Windows draws batches from a text: windows of Length tokens that begin anywhere, each with the next token as the target of
// every token. Which ones follows from the seed and the number of the step alone, so that a run which is resumed sees what it
// would have seen.
type Windows struct {
	Tokens []int32 // the text's ids
	Seed   uint64  // of the windows' places
}

// Batch returns ids and targets of n windows of length tokens for a step. It fails with a *moe.ConfigError where the text is
// shorter than one window.
func (w Windows) Batch(step, n, length int) (ids, targets []int32, err error) {
	starts := len(w.Tokens) - length
	if starts < 1 {
		return nil, nil, &moe.ConfigError{Config: "Windows", Field: "Tokens", Want: fmt.Sprintf("more than %d", length),
			Got: fmt.Sprint(len(w.Tokens))}
	}
	rng := rand.New(rand.NewPCG(w.Seed, uint64(step)))
	for range n {
		at := rng.IntN(starts)
		ids = append(ids, w.Tokens[at:at+length]...)
		targets = append(targets, w.Tokens[at+1:at+length+1]...)
	}
	return ids, targets, nil
}

// Bytes are the tokens of a text of a byte-level model, whose vocabulary is 256.
func Bytes(text []byte) []int32 {
	tokens := make([]int32, len(text))
	for i, b := range text {
		tokens[i] = int32(b)
	}
	return tokens
}
