package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
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

	// ClampedSwiGLU is gpt-oss's g·σ(α·g)·(u + 1) with g = min(gate, limit) and u = up within ±limit.
	ClampedSwiGLU
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

	ClampedSwiGLU: {"clamped-swiglu", 6, true},
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

// An ActivationConfig is an activation with everything that its evaluation depends on.
type ActivationConfig struct {
	Function    Activation // f
	Interleaved bool       // z's even columns are the gate and its odd ones up, as gpt-oss has them; only for gated functions

	// Alpha and Limit are those of ClampedSwiGLU; 0 means gpt-oss's 1.702 and 7.
	Alpha, Limit float32
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c ActivationConfig) Validate() error {
	err := check.InRange("ActivationConfig", "Function", int(c.Function), 0, len(activations)-1)
	switch {
	case err != nil:
		return err
	case c.Interleaved && !c.Function.Gated():
		return check.Config("ActivationConfig", "Interleaved", "false for the activation "+c.Function.String(), "true")
	case c.Function != ClampedSwiGLU && (c.Alpha != 0 || c.Limit != 0):
		return check.Config("ActivationConfig", "Alpha and Limit", "0 for the activation "+c.Function.String(),
			fmt.Sprint(c.Alpha, " and ", c.Limit))
	case !(c.Limit >= 0) || c.Alpha != c.Alpha:
		return check.Config("ActivationConfig", "Alpha and Limit", "numbers, Limit not negative", fmt.Sprint(c.Alpha, " and ", c.Limit))
	}
	return nil
}

// constants are α and limit as the kernels take them.
func (c ActivationConfig) constants() (alpha, limit float32) {
	alpha, limit = c.Alpha, c.Limit
	if alpha == 0 {
		alpha = 1.702
	}
	if limit == 0 {
		limit = 7
	}
	return alpha, limit
}

// Activate records h = f(z) for h [rows,H] and z [rows,H], or [rows,2H] for a gated activation, gate columns first; both
// F32, F16 or BF16. The functions are evaluated in f32 by polynomials of our own, within a few ulp of |z| on every device.
// Errors: see the package.
func Activate(rec *vk.Recorder, a Activation, z, h *vk.Tensor) error {
	return activate(rec, "Activate", ActivationConfig{Function: a}, z, h)
}

// ActivateWith is Activate with all that can be configured.
func ActivateWith(rec *vk.Recorder, cfg ActivationConfig, z, h *vk.Tensor) error {
	return activate(rec, "ActivateWith", cfg, z, h)
}

func activate(rec *vk.Recorder, op string, cfg ActivationConfig, z, h *vk.Tensor) error {
	rows, width, err := matrix(op, "h", h)
	if err == nil {
		err = check.First(
			cfg.Validate(),
			check.InRange(op, "width", width, 1, maxWidth),
			check.Storage(op, "h", h),
			check.Tensor(rec.Device(), op, "h", h, h.DType(), rows, width),
			check.Tensor(rec.Device(), op, "z", z, h.DType(), rows, cfg.Function.columns(width)),
		)
	}
	if err == nil {
		err = check.Apart(op, "h", h, check.Inputs{"z": z})
	}
	if err != nil {
		return rec.Fail(err)
	}
	f := activations[cfg.Function]
	return activationDispatch(rec, cfg, f.mode, f.gated, z, h)
}

// activationDispatch records the kernel for a mode that need not be an Activation's.
func activationDispatch(rec *vk.Recorder, cfg ActivationConfig, mode uint32, gated bool, z, h *vk.Tensor) error {
	rows, width := h.Dim(0), h.Dim(1)
	grid := check.NewGrid(width, quads(z, width) && quads(h, width))
	push := shaders.ActivationPush{Z: z.Address(), H: h.Address(), Rows: uint32(rows), Width: uint32(width)}
	push.Alpha, push.Limit = cfg.constants()
	return check.Record(rec, vk.Dispatch{
		Kernel: activationKernels[h.DType()],
		Spec: shaders.ActivationSpec{Columns: grid.Columns, Rows: grid.Rows, Quads: grid.Quads,
			Mode: mode, Gated: gated, Interleaved: cfg.Interleaved}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{z},
		Writes: []*vk.Tensor{h},
		FLOPs:  20 * float64(rows) * float64(width),
	}, grid.Groups(rows, width))
}
