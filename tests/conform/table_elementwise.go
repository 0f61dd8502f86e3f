package conform

import (
	"fmt"
	"math"
	"strings"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// functions maps each activation to the oracle's.
var functions = []struct {
	moe.Activation
	ref ref.Activation
}{
	{moe.SwiGLU, ref.SiLU}, {moe.GEGLU, ref.GELU}, {moe.GEGLUTanh, ref.GELUTanh}, {moe.GELU, ref.GELU}, {moe.GELUTanh, ref.GELUTanh},
	{moe.SiLU, ref.SiLU}, {moe.ReLU, ref.ReLU}, {moe.ReLU2, ref.ReLU2}, {moe.ClampedSwiGLU, ref.Identity},
}

func activationName(a moe.Activation) string { return strings.ReplaceAll(a.String(), "-", "_") }

// activationCase is one use of an activation.
type activationCase struct {
	cfg         moe.ActivationConfig
	f           ref.Activation
	dtype       vk.DType
	rows, width int
	odd         bool
}

func activationCases(add func(Case)) {
	sizes := [][2]int{{0, 4}, {1, 1}, {3, 3}, {5, 100}, {2, 1025}, {70, 8}}
	for _, dtype := range storages {
		for n, f := range functions {
			for _, interleaved := range []bool{false, true} {
				if interleaved && !f.Gated() {
					continue
				}
				for i, s := range sizes {
					c := activationCase{cfg: moe.ActivationConfig{Function: f.Activation, Interleaved: interleaved}, f: f.ref, dtype: dtype,
						rows: s[0], width: s[1]}
					if f.Activation == moe.ClampedSwiGLU {
						c.cfg.Alpha, c.cfg.Limit = 1.3, 2
					}
					for _, odd := range []bool{false, true} {
						c.odd = odd
						name := fmt.Sprintf("%v.%s.r%d_w%d.%s", dtype, activationName(f.Activation), s[0], s[1], c.variant())
						required := i == 3 && odd == (n%2 == 1)
						add(Case{Name: "activation.forward." + name, Required: required, Record: c.forward})
						add(Case{Name: "activation.backward." + name, Required: required, Record: c.backward})
					}
				}
			}
		}
	}
}

func (c activationCase) variant() string {
	name := "plain"
	if c.cfg.Interleaved {
		name = "interleaved"
	}
	if c.odd {
		name += "_odd"
	}
	return name
}

func (c activationCase) columns() int {
	if c.cfg.Function.Gated() {
		return 2 * c.width
	}
	return c.width
}

// values draws a wide range of magnitudes.
func (c activationCase) values(k *Kit, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(k.Rand.NormFloat64() * math.Exp(k.Rand.NormFloat64()))
	}
	return vk.Round(c.dtype, out)
}

// oracle computes h and dz.
func (c activationCase) oracle(z, dh []float32) (h, dz ref.Result) {
	if c.cfg.Interleaved {
		z = ref.Separate(z, c.rows, c.width, false)
	}
	clamp := ref.Clamp{Alpha: float64(c.cfg.Alpha), Limit: float64(c.cfg.Limit)}
	switch {
	case c.cfg.Function == moe.ClampedSwiGLU:
		h, dz = ref.ActivateClamped(clamp, z, c.rows, c.width), ref.ActivateClampedBackward(clamp, z, dh, c.rows, c.width)
	case c.cfg.Function.Gated():
		h, dz = ref.ActivateGated(c.f, z, c.rows, c.width), ref.ActivateGatedBackward(c.f, z, dh, c.rows, c.width)
	default:
		h, dz = ref.Activate(c.f, z), ref.ActivateBackward(c.f, z, dh)
	}
	if c.cfg.Interleaved {
		dz.Y, dz.Abs = ref.Separate(dz.Y, c.rows, c.width, true), ref.Separate(dz.Abs, c.rows, c.width, true)
	}
	return h, dz
}

func (c activationCase) forward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	z := c.values(k, c.rows*c.columns())
	h := k.Output("h", c.dtype, c.rows, c.width)
	k.must(moe.ActivateWith(k.Rec, c.cfg, k.Floats("z", c.dtype, z, c.rows, c.columns()), h))
	return func() {
		want, _ := c.oracle(z, make([]float32, c.rows*c.width))
		t := refTypes[c.dtype]
		k.Close("h", h, want.Y, want.BoundBy(ref.ActivationTolerance(t), ref.Underflow(t, 1)))
	}
}

// backward records the gradient, also in place.
func (c activationCase) backward(k *Kit) func() {
	if c.odd {
		k.Shift = 1
	}
	z, dh := c.values(k, c.rows*c.columns()), k.Normal(c.dtype, c.rows*c.width)
	zs, dhs := k.Floats("z", c.dtype, z, c.rows, c.columns()), k.Floats("dh", c.dtype, dh, c.rows, c.width)
	dz := k.Output("dz", c.dtype, c.rows, c.columns())
	inPlace := k.InOut("in_place", c.dtype, z, c.rows, c.columns())
	k.must(moe.ActivateBackward(k.Rec, c.cfg, zs, dhs, dz))
	k.must(moe.ActivateBackward(k.Rec, c.cfg, inPlace, dhs, inPlace))
	return func() {
		_, want := c.oracle(z, dh)
		t := refTypes[c.dtype]
		bound := want.BoundBy(2*ref.ActivationTolerance(t), ref.Underflow(t, 1))
		k.Close("dz", dz, want.Y, bound)
		k.Close("in_place", inPlace, want.Y, bound)
	}
}

