package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPackPutsMembersAtTheirOffsets(t *testing.T) {
	push := struct {
		X     uint64
		Rows  uint32
		Shift int32
		Scale float32
		Y     uint64
	}{0x0807060504030201, 7, -1, 0.5, 0xff}
	fields := []Field{{"x", 0, 8}, {"rows", 8, 4}, {"shift", 12, 4}, {"scale", 16, 4}, {"y", 24, 8}}
	require.Equal(t, []byte{1, 2, 3, 4, 5, 6, 7, 8, 7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x3f, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0},
		Pack(push, fields, 32))
}

func TestWordsUndoDefaults(t *testing.T) {
	type spec struct {
		BM      uint32
		Epsilon float32
		Low     int32
		Quads   bool
		Gated   bool
	}
	list := []Constant{{0, "BM", 32}, {1, "EPSILON", math.Float32bits(0.5)}, {2, "LOW", 0xffffffff}, {3, "QUADS", 1}, {4, "GATED", 0}}
	got := Defaults[spec](list)
	require.Equal(t, spec{BM: 32, Epsilon: 0.5, Low: -1, Quads: true}, got)
	require.Equal(t, []uint32{32, math.Float32bits(0.5), 0xffffffff, 1, 0}, Words(got))
}
