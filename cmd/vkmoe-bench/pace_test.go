package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

func TestAtFullClocks(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		shares []float64
		err    error
		tries  int
		low    float64
	}{
		{shares: []float64{0.95}, tries: 1},
		{shares: []float64{0.4, 0.5, lowClocks}, tries: 3},
		{shares: []float64{0.4, 0.4, 0.4, 0.4, 0.45}, tries: mostTries, low: 0.45},
		{err: broken, tries: 1},
	} {
		tries := 0
		low, err := atFullClocks(func() error { tries++; return c.err }, func() (float64, error) { return c.shares[tries-1], nil })
		require.ErrorIs(t, err, c.err)
		require.Equal(t, c.tries, tries)
		require.Equal(t, c.low, low)
	}
	_, err := atFullClocks(func() error { return nil }, func() (float64, error) { return 0, broken })
	require.ErrorIs(t, err, broken)
}

// TestPace: the fastest time yet is the measure.
func TestPace(t *testing.T) {
	dev, err := vk.Open(vk.Options{Timestamps: true})
	gputest.Require(t, err)
	defer dev.Close()
	p, err := newPace(dev)
	require.NoError(t, err)
	for i := range 3 {
		share, err := p.share(t.Context())
		require.NoError(t, err)
		require.True(t, share > 0 && share <= 1, "%v", share)
		require.True(t, i > 0 || share == 1, "%v", share)
	}
	p.least /= 4
	share, err := p.share(t.Context())
	require.NoError(t, err)
	require.Less(t, share, 1.0)
	require.NoError(t, p.close())
}
