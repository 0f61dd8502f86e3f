package conform

import (
	"context"
	"fmt"
	"math/rand"

	"github.com/vkmoe/vkmoe/vk"
)

// guard is the width of the bands around a kit's tensors, in elements.
const guard = 64

// A Kit makes the tensors of one recording of a case inside wider ones that are filled with poison, and takes what the
// case's judge finds.
type Kit struct {
	Ctx  context.Context
	Dev  *vk.Device
	Rec  *vk.Recorder
	Rand *rand.Rand // the same numbers in every recording of a case

	// Shift makes every tensor begin so many elements further on: 1 makes addresses miss every alignment but their
	// element's.
	Shift int

	attempt int // how often the case was run before
	flavor  int // which poison
	bands   []*banded
	once    bool // the recording is not to be submitted again
	closes  []func() error
	runErr  func(error) error // judges what the run returned, nil when it must be nil
	found   *findings
}

// banded is a tensor with its bands, or one of the recorder's that has none.
type banded struct {
	name    string
	root    *vk.Tensor
	view    *vk.Tensor
	start   []uint32 // the contents of root before a run, one word per element; nil for the recorder's own
	front   int      // elements of root before view
	output  bool
	partial bool // an output that need not be written in full
	scratch bool
}

// abort ends the recording of a case with an error; run recovers it.
type abort struct{ err error }

// must ends the recording when err is not nil.
func (k *Kit) must(err error) {
	if err != nil {
		panic(abort{err})
	}
}

// poisons are NaNs that no kernel computes: memory that still holds one was not written.
var poisons = map[vk.DType][2]uint32{
	vk.F16:  {0x7ead, 0x7ebe}, // kernels make 7e00 and fe00 only
	vk.BF16: {0x7fad, 0x7fbe}, // signalling NaNs; kernels make quiet ones
}

func (k *Kit) poison(dtype vk.DType) uint32 {
	if p, ok := poisons[dtype]; ok {
		return p[k.flavor]
	}
	return [2]uint32{0x7fc0dead, 0x7fc0beee}[k.flavor]
}

func (k *Kit) close() error {
	var first error
	for i := len(k.closes) - 1; i >= 0; i-- {
		if err := k.closes[i](); err != nil && first == nil {
			first = err
		}
	}
	k.closes = nil
	return first
}

// tensor makes a banded tensor whose elements' bits are given.
func (k *Kit) tensor(name string, dtype vk.DType, words []uint32, shape []int) *banded {
	b := &banded{name: name, front: guard + k.Shift, start: make([]uint32, len(words)+2*guard+k.Shift)}
	for i := range b.start {
		b.start[i] = k.poison(dtype)
	}
	copy(b.start[b.front:], words)
	var err error
	b.root, err = k.Dev.NewTensor(dtype, len(b.start))
	k.must(err)
	k.closes = append(k.closes, b.root.Close)
	k.must(k.fill(b))
	b.view, err = b.root.View(b.front, shape...)
	k.must(err)
	k.bands = append(k.bands, b)
	return b
}

// fill uploads the contents that a banded tensor has before a run.
func (k *Kit) fill(b *banded) error {
	wide := b.root.DType().Bytes() == 4
	bytes := make([]byte, 0, 4*len(b.start))
	for _, w := range b.start {
		bytes = append(bytes, byte(w), byte(w>>8))
		if wide {
			bytes = append(bytes, byte(w>>16), byte(w>>24))
		}
	}
	return vk.Upload(k.Ctx, b.root, bytes)
}

// refill puts every output back to what it held before the first run. The recorder's own are poisoned.
func (k *Kit) refill() error {
	for _, b := range k.bands {
		if b.scratch {
			b.start = make([]uint32, b.view.Elements())
			for i := range b.start {
				b.start[i] = k.poison(b.view.DType())
			}
		}
		if b.output && len(b.start) > 0 {
			if err := k.fill(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// F32 makes an input.
func (k *Kit) F32(name string, data []float32, shape ...int) *vk.Tensor {
	return k.Floats(name, vk.F32, data, shape...)
}

// Floats makes an input of a storage type; 16-bit values must be exact.
func (k *Kit) Floats(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	return k.tensor(name, dtype, bitsOf(dtype, data), shape).view
}

// I32 makes an input.
func (k *Kit) I32(name string, data []int32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = uint32(v)
	}
	return k.tensor(name, vk.I32, words, shape).view
}

// Output makes an output that the case has to write in full.
func (k *Kit) Output(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	words := make([]uint32, elements(shape))
	for i := range words {
		words[i] = k.poison(dtype)
	}
	b := k.tensor(name, dtype, words, shape)
	b.output = true
	return b.view
}

// PartialOutput is an output of which elements may be left alone.
func (k *Kit) PartialOutput(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	t := k.Output(name, dtype, shape...)
	k.bands[len(k.bands)-1].partial = true
	return t
}

// InOut is an output that holds data at first, which it is added to.
func (k *Kit) InOut(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	b := k.tensor(name, dtype, bitsOf(dtype, data), shape)
	b.output = true
	return b.view
}

// Scratch makes results that live in the recorder's own memory take part in the checks that need no bands.
func (k *Kit) Scratch(name string, t *vk.Tensor) {
	if t != nil && t.Elements() > 0 {
		k.bands = append(k.bands, &banded{name: name, root: t, view: t, output: true, scratch: true})
	}
}

// Once says that the recording changes what it reads, so that its bits repeat only when it is recorded anew.
func (k *Kit) Once() { k.once = true }

// ExpectRunError says that the run must fail and how. Every run is judged.
func (k *Kit) ExpectRunError(judge func(error) error) { k.runErr = judge }

// words downloads the bits of a tensor's elements.
func (k *Kit) words(t *vk.Tensor) ([]uint32, error) {
	bytes, err := vk.Download[byte](k.Ctx, t)
	if err != nil {
		return nil, err
	}
	out := make([]uint32, t.Elements())
	for i := range out {
		if t.DType().Bytes() == 4 {
			out[i] = uint32(bytes[4*i]) | uint32(bytes[4*i+1])<<8 | uint32(bytes[4*i+2])<<16 | uint32(bytes[4*i+3])<<24
		} else {
			out[i] = uint32(bytes[2*i]) | uint32(bytes[2*i+1])<<8
		}
	}
	return out, nil
}

func elements(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

// bitsOf are the bits of values in a storage type.
func bitsOf(dtype vk.DType, data []float32) []uint32 {
	out := make([]uint32, len(data))
	for i, v := range data {
		out[i] = vk.Bits(dtype, v)
		if got := vk.FromBits(dtype, out[i]); got != v && v == v {
			panic(abort{fmt.Errorf("element %d of the case's data, %v, is no %v", i, v, dtype)})
		}
	}
	return out
}

// Normal returns n normally distributed values of a storage type.
func (k *Kit) Normal(dtype vk.DType, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(k.Rand.NormFloat64())
	}
	return vk.Round(dtype, out)
}
