package moe

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestMLPBackwardOfWhatIsSavedInAGradient asks passes that save Z in the gradient of Down's weights for the bits of passes that do not,
// which it holds against the oracle.
func TestMLPBackwardOfWhatIsSavedInAGradient(t *testing.T) {
	for i, c := range []struct {
		MLPConfig
		tokens             int
		inGradient, halves bool
	}{
		{MLPConfig{Experts: 6, TopK: 2, Width: 48, Hidden: 272, Activation: GELU, Bias: true, RouterBias: true}, 37, true, true},
		{MLPConfig{Experts: 9, TopK: 3, Width: 51, Hidden: 301, Bias: true, DType: vk.BF16}, 21, true, true}, // nothing begins at a word
		{MLPConfig{Experts: 8, TopK: 2, Width: 64, Hidden: 264, SharedHidden: 40, SharedGate: true, OutputBias: true, DType: vk.F16}, 61,
			true, true},
		{MLPConfig{Experts: 16, TopK: 1, Width: 40, Hidden: 257, Activation: ReLU2}, 5, true, true}, // most experts are empty
		{MLPConfig{Experts: 4, TopK: 2, Width: 40, Hidden: 300, Activation: GELU}, 61, true, false}, // h does not fit
		{MLPConfig{Experts: 4, TopK: 2, Width: 40, Hidden: 24, Activation: GEGLU}, 30, true, false},
		{MLPConfig{Experts: 6, TopK: 2, Width: 48, Hidden: 272, InOut: true, DType: vk.BF16}, 29, true, false},
		{MLPConfig{Experts: 4, TopK: 4, Width: 24, Hidden: 272}, 61, false, false}, // Z does not fit
		{MLPConfig{Experts: 4, TopK: 2, Width: 24, Hidden: 272}, 0, false, false},
	} {
		t.Run(fmt.Sprintf("%+v T=%d", c.MLPConfig, c.tokens), func(t *testing.T) {
			l := newLayer(t, c.MLPConfig)
			r := rand.New(rand.NewSource(int64(i)))
			x, dy := vk.Round(c.DType, gputest.Normal(r, c.tokens*c.Width)), vk.Round(c.DType, gputest.Normal(r, c.tokens*c.Width))
			bits := map[string][]uint32{}
			for _, l.saveIn = range []bool{false, true} {
				k := newKit(t)
				run := l.recordBackward(k, x, dy, c.tokens, RecomputeActivation, false, i%2 == 0)
				require.Equal(t, l.saveIn && c.inGradient, l.savedInDown(run.saved, run.grads))
				if l.saveIn && c.inGradient {
					require.Equal(t, c.halves, l.spaceOfH(k.Rec, run.saved, run.grads) != nil)
				}
				if l.saveIn {
					k.RunAlike(run.named["Down"], run.named["X"])
				} else {
					k.Run()
					res, want := l.wantBackward(t, run, x, dy, c.tokens)
					run.requireBackward(t, res.Out.Y, want)
				}
				for name, tensor := range run.named {
					words := gputest.Words(t, tensor)
					if l.saveIn {
						require.Equal(t, bits[name], words, name)
					}
					bits[name] = words
				}
				k.Close()
			}
		})
	}
}

// TestSavingInAGradientThatStays: Z may lie in a gradient only if that is overwritten.
func TestSavingInAGradientThatStays(t *testing.T) {
	l := newLayer(t, MLPConfig{Experts: 4, TopK: 2, Width: 8, Hidden: 8, Activation: GELU})
	k := newKit(t)
	x, dy, y := k.F32("x", make([]float32, 24), 3, 8), k.F32("dy", make([]float32, 24), 3, 8), k.Output("y", vk.F32, 3, 8)
	down := bankOf(t, k.F32("bank", make([]float32, 4*8*8), 4, 8, 8))
	fails := func(arg string, save Save, in *vk.Tensor, g MLPGrads) {
		t.Helper()
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		saved, err := l.ForwardWith(rec, x, y, ForwardOptions{Save: save, SaveIn: in})
		if err == nil {
			err = l.Backward(rec, saved, x, dy, g)
		}
		if arg == "" {
			require.NoError(t, err)
		} else {
			var shape *vk.ShapeError
			require.ErrorAs(t, err, &shape)
			require.Equal(t, arg, shape.Arg)
		}
		require.NoError(t, rec.Close())
	}
	weight := WeightGrads{Weight: down}
	fails("", RecomputeActivation, down.parts[0], MLPGrads{Down: weight})
	fails("", SaveAll, down.parts[0], MLPGrads{Down: weight, AccumulateWeights: true}) // does not save there
	fails("grads.Down.Weight", RecomputeActivation, down.parts[0], MLPGrads{Down: weight, AccumulateWeights: true})
	fails("grads.Up.Weight", RecomputeActivation, down.parts[0], MLPGrads{Up: weight}) // the gradient of the wrong layer
	fails("SaveIn", RecomputeActivation, x, MLPGrads{})
	fails("SaveIn", RecomputeActivation, k.I32("ids", make([]int32, 64), 64), MLPGrads{})
	k.Close()
}

