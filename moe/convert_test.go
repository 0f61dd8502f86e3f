package moe

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// runConvert converts bits on the device, at misaligned addresses when shift is 1.
func runConvert(t *testing.T, from, to vk.DType, bits []uint32, shift int) []uint32 {
	t.Helper()
	k := newKit(t)
	k.Shift = shift
	src := k.Bits("src", from, bits, len(bits))
	dst := k.PartialOutput("dst", to, len(bits)) // every bit pattern is a result, the poison too
	require.NoError(t, Convert(k.Rec, src, dst))
	k.Run()
	got := gputest.Words(t, dst)
	k.Close()
	return got
}

// TestConvertWidensEveryValue covers all 65,536 bit patterns.
func TestConvertWidensEveryValue(t *testing.T) {
	all := make([]uint32, 1<<16)
	for i := range all {
		all[i] = uint32(i)
	}
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		for shift := range 2 {
			got := runConvert(t, dtype, vk.F32, all, shift)
			for i, bits := range got {
				want := math.Float32bits(vk.FromBits(dtype, uint32(i)))
				if bits != want {
					t.Fatalf("%v %04x gives %08x, want %08x", dtype, i, bits, want)
				}
			}
		}
	}
}

// roundingCases are f32 bit patterns around every place where the rounding to a 16-bit type changes: the values of the
// type, the midpoints between neighbours, and one f32 step to either side of both; infinities, NaNs with various payloads,
// f32 subnormals and random patterns.
func roundingCases(dtype vk.DType) []uint32 {
	cases := []uint32{0, 1, 0x7fffff, 0x7f800000, 0x7f800001, 0x7fbfffff, 0x7fc00000, 0x7fffffff, 0x7f7fffff, 0x477fefff,
		0x477ff000, 0x33000000, 0x33000001, 0x32ffffff, 0x2f000000, 0x2e800001}
	for i := range uint32(0x7fff) {
		low, high := math.Float32bits(vk.FromBits(dtype, i)), math.Float32bits(vk.FromBits(dtype, i+1))
		if low >= 0x7f800000 {
			break
		}
		middle := math.Float32bits(float32((float64(math.Float32frombits(low)) + float64(math.Float32frombits(high))) / 2))
		if high == 0x7f800000 {
			middle = low + (high-low)/2
		}
		cases = append(cases, low, low+1, middle-1, middle, middle+1, high-1)
	}
	r := rand.New(rand.NewSource(9))
	for range 100000 {
		cases = append(cases, r.Uint32()&0x7fffffff)
	}
	for _, c := range cases {
		cases = append(cases, c|0x80000000)
	}
	return cases
}

// TestConvertRoundsAsTheHost compares the device's rounding with vk.ToF16 and vk.ToBF16 bit by bit.
func TestConvertRoundsAsTheHost(t *testing.T) {
	for _, dtype := range []vk.DType{vk.F16, vk.BF16} {
		cases := roundingCases(dtype)
		for shift := range 2 {
			got := runConvert(t, vk.F32, dtype, cases, shift)
			for i, c := range cases {
				if want := vk.Bits(dtype, math.Float32frombits(c)); got[i] != want {
					t.Fatalf("%v of %08x is %04x, want %04x", dtype, c, got[i], want)
				}
			}
		}
	}
}

// TestConvertSizes looks for lost or spilled elements at ragged ends.
func TestConvertSizes(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 5, 63, 255, 256, 257, 1025} {
		for shift := range 2 {
			bits := make([]uint32, n)
			for i := range bits {
				bits[i] = math.Float32bits(float32(i%256) - 100)
			}
			got := runConvert(t, vk.F32, vk.BF16, bits, shift)
			back := runConvert(t, vk.BF16, vk.F32, got, shift)
			require.Equal(t, bits, back, fmt.Sprint(n))
		}
	}
}

func TestConvertChecksItsArguments(t *testing.T) {
	gputest.Need(t, dev)
	tensor := func(dtype vk.DType, n int) *vk.Tensor {
		x, err := dev.NewTensor(dtype, n)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, x.Close()) })
		return x
	}
	a, b, c, d := tensor(vk.F32, 4), tensor(vk.F16, 4), tensor(vk.BF16, 4), tensor(vk.F16, 5)
	for _, pair := range [][2]*vk.Tensor{{a, d}, {a, a}, {b, c}, {nil, b}, {b, nil}} {
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		var shape *vk.ShapeError
		require.ErrorAs(t, Convert(rec, pair[0], pair[1]), &shape)
		require.NoError(t, rec.Close())
	}
}
