package attention

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// newRoPE makes a RoPE that the test closes.
func newRoPE(t testing.TB, cfg RoPEConfig, positions int) *RoPE {
	t.Helper()
	gputest.Need(t, dev)
	r, err := NewRoPE(context.Background(), dev, cfg, positions)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// oracle is the configuration as the oracle has it, for heads of which the first elements do not turn.
func (c RoPEConfig) oracle(first int) ref.RoPE {
	c = c.withDefaults()
	kinds := map[RoPEScaling]ref.RoPEScalingKind{ScaleNone: ref.NoScaling, ScaleLinear: ref.LinearScaling,
		ScaleYaRN: ref.YaRNScaling, ScaleLlama3: ref.Llama3Scaling}
	return ref.RoPE{First: first, Width: c.Width, Interleaved: c.Interleaved, Base: c.Base, Scaling: ref.RoPEScaling{
		Kind: kinds[c.Scaling], Factor: c.Factor, OriginalLength: float64(c.OriginalPositions), BetaFast: c.BetaFast,
		BetaSlow: c.BetaSlow, KeepFractions: c.NoTruncate, MScale: c.MScale, MScaleAllDim: c.MScaleAllDim,
		AttentionFactor: c.AttentionFactor, LowFrequencyFactor: c.LowFreqFactor, HighFrequencyFactor: c.HighFreqFactor}}
}

// ropeConfigs are configurations of released models, narrower.
var ropeConfigs = map[string]RoPEConfig{
	"default": {Width: 8},
	"odd":     {Width: 6, Interleaved: true, Base: 1e6},
	"two":     {Width: 2},
	"linear":  {Width: 12, Scaling: ScaleLinear, Factor: 4},
	"gpt-oss": {Width: 16, Base: 150000, Scaling: ScaleYaRN, Factor: 32, OriginalPositions: 4096, NoTruncate: true},
	"deepseek": {Width: 8, Interleaved: true, Scaling: ScaleYaRN, Factor: 40, OriginalPositions: 4096, MScale: 1,
		MScaleAllDim: 0.7},
	"yarn":   {Width: 32, Scaling: ScaleYaRN, Factor: 4, OriginalPositions: 512, AttentionFactor: 1.25, BetaFast: 16, BetaSlow: 2},
	"llama3": {Width: 64, Base: 500000, Scaling: ScaleLlama3, Factor: 8, OriginalPositions: 8192, LowFreqFactor: 1, HighFreqFactor: 4},
}

func TestRoPEFrequenciesMatchTheOracle(t *testing.T) {
	for name, c := range ropeConfigs {
		require.NoError(t, c.Validate(), name)
		want, factor := c.oracle(0).Frequencies()
		require.InDeltaSlice(t, want, c.Frequencies(), 1e-15, name)
		require.InDelta(t, factor, c.RotationFactor(), 1e-15, name)
	}
	deepseek := ropeConfigs["deepseek"]
	m := 0.1*0.7*math.Log(40) + 1
	require.InDelta(t, m*m, deepseek.SoftmaxFactor(), 1e-15)
	require.Equal(t, 1.0, ropeConfigs["gpt-oss"].SoftmaxFactor())
}

// FuzzRoPEConfig asks that what Validate takes has the oracle's frequencies, all of them numbers.
func FuzzRoPEConfig(f *testing.F) {
	f.Add(uint8(8), uint8(2), 10000.0, 32.0, 4096, 32.0, 1.0, 1.0, 4.0, 0.0, false)
	f.Add(uint8(64), uint8(3), 500000.0, 8.0, 8192, 0.0, 0.0, 1.0, 4.0, 1.0, true)
	f.Add(uint8(2), uint8(1), 0.0, 0.5, 1, -1.0, 0.0, 0.0, 0.0, 1e300, true)
	f.Fuzz(func(t *testing.T, width, scaling uint8, base, factor float64, original int, fast, slow, low, high, m float64, keep bool) {
		c := RoPEConfig{Width: int(width), Base: base, Scaling: RoPEScaling(scaling), Factor: factor, OriginalPositions: original,
			BetaFast: fast, BetaSlow: slow, NoTruncate: keep, MScale: m, MScaleAllDim: m, LowFreqFactor: low, HighFreqFactor: high}
		if c.Validate() != nil {
			return
		}
		want, wantFactor := c.oracle(0).Frequencies()
		for i, got := range append(c.Frequencies(), c.RotationFactor()) {
			wanted := append(want, wantFactor)[i]
			require.True(t, math.Abs(got-wanted) <= 1e-12*wanted, "%+v: number %d is %v, want %v", c, i, got, wanted)
		}
		for _, v := range c.angles(3) {
			require.False(t, math.IsNaN(float64(v)), "%+v", c)
		}
	})
}

// ropeCase is one rotation.
type ropeCase struct {
	cfg                  string
	dtype                vk.DType
	heads, width, tokens int
	layout               headLayout
	inPlace, backward    bool
	shift                int
}

func (c ropeCase) String() string {
	return fmt.Sprintf("%s %v T=%d %dx%d layout=%v place=%v back=%v shift=%d", c.cfg, c.dtype, c.tokens, c.heads, c.width, c.layout,
		c.inPlace, c.backward, c.shift)
}

func TestRoPEMatchesTheOracle(t *testing.T) {
	for i, cfg := range []string{"default", "odd", "two", "linear", "gpt-oss", "deepseek", "yarn", "llama3"} {
		for _, dtype := range gputest.Storages {
			for n, tokens := range []int{0, 1, 17} {
				width := ropeConfigs[cfg].Width + []int{0, 3, 8}[(i+n)%3]
				c := ropeCase{cfg: cfg, dtype: dtype, heads: 1 + (i+n)%4, width: width, tokens: tokens, shift: n % 2}
				for flags := range 4 {
					c.inPlace, c.backward = flags&1 == 1, flags&2 == 2
					if flags == n {
						c.layout = headLayout{first: 5, pad: 3, gap: 2}
					}
					t.Run(c.String(), func(t *testing.T) { c.check(t) })
				}
			}
		}
	}
}

// check compares a rotation with the oracle's.
func (c ropeCase) check(t *testing.T) {
	cfg := ropeConfigs[c.cfg]
	rope := newRoPE(t, cfg, 5000)
	r := rand.New(rand.NewSource(int64(c.tokens + c.width)))
	x := vk.Round(c.dtype, gputest.Normal(r, c.tokens*c.heads*c.width))
	positions := make([]int32, c.tokens)
	for i := range positions {
		positions[i] = int32(r.Intn(5000))
	}
	k := newKit(t)
	k.Shift = c.shift
	const fill = 3
	laid := c.layout.spread(x, c.tokens, c.heads, c.width, fill)
	index := k.I32("positions", positions, c.tokens)
	in := k.Floats("x", c.dtype, laid, len(laid))
	out := in
	if c.inPlace {
		k.Overwritten(in)
	} else {
		out = k.PartialOutput("y", c.dtype, len(laid))
	}
	from, to := c.layout.heads(in, c.heads, c.width), c.layout.heads(out, c.heads, c.width)
	want := ref.Rotate(cfg.oracle(0), x, positions, c.heads, c.width)
	if c.backward {
		want = ref.RotateBackward(cfg.oracle(0), x, positions, c.heads, c.width)
		require.NoError(t, rope.RotateBackward(k.Rec, index, c.heads, c.width, from, to))
	} else {
		require.NoError(t, rope.Rotate(k.Rec, index, c.heads, c.width, from, to))
	}
	k.Run()
	got := gputest.Download[float32](t, out)
	if !c.inPlace {
		got = c.layout.unpoisoned(got, c.tokens, c.heads, c.width, fill)
	}
	dense := c.layout.dense(t, got, c.tokens, c.heads, c.width, fill)
	// cos and sin are rounded once; two products and a sum.
	bound := want.BoundBy(ref.Gamma(4)+gputest.Oracle(c.dtype).Storage(), ref.Underflow(gputest.Oracle(c.dtype), 2))
	for i := range bound {
		if i%c.width >= cfg.Width {
			bound[i] = 0 // copied
		}
	}
	gputest.RequireClose(t, dense, want.Y, bound, "rotated")
}

// TestRoPEIsExactAtFarPositions rotates where f32 angles, or frequencies rounded to f32, would be off by 2^-7 and more.
func TestRoPEIsExactAtFarPositions(t *testing.T) {
	const positions = 1 << 17
	cfg := RoPEConfig{Width: 4, Base: 7}
	rope := newRoPE(t, cfg, positions)
	index := []int32{positions - 1, 100003, 65536}
	x := gputest.Normal(rand.New(rand.NewSource(4)), 3*4)
	k := newKit(t)
	y := k.Output("y", vk.F32, 3, 4)
	require.NoError(t, rope.Rotate(k.Rec, k.I32("positions", index, 3), 1, 4, DenseHeads(k.F32("x", x, 3, 4), 1, 4), DenseHeads(y, 1, 4)))
	k.Run()
	want := ref.Rotate(cfg.oracle(0), x, index, 1, 4)
	gputest.RequireClose(t, gputest.Download[float32](t, y), want.Y, want.BoundBy(ref.Gamma(4), 0), "y")
}

func TestRoPEGivesTheSameBits(t *testing.T) {
	rope := newRoPE(t, RoPEConfig{Width: 12}, 300)
	r := rand.New(rand.NewSource(3))
	k := newKit(t)
	x := k.Floats("x", vk.BF16, vk.Round(vk.BF16, gputest.Normal(r, 130*3*13)), 130, 39)
	y := k.Output("y", vk.BF16, 130, 39)
	index := make([]int32, 130)
	for i := range index {
		index[i] = int32(i * 2)
	}
	require.NoError(t, rope.Rotate(k.Rec, k.I32("positions", index, 130), 3, 13, DenseHeads(x, 3, 13), DenseHeads(y, 3, 13)))
	k.RunAlike(y)
}

func TestMakePositions(t *testing.T) {
	rope := newRoPE(t, RoPEConfig{Width: 2}, 100)
	offsets := []int32{0, 3, 3, 70, 71}
	starts := []int32{5, 9, 0, 99}
	want := make([]int32, 75) // the last four are of no sequence
	for b := range starts {
		for i := offsets[b]; i < offsets[b+1]; i++ {
			want[i] = starts[b] + i - offsets[b]
		}
	}
	k := newKit(t)
	made, err := rope.MakePositions(k.Rec, len(want), k.I32("offsets", offsets, 5), k.I32("starts", starts, 4))
	require.NoError(t, err)
	require.NoError(t, rope.CheckPositions(k.Rec, made))
	k.Run()
	require.Equal(t, want, gputest.Download[int32](t, made))
	for i := range starts {
		for j := offsets[i]; j < offsets[i+1]; j++ {
			want[j] -= starts[i]
		}
	}
	k = newKit(t)
	made, err = rope.MakePositions(k.Rec, len(want), k.I32("offsets", offsets, 5), nil)
	require.NoError(t, err)
	k.Run()
	require.Equal(t, want, gputest.Download[int32](t, made))
}

func TestPositionsBeyondTheTable(t *testing.T) {
	ctx := context.Background()
	rope := newRoPE(t, RoPEConfig{Width: 2, Positions: 120}, 100)
	k := newKit(t)
	positions := k.I32("positions", []int32{4, 99, 100, -1, 117}, 5)
	x := k.F32("x", []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 5, 2)
	y := k.Output("y", vk.F32, 5, 2)
	require.NoError(t, rope.CheckPositions(k.Rec, positions))
	require.NoError(t, rope.Rotate(k.Rec, positions, 1, 2, DenseHeads(x, 1, 2), DenseHeads(y, 1, 2)))
	var bad *PositionError
	require.ErrorAs(t, k.Rec.Run(ctx), &bad)
	require.Equal(t, PositionError{Row: 2, Largest: 117, Positions: 100}, *bad)
	k.Verify()
	got := gputest.Download[float32](t, y)
	for i, v := range got {
		require.Equal(t, i >= 4, math.IsNaN(float64(v)), "element %d is %v", i, v)
	}

	require.ErrorAs(t, rope.Grow(ctx, 121), &bad)
	require.Equal(t, PositionError{Row: -1, Largest: 120, Positions: 120}, *bad)
	require.NoError(t, rope.Grow(ctx, 120))
	require.Equal(t, 120, rope.Positions())
	require.NoError(t, rope.Grow(ctx, 3))
	require.Equal(t, 120, rope.Positions())
	require.ErrorAs(t, k.Rec.Run(ctx), &bad, "what was recorded keeps its table")
	k = newKit(t)
	starts := k.I32("starts", []int32{-3}, 1)
	_, err := rope.MakePositions(k.Rec, 2, k.I32("offsets", []int32{0, 2}, 2), starts)
	require.NoError(t, err)
	require.ErrorAs(t, k.Rec.Run(ctx), &bad)
	require.Equal(t, PositionError{Row: 0, Positions: 120}, *bad)
}

func TestRoPERefuses(t *testing.T) {
	var config *ConfigError
	for _, c := range []RoPEConfig{{}, {Width: 3}, {Width: 4, Base: 1}, {Width: 4, Base: math.NaN()}, {Width: 4, Scaling: 9},
		{Width: 4, Scaling: ScaleLinear}, {Width: 4, Scaling: ScaleYaRN, Factor: 2}, {Width: 4, Positions: -1},
		{Width: 4, Scaling: ScaleLinear, Factor: 1e-300},
		{Width: 4, Scaling: ScaleYaRN, Factor: 2, OriginalPositions: 9, AttentionFactor: 1e39},
		{Width: 4, Scaling: ScaleLlama3, Factor: 2, OriginalPositions: 9, LowFreqFactor: 2, HighFreqFactor: 2}} {
		require.ErrorAs(t, c.Validate(), &config, "%+v", c)
	}
	rope := newRoPE(t, RoPEConfig{Width: 4}, 10)
	other := func(change func(x, y *Heads, heads, width *int)) error {
		k := newKit(t)
		x, y := DenseHeads(k.F32("x", make([]float32, 24), 3, 8), 2, 4), DenseHeads(k.F32("y", make([]float32, 24), 3, 8), 2, 4)
		heads, width := 2, 4
		change(&x, &y, &heads, &width)
		return rope.Rotate(k.Rec, k.I32("positions", []int32{0, 1, 2}, 3), heads, width, x, y)
	}
	require.NoError(t, other(func(x, y *Heads, heads, width *int) {}))
	require.NoError(t, other(func(x, y *Heads, heads, width *int) { x.HeadStride = 0 }), "one head for all")
	var shape *vk.ShapeError
	for name, change := range map[string]func(x, y *Heads, heads, width *int){
		"no tensor":         func(x, y *Heads, heads, width *int) { x.Tensor = nil },
		"beyond the tensor": func(x, y *Heads, heads, width *int) { x.Offset = 1 },
		"shared outputs":    func(x, y *Heads, heads, width *int) { y.HeadStride = 3 },
		"overlap":           func(x, y *Heads, heads, width *int) { y.Tensor = x.Tensor; y.RowStride = 7; y.HeadStride = 4 },
		"too many rows":     func(x, y *Heads, heads, width *int) { *heads = 3 },
	} {
		require.ErrorAs(t, other(change), &shape, name)
	}
	require.ErrorAs(t, other(func(x, y *Heads, heads, width *int) { *width = 3 }), &config)
}
