package vk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

// TestCompileOnly records on a device that has no memory and runs nothing.
func TestCompileOnly(t *testing.T) {
	forEachVariant(t, func(*testing.T, *vk.Device) {}) // skips where there is no device
	d, err := vk.Open(vk.Options{NoCache: true, CompileOnly: true})
	require.NoError(t, err)
	ctx := t.Context()
	x, err := d.NewTensor(vk.F32, 1000)
	require.NoError(t, err)
	y, err := d.NewTensor(vk.F32, 20_000_000) // of its own block
	require.NoError(t, err)
	require.NotZero(t, x.Address())
	require.True(t, y.Address() >= x.Address()+x.Bytes() || x.Address() >= y.Address()+y.Bytes())
	require.NoError(t, vk.Upload(ctx, x, make([]float32, 1000)))
	_, err = vk.Download[float32](ctx, x)
	require.ErrorIs(t, err, vk.ErrCompileOnly)

	rec, err := d.NewRecorder()
	require.NoError(t, err)
	k := scaleAdd
	for range 2 {
		rec.Dispatch(vk.Dispatch{Kernel: k, Push: make([]byte, k.PushBytes), Linear: 1, Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{x}})
	}
	rec.Fill(x, 1)
	require.NoError(t, rec.Err())
	specs := rec.Pipelines()
	require.Len(t, specs, 1, "a pipeline is listed once")
	require.Same(t, k, specs[0].Kernel)
	if d.Caps().Has(vk.FeatureExecutableInfo) {
		list, err := d.Executables(specs[0])
		require.NoError(t, err)
		require.NotEmpty(t, list)
	}
	require.ErrorIs(t, rec.Run(ctx), vk.ErrCompileOnly)
	require.NoError(t, rec.Close())
	require.NoError(t, x.Close())
	require.NoError(t, y.Close())
	require.NoError(t, d.Close())
}
