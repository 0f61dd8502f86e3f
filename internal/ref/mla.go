package ref

import "slices"

// An MLA is multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) on rows x [T,D], with N the elements of
// a head that are not rotated and R those that are:
//
//	q = QueryUp·norm(QueryDown·x)                       Heads heads of N + R, or QueryUp·x without QueryDown
//	[c | r] = KVDown·x                                  a latent of KVUp.In elements and R elements of all heads' keys
//	[k | v] = KVUp·norm(c), head by head                Heads heads of N + ValueWidth
//	y = Output·attention(rope(q), [k | rope(r)], v)
//
// The last R elements of each query and key head are rotated. A row's position is its place in its sequence.
type MLA[F Float] struct {
	Attention Attention // KVHeads = Heads, Width = N + R, KeyOffsets nil
	RoPE      RoPE      // First = N, Width = R

	QueryDown *Linear[F] // D → rank, nil for none
	QueryNorm []F        // [rank], with QueryDown
	QueryUp   Linear[F]  // rank, or D without QueryDown, → Heads·(N+R)
	KVDown    Linear[F]  // D → rank + R
	KVNorm    []F        // [rank]
	KVUp      Linear[F]  // rank → Heads·(N+ValueWidth)
	Output    Linear[F]  // Heads·ValueWidth → D
	Epsilon   float64    // of the norms
}

// An MLAResult holds the stages of MLAForward.
type MLAResult struct {
	QueryLatent, QueryNormed Result // [T,rank]; empty without QueryDown
	Down                     Result // [T,rank+R]
	Latent                   []float64
	LatentNormed             Result // [T,rank]
	Up                       Result // [T,Heads,N+ValueWidth]
	Query, Key, Value        []float64
	Attention                AttentionResult
	Out                      Result // [T,D]; its scale is that of the output projection alone
}

// widths returns N and R.
func (m *MLA[F]) widths() (plain, rotated int) { return m.RoPE.First, m.RoPE.Width }

// MLAForward runs the block on x [T,D].
func MLAForward[F, X Float](m MLA[F], x []X) MLAResult {
	var res MLAResult
	a := m.Attention
	rows, positions := a.Queries(), a.Positions()
	plain, rotated := m.widths()
	query := Widen(x)
	if m.QueryDown != nil {
		res.QueryLatent = DenseLinear(*m.QueryDown, x, rows)
		res.QueryNormed = RMSNorm(res.QueryLatent.Y, m.QueryNorm, m.QueryDown.Out, m.Epsilon)
		query = res.QueryNormed.Y
	}
	res.Query = Rotate(m.RoPE, DenseLinear(m.QueryUp, query, rows).Y, positions, a.Heads, a.Width).Y

	rank := m.KVUp.In
	res.Down = DenseLinear(m.KVDown, x, rows)
	var shared []float64
	res.Latent, shared = splitRows(res.Down.Y, rank, rotated)
	res.LatentNormed = RMSNorm(res.Latent, m.KVNorm, rank, m.Epsilon)
	res.Up = DenseLinear(m.KVUp, res.LatentNormed.Y, rows)
	var keys []float64
	keys, res.Value = splitRows(res.Up.Y, plain, a.ValueWidth)
	res.Key = Rotate(m.RoPE, joinRows(keys, repeatRows(shared, rotated, a.Heads), plain, rotated), positions, a.Heads, a.Width).Y
	res.Attention = AttentionForward(a, res.Query, res.Key, res.Value)
	res.Out = DenseLinear(m.Output, res.Attention.Out.Y, rows)
	return res
}

// splitRows cuts rows of left + right elements in two.
func splitRows(x []float64, left, right int) (l, r []float64) {
	for row := range slices.Chunk(x, left+right) {
		l, r = append(l, row[:left]...), append(r, row[left:]...)
	}
	return l, r
}

// joinRows is the inverse of splitRows.
func joinRows(l, r []float64, left, right int) []float64 {
	var x []float64
	for i := range len(l) / left {
		x = append(append(x, l[i*left:(i+1)*left]...), r[i*right:(i+1)*right]...)
	}
	return x
}

// repeatRows returns n copies of each row.
func repeatRows(x []float64, width, n int) []float64 {
	var out []float64
	for row := range slices.Chunk(x, width) {
		for range n {
			out = append(out, row...)
		}
	}
	return out
}
