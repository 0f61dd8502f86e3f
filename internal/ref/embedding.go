package ref

// Embedding returns the rows of table [V,D] that the ids name, times scale; 0 for an id outside [0, V).
func Embedding[F Float](table []F, ids []int32, vocabulary, width int, scale float64) Result {
	requireLen("Embedding", "table", len(table), vocabulary*width)
	out := newResult(len(ids) * width)
	for t, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			continue
		}
		for c := range width {
			v := scale * float64(table[int(id)*width+c])
			out.Y[t*width+c], out.Abs[t*width+c] = v, max(v, -v)
		}
	}
	return out
}

// EmbeddingBackward returns the gradient of the table from dy [T,D]: row v is scale times the sum over the tokens with id v.
func EmbeddingBackward[F Float](dy []F, ids []int32, vocabulary, width int, scale float64) Result {
	requireLen("EmbeddingBackward", "dy", len(dy), len(ids)*width)
	out := newResult(vocabulary * width)
	for t, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			continue
		}
		for c := range width {
			v := scale * float64(dy[t*width+c])
			out.Y[int(id)*width+c] += v
			out.Abs[int(id)*width+c] += max(v, -v)
		}
	}
	return out
}
