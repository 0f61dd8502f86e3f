package attention

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// smallBackwardTile is one that every device can run and software compiles fast.
var smallBackwardTile = backwardMatrixTile{matrixTile: softwareMatrixTile, keep: true, early: true}

// checkByMatrices holds a problem on the tensor path against the oracle, for every type that the device has.
func checkBackwardByMatrices(t *testing.T, cfg FlashConfig, queries, keys []int, sinks bool, o backwardOption) {
	t.Helper()
	cfg.Path = moe.PathCoopMat
	for _, cfg.DType = range matrixTypes(t) {
		newFlashProblem(rand.New(rand.NewSource(12)), cfg, queries, keys, sinks).check(t, o, 1)
	}
}

// shortOnSoftware reports whether to spare pipelines: software devices take seconds to compile each of these.
func shortOnSoftware() bool {
	return testing.Short() && dev != nil && dev.Adapter().Type == vk.Software
}

// matrixBackwardConfigs are backwardConfigs with widths for the tensor path.
func matrixBackwardConfigs() map[string]FlashConfig {
	configs := backwardConfigs()
	for kind, cfg := range configs {
		cfg.Width, cfg.ValueWidth = 16, 16
		configs[kind] = cfg
	}
	all := configs["all"]
	all.ValueWidth = 32
	configs["all"] = all
	delete(configs, "widths")
	return configs
}

func TestFlashBackwardByMatricesEqualsTheOracle(t *testing.T) {
	for kind, cfg := range matrixBackwardConfigs() {
		if shortOnSoftware() && kind != "causal" && kind != "window" && kind != "all" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			checkBackwardByMatrices(t, cfg, []int{1, 2, 0, 17, 65}, nil, true, backwardOption{flash: cfg.Causal})
			checkBackwardByMatrices(t, cfg, []int{0, 5, 1, 0, 33, 70, 2, 20, 0}, []int{3, 5, 0, 0, 40, 35, 90, 1, 7}, false, backwardOption{})
		})
	}
}

func TestFlashBackwardByMatricesOfEverySequenceLength(t *testing.T) {
	for _, n := range []int{1, 15, 16, 17, 31, 32, 33, 64, 129} {
		checkBackwardByMatrices(t, gqa(4, 2, 16, 16), []int{n}, nil, false,
			backwardOption{plan: backwardPlan{matrixKeys: smallBackwardTile, matrixQueries: smallBackwardTile}})
	}
}

// TestFlashBackwardByMatricesOfEveryWidth runs the tiles of the tables, on software others that compile fast.
func TestFlashBackwardByMatricesOfEveryWidth(t *testing.T) {
	matrixTypes(t)
	software := dev.Adapter().Type == vk.Software
	for _, w := range [][2]int{{48, 16}, {16, 32}, {64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}} {
		cfg := gqa(2, 1, w[0], w[1])
		o := backwardOption{} // the table's
		switch {
		case software && w[0] == 16:
			o.plan.matrixKeys = backwardMatrixTile{softwareMatrixTile, false, true, true}
		case software && w[0] == 48 && !testing.Short():
			o.plan.matrixKeys = backwardMatrixTile{matrixTile{2, 2, 16}, false, false, false}
		case software:
			continue
		}
		o.plan.matrixQueries = o.plan.matrixKeys
		checkBackwardByMatrices(t, cfg, []int{140, 3}, nil, false, o)
	}
}

// TestFlashBackwardByMatricesOfStridedHeads has heads behind each other and results that are added to what is there.
func TestFlashBackwardByMatricesOfStridedHeads(t *testing.T) {
	for _, start := range [][]float32{nil, {1, -2, 0, 0.5, 3}} {
		checkBackwardByMatrices(t, gqa(4, 2, 16, 16), []int{33, 0, 4}, []int{40, 2, 1}, true,
			backwardOption{spread: headMajor, accumulate: start})
	}
}

// TestFlashBackwardByMatricesWithoutRows has no queries, no keys or no sequences.
func TestFlashBackwardByMatricesWithoutRows(t *testing.T) {
	for _, lengths := range [][2][]int{{{0}, {0}}, {{0}, {5}}, {{5}, {0}}, {{}, {}}, {{0, 0}, {3, 0}}} {
		checkBackwardByMatrices(t, gqa(2, 1, 16, 16), lengths[0], lengths[1], true, backwardOption{})
	}
}

func TestFlashBackwardByMatricesRepeatsItsBits(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		cfg := gqa(4, 2, 16, 16)
		cfg.DType = dtype
		k := newKit(t)
		p := newFlashProblem(rand.New(rand.NewSource(13)), cfg, []int{50, 1, 0, 17}, nil, true)
		results := p.backward(k, backwardOption{plan: backwardPlan{matrixKeys: smallBackwardTile, matrixQueries: smallBackwardTile}})
		requireAlike(k, results)
		k.Close()
	}
}

// TestMatrixTilesTakeTheMemoryTheySay holds the tiles' sizes against the modules' for a device like an H100, whose driver does
// not check them.
func TestMatrixTilesTakeTheMemoryTheySay(t *testing.T) {
	x := deviceMatrix{16, 16, 16, matrixPlaces{slots: 2, shift: 1, mates: 3, pairs: true}}
	taken := func(kernel *vk.Kernel, values []uint32) int {
		m, err := spirv.Parse(kernel.SPIRV())
		require.NoError(t, err)
		bytes, err := m.SharedBytes(values)
		require.NoError(t, err)
		return int(bytes)
	}
	for _, w := range [][2]int{{16, 16}, {64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}} {
		cfg := gqa(2, 1, w[0], w[1])
		for _, r := range append(matrixFlashRules, matrixRule{0, matrixTile{2, 2, 32}}) {
			spec := shaders.FlashAttentionCoopmatSpec{Threads: uint32(32 * r.tile.subgroups), Subgroup: 32, MI: uint32(r.tile.MI),
				BN: uint32(r.tile.BN), MM: 16, MN: 16, MK: 16, Slots: 2, Shift: 1, Mates: 3, Pairs: true, Width: uint32(w[0]),
				ValueWidth: uint32(w[1])}
			require.Equal(t, taken(shaders.FlashAttentionCoopmatF16, spec.Values()), r.tile.flashBytes(x, cfg), "%v %v", r.tile, w)
		}
		for _, r := range append(matrixKeysRules, matrixQueriesRules...) {
			kv := shaders.DefaultFlashAttentionBackwardKvCoopmatSpec()
			kv.Threads, kv.MI, kv.BN, kv.Width, kv.ValueWidth, kv.Keep = uint32(32*r.tile.subgroups), uint32(r.tile.MI), uint32(r.tile.BN),
				uint32(w[0]), uint32(w[1]), r.tile.keep
			what := fmt.Sprint(r.tile, w)
			require.Equal(t, taken(shaders.FlashAttentionBackwardKvCoopmatF16, kv.Values()), r.tile.bytes(x, cfg, false), what)
			q := shaders.DefaultFlashAttentionBackwardQCoopmatSpec()
			q.Threads, q.MI, q.BN, q.Width, q.ValueWidth, q.Keep = kv.Threads, kv.MI, kv.BN, kv.Width, kv.ValueWidth, kv.Keep
			require.Equal(t, taken(shaders.FlashAttentionBackwardQCoopmatF16, q.Values()), r.tile.bytes(x, cfg, true), what)
		}
	}
}
