package ref

// A SelfAttention is a decoder's block of grouped-query attention on rows x [T,D]:
//
//	q = rope(norm(Query·x)), k = rope(norm(Key·x)), v = Value·x
//	y = Output·attention(q, k, v)
//
// with q of Heads·Width, k of KVHeads·Width and v of KVHeads·ValueWidth elements a row. A row's position is its place in its
// sequence.
type SelfAttention[F Float] struct {
	Attention                 Attention // KeyOffsets nil
	RoPE                      RoPE      // of every head of q and k
	Query, Key, Value, Output Linear[F] // one expert each
	QueryNorm, KeyNorm        []F       // RMSNorm weights: of one head for each head by itself, or of a whole row; nil for none
	Epsilon                   float64   // of the norms
}

// A SelfAttentionResult holds every stage of SelfAttentionForward.
type SelfAttentionResult struct {
	Projected, Normed, Rotated [2]Result // queries and keys after each step
	Value                      Result
	Attention                  AttentionResult
	Out                        Result // [T,D]; its scale is that of the output projection alone
}

// Positions returns each query row's place in its sequence, [T].
func (a Attention) Positions() []int32 {
	var positions []int32
	for b, first := range a.QueryOffsets[:a.SequenceCount()] {
		for i := range a.QueryOffsets[b+1] - first {
			positions = append(positions, i)
		}
	}
	return positions
}

// SelfAttentionForward runs the block on x [T,D].
func SelfAttentionForward[F, X Float](s SelfAttention[F], x []X) SelfAttentionResult {
	var res SelfAttentionResult
	a := s.Attention
	rows, positions := a.Queries(), a.Positions()
	for i, side := range s.sides() {
		res.Projected[i] = DenseLinear(*side.linear, x, rows)
		res.Normed[i] = res.Projected[i]
		if side.norm != nil {
			res.Normed[i] = RMSNorm(res.Projected[i].Y, side.norm, len(side.norm), s.Epsilon)
		}
		res.Rotated[i] = Rotate(s.RoPE, res.Normed[i].Y, positions, side.heads, a.Width)
	}
	res.Value = DenseLinear(s.Value, x, rows)
	res.Attention = AttentionForward(a, res.Rotated[0].Y, res.Rotated[1].Y, res.Value.Y)
	res.Out = DenseLinear(s.Output, res.Attention.Out.Y, rows)
	return res
}

// A side is what queries and keys have alike.
type side[F Float] struct {
	linear *Linear[F]
	norm   []F
	heads  int
}

func (s *SelfAttention[F]) sides() [2]side[F] {
	return [2]side[F]{{&s.Query, s.QueryNorm, s.Attention.Heads}, {&s.Key, s.KeyNorm, s.Attention.KVHeads}}
}
