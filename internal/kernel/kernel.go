// Package kernel describes compute kernels as plain data.
//
// It is the lowest package of the module: shaders fills these structs from SPIR-V, vk turns them into
// pipelines, moe chooses between them. It imports neither cgo nor anything else of the module.
package kernel

// A Kernel is one compiled compute shader: a stem (what it computes), a variant (dtype and path), its SPIR-V and
// the interface reflected from that SPIR-V when it was generated.
type Kernel struct {
	Stem    string // what it computes; the same stem names the .comp source and the oracle in internal/ref
	Variant string // dtype and path, for example "f32"; empty when the stem has one variant only

	SPIRV func() []uint32 // the module's words; decoded once

	PushBytes uint32     // size of the push-constant block in bytes, 0 when there is none
	Push      []Field    // members of the push-constant block in offset order
	Spec      []Constant // specialization constants in id order; Dispatch values follow this order
	LocalSize [3]int     // per axis: index into Spec when ≥ 0, else the negated literal size (−1 means 1)
	Needs     []Feature  // what a device must have beyond the base requirements
}

// Name is "stem" or "stem.variant".
func (k *Kernel) Name() string {
	if k.Variant == "" {
		return k.Stem
	}
	return k.Stem + "." + k.Variant
}

// A Field is one member of a push-constant block. Offset and Size are in bytes.
type Field struct {
	Name         string
	Offset, Size uint32
}

// A Constant is one specialization constant: its SPIR-V id, its name in the source and its default bits.
type Constant struct {
	ID      uint32
	Name    string
	Default uint32
}
