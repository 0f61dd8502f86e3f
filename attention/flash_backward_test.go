package attention

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// backwardConfigs are the features one by one and together.
func backwardConfigs() map[string]FlashConfig {
	base := gqa(4, 2, 16, 16)
	base.Causal = false
	with := func(change func(c *FlashConfig)) FlashConfig {
		c := base
		change(&c)
		return c
	}
	return map[string]FlashConfig{
		"full":        base,
		"causal":      with(func(c *FlashConfig) { c.Causal = true }),
		"tiled":       with(func(c *FlashConfig) { c.Tiled, c.Causal = true, true }),
		"multi-query": with(func(c *FlashConfig) { c.KVHeads, c.Causal = 1, true }),
		"window":      with(func(c *FlashConfig) { c.Causal, c.Window = true, 20 }),
		"open window": with(func(c *FlashConfig) { c.Window = 9 }),
		"soft cap":    with(func(c *FlashConfig) { c.SoftCap, c.Scale = 1.5, 0.7 }),
		"widths":      with(func(c *FlashConfig) { c.Width, c.ValueWidth, c.Causal = 19, 6, true }),
		"value width": with(func(c *FlashConfig) { c.Width, c.ValueWidth, c.Causal = 24, 40, true }),
		"all": with(func(c *FlashConfig) {
			c.Heads, c.Width, c.ValueWidth, c.Tiled, c.Causal, c.Window, c.SoftCap = 6, 12, 20, true, true, 50, 2
		}),
	}
}

// backwardTypes are the storage types that a kind of attention is tested in. Pipelines take long to compile on a CPU, and
// the 16-bit ones differ in loads and stores only.
func backwardTypes(kind string) []vk.DType {
	if kind == "causal" || kind == "widths" || kind == "all" {
		return []vk.DType{vk.F32, vk.F16, vk.BF16}
	}
	return []vk.DType{vk.F32}
}

// TestFlashBackwardEqualsTheOracle runs every feature over sequences of unequal lengths, one of them empty, with and without
// sinks.
func TestFlashBackwardEqualsTheOracle(t *testing.T) {
	for kind, cfg := range backwardConfigs() {
		for _, cfg.DType = range backwardTypes(kind) {
			for _, sinks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %v sinks=%v", kind, cfg.DType, sinks), func(t *testing.T) {
					p := newFlashProblem(rand.New(rand.NewSource(1)), cfg, []int{1, 2, 0, 17, 65}, nil, sinks)
					p.check(t, backwardOption{}, 1)
				})
			}
		}
	}
}

func TestFlashBackwardOfEverySequenceLength(t *testing.T) {
	for _, n := range []int{1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 257} {
		for _, causal := range []bool{true, false} {
			cfg := gqa(4, 2, 16, 16)
			cfg.Causal = causal
			newFlashProblem(rand.New(rand.NewSource(2)), cfg, []int{n}, nil, true).check(t, backwardOption{}, 1)
		}
	}
}

// TestFlashBackwardOfUnequalSequences has sequences with more keys than queries, with fewer, so that some queries see none, and
// with none of one or both.
func TestFlashBackwardOfUnequalSequences(t *testing.T) {
	queries := []int{0, 5, 1, 0, 33, 70, 2, 20, 0}
	keys := []int{3, 5, 0, 0, 40, 35, 90, 1, 7}
	for _, name := range []string{"full", "causal", "window", "open window", "all"} {
		cfg := backwardConfigs()[name]
		for _, sinks := range []bool{false, true} {
			p := newFlashProblem(rand.New(rand.NewSource(3)), cfg, queries, keys, sinks)
			p.check(t, backwardOption{}, 1)
		}
	}
}

// TestFlashBackwardWithoutRows has no queries, no keys or no sequences. Keys without queries get zeros, and so do queries
// without keys and sinks without rows.
func TestFlashBackwardWithoutRows(t *testing.T) {
	for _, lengths := range [][2][]int{{{0}, {0}}, {{0}, {5}}, {{5}, {0}}, {{}, {}}, {{0, 0}, {3, 0}}} {
		p := newFlashProblem(rand.New(rand.NewSource(4)), gqa(2, 1, 8, 8), lengths[0], lengths[1], true)
		p.check(t, backwardOption{}, 1)
	}
}

