package vk_test

import (
	"context"
	_ "embed"
	"encoding/binary"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/kernel"
	"github.com/vkmoe/vkmoe/vk"
)

//go:generate sh -c "\"${DOLLAR}{VKMOE_GLSLANG:-../.tools/bin/glslangValidator}\" --quiet --target-env vulkan1.2 -V testdata/scale_add.comp -o testdata/scale_add.spv"

//go:embed testdata/scale_add.spv
var scaleAddWords []byte

// scaleAdd is y = a·x + b of testdata/scale_add.comp.
var scaleAdd = &kernel.Kernel{
	Stem: "scale_add",
	SPIRV: sync.OnceValue(func() []uint32 {
		words := make([]uint32, len(scaleAddWords)/4)
		for i := range words {
			words[i] = binary.LittleEndian.Uint32(scaleAddWords[4*i:])
		}
		return words
	}),
	PushBytes: 28,
	Spec: []kernel.Constant{{ID: 0, Name: "WIDTH", Default: 64}, {ID: 1, Name: "REPEAT", Default: 1},
		{ID: 2, Name: "SHARED_WORDS", Default: 1}},
	LocalSize: [3]int{0, -1, -1},
}

func scaleAddPush(x, y *vk.Tensor, a, b float32) []byte {
	p := binary.LittleEndian.AppendUint64(nil, x.Address())
	p = binary.LittleEndian.AppendUint64(p, y.Address())
	p = binary.LittleEndian.AppendUint32(p, math.Float32bits(a))
	p = binary.LittleEndian.AppendUint32(p, math.Float32bits(b))
	return binary.LittleEndian.AppendUint32(p, uint32(min(x.Elements(), y.Elements())))
}

// recordScaleAdd records y = a·x + b.
func recordScaleAdd(rec *vk.Recorder, y, x *vk.Tensor, a, b float32, spec ...uint32) {
	rec.Dispatch(vk.Dispatch{Kernel: scaleAdd, Spec: spec, Push: scaleAddPush(x, y, a, b),
		Linear: uint64(x.Elements()+63) / 64, Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{y}})
}

// openDevice opens a device for a test and checks that closing it finds no leak and no validation message. Without a
// device the test is skipped, unless VKMOE_REQUIRE_GPU=1 says that there must be one.
func openDevice(t *testing.T, opts vk.Options) *vk.Device {
	t.Helper()
	opts.NoCache = opts.CacheDir == ""
	return gputest.Open(t, opts)
}

// variants are the ways in which a device can be driven; each must give the same results.
var variants = map[string]vk.Options{
	"default":       {},
	"staged":        {Disable: []vk.Feature{vk.FeatureDirectMap}, StagingBytes: 4096},
	"fences":        {Disable: []vk.Feature{vk.FeatureTimeline}},
	"fences staged": {Disable: []vk.Feature{vk.FeatureTimeline, vk.FeatureDirectMap}, StagingBytes: 1 << 20},
}

func forEachVariant(t *testing.T, f func(t *testing.T, dev *vk.Device)) {
	for name, opts := range variants {
		t.Run(name, func(t *testing.T) { f(t, openDevice(t, opts)) })
	}
}

func newTensor(t *testing.T, dev *vk.Device, dtype vk.DType, shape ...int) *vk.Tensor {
	t.Helper()
	x, err := dev.NewTensor(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	return x
}

func newFloats(t *testing.T, dev *vk.Device, values ...float32) *vk.Tensor {
	t.Helper()
	x := newTensor(t, dev, vk.F32, len(values))
	require.NoError(t, vk.Upload(t.Context(), x, values))
	return x
}

func newRecorder(t *testing.T, dev *vk.Device) *vk.Recorder {
	t.Helper()
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rec.Close()) })
	return rec
}

func download(t *testing.T, x *vk.Tensor) []float32 {
	t.Helper()
	data, err := vk.Download[float32](context.Background(), x)
	require.NoError(t, err)
	return data
}
