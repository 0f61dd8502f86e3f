package attention

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// placesBy makes the table of a subgroup's places from a function.
func placesBy(lanes, elements int, place func(lane, e int) int) [][]int {
	table := make([][]int, lanes)
	for lane := range table {
		for e := range elements {
			table[lane] = append(table[lane], place(lane, e))
		}
	}
	return table
}

// TestPlacesOfKnownDevices has the patterns of NVIDIA (16 × 16, 32 invocations), of a column and of a row per invocation.
func TestPlacesOfKnownDevices(t *testing.T) {
	nvidia := placesBy(32, 8, func(lane, e int) int { return (lane/4+e/2%2*8)*16 + lane%4*2 + e%2 + e/4*8 })
	p, ok := placesOf(nvidia, 16)
	require.True(t, ok)
	require.Equal(t, matrixPlaces{slots: 2, shift: 1, mates: 3, pairs: true}, p)
	p, ok = placesOf(placesBy(8, 8, func(lane, e int) int { return e*8 + lane }), 8)
	require.True(t, ok)
	require.Equal(t, matrixPlaces{slots: 8, mates: 7}, p)
	p, ok = placesOf(placesBy(8, 8, func(lane, e int) int { return lane*8 + e }), 8)
	require.True(t, ok)
	require.Equal(t, matrixPlaces{slots: 1, pairs: true}, p)
	p, ok = placesOf(placesBy(32, 8, func(lane, e int) int { return (2*e+lane/16)*16 + lane%16 }), 16)
	require.True(t, ok)
	require.Equal(t, matrixPlaces{slots: 8, mates: 15}, p)
}

// TestPlacesOfOtherPatternsAreRefused has places that are missing, twice there, or askew.
func TestPlacesOfOtherPatternsAreRefused(t *testing.T) {
	for name, place := range map[string]func(lane, e int) int{
		"missing": func(lane, e int) int { return -1 },
		"twice":   func(lane, e int) int { return e * 8 },
		"askew":   func(lane, e int) int { return e*8 + (lane+e)%8 },
		"shuffled rows": func(lane, e int) int {
			row := []int{0, 1, 2, 3, 4, 5, 7, 6}[e]
			if lane > 3 {
				row = e
			}
			return row*8 + lane
		},
	} {
		_, ok := placesOf(placesBy(8, 8, place), 8)
		require.False(t, ok, name)
	}
}

// TestPlacesOfThisDevice asks the device twice: it is asked once, and says the same again when asked anew.
func TestPlacesOfThisDevice(t *testing.T) {
	x := flashMatrix(t)
	table, err := askPlaces(dev, x.m, x.n)
	require.NoError(t, err)
	p, ok := placesOf(table, int(x.n))
	require.True(t, ok)
	require.Equal(t, x.places, p)
}
