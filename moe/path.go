package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/vk"
)

// A Path is a family of kernels for one operation.
type Path uint8

// The paths.
const (
	// PathAuto takes the one that was measured to be fastest on the device's class.
	PathAuto Path = iota
	// PathPortable needs no optional feature.
	PathPortable
	// PathCoopMat multiplies by cooperative matrices (VK_KHR_cooperative_matrix) whether that is faster or not: for tests and
	// measurements. Where it cannot, recording fails with a *vk.UnsupportedError.
	PathCoopMat
	// PathDecode reads the weights once for a few rows per expert and needs no optional feature, whether rows are few or not:
	// for tests and measurements. Where it cannot, recording fails with a *vk.UnsupportedError. Gradients take the portable path.
	PathDecode
)

func (p Path) String() string {
	names := [...]string{"auto", "portable", "coopmat", "decode"}
	if int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("path %d", uint8(p))
}

// noDecodePath says why a layer cannot take the decode path.
func (l *ParallelLinear) noDecodePath(dev *vk.Device) error {
	return &vk.UnsupportedError{Device: dev.Adapter().Name, Need: fmt.Sprintf("weights stored [E,Out,In] with inputs in whole "+
		"pieces of 16 bytes, at aligned addresses, for a %d→%d layer on the decode path", l.Config.In, l.Config.Out)}
}

// noTensorPath says why a layer cannot take the tensor path.
func (l *ParallelLinear) noTensorPath(dev *vk.Device) error {
	dtype, caps := l.Config.DType, dev.Caps()
	e := &vk.UnsupportedError{Device: dev.Adapter().Name}
	kernel := tensorKernels[l.tensorTypes()]
	if kernel == nil {
		e.Need = fmt.Sprintf("16-bit storage for cooperative matrices; the layer is %v", dtype)
		return e
	}
	if e.Feature = caps.Missing(kernel.Needs...); e.Feature != "" {
		e.Need = l.label() + " by cooperative matrices"
		return e
	}
	if _, _, _, ok := matrixShape(caps, dtype); !ok {
		e.Need = fmt.Sprintf("cooperative matrices of %v products added up in f32", dtype)
		return e
	}
	e.Need = fmt.Sprintf("widths that are multiples of 8, aligned operands of one dtype and a tile that fits, for a %d→%d layer by "+
		"cooperative matrices", l.Config.In, l.Config.Out)
	return e
}
