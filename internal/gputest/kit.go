// Package gputest holds what tests of kernels share: tensors inside guard bands, poisoned outputs, comparison with the
// oracle.
package gputest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// Main runs a package's tests with a device, which it opens for them: nil where there is none and none is required. It is
// what TestMain calls, and does not return.
func Main(m *testing.M, dev **vk.Device) {
	var err error
	*dev, err = vk.Open(vk.Options{NoCache: true, TraceLeaks: true})
	switch {
	case err == nil:
		a := (*dev).Adapter()
		fmt.Printf("device: %s, %s %s\n", a.Name, a.DriverName, a.DriverInfo)
	case (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1":
		fmt.Println("tests that need a device are skipped:", err)
	default:
		fmt.Println(err)
		os.Exit(1)
	}
	code := m.Run()
	if *dev != nil {
		if err := (*dev).Close(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}

// poison is a NaN that no kernel computes: memory that still holds it was not written.
const poison = 0x7fc0dead

// poisonOf is the poison of a dtype, as bits.
func poisonOf(dtype vk.DType) uint32 {
	switch dtype {
	case vk.F16:
		return 0x7ead // kernels make 7e00 and fe00 only
	case vk.BF16:
		return 0x7fad // a signalling NaN; kernels make quiet ones
	}
	return poison
}

// guard is the width of the bands around a kit's tensors, in elements.
const guard = 64

// A Kit makes the tensors of one test inside wider ones that are filled with poison, and checks after a run that
// inputs and bands are as they were and that outputs were written in full.
type Kit struct {
	Rec   *vk.Recorder
	Shift int // 1 makes every address miss the alignment of four elements; 16-bit tensors then start mid-word

	t      testing.TB
	dev    *vk.Device
	ctx    context.Context
	bands  []*banded
	closes []func() error
}

type banded struct {
	name    string
	root    *vk.Tensor
	view    *vk.Tensor
	want    []uint32 // the contents of root before the run, one word per element
	output  bool
	partial bool // an output that need not be written in full
}

// New makes a kit with a recorder of dev, or skips the test where there is no device.
func New(t testing.TB, dev *vk.Device) *Kit {
	t.Helper()
	if dev == nil {
		t.Skip("needs a Vulkan device")
	}
	k := &Kit{t: t, dev: dev, ctx: context.Background()}
	var err error
	k.Rec, err = k.dev.NewRecorder()
	require.NoError(t, err)
	k.closes = append(k.closes, k.Rec.Close)
	t.Cleanup(k.close)
	return k
}

func (k *Kit) close() {
	for i := len(k.closes) - 1; i >= 0; i-- {
		require.NoError(k.t, k.closes[i]())
	}
	k.closes, k.bands = nil, nil
}

// tensor makes a banded tensor whose elements' bits are given.
func (k *Kit) tensor(name string, dtype vk.DType, words []uint32, shape []int) *banded {
	k.t.Helper()
	b := &banded{name: name, want: make([]uint32, len(words)+2*guard+k.Shift)}
	for i := range b.want {
		b.want[i] = poisonOf(dtype)
	}
	copy(b.want[guard+k.Shift:], words)
	var err error
	b.root, err = k.dev.NewTensor(dtype, len(b.want))
	require.NoError(k.t, err)
	k.closes = append(k.closes, b.root.Close)
	k.refill(b)
	b.view, err = b.root.View(guard+k.Shift, shape...)
	require.NoError(k.t, err)
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
	require.NoError(k.t, vk.Upload(k.ctx, b.root, bytes))
}

// F32 makes a banded F32 input.
func (k *Kit) F32(name string, data []float32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = math.Float32bits(v)
	}
	return k.tensor(name, vk.F32, words, shape).view
}

// Floats makes a banded tensor of a storage type; 16-bit values must be exact.
func (k *Kit) Floats(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	bits := make([]uint32, len(data))
	for i, v := range data {
		bits[i] = bitsOf(dtype, v)
		require.Equal(k.t, v, floatOf(dtype, bits[i]), "%s[%d] is no %v", name, i, dtype)
	}
	return k.tensor(name, dtype, bits, shape).view
}

// I32 makes a banded I32 input.
func (k *Kit) I32(name string, data []int32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = uint32(v)
	}
	return k.tensor(name, vk.I32, words, shape).view
}

// Output makes a banded tensor of poison, which a kernel has to write in full.
func (k *Kit) Output(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	n := 1
	for _, s := range shape {
		n *= s
	}
	words := make([]uint32, n)
	for i := range words {
		words[i] = poisonOf(dtype)
	}
	b := k.tensor(name, dtype, words, shape)
	b.output = true
	return b.view
}

// PartialOutput is an output of which the kernel may leave elements alone.
func (k *Kit) PartialOutput(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	t := k.Output(name, dtype, shape...)
	k.bands[len(k.bands)-1].partial = true
	return t
}

// Run submits the recording, waits and verifies all bands.
func (k *Kit) Run() {
	k.t.Helper()
	require.NoError(k.t, k.Rec.Run(k.ctx))
	k.Verify()
}

// Verify checks inputs, bands and outputs after a run.
func (k *Kit) Verify() {
	k.t.Helper()
	for _, b := range k.bands {
		got := Words(k.t, b.root)
		inside := len(b.want) - 2*guard - k.Shift
		for i := range got {
			in := i >= guard+k.Shift && i < guard+k.Shift+inside
			if in && b.output {
				if !b.partial && got[i] == poisonOf(b.root.DType()) {
					k.t.Fatalf("%s: element %d was not written", b.name, i-guard-k.Shift)
				}
				continue
			}
			if got[i] != b.want[i] {
				k.t.Fatalf("%s: element %d of %d elements changed from %08x to %08x", b.name, i-guard-k.Shift, inside,
					b.want[i], got[i])
			}
		}
	}
}

// Words downloads the bits of a tensor's elements.
func Words(t testing.TB, x *vk.Tensor) []uint32 {
	t.Helper()
	ctx := context.Background()
	switch x.DType() {
	case vk.F32:
		data, err := vk.Download[float32](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = math.Float32bits(v)
		}
		return out
	case vk.I32:
		data, err := vk.Download[int32](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = uint32(v)
		}
		return out
	case vk.F16, vk.BF16:
		data, err := vk.Download[uint16](ctx, x)
		require.NoError(t, err)
		out := make([]uint32, len(data))
		for i, v := range data {
			out[i] = uint32(v)
		}
		return out
	}
	data, err := vk.Download[uint32](ctx, x)
	require.NoError(t, err)
	return data
}

// Download returns the contents of a tensor.
func Download[E float32 | int32 | uint32](t testing.TB, x *vk.Tensor) []E {
	t.Helper()
	data, err := vk.Download[E](context.Background(), x)
	require.NoError(t, err)
	return data
}

// Normal returns n normally distributed values.
func Normal(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

// Halves returns n small half-integers, whose products and sums are exact in f32.
func Halves(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.Intn(9)-4) / 2
	}
	return out
}