// convertCases change between f32 and 16 bits; results are exact.
func convertCases(add func(Case)) {
	for _, dtype := range storages[1:] {
		for i, n := range []int{0, 1, 2, 3, 4, 5, 255, 256, 1001, 4096} {
			for _, values := range []string{"normal", "unusual"} {
				for j, odd := range []bool{false, true} {
					name := fmt.Sprintf("n%d.%s", n, values)
					if odd {
						name += "_odd"
					}
					required := i == 8 && (j == 0) == (values == "unusual")
					add(Case{Name: fmt.Sprintf("convert.f32_%v.%s", dtype, name), Required: required,
						Record: func(k *Kit) func() { return convert(k, vk.F32, dtype, n, values, odd) }})
					add(Case{Name: fmt.Sprintf("convert.%v_f32.%s", dtype, name), Required: required,
						Record: func(k *Kit) func() { return convert(k, dtype, vk.F32, n, values, odd) }})
				}
			}
		}
	}
}

func convert(k *Kit, from, to vk.DType, n int, values string, odd bool) func() {
	if odd {
		k.Shift = 1
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(k.Rand.NormFloat64())
		if values == "unusual" { // every exponent but subnormals of f32, which a device may flush; half-way cases; no overflow by one rounding
			data[i] = math.Float32frombits(uint32(k.Rand.Int63())&0xfff<<20 | uint32(k.Rand.Intn(4))<<11 | uint32(k.Rand.Intn(2))<<15)
			if e := math.Float32bits(data[i]) >> 23 & 0xff; e < 113 || data[i] != data[i] {
				data[i] = 1.5 // 16-bit subnormals too
			}
		}
	}
	data = vk.Round(from, data)
	dst := k.Output("dst", to, n)
	k.must(moe.Convert(k.Rec, k.Floats("src", from, data, n), dst))
	return func() { k.Close("dst", dst, ref.Widen(vk.Round(to, data)), nil) }
}

// jitterCases multiply by random numbers; results are the oracle's bits on a device that rounds to nearest, and within two
// ulp on any.
func jitterCases(add func(Case)) {
	for _, dtype := range storages {
		for i, size := range [][2]int{{0, 3}, {1, 1}, {1, 2}, {1, 3}, {5, 1}, {33, 7}, {1, 256}, {3, 171}} {
			for j, op := range []string{"forward", "backward", "accumulate"} {
				rows, width := size[0], size[1]
				add(Case{Name: fmt.Sprintf("jitter.%s.%v.r%d_w%d", op, dtype, rows, width), Required: i == 5,
					Record: func(k *Kit) func() { return jitter(k, dtype, op, rows, width, (i+j)%2) }})
			}
		}
	}
}

func jitter(k *Kit, dtype vk.DType, op string, rows, width, shift int) func() {
	k.Shift = shift
	data := k.Normal(dtype, rows*width)
	cfg := moe.JitterConfig{Eps: 0.1, Seed: 0x123456789abcdef0, Stream: 5}
	x := k.Floats("x", dtype, data, rows, width)
	y := linearCase{accumulate: op == "accumulate"}.target(k, "y", dtype, false, rows, width)
	if op == "forward" {
		k.must(moe.Jitter(k.Rec, x, y.t, cfg))
	} else {
		k.must(moe.JitterBackward(k.Rec, x, y.t, cfg, op == "accumulate"))
	}
	return func() {
		want := ref.Result{Y: ref.Widen(ref.Jitter(data, cfg.Eps, cfg.Seed, 0, cfg.Stream))}
		for _, v := range want.Y {
			want.Abs = append(want.Abs, math.Abs(v))
		}
		y.judge(k, "y", want, want.Bound(refTypes[dtype], 1), false)
	}
}

// activationUnusual are NaN, zeros and large values, forward and backward. NaN has to stay NaN.
func activationUnusual(add func(Case)) {
	for _, dtype := range storages {
		for _, f := range functions {
			c := activationCase{cfg: moe.ActivationConfig{Function: f.Activation}, f: f.ref, dtype: dtype, rows: 1}
			if f.Activation == moe.ClampedSwiGLU {
				c.cfg.Alpha, c.cfg.Limit = 1.3, 2
			}
			add(Case{Name: fmt.Sprintf("activation.unusual.%v.%s", dtype, activationName(f.Activation)), Required: true, Record: c.unusual})
		}
	}
}

func (c activationCase) unusual(k *Kit) func() {
	z := vk.Round(c.dtype, []float32{float32(math.NaN()), 0, float32(math.Copysign(0, -1)), 30, -30, 88, -88, 7, -7, 7.5, 200, -200, 1})
	c.width = len(z)
	if c.cfg.Function.Gated() {
		for i := range c.width {
			z = append(z, []float32{1.5, -0.5, 3}[i%3])
		}
	}
	dh := make([]float32, c.width)
	for i := range dh {
		dh[i] = 1
	}
	zs, h := k.Floats("z", c.dtype, z, 1, c.columns()), k.Output("h", c.dtype, 1, c.width)
	dz := k.Output("dz", c.dtype, 1, c.columns())
	k.must(moe.ActivateWith(k.Rec, c.cfg, zs, h))
	k.must(moe.ActivateBackward(k.Rec, c.cfg, zs, k.Floats("dh", c.dtype, dh, 1, c.width), dz))
	return func() {
		wantH, wantZ := c.oracle(z, dh)
		t := refTypes[c.dtype]
		k.Close("h", h, wantH.Y, wantH.BoundBy(ref.ActivationTolerance(t), ref.Underflow(t, 1)))
		k.Close("dz", dz, wantZ.Y, wantZ.BoundBy(1e-5+2*ref.ActivationTolerance(t), 1e-30+ref.Underflow(t, 1)))
	}
}
