package vk_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestClosedDevice(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newTensor(t, dev, vk.F32, 4)
	rec := newRecorder(t, dev)
	recordScaleAdd(rec, x, x, 1, 1)
	p, err := rec.Submit()
	require.NoError(t, err)
	var leak *vk.LeakError
	require.ErrorAs(t, dev.Close(), &leak)
	require.Len(t, leak.Objects, 2)
	require.NoError(t, dev.Close())

	_, err = dev.NewTensor(vk.F32, 4)
	require.ErrorIs(t, err, vk.ErrClosed)
	_, err = dev.NewRecorder()
	require.ErrorIs(t, err, vk.ErrClosed)
	_, err = rec.Submit()
	require.ErrorIs(t, err, vk.ErrClosed)
	require.ErrorIs(t, p.Wait(t.Context()), vk.ErrClosed)
	require.ErrorIs(t, vk.Upload(t.Context(), x, make([]float32, 4)), vk.ErrClosed)
	require.ErrorIs(t, dev.Compile(t.Context(), nil), vk.ErrClosed)
	require.ErrorIs(t, dev.Wait(t.Context()), vk.ErrClosed)
	require.NoError(t, x.Close())
	require.NoError(t, rec.Close())
}

func TestLeaksSayWhere(t *testing.T) {
	dev := openDevice(t, vk.Options{TraceLeaks: true})
	x, err := dev.NewTensor(vk.F32, 2, 3)
	require.NoError(t, err)
	err = dev.Close()
	require.ErrorContains(t, err, "tensor f32[2 3]")
	require.ErrorContains(t, err, "TestLeaksSayWhere")
	require.NoError(t, x.Close())
}

func TestDispatchRefusals(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newFloats(t, dev, 1, 2, 3)
	refuse := func(change func(*vk.Dispatch)) error {
		rec := newRecorder(t, dev)
		d := vk.Dispatch{Kernel: scaleAdd, Push: scaleAddPush(x, x, 1, 1), Linear: 1}
		change(&d)
		rec.Dispatch(d)
		require.Error(t, rec.Err())
		recordScaleAdd(rec, x, x, 1, 1) // does nothing after an error
		require.Equal(t, rec.Err(), rec.Run(t.Context()))
		return rec.Err()
	}
	var shape *vk.ShapeError
	var unsupported *vk.UnsupportedError
	caps := dev.Caps()
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Push = nil }), &shape)
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Kernel = nil }), &shape)
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Spec = []uint32{64} }), &shape)
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Spec = []uint32{caps.MaxWorkgroupInvocations + 1, 1, 1} }), &unsupported)
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Spec = []uint32{64, 1, caps.SharedMemoryBytes/4 + 1} }), &unsupported)
	require.ErrorContains(t, refuse(func(d *vk.Dispatch) { d.Spec = []uint32{64, 1, caps.SharedMemoryBytes/4 + 1} }), "shared memory")
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.SubgroupSize = 3 }), &unsupported)
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) {
		d.Linear, d.Groups = 0, [3]uint32{1, caps.MaxWorkgroupCount[1] + 1, 1}
	}), &shape)
	closed := newTensor(t, dev, vk.F32, 1)
	require.NoError(t, closed.Close())
	require.ErrorIs(t, refuse(func(d *vk.Dispatch) { d.Reads = []*vk.Tensor{closed} }), vk.ErrClosed)
	other := openDevice(t, vk.Options{})
	require.ErrorAs(t, refuse(func(d *vk.Dispatch) { d.Reads = []*vk.Tensor{newTensor(t, other, vk.F32, 1)} }), &shape)

	needy := *scaleAdd
	needy.Needs = []vk.Feature{vk.FeatureCoopMat}
	without := openDevice(t, vk.Options{Disable: []vk.Feature{vk.FeatureCoopMat}})
	rec := newRecorder(t, without)
	rec.Dispatch(vk.Dispatch{Kernel: &needy, Push: scaleAddPush(x, x, 1, 1), Linear: 1})
	require.ErrorAs(t, rec.Err(), &unsupported)
	require.Equal(t, vk.FeatureCoopMat, unsupported.Feature)
}

