package train_test

import (
	"errors"
	"math"
	"math/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/examples/train"
	"github.com/vkmoe/vkmoe/vk"
)

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

func floats(t *testing.T, dev *vk.Device, values []float32) *vk.Tensor {
	t.Helper()
	x, err := dev.NewTensor(vk.F32, len(values))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	require.NoError(t, vk.Upload(t.Context(), x, values))
	return x
}

func record(t *testing.T, dev *vk.Device) *vk.Recorder {
	t.Helper()
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rec.Close()) })
	return rec
}

func download(t *testing.T, x *vk.Tensor) []float32 {
	t.Helper()
	data, err := vk.Download[float32](t.Context(), x)
	require.NoError(t, err)
	return data
}

func TestSquaredError(t *testing.T) {
	dev := openDevice(t)
	for _, n := range []int{1, 127, 128, 1000} {
		random := rand.New(rand.NewSource(int64(n)))
		y, target := train.Normal(random, n, 1), train.Normal(random, n, 1)
		rec := record(t, dev)
		ty, tt := floats(t, dev, y), floats(t, dev, target)
		dy, loss := floats(t, dev, make([]float32, n)), floats(t, dev, []float32{-1})
		require.NoError(t, train.SquaredError(rec, ty, tt, dy, loss))
		require.NoError(t, rec.Run(t.Context()))
		var sum float64
		for i, g := range download(t, dy) {
			e := float64(y[i]) - float64(target[i])
			sum += e * e
			require.InDelta(t, 2*e/float64(n), g, 1e-6)
		}
		require.InEpsilon(t, sum/float64(n), download(t, loss)[0], 1e-5)
	}
}

func TestSquaredErrorRefuses(t *testing.T) {
	dev := openDevice(t)
	two, three, one := floats(t, dev, make([]float32, 2)), floats(t, dev, make([]float32, 3)), floats(t, dev, []float32{0})
	for _, c := range []struct {
		y, target, dy, loss *vk.Tensor
		arg                 string
	}{
		{nil, two, two, one, "y"},
		{two, three, two, one, "target"},
		{two, two, nil, one, "dy"},
		{two, two, two, two, "loss"},
	} {
		rec := record(t, dev)
		err := train.SquaredError(rec, c.y, c.target, c.dy, c.loss)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
		require.Equal(t, c.arg, shape.Arg)
		require.Equal(t, err, rec.Err())
	}
}

// TestAdam compares three steps of one recording with the equations in float64.
func TestAdam(t *testing.T) {
	dev := openDevice(t)
	const n = 100
	random := rand.New(rand.NewSource(3))
	w, g := train.Normal(random, n, 1), train.Normal(random, n, 1)
	value, grad := floats(t, dev, w), floats(t, dev, g)
	const rate, beta1, beta2, epsilon = 0.1, 0.8, 0.9, 1e-3
	adam, err := train.NewAdam(t.Context(), dev, train.AdamConfig{Rate: rate, Beta1: beta1, Beta2: beta2, Epsilon: epsilon},
		[]train.Param{{Name: "w", Value: value, Grad: grad}})
	require.NoError(t, err)
	defer func() { require.NoError(t, adam.Close()) }()
	rec := record(t, dev)
	require.NoError(t, adam.Step(rec))
	m, v, want := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range want {
		want[i] = float64(w[i])
	}
	for step := 1; step <= 3; step++ {
		require.NoError(t, rec.Run(t.Context()))
		got := download(t, value)
		for i := range want {
			m[i] = beta1*m[i] + (1-beta1)*float64(g[i])
			v[i] = beta2*v[i] + (1-beta2)*float64(g[i])*float64(g[i])
			mean, square := m[i]/(1-math.Pow(beta1, float64(step))), v[i]/(1-math.Pow(beta2, float64(step)))
			want[i] -= rate * mean / (math.Sqrt(square) + epsilon)
			require.InDelta(t, want[i], got[i], 1e-5, "step %d", step)
		}
		for i := range g {
			g[i] = -0.5 * g[i] // another gradient for the next step
		}
		require.NoError(t, vk.Upload(t.Context(), grad, g))
	}
	_, err = train.NewAdam(t.Context(), dev, train.AdamConfig{}, []train.Param{{Name: "w", Value: value}})
	var shape *vk.ShapeError
	require.ErrorAs(t, err, &shape)
	require.Equal(t, "w.Grad", shape.Arg)
}

// TestGradientCheckSeesWrongGradients checks the squared error itself, with its gradient right and then wrong, and restores
// the parameters.
func TestGradientCheckSeesWrongGradients(t *testing.T) {
	dev := openDevice(t)
	start := []float32{1, -2, 3}
	y, target := floats(t, dev, start), floats(t, dev, []float32{0, 1, 0})
	dy, loss := floats(t, dev, make([]float32, 3)), floats(t, dev, []float32{0})
	wrong := floats(t, dev, []float32{5, 5, 5})
	rec := record(t, dev)
	require.NoError(t, train.SquaredError(rec, y, target, dy, loss))
	check := train.GradientCheck{Loss: rec, Out: loss, Step: 1e-2}
	list, err := check.Run(t.Context(), []train.Param{{Name: "y", Value: y, Grad: dy}, {Name: "wrong", Value: y, Grad: wrong}}, 10)
	require.NoError(t, err)
	require.Len(t, list, 6)
	for _, d := range list {
		require.Equal(t, d.Param == "y", math.Abs(d.Got-d.Difference) <= 1e-3*d.Largest, "%+v", d)
	}
	require.Equal(t, start, download(t, y))
}

func TestChoose(t *testing.T) {
	experts, gates := train.Choose([]float32{0, 2, 1, 2}, 3)
	require.Equal(t, []int{1, 3, 2}, experts, "best first, ties to the lower id")
	sum := float32(2 + math.Exp(-1))
	for j, want := range []float32{1 / sum, 1 / sum, float32(math.Exp(-1)) / sum} {
		require.InDelta(t, want, gates[j], 1e-6)
	}
}
