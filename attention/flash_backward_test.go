package attention

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/vkmoe/vkmoe/vk"
)

// backwardConfigs are the features one by one and together.
func backwardConfigs() map[string]FlashConfig {
	base := FlashConfig{Heads: 4, KVHeads: 2, Width: 16, ValueWidth: 16}
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

// TestFlashBackwardEqualsTheOracle runs every feature over sequences of the lengths at which tiles begin and end, one of them
// empty, with and without sinks, in all storage types.
func TestFlashBackwardEqualsTheOracle(t *testing.T) {
	for name, cfg := range backwardConfigs() {
		for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
			cfg.DType = dtype
			for _, sinks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %v sinks=%v", name, dtype, sinks), func(t *testing.T) {
					k := newKit(t)
					p := newFlashProblem(rand.New(rand.NewSource(1)), cfg, []int{1, 2, 0, 17, 65}, nil, sinks)
					results := p.backward(k, backwardOption{})
					k.run()
					p.requireGrads(t, results(), backwardOption{}, 1, name)
				})
			}
		}
	}
}