func TestRequiredSubgroupSize(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	if !dev.Caps().Has(vk.FeatureSubgroupSize) {
		t.Skip("needs subgroup-size")
	}
	x := newFloats(t, dev, make([]float32, 64)...)
	rec := newRecorder(t, dev)
	rec.Dispatch(vk.Dispatch{Kernel: scaleAdd, SubgroupSize: dev.Caps().MaxSubgroupSize, Push: scaleAddPush(x, x, 1, 2),
		Linear: 1, Writes: []*vk.Tensor{x}})
	require.NoError(t, rec.Run(t.Context()))
	require.Equal(t, float32(2), download(t, x)[63])
}

func TestCompileInParallel(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	var specs []vk.PipelineSpec
	for i := range 16 {
		specs = append(specs, vk.PipelineSpec{Kernel: scaleAdd, Spec: []uint32{64, uint32(i%8) + 1, 1}})
	}
	require.NoError(t, dev.Compile(t.Context(), specs))
	require.Equal(t, 8, dev.Stats().Pipelines)
	specs[3].Spec = []uint32{64, 1, 1 << 24}
	var unsupported *vk.UnsupportedError
	require.ErrorAs(t, dev.Compile(t.Context(), specs), &unsupported)
	require.Equal(t, 8, dev.Stats().Pipelines)
}

func TestPipelineCacheOnDisk(t *testing.T) {
	dir := t.TempDir()
	use := func() {
		dev, err := vk.Open(vk.Options{CacheDir: dir})
		require.NoError(t, err)
		require.NoError(t, dev.Compile(t.Context(), []vk.PipelineSpec{{Kernel: scaleAdd}}))
		require.NoError(t, dev.Close())
	}
	openDevice(t, vk.Options{}) // skips without a device
	use()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	whole, err := os.ReadFile(files[0])
	require.NoError(t, err)
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)-1] ^= 1
	for _, damaged := range [][]byte{nil, []byte("x"), whole[:len(whole)/2], flipped, make([]byte, 4096)} {
		require.NoError(t, os.WriteFile(files[0], damaged, 0o644))
		use()
		again, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(again), "vkmoe pipelines 1\n"), "the file is made anew")
	}
	require.NoError(t, os.Chmod(dir, 0o500))
	defer os.Chmod(dir, 0o700)
	use()
}

// Recording and submitting must not leave anything behind, in Go's heap, in C's or in the driver.
func TestNothingGrows(t *testing.T) {
	dev := openDevice(t, vk.Options{})
	x := newFloats(t, dev, 0)
	again := newRecorder(t, dev)
	recordScaleAdd(again, x, x, 1, 1)
	round := func() {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		tmp := rec.Scratch(vk.F32, 1)
		recordScaleAdd(rec, tmp, x, 1, 1)
		recordScaleAdd(rec, x, tmp, 1, 0)
		require.NoError(t, rec.Run(t.Context()))
		require.NoError(t, rec.Close())
		require.NoError(t, again.Run(t.Context()))
	}
	for range 500 {
		round()
	}
	before, objects := residentBytes(t), dev.Memory()
	for range 5000 {
		round()
	}
	require.Equal(t, objects.LiveBytes, dev.Memory().LiveBytes)
	require.Equal(t, objects.ReservedBytes, dev.Memory().ReservedBytes)
	require.Equal(t, objects.LiveObjects, dev.Memory().LiveObjects)
	if os.Getenv("VKMOE_VALIDATION") == "" { // the layer keeps records of its own
		require.Less(t, residentBytes(t), before+4<<20, "10,000 submissions may not grow the process")
	}
	require.Equal(t, []float32{11000}, download(t, x))
}

// residentBytes is the process's resident memory after a garbage collection, where the system tells it.
func residentBytes(t *testing.T) int {
	runtime.GC()
	data, err := os.ReadFile("/proc/self/statm")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}
