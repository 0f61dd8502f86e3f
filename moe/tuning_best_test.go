package moe

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBestAnswer: an answer must be faster over all widths and slower on none; tiles of as many rows are combined by widths.
func TestBestAnswer(t *testing.T) {
	table := classTunings()[classTensor]
	tile := func(bm, bn int) TuningCandidate {
		own := table.clone()
		own.setTiles(0, TuneRows, []widthTile{{tensorTile: tensorTile{bm, bn, 64, 2, 2}}})
		require.NoError(t, own.Validate())
		return TuningCandidate{Table: own, What: "another", tile: tensorTile{bm, bn, 64, 2, 2}}
	}
	candidates := []TuningCandidate{{Table: table, What: "present"}, tile(128, 64), tile(128, 96), tile(96, 128), tile(96, 64)}
	present := table.Bands[0].Matrices[0].tensorTile
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		trials []TuningTrial
		rows   int
		tiles  []widthTile
	}{
		"noise":                     {[]TuningTrial{{64, 64, []float64{1, 0.99, 0.999, 1, 2}}}, 128, []widthTile{{tensorTile: present}}},
		"one for all":               {[]TuningTrial{{64, 64, []float64{1, 2, 2, 0.9, 2}}, {8, 8, []float64{1, 2, 2, 0.95, inf}}}, 96, []widthTile{{tensorTile: tensorTile{96, 128, 64, 2, 2}}}},
		"faster on one, never slow": {[]TuningTrial{{64, 64, []float64{1, 2, 2, 0.5, inf}}, {8, 8, []float64{1, 1, 1, 1.1, inf}}}, 128, []widthTile{{tensorTile: present}}},
		"by widths": {[]TuningTrial{{64, 64, []float64{1, 0.8, 1.2, 1, 1}}, {64, 128, []float64{1, 1.1, 1.2, 1, 1}}, {8, 8, []float64{1, 1.1, 0.9, 1, 1}}}, 128,
			[]widthTile{{64, 128, present}, {64, 64, tensorTile{128, 64, 64, 2, 2}}, {tensorTile: tensorTile{128, 96, 64, 2, 2}}}},
		"of other rows, by widths": {[]TuningTrial{{8, 8, []float64{1, 1, 1, 0.8, inf}}, {8, 8, []float64{1, 1, 1, 0.9, inf}}, {8, 64, []float64{1, 1, 0.95, 1.1, 0.7}}}, 96,
			[]widthTile{{8, 64, tensorTile{96, 64, 64, 2, 2}}, {tensorTile: tensorTile{96, 128, 64, 2, 2}}}},
	} {
		best := table.Best(0, TuneRows, candidates, c.trials)
		require.NoError(t, best.Table.Validate(), name)
		require.Equal(t, c.tiles, best.Table.Bands[0].Matrices, name)
		require.Equal(t, c.rows, best.Table.Bands[0].Wide.BM, name)
		require.Equal(t, c.tiles[0].tensorTile == present && len(c.tiles) == 1, best.Time == 1, name)
	}
	require.Equal(t, 0.5, table.Best(0, TunePortable, []TuningCandidate{{Table: table}, {Table: table, What: "fast"}},
		[]TuningTrial{{8, 8, []float64{1, 0.5}}}).Time)
}
