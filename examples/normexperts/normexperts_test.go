package main

import (
	"context"
	"errors"
	"math"
	"math/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/examples/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// openDevice opens a device and checks that closing it finds no leak.
func openDevice(t *testing.T) *vk.Device {
	t.Helper()
	dev, err := vk.Open(vk.Options{})
	if (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skipf("needs a Vulkan device: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

func open(t *testing.T, dev *vk.Device, tokens int) (*NormExperts, *train.Trainer) {
	t.Helper()
	m, trainer, err := newTask(t.Context(), dev, tokens, 1)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, trainer.Close())
		require.NoError(t, m.Close())
	})
	return m, trainer
}

// TestTrains runs what main runs: the loss falls from 0.39 to 0.007, and must fall below 5 % of its start.
func TestTrains(t *testing.T) {
	_, trainer := open(t, openDevice(t), tokens)
	var losses []float32
	require.NoError(t, trainer.Train(t.Context(), steps, func(_ int, loss float32) { losses = append(losses, loss) }))
	require.Len(t, losses, steps)
	first, last := losses[0], losses[steps-1]
	t.Logf("loss %.4f before, %.5f after %d steps (%.2f %%)", first, last, steps, 100*last/first)
	require.True(t, first > 0.2, "there is something to learn: %v", first)
	require.True(t, last < 0.05*first, "loss %v of %v", last, first)
}

// TestForwardAgreesWithTheTeacher gives the module the teacher's weights.
func TestForwardAgreesWithTheTeacher(t *testing.T) {
	m, trainer := open(t, openDevice(t), 37)
	teacher := newTeacher(rand.New(rand.NewSource(1)), config) // drawn first in newTask
	require.NoError(t, moe.UploadBank(t.Context(), m.Router.Weight, teacher.router))
	require.NoError(t, moe.UploadBank(t.Context(), m.Up.Weight, teacher.up))
	require.NoError(t, moe.UploadBank(t.Context(), m.Down.Weight, teacher.down))
	require.NoError(t, vk.Upload(t.Context(), m.Scale, teacher.scale))
	rec, err := m.Scale.Device().NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	_, err = m.Forward(rec, trainer.X, trainer.Y)
	require.NoError(t, err)
	require.NoError(t, rec.Run(t.Context()))
	got, err := vk.Download[float32](t.Context(), trainer.Y)
	require.NoError(t, err)
	want, err := vk.Download[float32](t.Context(), trainer.Target)
	require.NoError(t, err)
	for i := range want {
		require.True(t, math.Abs(float64(got[i]-want[i])) <= 1e-4, "y[%d] is %v, want %v", i, got[i], want[i])
	}
}

// TestGradients compares every gradient with central differences of the loss. With one token two of four experts have no
// rows, and zero gradients.
func TestGradients(t *testing.T) {
	dev := openDevice(t)
	for _, tokens := range []int{1, 13} {
		m, trainer := open(t, dev, tokens)
		scale := train.Normal(rand.New(rand.NewSource(2)), m.Scale.Elements(), 1)
		require.NoError(t, vk.Upload(t.Context(), m.Scale, scale))
		dx, err := dev.NewTensor(vk.F32, tokens, config.Width)
		require.NoError(t, err)
		defer dx.Close()
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		defer rec.Close()
		pass, err := trainer.Record(rec, dx, false)
		require.NoError(t, err)
		check := train.GradientCheck{Loss: rec, Out: trainer.Loss, Choice: pass.Choice(), Step: 5e-3}
		params := append(m.Params(), train.Param{Name: "x", Value: trainer.X, Grad: dx})
		derivatives, err := check.Run(context.Background(), params, 6)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(derivatives), 16, "entries at which the choice of experts stays")
		for _, d := range derivatives {
			require.True(t, d.Largest > 1e-3, "%s has a gradient", d.Param)
			require.True(t, math.Abs(d.Got-d.Difference) <= 1e-2*d.Largest, "T=%d %+v", tokens, d)
		}
		if tokens == 1 {
			requireZeroGradients(t, m, pass.Choice())
		}
	}
}

// requireZeroGradients checks the experts that no token chose.
func requireZeroGradients(t *testing.T, m *NormExperts, choice *vk.Tensor) {
	t.Helper()
	chosen, err := vk.Download[int32](t.Context(), choice)
	require.NoError(t, err)
	idle := 0
	for e := range config.Experts {
		if chosen[0] == int32(e) || chosen[1] == int32(e) {
			continue
		}
		idle++
		for _, bank := range []*moe.ExpertBank{m.Up.Grad, m.Down.Grad} {
			expert, err := bank.Expert(e)
			require.NoError(t, err)
			grad, err := vk.Download[float32](t.Context(), expert)
			require.NoError(t, err)
			require.Equal(t, make([]float32, len(grad)), grad)
		}
	}
	require.Equal(t, config.Experts-config.TopK, idle)
	grad, err := vk.Download[float32](t.Context(), m.scaleGrad)
	require.NoError(t, err)
	for i, g := range grad {
		if e := int32(i / config.Hidden); e != chosen[0] && e != chosen[1] {
			require.Zero(t, g, "scale %d", i)
		}
	}
}

// TestStepsAreReproducible trains twice from the same start.
func TestStepsAreReproducible(t *testing.T) {
	dev := openDevice(t)
	var runs [2][]float32
	for i := range runs {
		_, trainer := open(t, dev, 40)
		require.NoError(t, trainer.Train(t.Context(), 5, func(_ int, loss float32) { runs[i] = append(runs[i], loss) }))
	}
	require.Equal(t, runs[0], runs[1])
}

func TestWrongInputIsRefused(t *testing.T) {
	dev := openDevice(t)
	m, trainer := open(t, dev, 4)
	for _, x := range []*vk.Tensor{nil, trainer.Loss, m.Scale} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		_, err = m.Forward(rec, x, trainer.Y)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
		require.ErrorAs(t, rec.Err(), &shape)
		require.NoError(t, rec.Close())
	}
}
