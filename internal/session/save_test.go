package session

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/safetensors"
)

// A file that is no saved run, or that was changed, is refused with a reason, and nothing is trained with it.
func TestDamagedRunsAreRefused(t *testing.T) {
	cfg := config(t)
	cfg.Steps = 1
	s := open(t, cfg)
	until(t, s, "finished", finished)
	require.NoError(t, s.Close())
	file, err := safetensors.Open(cfg.File)
	require.NoError(t, err)
	defer file.Close()
	for want, spoil := range map[string]func(h *header, drop *string){
		"holds no run of this program": nil,
		"its format is 7":              func(h *header, _ *string) { h.Format = 7 },
		"a model called \"other\"":     func(h *header, _ *string) { h.Steps["other"] = 3 },
		"was saved with is missing":    func(h *header, _ *string) { h.Dense = true },
		"k is 9 of 4 experts":          func(h *header, _ *string) { h.K = 9 },
		"a batch, a length":            func(h *header, _ *string) { h.Sizes.Batch = -4 },
		"state of model.layers.0.mlp":  func(h *header, _ *string) { h.Sizes.Hidden *= 2 },
		"Experts is 1073741824":        func(h *header, _ *string) { h.Sizes.Experts = 1 << 30; h.K = 1 << 29 },
		"24 parameters, got 23":        func(_ *header, drop *string) { *drop = "moe/model.norm.weight#0" },
	} {
		var h header
		require.NoError(t, json.Unmarshal([]byte(file.Metadata()[headerKey]), &h))
		drop, metadata := "", map[string]string{}
		if spoil != nil {
			spoil(&h, &drop)
			text, err := json.Marshal(h)
			require.NoError(t, err)
			metadata[headerKey] = string(text)
		}
		var entries []safetensors.Entry
		for _, info := range file.Tensors() {
			if name, cut := cutAround(info.Name, drop, ".value"); drop != "" && cut && name == "" {
				continue
			}
			values, err := file.Float32s(info.Name)
			require.NoError(t, err)
			entries = append(entries, safetensors.Float32(info.Name, info.Shape, values))
		}
		bad := config(t)
		bad.Resume = filepath.Join(t.TempDir(), "bad")
		require.NoError(t, safetensors.WriteFile(bad.Resume, entries, metadata))
		_, err := Open(t.Context(), bad)
		require.ErrorContains(t, err, want)
	}
}

func TestGroupsOfKernels(t *testing.T) {
	for label, want := range map[string]int{
		"up": dashboard.LinearForward, "key value": dashboard.LinearForward, "head": dashboard.LinearForward, "up dX": dashboard.LinearDX,
		"output dW": dashboard.LinearDW, "rows db": dashboard.LinearDW, "flash_attention_delta.f32": dashboard.Attention, "rope.f32": dashboard.Attention,
		"router": dashboard.Routing, "router dX": dashboard.Routing, "router_stats": dashboard.Routing, "expert_scatter": dashboard.Routing,
		"combine_backward.f32": dashboard.Routing, "adamw": dashboard.Other, "rms_norm.f32": dashboard.Other, "copy": dashboard.Other,
	} {
		require.Equal(t, want, group(label), label)
	}
}

func TestPaddingByHand(t *testing.T) {
	c := Config{Sizes: Sizes{Width: 10, Heads: 2, HeadWidth: 3, Hidden: 7}}
	loads := [][]int{{1, 128, 0}, {129, 0, 5}} // an attention's, an MLP's
	attention := 256*(10+6) + (256-129)*(6+10)
	mlp := (256+128)*10 + (384-134)*(3*7+10)
	require.EqualValues(t, 4*(attention+mlp), c.paddingBytes(variant{k: 2}, loads))
	require.EqualValues(t, 2*(attention+mlp), c.paddingBytes(variant{k: 2, dtype: 2}, loads))
	require.Zero(t, c.paddingBytes(variant{k: 2}, nil))
}

func TestPlacesOfLooks(t *testing.T) {
	c := Config{Sizes: Sizes{Batch: 2, Length: 5}}
	require.Equal(t, []int{0, 10, 55, 90}, c.looks(101))
	require.Equal(t, []int{0, 10}, c.looks(30), "nothing is looked at twice")
	require.Equal(t, []int{0, 10, 20}, c.looks(31))
	require.Equal(t, []int{0}, c.looks(11))
	require.Equal(t, 20, c.shown(31))
	require.Equal(t, 10, c.shown(11))
}

func TestSpread(t *testing.T) {
	even := spread(3, [][]int{{5, 5}, {7, 7}})
	require.Equal(t, dashboard.Spread{Step: 3, Balance: 1, Entropy: 1}, even)
	one := spread(1, [][]int{{0, 8, 0, 0}})
	require.Equal(t, dashboard.Spread{Step: 1, Balance: 4}, one)
	require.Equal(t, dashboard.Spread{Step: 2, Balance: 1, Entropy: 1}, spread(2, [][]int{{0, 0}}))
	require.Equal(t, dashboard.Spread{Step: 2}, spread(2, nil))
}

func TestPieces(t *testing.T) {
	require.Equal(t, []string{"a", "æ", "", "\n"}, pieces([]byte("aæ\n")))
	require.Len(t, pieces([]byte{'a', 0xff, 0xc3}), 3)
}
