package gputest

import (
	"context"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/vk"
)

// Poison is what fills the bands and outputs of a dtype, as bits: a NaN that no kernel computes. Memory that still holds it
// was not written.
func Poison(dtype vk.DType) uint32 {
	switch dtype {
	case vk.F16:
		return 0x7ead // kernels make 7e00 and fe00 only
	case vk.BF16:
		return 0x7fad // a signalling NaN; kernels make quiet ones
	}
	return 0x7fc0dead
}

// guard is the width of the bands around a kit's tensors, in elements.
const guard = 64

// A Kit makes the tensors of one test inside wider ones that are filled with poison, and checks after a run that
// inputs and bands are as they were and that outputs were written in full.
type Kit struct {
	T   testing.TB
	Ctx context.Context
	Rec *vk.Recorder

	// Shift makes every tensor begin so many elements further on: 1 makes its address miss the alignment of four elements,
	// and 16-bit tensors start mid-word.
	Shift int

	dev    *vk.Device
	bands  []*banded
	closes []func() error
}

type banded struct {
	name    string
	root    *vk.Tensor
	view    *vk.Tensor
	want    []uint32 // the contents of root before the run, one word per element
	front   int      // elements of root before view
	output  bool
	partial bool // an output that need not be written in full
}

// New makes a kit with a recorder of dev, or skips the test where there is no device.
func New(t testing.TB, dev *vk.Device) *Kit {
	t.Helper()
	Need(t, dev)
	k := &Kit{T: t, Ctx: context.Background(), dev: dev}
	var err error
	k.Rec, err = k.dev.NewRecorder()
	require.NoError(t, err)
	k.OnClose(k.Rec.Close)
	t.Cleanup(k.Close)
	return k
}

// OnClose has the kit close what a test made for it, before what it was made from.
func (k *Kit) OnClose(f func() error) { k.closes = append(k.closes, f) }

// Close closes what the kit made, in reverse order; the test's end does so too.
func (k *Kit) Close() {
	for i := len(k.closes) - 1; i >= 0; i-- {
		require.NoError(k.T, k.closes[i]())
	}
	k.closes, k.bands = nil, nil
}

// banded makes a banded tensor whose elements' bits are given.
func (k *Kit) banded(name string, dtype vk.DType, words []uint32, shape []int) *banded {
	k.T.Helper()
	b := &banded{name: name, front: guard + k.Shift, want: make([]uint32, len(words)+2*guard+k.Shift)}
	for i := range b.want {
		b.want[i] = Poison(dtype)
	}
	copy(b.want[b.front:], words)
	var err error
	b.root, err = k.dev.NewTensor(dtype, len(b.want))
	require.NoError(k.T, err)
	k.OnClose(b.root.Close)
	k.refill(b)
	b.view, err = b.root.View(b.front, shape...)
	require.NoError(k.T, err)
	k.bands = append(k.bands, b)
	return b
}

// refill uploads the contents that a banded tensor had at first.
func (k *Kit) refill(b *banded) {
	bytes := make([]byte, 0, 4*len(b.want))
	for _, w := range b.want {
		bytes = append(bytes, byte(w), byte(w>>8))
		if b.root.DType().Bytes() == 4 {
			bytes = append(bytes, byte(w>>16), byte(w>>24))
		}
	}
	require.NoError(k.T, vk.Upload(k.Ctx, b.root, bytes))
}

// Bits makes a banded input of any dtype from its elements' bits.
func (k *Kit) Bits(name string, dtype vk.DType, bits []uint32, shape ...int) *vk.Tensor {
	k.T.Helper()
	return k.banded(name, dtype, bits, shape).view
}

// F32 makes a banded F32 input.
func (k *Kit) F32(name string, data []float32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = math.Float32bits(v)
	}
	return k.banded(name, vk.F32, words, shape).view
}

// Floats makes a banded input of a storage type; 16-bit values must be exact.
func (k *Kit) Floats(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	k.T.Helper()
	bits := make([]uint32, len(data))
	for i, v := range data {
		bits[i] = vk.Bits(dtype, v)
		require.True(k.T, dtype == vk.F32 || v != v || v == vk.FromBits(dtype, bits[i]), "%s[%d] = %v is no %v", name, i, v, dtype)
	}
	return k.banded(name, dtype, bits, shape).view
}

