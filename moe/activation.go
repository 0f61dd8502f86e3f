package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// An Activation is the function between the two linear maps of an expert. A gated one takes twice as many inputs: the
// function of the first half, the gate columns, times the second half, the up columns.
type Activation uint8

// The activations. The zero value is SwiGLU, which most released mixtures of experts use.
const (
	SwiGLU    Activation = iota // silu(gate)·up
	GEGLU                       // gelu(gate)·up
	GEGLUTanh                   // gelu_tanh(gate)·up
	GELU                        // x·Φ(x), Φ the normal distribution function (by erf)
	GELUTanh                    // the tanh approximation of GELU
	SiLU                        // x·σ(x)
	ReLU                        // max(x, 0); NaN stays NaN
	ReLU2                       // max(x, 0)²
)

// activations says what each one is to the kernel.
var activations = [...]struct {
	name  string
	mode  uint32 // MODE of activation.comp
	gated bool
}{
	SwiGLU:    {"swiglu", 2, true},
	GEGLU:     {"geglu", 0, true},
	GEGLUTanh: {"geglu-tanh", 1, true},
	GELU:      {"gelu", 0, false},
	GELUTanh:  {"gelu-tanh", 1, false},
	SiLU:      {"silu", 2, false},
	ReLU:      {"relu", 3, false},
	ReLU2:     {"relu2", 4, false},
}

func (a Activation) String() string {
	if int(a) < len(activations) {
		return activations[a].name
	}
	return fmt.Sprintf("activation %d", uint8(a))
}

// Gated reports whether the activation takes gate and up columns.
func (a Activation) Gated() bool { return int(a) < len(activations) && activations[a].gated }

// columns is the width of z for a hidden width.
func (a Activation) columns(hidden int) int {
	if a.Gated() {
		return 2 * hidden
	}
	return hidden
}

// Activate records h = f(z) for h [rows,H] and z [rows,H], or [rows,2H] for a gated activation, gate columns first; both
// F32, F16 or BF16. The functions are evaluated in f32 by polynomials of our own, within a few ulp of |z| on every device.
func Activate(rec *vk.Recorder, a Activation, z, h *vk.Tensor) error {
	return activate(rec, "Activate", a, false, z, h)
}

// ActivateInterleaved is Activate of a gated activation for z [rows,2H] whose even columns are the gate and odd ones up,
// as gpt-oss has them. For another activation it fails with a *ConfigError.
func ActivateInterleaved(rec *vk.Recorder, a Activation, z, h *vk.Tensor) error {
	const op = "ActivateInterleaved"
	if !a.Gated() {
		return rec.Fail(&ConfigError{op, "activation", "a gated one", a.String()})
	}
	return activate(rec, op, a, true, z, h)
}

func activate(rec *vk.Recorder, op string, a Activation, interleaved bool, z, h *vk.Tensor) error {
	rows, width, err := matrix(op, "h", h)
	if err == nil {
		err = firstError(
			inRange(op, "activation", int(a), 0, len(activations)-1),
			inRange(op, "width", width, 1, maxWidth),
			checkStorage(op, "h", h),
			checkTensor(rec.Device(), op, "h", h, h.DType(), rows, width),
			checkTensor(rec.Device(), op, "z", z, h.DType(), rows, a.columns(width)),
		)
	}
	if err == nil {
		err = checkApart(op, "h", h, map[string]*vk.Tensor{"z": z})
	}
	if err != nil {
		return rec.Fail(err)
	}
	shape := chooseElementwise(width, quads(z, width) && quads(h, width))
	return record(rec, vk.Dispatch{
		Kernel: activationKernels[h.DType()],
		Spec: shaders.ActivationSpec{Columns: uint32(shape.columns), Rows: uint32(shape.rows), Quads: shape.quads,
			Mode: activations[a].mode, Gated: a.Gated(), Interleaved: interleaved}.Values(),
		Push:   shaders.ActivationPush{Z: z.Address(), H: h.Address(), Rows: uint32(rows), Width: uint32(width)}.Bytes(),
		Reads:  []*vk.Tensor{z},
		Writes: []*vk.Tensor{h},
		FLOPs:  20 * float64(rows) * float64(width),
	}, shape.groups(rows, width))
}
