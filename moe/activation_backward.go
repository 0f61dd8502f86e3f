package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var activationBackwardKernels = byStorage{shaders.ActivationBackwardF32, shaders.ActivationBackwardF16,
	shaders.ActivationBackwardBf16}

// sigmoidMode is the logistic function to the kernels; it gates shared experts.
const sigmoidMode = 5

// The bits of activation_backward's flags beside addGates.
const (
	activationGateH = 2
	activationDense = 4 // rows are slots
)

// ActivateBackward records dz = f'(z)·dh for dh [rows,H] and z and dz in z's shape, all of one dtype, F32, F16 or BF16. dz
// may be z. Where a clamped operand is beyond its limit its gradient is 0, and so is ReLU's at 0. Errors: see the package.
func ActivateBackward(rec *vk.Recorder, cfg ActivationConfig, z, dh, dz *vk.Tensor) error {
	const op = "ActivateBackward"
	rows, width, err := matrix(op, "dh", dh)
	if err == nil {
		err = check.First(
			cfg.Validate(),
			check.InRange(op, "width", width, 1, maxWidth),
			check.Storage(op, "dh", dh),
			check.Tensor(rec.Device(), op, "dh", dh, dh.DType(), rows, width),
			check.Tensor(rec.Device(), op, "z", z, dh.DType(), rows, cfg.Function.columns(width)),
			check.Tensor(rec.Device(), op, "dz", dz, dh.DType(), rows, cfg.Function.columns(width)),
		)
	}
	if err == nil {
		inputs := check.Inputs{"dh": dh}
		if z.Address() != dz.Address() {
			inputs["z"] = z
		}
		err = check.Apart(op, "dz", dz, inputs)
	}
	if err != nil {
		return rec.Fail(err)
	}
	f := activations[cfg.Function]
	return activationGrads{cfg: cfg, mode: f.mode, gated: f.gated, z: z, dh: dh, dz: dz}.record(rec, nil)
}

// activationGrads are the operands of activation_backward. dz may be z, h may be dh; what is nil is not computed.
type activationGrads struct {
	cfg   ActivationConfig
	mode  uint32
	gated bool

	z, dh, dz, h  *vk.Tensor
	left          *vk.Tensor // [rows,…]: the first columns of h, which h then lacks; nil for none
	gates, dgates *vk.Tensor // per slot
	gateH         bool       // h is times the gates
}

// record records the kernel on grouped rows, or without a routing on plain rows.
func (g activationGrads) record(rec *vk.Recorder, r *Routing) error {
	slots, width := g.dh.Dim(0), g.dh.Dim(1)
	push := shaders.ActivationBackwardPush{Z: g.z.Address(), Dh: g.dh.Address(), Dz: g.dz.Address(), H: g.h.Address(),
		Gates: g.gates.Address(), Dgates: g.dgates.Address(), Slots: uint32(slots), Width: uint32(width)}
	push.Flags = bit(activationGateH, g.gateH)
	push.Alpha, push.Limit = g.cfg.constants()
	if g.left != nil {
		push.Left, push.LeftWidth = g.left.Address(), uint32(g.left.Dim(1))
	}
	reads := []*vk.Tensor{g.z, g.dh, g.gates}
	if r == nil {
		push.Flags |= activationDense
	} else {
		push.Inverse = r.Inverse.Address()
		reads = append(reads, r.Inverse)
	}
	wide := width%4 == 0
	for _, t := range []*vk.Tensor{g.z, g.dh, g.dz, g.h, g.left} {
		wide = wide && (t == nil || quads(t, t.Dim(1)))
	}
	team := chooseTeam(software(rec.Device()), width, wide)
	return check.Record(rec, vk.Dispatch{
		Kernel: activationBackwardKernels[g.dh.DType()],
		Spec: shaders.ActivationBackwardSpec{Lanes: uint32(team.lanes), Rows: uint32(team.rows), Quads: wide, Mode: g.mode,
			Gated: g.gated, Interleaved: g.cfg.Interleaved}.Values(),
		Push:   push.Bytes(),
		Reads:  reads,
		Writes: []*vk.Tensor{g.dz, g.h, g.left, g.dgates},
		FLOPs:  40 * float64(slots) * float64(width),
	}, uint64(check.CeilDiv(slots, team.rows)))
}
