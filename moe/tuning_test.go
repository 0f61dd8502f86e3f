package moe

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// builtInBands are the bands of all classes.
func builtInBands() []tileBand {
	var list []tileBand
	for class := range classNames {
		list = append(list, classTunings()[deviceClass(class)].Bands...)
	}
	return list
}

// encode writes a table as Save does.
func encode(t testing.TB, table any) []byte {
	data, err := json.Marshal(table)
	require.NoError(t, err)
	return data
}

func TestBuiltInTablesSurviveTheirFile(t *testing.T) {
	for class := range classNames {
		table := classTunings()[deviceClass(class)]
		again, err := parseTuning(encode(t, table))
		require.NoError(t, err)
		require.Equal(t, table, again)
		require.NotEmpty(t, table.Measured.Device)
		require.NotEmpty(t, table.Measured.Date)
	}
	tensor := classTunings()[classTensor]
	require.Equal(t, &tensor.Bands[0], tensor.band(160*32, 32))
	require.Equal(t, &tensor.Bands[1], tensor.band(160*32-1, 32))
	require.Equal(t, 144, tensor.band(128*32, 32).Wide.BM)
	require.Equal(t, 128, tensor.band(128*33, 33).Wide.BM, "that band is for up to 32 experts")
	require.Equal(t, 0, tensor.band(0, 32).MeanRows)
	require.Equal(t, tensor.band(3, 32), tensor.band(1, 1024), "few rows: one per active expert")
}

func TestBrokenTablesAreRefused(t *testing.T) {
	for name, breakIt := range map[string]func(t *Tuning){
		"Format":                    func(t *Tuning) { t.Format = 2 },
		"Bands":                     func(t *Tuning) { t.Bands = nil },
		"Bands[1].MeanRows":         func(t *Tuning) { t.Bands[1].MeanRows = 160 },
		"Bands[0].Wide and Narrow":  func(t *Tuning) { t.Bands[0].Narrow.BM = 64 },
		"Bands[2].Matrices":         func(t *Tuning) { t.Bands[2].Matrices = []widthTile{{tensorTile: tensorTile{16, 128, 64, 1, 4}}} },
		"Bands[3].Vectors":          func(t *Tuning) { t.Bands[3].Vectors = vectorTile{128, 24, 4, 4} },
		"Bands[3].MatricesInt8":     func(t *Tuning) { t.Bands[3].MatricesInt8 = []widthTile{{tensorTile: tensorTile{16, 128, 64, 1, 4}}} },
		"Bands[3].VectorsQ4":        func(t *Tuning) { t.Bands[3].VectorsQ4 = vectorTile{128, 24, 4, 4} },
		"Bands ":                    func(t *Tuning) { t.Bands[len(t.Bands)-1].MaxExperts = 8 },
		"Gradients":                 func(t *Tuning) { t.Gradients = []widthTile{{}} },
		"Bands[0].Wide and Narrow ": func(t *Tuning) { t.Bands[0].Wide.BK = 32 }, // shared memory
	} {
		table, err := parseTuning(encode(t, classTunings()[classTensor]))
		require.NoError(t, err)
		breakIt(table)
		var wrong *ConfigError
		require.ErrorAs(t, table.Validate(), &wrong, name)
		require.Equal(t, strings.TrimSpace(name), wrong.Field)
	}
	_, err := parseTuning([]byte(`{"format": 1, "class": "quantum"}`))
	require.ErrorContains(t, err, "quantum")
	_, err = parseTuning([]byte(`{"format": 1, "colour": "red"}`))
	require.ErrorContains(t, err, "colour")
	for _, tile := range []Tile{{}, {32, 32, 16, 5, 4}, {32, 32, 18, 4, 4}, {64, 64, 16, 2, 2}, {1024, 4, 4, 16, 4}, {8, 8, 64, 4, 4}} {
		require.False(t, tile.valid(), "%v", tile)
	}
}

// TestTilesThatDoNotRunAreSkipped: the next one for the widths is taken instead of another path.
func TestTilesThatDoNotRunAreSkipped(t *testing.T) {
	big, small := tensorTile{144, 192, 64, 3, 4}, tensorTile{144, 64, 64, 1, 2}
	tiles := []widthTile{{MinIn: 64, tensorTile: big}, {tensorTile: small}}
	require.Equal(t, big, fitting(tiles, 64, 8, nil))
	require.Equal(t, small, fitting(tiles, 32, 8, nil))
	require.Equal(t, small, fitting(tiles, 64, 8, func(t tensorTile) bool { return t != big }))
	require.Empty(t, fitting(tiles, 64, 8, func(tensorTile) bool { return false }))
}

// openOwn opens a device whose cache folder is dir.
func openOwn(t *testing.T, dir string) *vk.Device {
	t.Helper()
	newKit(t).Close() // skips without a device
	own, err := vk.Open(vk.Options{CacheDir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Close()) })
	return own
}

