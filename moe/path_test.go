package moe

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestPathsAreWhatWasAskedFor records a layer on each path and looks at the kernels.
func TestPathsAreWhatWasAskedFor(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for _, path := range []Path{PathAuto, PathPortable, PathCoopMat, PathDecode} {
			k := newKit(t)
			x, y := k.Floats("x", dtype, make([]float32, 64), 8, 8), k.Output("y", dtype, 8, 16)
			l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 8, Out: 16, DType: dtype, Path: path}}
			l.Weight = bankOf(t, k.Floats("weight", dtype, make([]float32, 128), 1, 16, 8))
			err := l.Dense(k.Rec, x, y)
			_, _, _, able := matrixShape(dev.Caps(), dtype)
			able = able && tensorKernels[tensorTypes{dtype, WeightsFull}] != nil && dev.Caps().Has(tensorKernels[tensorTypes{dtype, WeightsFull}].Needs...)
			if path == PathCoopMat && !able {
				var missing *vk.UnsupportedError
				require.ErrorAs(t, err, &missing, "%v", dtype)
				require.NotEmpty(t, missing.Need)
				k.Close()
				continue
			}
			require.NoError(t, err)
			stem := k.Rec.Pipelines()[0].Kernel.Stem
			if path != PathAuto {
				require.Equal(t, path == PathCoopMat, stem == "scatter2scatter_coopmat", "%v %v: %s", dtype, path, stem)
				require.Equal(t, path == PathDecode, stem == "scatter2scatter_gemv", "%v %v: %s", dtype, path, stem)
			}
			k.Run()
			k.Close()
		}
	}
	require.Equal(t, "auto portable coopmat decode path 7", fmt.Sprint(PathAuto, PathPortable, PathCoopMat, PathDecode, Path(7)))
	require.Error(t, ParallelLinearConfig{Experts: 1, In: 1, Out: 1, Path: PathDecode + 1}.Validate())
}

// TestPathsRefuseWhatTheyCannot: a path that was asked for is not left in silence.
func TestPathsRefuseWhatTheyCannot(t *testing.T) {
	for _, path := range []Path{PathCoopMat, PathDecode} {
		k := newKit(t)
		c := linearCase{10, 3, 2, 7, 9, spreads[0], ref.Layout{}, false, false, false, 0, Tile{}, nil}
		run := c.recordIn(k, uniform(vk.F16))
		run.layer.Config.Path = path
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var missing *vk.UnsupportedError
		require.ErrorAs(t, run.layer.Forward(rec, run.device, run.xs, run.y, run.opts), &missing)
		require.NotEmpty(t, missing.Need)
		require.NoError(t, rec.Close())
		k.Close()
	}
}

// TestGradientsOnTheDecodePathArePortable: its kernel reads weights in the forward direction only.
func TestGradientsOnTheDecodePathArePortable(t *testing.T) {
	k := newKit(t)
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 1, In: 8, Out: 16, DType: vk.F16, Path: PathDecode}}
	l.Weight = bankOf(t, k.Floats("weight", vk.F16, make([]float32, 128), 1, 16, 8))
	dw := k.Output("dw", vk.F16, 1, 16, 8)
	x, dy := k.Floats("x", vk.F16, make([]float32, 64), 8, 8), k.Floats("dy", vk.F16, make([]float32, 128), 8, 16)
	require.NoError(t, l.DenseBackward(k.Rec, x, dy, LinearGrads{X: k.Output("dx", vk.F16, 8, 8), Weight: bankOf(t, dw)}))
	for _, p := range k.Rec.Pipelines() {
		require.Contains(t, []string{"scatter2scatter", "group_xty"}, p.Kernel.Stem)
	}
	k.Run()
}