// TestColumnsOfAWeightGradient asks group_xty for all columns of a gradient, and for neighbouring ones one after the other: the bits are
// the same, and columns that are not asked for stay.
func TestColumnsOfAWeightGradient(t *testing.T) {
	for i, c := range []struct {
		linearCase
		windows []int // where they begin
	}{
		{linearCase{tokens: 37, experts: 5, k: 2, in: 72, out: 48}, []int{0, 32}},
		{linearCase{tokens: 20, experts: 9, k: 3, in: 41, out: 7}, []int{0, 8, 40}},
		{linearCase{tokens: 1, experts: 3, k: 1, in: 100, out: 40}, []int{0, 64}},
		{linearCase{tokens: 70, experts: 4, k: 2, in: 200, out: 64, shift: 1}, []int{0, 128}},
	} {
		for part := range 2 { // of the bank: one tensor, or one for each expert
			for _, dtypes := range [][2]vk.DType{{vk.F32, vk.F32}, {vk.F16, vk.F32}, {vk.BF16, vk.BF16}} {
				c.spread, c.layout, c.gates = spreads[i%len(spreads)], ref.Layout{GroupedIn: true}, true
				checkGradientColumns(t, c.linearCase, dtypes, part, c.windows)
			}
		}
	}
}

func TestColumnsOfAWeightGradientOnTheTensorPath(t *testing.T) {
	for _, dtype := range matrixTypes(t) {
		c := linearCase{tokens: 60, experts: 3, k: 2, in: 152, out: 72, spread: spreads[0], layout: ref.Layout{GroupedIn: true}}
		checkGradientColumns(t, c, [2]vk.DType{dtype, dtype}, 1, []int{0, 64})
		checkGradientColumns(t, c, [2]vk.DType{dtype, vk.F32}, 0, []int{0, 128, 144})
	}
}

// checkGradientColumns does so for one case on the tensor path where it has no gates. part is as for storage.
func checkGradientColumns(t *testing.T, c linearCase, dtypes [2]vk.DType, part int, windows []int) {
	t.Helper()
	k := newKit(t)
	defer k.Close()
	if !c.gates {
		k.matrices = tensorTiles(dtypes[0])[1]
	}
	run := c.setUp(k, uniform(dtypes[0]))
	r := rand.New(rand.NewSource(1))
	slots := c.tokens * c.k
	dy := operand{k.Floats("dy", dtypes[0], vk.Round(dtypes[0], gputest.Normal(r, slots*c.out)), slots, c.out), false, 1}
	bank := func(name string) (*vk.Tensor, *ExpertBank) {
		dw := k.PartialOutput(name, dtypes[1], c.experts, c.out, c.in)
		if part == 0 {
			return dw, bankOf(t, dw)
		}
		var experts []*vk.Tensor
		for e := range c.experts {
			view, err := dw.View(e*c.out*c.in, c.out, c.in)
			require.NoError(t, err)
			experts = append(experts, view)
		}
		b, err := BankOfExperts(dev, experts)
		require.NoError(t, err)
		k.OnClose(b.Close)
		return dw, b
	}
	record := func(x *vk.Tensor, dw *ExpertBank, first int) {
		require.NoError(t, run.layer.groupXTY(k.Rec, run.device, dy, operand{x, true, 1}, run.opts.Gates, dw, first, false))
	}
	whole, wholeBank := bank("whole")
	parts, partsBank := bank("parts")
	one, oneBank := bank("one")
	record(run.xs, wholeBank, 0)
	last := windows[len(windows)-1]
	for i, first := range windows {
		end := c.in
		if i+1 < len(windows) {
			end = windows[i+1]
		}
		x := k.Output(fmt.Sprint("columns from ", first), dtypes[0], slots, end-first)
		require.NoError(t, copyColumns(k.Rec, run.xs, first, x))
		record(x, partsBank, first)
		if first == last {
			record(x, oneBank, first)
		}
	}
	k.Run()
	want := gputest.Words(t, whole)
	require.Equal(t, want, gputest.Words(t, parts), "%v %v", c, dtypes)
	for i, got := range gputest.Words(t, one) {
		if i%c.in < last {
			require.Equal(t, gputest.Poison(dtypes[1]), got, "column %d of %v %v was not asked for", i%c.in, c, dtypes)
		} else {
			require.Equal(t, want[i], got, "%v %v", c, dtypes)
		}
	}
}
