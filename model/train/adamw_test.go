package train

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) { gputest.Main(m, &dev) }

// trained is one param of a test with its oracle.
type trained struct {
	Param
	oracle *ref.AdamW
	grads  []float32
}

// newTrained makes a param inside guard bands.
func newTrained(k *gputest.Kit, rng *rand.Rand, i, n int, dtype, grad vk.DType, decay float64) *trained {
	values := vk.Round(dtype, gputest.Normal(rng, n))
	p := &trained{Param: Param{Name: fmt.Sprintf("p%d", i), NoDecay: i%2 == 1}}
	p.Value = k.InOut(p.Name, dtype, values, n)
	p.Grad = k.InOut(p.Name+" grad", grad, make([]float32, n), n)
	p.oracle = &ref.AdamW{Beta1: float64(float32(0.9)), Beta2: float64(float32(0.999)), Epsilon: float64(float32(1e-8)),
		P: ref.Widen(values), M: make([]float64, n), V: make([]float64, n)}
	if !p.NoDecay {
		p.oracle.Decay = decay
	}
	return p
}

func TestTenStepsOfAdamWFollowTheOracle(t *testing.T) {
	for i, types := range [][2]vk.DType{{vk.F32, vk.F32}, {vk.F16, vk.F16}, {vk.F16, vk.F32}, {vk.BF16, vk.BF16}, {vk.BF16, vk.F32}} {
		for _, clip := range []float32{0, 0.5} {
			t.Run(fmt.Sprint(types, clip), func(t *testing.T) {
				k := gputest.New(t, dev)
				k.Shift = i % 2 // 16-bit params then begin in the middle of a word
				rng := rand.New(rand.NewSource(1))
				decay := float32(0.1)
				var all []*trained
				var params []Param
				for i, n := range []int{1, 2, 0, 131, 20000, 8192} {
					p := newTrained(k, rng, i, n, types[0], types[1], float64(decay))
					all, params = append(all, p), append(params, p.Param)
				}
				a, err := NewAdamW(t.Context(), dev, AdamWConfig{Decay: decay, ClipNorm: clip, GradScale: 4}, params)
				require.NoError(t, err)
				defer a.Close()
				rec, err := dev.NewRecorder()
				require.NoError(t, err)
				defer rec.Close()
				require.NoError(t, a.Step(rec))
				schedule := Schedule{Peak: 0.01, Warmup: 3, Steps: 10, Floor: 0.1}
				for step := 1; step <= 10; step++ {
					var grads [][]float32
					for _, p := range all {
						p.grads = vk.Round(types[1], gputest.Normal(rng, p.Value.Elements()))
						require.NoError(t, vk.Upload(t.Context(), p.Grad, p.grads))
						grads = append(grads, p.grads)
					}
					require.NoError(t, a.SetStep(t.Context(), step, schedule.Rate(step)))
					require.NoError(t, rec.Run(t.Context()))
					norm := ref.GlobalNorm(grads, 0.25)
					got := gputest.Download[float32](t, a.Norm())
					require.InEpsilon(t, norm, got[0], 1e-5)
					factor := 0.25 * ref.ClipFactor(norm, float64(clip))
					require.InEpsilon(t, factor, got[1], 1e-5)
					for _, p := range all {
						g := ref.Widen(p.grads)
						for i := range g {
							g[i] *= factor
						}
						p.oracle.Step(g, float64(float32(schedule.Rate(step))))
					}
				}
				k.Verify()
				for i, p := range all {
					storage := gputest.Oracle(types[0]).Storage()
					bound := make([]float64, len(p.oracle.P))
					for j, v := range p.oracle.P {
						bound[j] = 2e-6 + (storage+1e-5)*math.Abs(v)
					}
					gputest.RequireClose(t, gputest.Download[float32](t, p.Value), p.oracle.P, bound, p.Name)
					if types[0] != vk.F32 {
						gputest.RequireClose(t, gputest.Download[float32](t, a.states[i].master), p.oracle.P, []float64{1e-5}, "master")
					}
				}
			})
		}
	}
}

func TestAdamWLeavesEverythingWhereTheNormIsNotFinite(t *testing.T) {
	p := newTrained(gputest.New(t, dev), rand.New(rand.NewSource(2)), 0, 100, vk.F32, vk.F32, 0)
	before := gputest.Words(t, p.Value)
	a, err := NewAdamW(t.Context(), dev, AdamWConfig{ClipNorm: 1}, []Param{p.Param})
	require.NoError(t, err)
	defer a.Close()
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	require.NoError(t, a.Step(rec))
	for _, bad := range []float64{math.NaN(), math.Inf(1), 3e38} {
		grads := make([]float32, 100)
		grads[50], grads[51] = float32(bad), float32(bad)
		require.NoError(t, vk.Upload(t.Context(), p.Grad, grads))
		require.NoError(t, a.SetStep(t.Context(), 1, 0.1))
		require.NoError(t, rec.Run(t.Context()))
		require.Equal(t, before, gputest.Words(t, p.Value))
		require.Equal(t, make([]float32, 100), gputest.Download[float32](t, a.states[0].m))
		require.True(t, math.IsNaN(float64(gputest.Download[float32](t, a.Norm())[0])))
	}
	require.NoError(t, vk.Upload(t.Context(), p.Grad, make([]float32, 100)))
	require.NoError(t, rec.Run(t.Context()))
	require.Equal(t, before, gputest.Words(t, p.Value), "no gradient, no decay: no change")
}

func TestAdamWRefusesBadArguments(t *testing.T) {
	for _, c := range []AdamWConfig{{Beta1: 1}, {Beta2: -1}, {Epsilon: float32(math.NaN())}, {Decay: -1}, {ClipNorm: -1}} {
		var config *moe.ConfigError
		require.ErrorAs(t, c.Validate(), &config)
	}
	p := newTrained(gputest.New(t, dev), rand.New(rand.NewSource(2)), 0, 100, vk.F32, vk.F32, 0)
	for _, bad := range []Param{{Name: "x"}, {Name: "x", Value: p.Value}, {Name: "x", Value: p.Value, Grad: p.Value}} {
		_, err := NewAdamW(t.Context(), dev, AdamWConfig{}, []Param{bad})
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
	}
}

func TestSchedule(t *testing.T) {
	s := Schedule{Peak: 2, Warmup: 4, Steps: 12, Floor: 0.25}
	require.NoError(t, s.Validate())
	require.Equal(t, 0.5, s.Rate(1))
	require.Equal(t, 2.0, s.Rate(4))
	require.InDelta(t, 2*(0.25+0.75/2), s.Rate(8), 1e-12)
	require.InDelta(t, 0.5, s.Rate(12), 1e-12)
	require.InDelta(t, 0.5, s.Rate(100), 1e-12)
	require.Equal(t, 3.0, Schedule{Peak: 3}.Rate(7))
	for _, bad := range []Schedule{{Peak: -1}, {Peak: math.NaN()}, {Warmup: -1}, {Warmup: 3, Steps: 2}, {Floor: 2}} {
		require.Error(t, bad.Validate())
	}
}