// InOut is an output that holds data at first.
func (k *Kit) InOut(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	t := k.Floats(name, dtype, data, shape...)
	k.bands[len(k.bands)-1].output = true
	return t
}

// Again puts back what every tensor of the kit held at first.
func (k *Kit) Again() {
	for _, b := range k.bands {
		k.refill(b)
	}
}

func bitsOf(dtype vk.DType, v float32) uint32 {
	switch dtype {
	case vk.F16:
		return uint32(vk.ToF16(v))
	case vk.BF16:
		return uint32(vk.ToBF16(v))
	}
	return math.Float32bits(v)
}

func floatOf(dtype vk.DType, bits uint32) float32 {
	switch dtype {
	case vk.F16:
		return vk.FromF16(uint16(bits))
	case vk.BF16:
		return vk.FromBF16(uint16(bits))
	}
	return math.Float32frombits(bits)
}

// Oracle is the oracle's name of a storage type.
func Oracle(dtype vk.DType) ref.DType {
	return map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}[dtype]
}

// Storages are the storage types.
var Storages = []vk.DType{vk.F32, vk.F16, vk.BF16}

// RequireClose fails unless got is within bound of the oracle's values.
func RequireClose(t testing.TB, got []float32, want, bound []float64, what string) {
	t.Helper()
	c := ref.Compare(got, want, bound)
	require.True(t, c.OK(), "%s: %v", what, c)
}
