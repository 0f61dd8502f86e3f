package vk_test

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

func TestNewKernelReflectsTheModule(t *testing.T) {
	k, err := vk.NewKernel("scale_add", scaleAddWords)
	require.NoError(t, err)
	require.Equal(t, "scale_add", k.Name())
	require.Equal(t, scaleAdd.SPIRV(), k.SPIRV())
	require.Equal(t, scaleAdd.PushBytes, k.PushBytes)
	require.Equal(t, scaleAdd.Spec, k.Spec)
	require.Equal(t, scaleAdd.LocalSize, k.LocalSize)
	require.Empty(t, k.Needs)
	names, offsets := []string{}, []uint32{}
	for _, f := range k.Push {
		names, offsets = append(names, f.Name), append(offsets, f.Offset)
	}
	require.Equal(t, []string{"x", "y", "a", "b", "n"}, names)
	require.Equal(t, []uint32{0, 8, 16, 20, 24}, offsets)
}

func TestNewKernelRuns(t *testing.T) {
	k := vk.MustKernel("scale_add", scaleAddWords)
	dev := openDevice(t, vk.Options{})
	x, y := newFloats(t, dev, 1, 2, 3, 4, 5), newFloats(t, dev, 0, 0, 0, 0, 0)
	rec := newRecorder(t, dev)
	push, err := vk.PackPush(k, x, y, float32(2), float32(1), x.Elements())
	require.NoError(t, err)
	rec.Dispatch(vk.Dispatch{Kernel: k, Push: push, Linear: 1, Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{y}})
	require.NoError(t, rec.Run(t.Context()))
	require.Equal(t, []float32{3, 5, 7, 9, 11}, download(t, y))
}

// instruction finds the first instruction of an opcode and returns its operands, to be changed in place.
func instruction(t *testing.T, words []uint32, op uint16, match func(args []uint32) bool) []uint32 {
	t.Helper()
	for at := 5; at < len(words); at += int(words[at] >> 16) {
		args := words[at+1 : at+int(words[at]>>16)]
		if uint16(words[at]) == op && match(args) {
			return args
		}
	}
	t.Fatalf("no such instruction %d", op)
	return nil
}

func anyOperands([]uint32) bool { return true }

// TestNewKernelRefuses damages a good module in one way each.
func TestNewKernelRefuses(t *testing.T) {
	const (
		opCapability   = 17
		opEntryPoint   = 15
		opDecorate     = 71
		opMemberOffset = 72
		opTypeInt      = 21
		opSpecConstant = 50
	)
	encode := func(words []uint32) []byte {
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	for name, c := range map[string]struct {
		damage func(words []uint32) []uint32
		want   string
	}{
		"no words":   {func([]uint32) []uint32 { return nil }, "header"},
		"cut off":    {func(w []uint32) []uint32 { return w[:len(w)-3] }, "left"},
		"no module":  {func(w []uint32) []uint32 { w[0] = 7; return w }, "magic"},
		"too new":    {func(w []uint32) []uint32 { w[1] = 0x00010600; return w }, "SPIR-V 1.6"},
		"capability": {func(w []uint32) []uint32 { instruction(t, w, opCapability, anyOperands)[0] = 999; return w }, "capability 999"},
		"entry point": {func(w []uint32) []uint32 {
			instruction(t, w, opEntryPoint, anyOperands)[2] = binary.LittleEndian.Uint32([]byte("mine"))
			return w
		}, `"mine"`},
		"descriptor": {func(w []uint32) []uint32 { return append(w, 4<<16|opDecorate, 1, 33, 0) }, "descriptors"},
		"push constants": {func(w []uint32) []uint32 {
			offset24 := func(args []uint32) bool { return len(args) == 4 && args[2] == 35 && args[3] == 24 }
			instruction(t, w, opMemberOffset, offset24)[3] = 128
			return w
		}, "132 bytes of push constants"},
		"wide constant": {func(w []uint32) []uint32 {
			id := w[3]
			w[3] += 2
			return append(w, 4<<16|opTypeInt, id, 64, 0, 5<<16|opSpecConstant, id, id+1, 1, 0, 4<<16|opDecorate, id+1, 1, 9)
		}, "u64"},
	} {
		k, err := vk.NewKernel("mine", encode(c.damage(slices.Clone(scaleAdd.SPIRV()))))
		var refused *vk.KernelError
		require.ErrorAs(t, err, &refused, name)
		require.Equal(t, "mine", refused.Kernel, name)
		require.ErrorContains(t, err, c.want, name)
		require.Nil(t, k, name)
	}
	_, err := vk.NewKernel("odd", scaleAddWords[:len(scaleAddWords)-1])
	require.ErrorContains(t, err, "whole number of words")
	_, err = vk.NewKernel("", scaleAddWords)
	require.ErrorContains(t, err, "no name")
	require.Panics(t, func() { vk.MustKernel("empty", nil) })
}

func TestPackPush(t *testing.T) {
	k := vk.MustKernel("scale_add", scaleAddWords)
	push, err := vk.PackPush(k, uint64(0x0102030405060708), (*vk.Tensor)(nil), float32(-2), int32(-1), true)
	require.NoError(t, err)
	want := binary.LittleEndian.AppendUint64(nil, 0x0102030405060708)
	want = binary.LittleEndian.AppendUint64(want, 0)
	for _, w := range []uint32{math.Float32bits(-2), 0xffffffff, 1} {
		want = binary.LittleEndian.AppendUint32(want, w)
	}
	require.Equal(t, want, push)

	for name, c := range map[string]struct {
		values []any
		arg    string
	}{
		"too few":        {[]any{uint64(1)}, "values"},
		"address as int": {[]any{1, uint64(0), float32(0), float32(0), 0}, "x"},
		"wide number":    {[]any{uint64(0), uint64(0), float32(0), float32(0), uint64(0)}, "n"},
		"float64":        {[]any{uint64(0), uint64(0), 1.0, float32(0), 0}, "a"},
		"above 32 bits":  {[]any{uint64(0), uint64(0), float32(0), float32(0), 1 << 32}, "n"},
		"nil":            {[]any{nil, uint64(0), float32(0), float32(0), 0}, "x"},
	} {
		_, err := vk.PackPush(k, c.values...)
		var shape *vk.ShapeError
		require.ErrorAs(t, err, &shape, name)
		require.Equal(t, c.arg, shape.Arg, name)
	}
}

// FuzzNewKernel looks for modules that are neither refused nor described within the limits.
func FuzzNewKernel(f *testing.F) {
	f.Add(scaleAddWords)
	f.Add(scaleAddWords[:len(scaleAddWords)/8*4])
	f.Fuzz(func(t *testing.T, module []byte) {
		k, err := vk.NewKernel("fuzzed", module)
		if err != nil {
			require.Nil(t, k)
			return
		}
		require.LessOrEqual(t, k.PushBytes, uint32(128))
		for _, field := range k.Push {
			require.LessOrEqual(t, field.Offset+field.Size, k.PushBytes)
		}
		for _, axis := range k.LocalSize {
			require.Less(t, axis, max(1, len(k.Spec)))
		}
	})
}