func TestFlashBackwardOfEveryWidth(t *testing.T) {
	for _, w := range [][2]int{{1, 1}, {33, 7}, {64, 64}, {80, 96}, {128, 128}, {192, 128}, {255, 256}} {
		newFlashProblem(rand.New(rand.NewSource(5)), gqa(2, 1, w[0], w[1]), []int{40, 3}, nil, false).check(t, backwardOption{}, 1)
	}
}

// TestFlashBackwardOfStridedHeads spreads the operands over their tensors; what lies between is neither read nor written.
func TestFlashBackwardOfStridedHeads(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for spread, w := range map[spread][2]int{padded: {7, 13}, headMajor: {16, 8}} {
			cfg := gqa(4, 2, w[0], w[1])
			cfg.DType = dtype
			p := newFlashProblem(rand.New(rand.NewSource(6)), cfg, []int{33, 0, 4}, []int{40, 2, 1}, true)
			p.check(t, backwardOption{spread: spread}, 1)
		}
	}
}

// TestFlashBackwardAccumulates adds to what is there: a second call doubles the result.
func TestFlashBackwardAccumulates(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		cfg := gqa(4, 2, 10, 8)
		cfg.DType = dtype
		p := newFlashProblem(rand.New(rand.NewSource(7)), cfg, []int{33, 0, 4}, []int{40, 2, 1}, true)
		p.check(t, backwardOption{accumulate: []float32{1, -2, 0, 0.5, 3}}, 1)
	}
}

