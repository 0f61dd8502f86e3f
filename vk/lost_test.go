package vk

import (
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"
)

// No driver at hand loses its device on demand, so the test reports a loss the way a failed call does.
func TestLostDevice(t *testing.T) {
	d, err := Open(Options{NoCache: true})
	skipWithoutVulkan(t, err)
	require.NoError(t, err)
	x, err := d.NewTensor(F32, 4)
	require.NoError(t, err)
	rec, err := d.NewRecorder()
	require.NoError(t, err)
	rec.Fill(x, 0)
	require.NoError(t, rec.Run(t.Context()))

	err = d.note(check("vkQueueSubmit", vulkan.ErrorDeviceLost))
	require.ErrorIs(t, err, ErrDeviceLost)
	_, err = d.NewTensor(F32, 4)
	require.ErrorIs(t, err, ErrDeviceLost)
	_, err = d.NewRecorder()
	require.ErrorIs(t, err, ErrDeviceLost)
	_, err = rec.Submit()
	require.ErrorIs(t, err, ErrDeviceLost)
	require.ErrorIs(t, Upload(t.Context(), x, make([]float32, 4)), ErrDeviceLost)
	_, err = Download[float32](t.Context(), x)
	require.ErrorIs(t, err, ErrDeviceLost)
	require.ErrorIs(t, d.Wait(t.Context()), ErrDeviceLost)
	require.ErrorIs(t, d.Compile(t.Context(), nil), ErrDeviceLost)
	require.NoError(t, rec.Close())
	require.NoError(t, x.Close())
	require.NoError(t, d.Close())

	again, err := Open(Options{NoCache: true})
	require.NoError(t, err, "a lost device does not keep the next from opening")
	require.NoError(t, again.Close())
}