// I32 makes a banded I32 input.
func (k *Kit) I32(name string, data []int32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = uint32(v)
	}
	return k.banded(name, vk.I32, words, shape).view
}

// Output makes a banded tensor of poison, which a kernel has to write in full.
func (k *Kit) Output(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	words := make([]uint32, n)
	for i := range words {
		words[i] = Poison(dtype)
	}
	b := k.banded(name, dtype, words, shape)
	b.output = true
	return b.view
}

// PartialOutput is an output of which the kernel may leave elements alone.
func (k *Kit) PartialOutput(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	t := k.Output(name, dtype, shape...)
	k.bands[len(k.bands)-1].partial = true
	return t
}

// InOut is an output that holds data at first.
func (k *Kit) InOut(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	t := k.Floats(name, dtype, data, shape...)
	k.Overwritten(t)
	return t
}

// Sum is an output that holds random values at first, which it returns: for what a kernel adds to.
func (k *Kit) Sum(name string, dtype vk.DType, r *rand.Rand, shape ...int) (*vk.Tensor, []float32) {
	n := 1
	for _, s := range shape {
		n *= s
	}
	start := vk.Round(dtype, Normal(r, n))
	return k.InOut(name, dtype, start, shape...), start
}

// Overwritten makes an output of an input, for kernels that work in place.
func (k *Kit) Overwritten(t *vk.Tensor) {
	k.T.Helper()
	k.find("tensor", func(b *banded) bool { return b.view == t }).output = true
}

// Settle makes an input of an output: what it holds now stays. Its bands must be whole.
func (k *Kit) Settle(t *vk.Tensor) {
	k.T.Helper()
	b := k.find("tensor", func(b *banded) bool { return b.view == t })
	got, end := Words(k.T, b.root), len(b.want)-guard
	require.Equal(k.T, b.want[:b.front], got[:b.front], "%s: the band before it changed", b.name)
	require.Equal(k.T, b.want[end:], got[end:], "%s: the band behind it changed", b.name)
	b.want, b.output = got, false
}

// Partial lets the kernel leave elements of an output alone, which it names.
func (k *Kit) Partial(output string) {
	k.T.Helper()
	k.find(output, func(b *banded) bool { return b.output && b.name == output }).partial = true
}

// Tensor is the last tensor of a name.
func (k *Kit) Tensor(name string) *vk.Tensor {
	k.T.Helper()
	return k.find(name, func(b *banded) bool { return b.name == name }).view
}

// find returns the last banded tensor that is meant, which must exist.
func (k *Kit) find(what string, meant func(*banded) bool) *banded {
	k.T.Helper()
	for _, b := range slices.Backward(k.bands) {
		if meant(b) {
			return b
		}
	}
	k.T.Fatalf("the kit has no such %s", what)
	return nil
}

// Run submits the recording, waits and verifies all bands.
func (k *Kit) Run() {
	k.T.Helper()
	require.NoError(k.T, k.Rec.Run(k.Ctx))
	k.Verify()
}

// RunAlike runs the recording twenty times, after each of which the outputs must hold the same bits.
func (k *Kit) RunAlike(outputs ...*vk.Tensor) {
	k.T.Helper()
	var first [][]uint32
	for run := range 20 {
		k.Run()
		for i, output := range outputs {
			got := Words(k.T, output)
			if run == 0 {
				first = append(first, got)
			}
			require.True(k.T, slices.Equal(first[i], got), "output %d in run %d", i, run)
		}
	}
}

// Verify checks inputs, bands and outputs after a run.
func (k *Kit) Verify() {
	k.T.Helper()
	for _, b := range k.bands {
		got := Words(k.T, b.root)
		inside := len(b.want) - guard - b.front
		for i := range got {
			at := i - b.front
			if at >= 0 && at < inside && b.output {
				if !b.partial && got[i] == Poison(b.root.DType()) {
					k.T.Fatalf("%s: element %d was not written", b.name, at)
				}
				continue
			}
			if got[i] != b.want[i] {
				k.T.Fatalf("%s: element %d of %d elements changed from %08x to %08x", b.name, at, inside, b.want[i], got[i])
			}
		}
	}
}

// Again puts back what every tensor of the kit held at first.
func (k *Kit) Again() {
	for _, b := range k.bands {
		k.refill(b)
	}
}
