package ref

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRouteHandComputed(t *testing.T) {
	// Slots 0..5 of 3 tokens go to experts 2 0 · 2 1 · 0 2; expert 3 stays empty.
	r := Route([]int32{2, 0, 2, 1, 0, 2}, 3, 4, 2)
	require.Equal(t, []int32{1, 4, 3, 0, 2, 5}, r.Order)
	require.Equal(t, []int32{3, 0, 4, 2, 1, 5}, r.Inverse)
	require.Equal(t, []int32{0, 2, 3, 6, 6}, r.Offsets)
	require.Equal(t, []int32{2, 1, 3, 0}, r.Counts)
	require.Equal(t, [][3]int32{{0, 0, 2}, {1, 2, 3}, {2, 3, 6}, {2, 5, 6}}, r.Tiles(2))
	require.Equal(t, -1, r.BadSlot)
}

func TestRouteKeepsBadIDsOutOfEveryGroup(t *testing.T) {
	r := Route([]int32{1, -1, 0, 9, 2, 1}, 3, 2, 2)
	require.Equal(t, []int32{2, 0, 5}, r.Order)
	require.Equal(t, []int32{1, -1, 0, -1, -1, 2}, r.Inverse)
	require.Equal(t, []int32{0, 1, 3}, r.Offsets)
	require.Equal(t, 3, r.BadCount)
	require.Equal(t, 1, r.BadSlot)
	require.Equal(t, int32(-1), r.BadID)
}

func TestRouteOfNothing(t *testing.T) {
	r := Route(nil, 0, 3, 2)
	require.Empty(t, r.Order)
	require.Equal(t, []int32{0, 0, 0, 0}, r.Offsets)
	require.Empty(t, r.Tiles(16))
	require.Zero(t, TileBound(0, 3, 16))
}

func TestRouteProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens, k := rapid.IntRange(0, 30).Draw(t, "T"), rapid.IntRange(1, 4).Draw(t, "k")
		experts := rapid.IntRange(1, 9).Draw(t, "E")
		ids := rapid.SliceOfN(rapid.Int32Range(-1, int32(experts)), tokens*k, tokens*k).Draw(t, "ids")
		r := Route(ids, tokens, experts, k)

		seen := map[int32]bool{}
		for p, s := range r.Order {
			require.False(t, seen[s], "slot %d twice", s)
			seen[s] = true
			require.Equal(t, int32(p), r.Inverse[s])
			require.True(t, r.Valid(int(s)))
			e := ids[s]
			require.True(t, r.Offsets[e] <= int32(p) && int32(p) < r.Offsets[e+1])
			if p > 0 {
				before := r.Order[p-1]
				require.True(t, ids[before] < e || ids[before] == e && before < s, "not stable at %d", p)
			}
		}
		require.Equal(t, tokens*k, len(r.Order)+r.BadCount)

		blockM := rapid.IntRange(1, 8).Draw(t, "blockM")
		rows, tiles := 0, r.Tiles(blockM)
		for _, tile := range tiles {
			end := min(tile[1]+int32(blockM), r.Offsets[tile[0]+1])
			require.Greater(t, end, tile[1])
			require.Equal(t, r.Offsets[tile[0]+1], tile[2])
			rows += int(end - tile[1])
		}
		require.Equal(t, len(r.Order), rows)
		require.LessOrEqual(t, len(tiles), TileBound(tokens*k, experts, blockM))
	})
}
