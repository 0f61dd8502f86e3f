package check

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) { gputest.Main(m, &dev) }

func TestConfigError(t *testing.T) {
	require.NoError(t, InRange("C", "F", 3, 3, 3))
	err := First(nil, InRange("C", "F", 4, 1, 3), errors.New("later"))
	var config *ConfigError
	require.ErrorAs(t, err, &config)
	require.Equal(t, ConfigError{Config: "C", Field: "F", Want: "1 to 3", Got: "4"}, *config)
	require.Equal(t, "vkmoe: C.F is 4, want 1 to 3", err.Error())
	require.NoError(t, First(nil, DType("C", vk.BF16)))
	require.ErrorAs(t, DType("C", vk.I32), &config)
}

func TestTensorsThatDoNotFit(t *testing.T) {
	k := gputest.New(t, dev)
	x := k.F32("x", make([]float32, 6), 2, 3)
	closed, err := dev.NewTensor(vk.F32, 2, 3)
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	require.NoError(t, Tensor(dev, "op", "x", x, vk.F32, 2, 3))
	require.NoError(t, Optional(dev, "op", "x", nil, vk.F32, 2, 3))
	require.ErrorIs(t, Tensor(dev, "op", "x", closed, vk.F32, 2, 3), vk.ErrClosed)
	for name, err := range map[string]error{
		"nil": Tensor(dev, "op", "x", nil, vk.F32, 2, 3), "dtype": Tensor(dev, "op", "x", x, vk.I32, 2, 3),
		"shape": Tensor(dev, "op", "x", x, vk.F32, 3, 2), "device": Optional(nil, "op", "x", x, vk.F32, 2, 3),
		"rank": Rank("op", "x", x, 1), "no storage": Storage("op", "x", k.I32("i", []int32{1}, 1)), "no tensor": Usable(dev, "op", "x", nil),
	} {
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, name)
		require.Equal(t, "x", shape.Arg)
	}
}

func TestApart(t *testing.T) {
	k := gputest.New(t, dev)
	x := k.F32("x", make([]float32, 8), 8)
	view := func(first, n int) *vk.Tensor {
		v, err := x.View(first, n)
		require.NoError(t, err)
		return v
	}
	require.NoError(t, Apart("op", "y", view(0, 4), Inputs{"a": view(4, 4), "none": nil, "empty": view(2, 0)}))
	require.NoError(t, Apart("op", "y", nil, Inputs{"a": x}))
	for range 10 { // the same input is named whatever the order of the map
		err := Apart("op", "y", view(3, 2), Inputs{"c": view(4, 4), "b": view(0, 4), "a": view(6, 2)})
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape)
		require.Equal(t, vk.ShapeError{Op: "op", Arg: "y", Want: "memory apart from b", Got: "overlapping memory"}, *shape)
	}
}

// TestRecordRefusesWhatGroupIDsCannotCount asks for 2^31 work-groups.
func TestRecordRefusesWhatGroupIDsCannotCount(t *testing.T) {
	k := gputest.New(t, dev)
	err := Record(k.Rec, vk.Dispatch{Kernel: shaders.ConvertF16F32}, 1<<31)
	var shape *vk.ShapeError
	require.ErrorAs(t, err, &shape)
	require.ErrorIs(t, k.Rec.Err(), err)
}

func TestSizes(t *testing.T) {
	require.Equal(t, []int{0, 1, 1, 2}, []int{CeilDiv(0, 4), CeilDiv(1, 4), CeilDiv(4, 4), CeilDiv(5, 4)})
	require.Equal(t, []uint64{0, 256, 512}, []uint64{TensorBytes(4, 0, 9), TensorBytes(2, 128), TensorBytes(4, 13, 5)})
	for _, c := range []struct {
		width  int
		quads  bool
		grid   Grid
		groups uint64 // of 65 rows
	}{
		{1, false, Grid{1, 64, false}, 2}, {5, false, Grid{8, 8, false}, 9}, {64, true, Grid{16, 4, true}, 17},
		{1000, false, Grid{64, 1, false}, 65 * 16}, {1024, true, Grid{64, 1, true}, 65 * 4},
	} {
		g := NewGrid(c.width, c.quads)
		require.Equal(t, c.grid, g, c)
		require.Equal(t, c.groups, g.Groups(65, c.width), c)
	}
}

func TestByTypes(t *testing.T) {
	list := NewByTypes(shaders.RmsNormF32, shaders.RmsNormF16, shaders.RmsNormF16F32, shaders.RmsNormBf16, shaders.RmsNormBf16F32)
	require.Len(t, list, 5)
	for types, name := range map[[2]vk.DType]string{{vk.F32, vk.F32}: "rms_norm.f32", {vk.F16, vk.F16}: "rms_norm.f16",
		{vk.F16, vk.F32}: "rms_norm.f16_f32", {vk.BF16, vk.BF16}: "rms_norm.bf16", {vk.BF16, vk.F32}: "rms_norm.bf16_f32"} {
		require.Equal(t, name, list[types].Name())
	}
	require.Nil(t, list[[2]vk.DType{vk.F32, vk.F16}])
}