// TestOwnTableIsReadAndStaleOnesAreNot: what Save wrote is in force on the next device; anything else is ignored with a reason.
func TestOwnTableIsReadAndStaleOnesAreNot(t *testing.T) {
	t.Setenv(TuningVariable, "")
	dir := t.TempDir()
	first := openOwn(t, dir)
	require.Contains(t, TuningOf(first).Source, "built in")
	require.NoError(t, TuningOf(first).Ignored)
	own, err := parseTuning(encode(t, BuiltInTuning(first)))
	require.NoError(t, err)
	own.Bands[0].MeanRows += 100
	path, err := own.Save(first)
	require.NoError(t, err)
	require.Equal(t, dir, filepath.Dir(path))
	require.Contains(t, TuningOf(first).Source, "built in", "the device has made up its mind")

	second := openOwn(t, dir)
	require.Equal(t, path, TuningOf(second).Source)
	require.Equal(t, own.Bands, TuningOf(second).Table.Bands)

	good, err := os.ReadFile(path)
	require.NoError(t, err)
	var stale Tuning
	require.NoError(t, json.Unmarshal(good, &stale))
	stale.Key.DriverVersion = "another"
	for reason, data := range map[string][]byte{
		"unexpected EOF": good[:len(good)/2], "invalid character": []byte("tuning"), "another device, driver": encode(t, stale),
		"Bands": []byte(`{"format": 1, "class": "software"}`),
	} {
		require.NoError(t, os.WriteFile(path, data, 0o644))
		status := TuningOf(openOwn(t, dir))
		require.ErrorContains(t, status.Ignored, reason)
		require.Equal(t, BuiltInTuning(second), status.Table)
	}

	t.Setenv(TuningVariable, "off")
	require.NoError(t, os.WriteFile(path, good, 0o644))
	off := openOwn(t, dir)
	require.Contains(t, TuningOf(off).Source, "built in")
	_, err = own.Save(off)
	require.ErrorContains(t, err, TuningVariable)
	t.Setenv(TuningVariable, filepath.Join(dir, "missing.json"))
	require.ErrorIs(t, TuningOf(openOwn(t, dir)).Ignored, os.ErrNotExist, "a file that was asked for")
}

// TestTuningInUse: a table that the program sets decides, and a routing cut otherwise is refused.
func TestTuningInUse(t *testing.T) {
	t.Setenv(TuningVariable, "off")
	own := openOwn(t, t.TempDir())
	l, err := NewParallelLinear(own, ParallelLinearConfig{Experts: 2, In: 64, Out: 64})
	require.NoError(t, err)
	defer l.Close()
	rec, err := own.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	ids, err := NewIDs(t.Context(), own, []int32{0, 1, 1, 0}, 1, 2)
	require.NoError(t, err)
	defer ids.Close()
	r, err := RouteIDs(rec, ids, nil, 2)
	require.NoError(t, err)
	table, err := parseTuning(encode(t, BuiltInTuning(own)))
	require.NoError(t, err)
	table.Bands = []tileBand{{Wide: Tile{64, 32, 16, 4, 4}, Narrow: Tile{64, 8, 16, 4, 2}}}
	require.NoError(t, UseTuning(own, table))
	c, err := l.Choice(own, 400)
	require.NoError(t, err)
	require.Equal(t, shaders.Scatter2scatterF32, c.Pipeline.Kernel)
	c.Pipeline = vk.PipelineSpec{}
	require.Equal(t, Choice{200, 0, "scatter2scatter.f32", PathPortable, "64×32×16 tiles, 4×4 per invocation, 128 invocations",
		"set by the program", vk.PipelineSpec{}}, c)
	require.Contains(t, c.String(), "200 rows per expert (band from 0): portable path, scatter2scatter.f32, 64×32×16 tiles")
	x, err := own.NewTensor(vk.F32, 4, 64)
	require.NoError(t, err)
	defer x.Close()
	y, err := own.NewTensor(vk.F32, 4, 64)
	require.NoError(t, err)
	defer y.Close()
	var shape *vk.ShapeError
	require.ErrorAs(t, l.Forward(rec, r, x, y, LinearOptions{}), &shape)
	table.Bands[0].Wide.BM = 0
	require.Error(t, UseTuning(own, table))
}

// TestLayersRunWithAnyTable holds results to the oracle where the table cuts rows as no built-in one does.
func TestLayersRunWithAnyTable(t *testing.T) {
	k := newKit(t)
	before := TuningOf(dev).Table
	table, err := parseTuning(encode(t, before))
	require.NoError(t, err)
	table.Bands = []tileBand{{Wide: Tile{24, 16, 8, 3, 2}, Narrow: Tile{24, 8, 8, 3, 2}}}
	require.NoError(t, UseTuning(dev, table))
	defer func() { require.NoError(t, UseTuning(dev, before)) }()
	k.Close()
	linearCase{100, 5, 2, 40, 36, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, nil}.check(t, false)
}

// TestCandidatesAreTablesThatFit asks every question about every class's bands, as on a device with matrices of 16 × 16 × 16.
func TestCandidatesAreTablesThatFit(t *testing.T) {
	own := openOwn(t, t.TempDir())
	own.Caps().CooperativeMatrix = []vk.CooperativeMatrixShape{{M: 16, N: 16, K: 16, A: "bf16", B: "bf16", C: "f32", D: "f32", Scope: "subgroup"}}
	answers := map[TuningStep]int{}
	for class := range classNames {
		table := classTunings()[deviceClass(class)]
		before := encode(t, table)
		for band, rows := range table.BandRows() {
			require.Equal(t, table.Bands[band].MeanRows, rows)
			for _, step := range TuningSteps {
				list := table.Candidates(own, band, step)
				for i, c := range list {
					require.NoError(t, c.Table.Validate())
					require.NotEmpty(t, c.What)
					if i > 0 {
						require.NotEqual(t, list[0].Table, c.Table, "%v of band %d: %s", step, band, c.What)
					}
				}
				if len(list) > 0 {
					require.Equal(t, table.Bands, list[0].Table.Bands, "the present answer first")
				}
				answers[step] += len(list)
			}
		}
		require.Equal(t, before, encode(t, table), "the table itself stays")
	}
	for _, step := range TuningSteps {
		require.Greater(t, answers[step], 5, "%v", step)
	}
}
