package attention

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) {
	var err error
	if os.Getenv("CI") != "" { // random shapes are for people at their desks: a build says the same every time
		if err = flag.Set("rapid.seed", "1"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	dev, err = vk.Open(vk.Options{NoCache: true, TraceLeaks: true})
	switch {
	case err == nil:
		a := dev.Adapter()
		fmt.Printf("device: %s, %s %s\n", a.Name, a.DriverName, a.DriverInfo)
	case (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1":
		fmt.Println("tests that need a device are skipped:", err)
	default:
		fmt.Println(err)
		os.Exit(1)
	}
	code := m.Run()
	if dev != nil {
		if err := dev.Close(); err != nil {
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

// A kit makes the tensors of one test inside wider ones that are filled with poison, and checks after a run that
// inputs and bands are as they were and that outputs were written in full.
type kit struct {
	t      testing.TB
	ctx    context.Context
	rec    *vk.Recorder
	shift  int // 1 makes every address miss the alignment of four elements; 16-bit tensors then start mid-word
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

func newKit(t testing.TB) *kit {
	t.Helper()
	if dev == nil {
		t.Skip("needs a Vulkan device")
	}
	k := &kit{t: t, ctx: context.Background()}
	var err error
	k.rec, err = dev.NewRecorder()
	require.NoError(t, err)
	k.closes = append(k.closes, k.rec.Close)
	t.Cleanup(k.close)
	return k
}

func (k *kit) close() {
	for i := len(k.closes) - 1; i >= 0; i-- {
		require.NoError(k.t, k.closes[i]())
	}
	k.closes, k.bands = nil, nil
}

// tensor makes a banded tensor whose elements' bits are given.
func (k *kit) tensor(name string, dtype vk.DType, words []uint32, shape []int) *banded {
	k.t.Helper()
	b := &banded{name: name, want: make([]uint32, len(words)+2*guard+k.shift)}
	for i := range b.want {
		b.want[i] = poisonOf(dtype)
	}
	copy(b.want[guard+k.shift:], words)
	var err error
	b.root, err = dev.NewTensor(dtype, len(b.want))
	require.NoError(k.t, err)
	k.closes = append(k.closes, b.root.Close)
	k.refill(b)
	b.view, err = b.root.View(guard+k.shift, shape...)
	require.NoError(k.t, err)
	k.bands = append(k.bands, b)
	return b
}

// refill uploads the contents that a banded tensor had at first.
func (k *kit) refill(b *banded) {
	bytes := make([]byte, 0, 4*len(b.want))
	for _, w := range b.want {
		bytes = append(bytes, byte(w), byte(w>>8))
		if b.root.DType().Bytes() == 4 {
			bytes = append(bytes, byte(w>>16), byte(w>>24))
		}
	}
	require.NoError(k.t, vk.Upload(k.ctx, b.root, bytes))
}

func (k *kit) f32(name string, data []float32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = math.Float32bits(v)
	}
	return k.tensor(name, vk.F32, words, shape).view
}

// floats makes a banded tensor of a storage type; 16-bit values must be exact.
func (k *kit) floats(name string, dtype vk.DType, data []float32, shape ...int) *vk.Tensor {
	bits := make([]uint32, len(data))
	for i, v := range data {
		bits[i] = bitsOf(dtype, v)
		require.True(k.t, v == floatOf(dtype, bits[i]) || v != v, "%s[%d] = %v is no %v", name, i, v, dtype)
	}
	return k.tensor(name, dtype, bits, shape).view
}

func (k *kit) i32(name string, data []int32, shape ...int) *vk.Tensor {
	words := make([]uint32, len(data))
	for i, v := range data {
		words[i] = uint32(v)
	}
	return k.tensor(name, vk.I32, words, shape).view
}

func (k *kit) output(name string, dtype vk.DType, shape ...int) *vk.Tensor {
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

// partialOutput is an output of which the kernel may leave elements alone.
func (k *kit) partialOutput(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	t := k.output(name, dtype, shape...)
	k.bands[len(k.bands)-1].partial = true
	return t
}

// run submits the recording, waits and verifies all bands.
func (k *kit) run() {
	k.t.Helper()
	require.NoError(k.t, k.rec.Run(k.ctx))
	k.verify()
}

func (k *kit) verify() {
	k.t.Helper()
	for _, b := range k.bands {
		got := words(k.t, b.root)
		inside := len(b.want) - 2*guard - k.shift
		for i := range got {
			in := i >= guard+k.shift && i < guard+k.shift+inside
			if in && b.output {
				if !b.partial && got[i] == poisonOf(b.root.DType()) {
					k.t.Fatalf("%s: element %d was not written", b.name, i-guard-k.shift)
				}
				continue
			}
			if got[i] != b.want[i] {
				k.t.Fatalf("%s: element %d of %d elements changed from %08x to %08x", b.name, i-guard-k.shift, inside,
					b.want[i], got[i])
			}
		}
	}
}

// words downloads the bits of a tensor's elements.
func words(t testing.TB, x *vk.Tensor) []uint32 {
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

func download[E float32 | int32 | uint32](t testing.TB, x *vk.Tensor) []E {
	t.Helper()
	data, err := vk.Download[E](context.Background(), x)
	require.NoError(t, err)
	return data
}

// normal returns n normally distributed values.
func normal(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

// halves returns n small half-integers, whose products and sums are exact in f32.
func halves(r *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.Intn(9)-4) / 2
	}
	return out
}

// requireClose fails unless got is within bound of the oracle's values.
func requireClose(t testing.TB, got []float32, want, bound []float64, what string) {
	t.Helper()
	c := ref.Compare(got, want, bound)
	require.True(t, c.OK(), "%s: %v", what, c)
}

// storageTypes maps the storage types to the oracle's.
var storageTypes = map[vk.DType]ref.DType{vk.F32: ref.F32, vk.F16: ref.F16, vk.BF16: ref.BF16}

// bitsOf rounds a value to a storage type and returns its bits.
func bitsOf(dtype vk.DType, v float32) uint32 {
	switch dtype {
	case vk.F16:
		return uint32(vk.ToF16(v))
	case vk.BF16:
		return uint32(vk.ToBF16(v))
	}
	return math.Float32bits(v)
}

// floatOf is the value of bits of a storage type.
func floatOf(dtype vk.DType, bits uint32) float32 {
	switch dtype {
	case vk.F16:
		return vk.FromF16(uint16(bits))
	case vk.BF16:
		return vk.FromBF16(uint16(bits))
	}
	return math.Float32frombits(bits)
}

// rounded returns data rounded to a storage type.
func rounded(dtype vk.DType, data []float32) []float32 {
	out := make([]float32, len(data))
	for i, v := range data {
		out[i] = floatOf(dtype, bitsOf(dtype, v))
	}
	return out
}
