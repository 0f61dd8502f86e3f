package moe

import (
	"fmt"
	"math/rand"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// gridCase is one shape of ScatterMoE's own test of its MLP.
type gridCase struct {
	tokens, width, k int
	bias             bool
	dtype            vk.DType
}

func (c gridCase) config() MLPConfig {
	return MLPConfig{Experts: 8, TopK: c.k, Width: c.width, Hidden: 4 * c.width / c.k, Activation: GELU, Bias: c.bias,
		Mode: SoftmaxTopKNorm, DType: c.dtype}
}

// grid lists the shapes in every storage type. With -short it leaves out the larger ones, and in 16 bits always unless
// VKMOE_FULL_GRID=1 asks for them: they take minutes.
func grid() []gridCase {
	var cases []gridCase
	full := os.Getenv("VKMOE_FULL_GRID") == "1"
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for _, tokens := range []int{1, 256, 512} {
			for _, width := range []int{100, 128, 256, 512, 600} {
				for _, k := range []int{2, 3, 4} {
					for _, bias := range []bool{false, true} {
						large := tokens*width > 256*128
						if !large || full || dtype == vk.F32 && !testing.Short() {
							cases = append(cases, gridCase{tokens, width, k, bias, dtype})
						}
					}
				}
			}
		}
	}
	return cases
}

// TestGrid compares output and every gradient of the MLP with the oracle on ScatterMoE's grid of shapes.
func TestGrid(t *testing.T) {
	worst := map[string]float64{}
	var onDevice, inOracle time.Duration
	for _, c := range grid() {
		t.Run(fmt.Sprintf("%v T=%d D=%d k=%d bias=%v", c.dtype, c.tokens, c.width, c.k, c.bias), func(t *testing.T) {
			cfg := c.config()
			l := newLayer(t, cfg)
			k := newKit(t)
			r := rand.New(rand.NewSource(int64(c.tokens + c.width)))
			x, dy := vk.Round(c.dtype, gputest.Normal(r, c.tokens*c.width)), vk.Round(c.dtype, gputest.Normal(r, c.tokens*c.width))
			start := time.Now()
			run := l.recordBackward(k, x, dy, c.tokens, RecomputeActivation, false, false)
			k.Run()
			onDevice += time.Since(start)
			start = time.Now()
			v := ref.MLPValuesOf(l.oracle, x, dy, c.tokens, gputest.Download[int32](t, run.saved.Routing.IDs))
			inOracle += time.Since(start)
			want := map[string][]float64{"y": v.Out, "X": v.X, "Logits": v.Logits, "Gates": v.Gates, "Router": v.Router,
				"Up": v.Up, "Up bias": v.UpBias, "Down": v.Down, "Down bias": v.DownBias}
			got := map[string]*vk.Tensor{"y": run.y}
			for name, tensor := range run.named {
				got[name] = tensor
			}
			for name, tensor := range got {
				relative := ref.RelativeFrobenius(gputest.Download[float32](t, tensor), want[name])
				require.True(t, relative <= run.tolerance(), "%s: relative error %v", name, relative)
				name = c.dtype.String() + " " + name
				worst[name] = max(worst[name], relative)
			}
			k.Close()
			require.NoError(t, l.Close())
		})
	}
	t.Logf("worst relative errors: %v", worst)
	t.Logf("%.1f s on the device, %.1f s in the oracle", onDevice.Seconds(), inOracle.Seconds())
}