// backwardTiles are all that chooseBackwardTile gives.
func backwardTiles() []backwardTile {
	tiles := map[backwardTile]bool{}
	for width := range MaxHeadWidth {
		for _, shared := range []int{16384, 32768} {
			tiles[chooseBackwardTile(true, shared, width+1)] = true
			tiles[chooseBackwardTile(false, shared, width+1)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(tiles), func(a, b backwardTile) int {
		return cmp.Or(a.lanes-b.lanes, a.other-b.other, a.chunk-b.chunk)
	})
}

// TestBackwardTilesFit asks of every tile what the kernels do.
func TestBackwardTilesFit(t *testing.T) {
	for _, tile := range backwardTiles() {
		require.Positive(t, tile.tx, "%+v", tile)
		require.LessOrEqual(t, tile.sharedBytes(), 32768, "%+v", tile)
		require.Zero(t, tile.other%tile.tx, "%+v", tile)
		require.Zero(t, tile.own%tile.to, "%+v", tile)
		require.Zero(t, tile.own*tile.lanes%(4*tile.threads()), "%+v: rows of an invocation's sums", tile)
		require.Positive(t, tile.own*tile.lanes/tile.threads(), "%+v", tile)
		spec := shaders.DefaultFlashAttentionBackwardKvSpec()
		spec.Threads, spec.Own, spec.Other, spec.Lanes = uint32(tile.threads()), uint32(tile.own), uint32(tile.other), uint32(tile.lanes)
		spec.TO, spec.TX, spec.Chunk = uint32(tile.to), uint32(tile.tx), uint32(tile.chunk)
		m, err := spirv.Parse(shaders.FlashAttentionBackwardKvF32.SPIRV())
		require.NoError(t, err)
		bytes, err := m.SharedBytes(spec.Values())
		require.NoError(t, err)
		require.LessOrEqual(t, int(bytes), tile.sharedBytes(), "%+v", tile)
	}
	for width := range MaxHeadWidth {
		require.LessOrEqual(t, chooseBackwardTile(false, 16384, width+1).sharedBytes(), 16384)
		require.LessOrEqual(t, chooseBackwardTile(true, 16384, width+1).sharedBytes(), 16384)
	}
}

// TestFlashBackwardWithEveryTile runs the tiles of all kinds of devices, for widths of which they are chosen for one at most.
func TestFlashBackwardWithEveryTile(t *testing.T) {
	for _, tile := range backwardTiles() {
		t.Run(fmt.Sprintf("%+v", tile), func(t *testing.T) {
			p := newFlashProblem(rand.New(rand.NewSource(8)), gqa(4, 2, 80, 20), []int{70, 1, 0, 9}, []int{67, 5, 0, 2}, true)
			p.check(t, backwardOption{plan: backwardPlan{keys: tile, queries: tile}}, 1)
		})
	}
}

// TestFlashBackwardInSteps cuts sums into dispatches of a few steps, as software devices have to for long sequences.
func TestFlashBackwardInSteps(t *testing.T) {
	for _, c := range []struct {
		dtype vk.DType
		steps int
		start []float32
	}{{vk.F32, 1, nil}, {vk.F32, 100, nil}, {vk.BF16, 3, nil}, {vk.BF16, 3, []float32{1, 0, -2}}} {
		cfg := gqa(4, 2, 16, 16)
		cfg.DType = c.dtype
		p := newFlashProblem(rand.New(rand.NewSource(9)), cfg, []int{100, 0, 3}, []int{130, 4, 5}, true)
		parts := 1 + 2*130/32/c.steps // 4 tiles of queries of 2 heads, or as many of keys
		p.check(t, backwardOption{plan: backwardPlan{steps: c.steps}, accumulate: c.start}, parts)
	}
}

// TestFlashBackwardOfFlash takes the output and the LSE from the device, recorded before.
func TestFlashBackwardOfFlash(t *testing.T) {
	for kind, cfg := range backwardConfigs() {
		for _, cfg.DType = range backwardTypes(kind) {
			t.Run(fmt.Sprintf("%s %v", kind, cfg.DType), func(t *testing.T) {
				p := newFlashProblem(rand.New(rand.NewSource(10)), cfg, []int{1, 2, 0, 17, 65}, []int{4, 1, 3, 17, 70}, true)
				p.check(t, backwardOption{flash: true}, 1)
			})
		}
	}
}

// TestFlashBackwardRepeatsItsBits runs everything 20 times.
func TestFlashBackwardRepeatsItsBits(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16} {
		cfg := gqa(4, 2, 19, 12)
		cfg.DType = dtype
		k := newKit(t)
		p := newFlashProblem(rand.New(rand.NewSource(11)), cfg, []int{50, 1, 0, 17}, nil, true)
		results := p.backward(k, backwardOption{})
		requireAlike(k, results)
		k.Close()
	}
}

// TestFlashBackwardOfRandomShapes draws lengths, heads and windows for a few kinds of attention.
func TestFlashBackwardOfRandomShapes(t *testing.T) {
	gputest.Need(t, dev)
	configs := backwardConfigs()
	kinds := slices.Sorted(maps.Keys(configs))
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
		cfg := configs[kind]
		cfg.DType = rapid.SampledFrom(backwardTypes(kind)).Draw(rt, "dtype")
		cfg.KVHeads = rapid.IntRange(1, 3).Draw(rt, "KVHeads")
		cfg.Heads = cfg.KVHeads * rapid.IntRange(1, 3).Draw(rt, "group")
		if cfg.Window > 0 {
			cfg.Window = rapid.IntRange(1, 60).Draw(rt, "window")
		}
		length := rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(0, 80))
		queries := rapid.SliceOfN(length, 1, 5).Draw(rt, "queries")
		var keys []int
		if rapid.Bool().Draw(rt, "keys apart") {
			keys = rapid.SliceOfN(length, len(queries), len(queries)).Draw(rt, "keys")
		}
		seed := rapid.Int64().Draw(rt, "seed")
		p := newFlashProblem(rand.New(rand.NewSource(seed)), cfg, queries, keys, rapid.Bool().Draw(rt, "sinks"))
		p.check(t, backwardOption{}, 1)
	})
}
