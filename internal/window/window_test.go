//go:build desktop && linux

package window

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/xtest"
)

func TestMain(m *testing.M) { xtest.Main(m) }

func TestNoDisplay(t *testing.T) {
	t.Setenv("DISPLAY", "")
	require.ErrorIs(t, Available(), ErrNoDisplay)
	require.EqualError(t, Available(), "there is no display: DISPLAY is not set")
	var err error
	xtest.OnMain(func() { _, err = Open("test", 100, 100) })
	require.ErrorIs(t, err, ErrNoDisplay)

	t.Setenv("DISPLAY", ":7654")
	require.NoError(t, Available(), "only trying tells")
	for range 2 {
		xtest.OnMain(func() { _, err = Open("test", 100, 100) })
		require.ErrorIs(t, err, ErrNoDisplay)
		require.ErrorContains(t, err, "Failed to open display :7654")
	}
}
