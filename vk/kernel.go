package vk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/vkmoe/vkmoe/internal/kernel"
	"github.com/vkmoe/vkmoe/internal/spirv"
)

// Kernel describes one compute shader; package shaders holds those of this module.
type Kernel = kernel.Kernel

// A KernelError says why a SPIR-V module cannot be a kernel.
type KernelError struct {
	Kernel string // the name given to NewKernel
	Err    error  // what is wrong with the module
}

func (e *KernelError) Error() string { return fmt.Sprintf("vk: kernel %q: %v", e.Kernel, e.Err) }

// Unwrap returns Err.
func (e *KernelError) Unwrap() error { return e.Err }

// NewKernel makes a kernel of your own from the bytes of a .spv file: a SPIR-V module with one compute entry point named
// main. What the host has to know is read from the module:
//
//	push constants            their size (at most 128 bytes), and name, offset and size of each member
//	specialization constants  in the order of their ids, which is that of Dispatch.Spec; 32-bit integers, floats and bools
//	work-group size           literal or set by specialization constants
//	capabilities              the device features that Dispatch asks for before it runs the kernel
//
// Operands are device addresses in the push constants (GLSL: buffer_reference pointers, or uvec2), so a module with
// descriptors is refused. So are SPIR-V above version 1.5, which Vulkan 1.2 devices need not take, and capabilities that
// this package knows no feature for. Every refusal is a *KernelError. That the code itself is sound is not checked: run
// spirv-val where you compile.
//
// The kernel keeps no reference to module. Pipelines are kept per *Kernel, so make each kernel once, as a package
// variable.
func NewKernel(name string, module []byte) (*Kernel, error) {
	k, err := reflectKernel(name, module)
	if err != nil {
		return nil, &KernelError{Kernel: name, Err: err}
	}
	return k, nil
}

// MustKernel is NewKernel for embedded modules, which are known to be good: it panics on an error.
func MustKernel(name string, module []byte) *Kernel {
	k, err := NewKernel(name, module)
	if err != nil {
		panic(err)
	}
	return k
}

func reflectKernel(name string, module []byte) (*Kernel, error) {
	if name == "" {
		return nil, errors.New("no name")
	}
	words, err := spirv.Words(module)
	if err != nil {
		return nil, err
	}
	m, err := spirv.Parse(words)
	if err != nil {
		return nil, err
	}
	if err := runnable(m); err != nil {
		return nil, err
	}
	k := &Kernel{Stem: name, SPIRV: func() []uint32 { return words }}
	fields, bytes, err := m.Push()
	if err != nil {
		return nil, err
	}
	if bytes > pushBytes {
		return nil, fmt.Errorf("%d bytes of push constants, the limit is %d", bytes, pushBytes)
	}
	k.PushBytes = bytes
	for _, f := range fields {
		k.Push = append(k.Push, f.Field)
	}
	for _, c := range m.Constants() {
		switch c.Type {
		case "u32", "i32", "f32", "bool":
		default:
			return nil, fmt.Errorf("specialization constant %d %s is %s, want 32 bits", c.ID, c.Name, c.Type)
		}
		k.Spec = append(k.Spec, c.Constant)
	}
	if k.LocalSize, err = m.LocalSize(); err != nil {
		return nil, err
	}
	if k.Needs, err = m.Needs(); err != nil {
		return nil, err
	}
	_, err = m.SharedBytes(nil) // asked for again when it is dispatched
	return k, err
}

// runnable checks what makes a module unfit for this runtime as a whole.
func runnable(m *spirv.Module) error {
	if m.EntryPoint != "main" {
		return fmt.Errorf("the entry point is %q, want main", m.EntryPoint)
	}
	if m.Version[0] != 1 || m.Version[1] > 5 {
		return fmt.Errorf("SPIR-V %d.%d, the newest that every device takes is 1.5", m.Version[0], m.Version[1])
	}
	if names := m.Descriptors(); len(names) > 0 {
		return fmt.Errorf("descriptors %s: operands are device addresses in push constants", strings.Join(names, ", "))
	}
	return nil
}

// PackPush lays values out as kernel k's push constants, for Dispatch.Push: one value per member of the block, in the order
// of their offsets. A member of 8 bytes takes a *Tensor (its address, 0 for nil) or a uint64; one of 4 bytes a uint32,
// int32, float32, bool (1 or 0) or an int that fits 32 bits. The error is a *ShapeError that names the member.
func PackPush(k *Kernel, values ...any) ([]byte, error) {
	if len(values) != len(k.Push) {
		return nil, &ShapeError{Op: "PackPush", Arg: "values", Want: fmt.Sprintf("%d values for %s", len(k.Push), k.Name()),
			Got: fmt.Sprint(len(values))}
	}
	out := make([]byte, k.PushBytes)
	for i, f := range k.Push {
		word, size, err := pushWord(values[i])
		if err == nil && size != f.Size {
			err = fmt.Errorf("a value of %d bytes (%T)", size, values[i])
		}
		if err != nil {
			return nil, &ShapeError{Op: "PackPush", Arg: memberName(f, i), Want: pushTypes(f.Size), Got: err.Error()}
		}
		if size == 8 {
			binary.LittleEndian.PutUint64(out[f.Offset:], word)
		} else {
			binary.LittleEndian.PutUint32(out[f.Offset:], uint32(word))
		}
	}
	return out, nil
}

// memberName names a member of a push-constant block; modules stripped of names have none.
func memberName(f kernel.Field, i int) string {
	if f.Name == "" {
		return fmt.Sprintf("member %d", i)
	}
	return f.Name
}

func pushTypes(size uint32) string {
	switch size {
	case 4:
		return "uint32, int32, float32, bool or int (4 bytes)"
	case 8:
		return "*Tensor or uint64 (8 bytes)"
	}
	return fmt.Sprintf("a member of 4 or 8 bytes, not %d: build Push by hand", size)
}

// pushWord is a value's bits and size in bytes.
func pushWord(value any) (uint64, uint32, error) {
	switch v := value.(type) {
	case *Tensor:
		return v.Address(), 8, nil
	case uint64:
		return v, 8, nil
	case uint32:
		return uint64(v), 4, nil
	case int32:
		return uint64(uint32(v)), 4, nil
	case float32:
		return uint64(math.Float32bits(v)), 4, nil
	case bool:
		if v {
			return 1, 4, nil
		}
		return 0, 4, nil
	case int:
		if v < math.MinInt32 || v > math.MaxUint32 {
			return 0, 0, fmt.Errorf("%d, which exceeds 32 bits", v)
		}
		return uint64(uint32(v)), 4, nil
	}
	return 0, 0, fmt.Errorf("a %T", value)
}
