package spirv

import (
	"fmt"
	"slices"
	"sort"

	"github.com/vkmoe/vkmoe/internal/kernel"
)

// A Field is one member of the push-constant block with its type: "u32", "i32", "f32", "u32x2" and the like,
// "address" for a physical pointer.
type Field struct {
	kernel.Field
	Type string
}

// A Constant is one specialization constant with its type: "u32", "i32", "f32" or "bool".
type Constant struct {
	kernel.Constant
	Type string
}

// Push returns the members of the push-constant block in offset order and the block's size in bytes, rounded up to
// four. A module without such a block has none and size 0.
func (m *Module) Push() ([]Field, uint32, error) {
	block, err := m.pushBlock()
	if err != nil || block == 0 {
		return nil, 0, err
	}
	e, err := m.evaluate(nil)
	if err != nil {
		return nil, 0, err
	}
	var fields []Field
	var size uint64
	for i, member := range m.defs[block].args {
		key := [2]uint32{block, uint32(i)}
		offset, ok := m.offsets[key]
		if !ok {
			return nil, 0, invalid("push-constant member %d has no offset", i)
		}
		bytes := e.extents[member].size
		if end := uint64(offset) + bytes; end > 65536 {
			return nil, 0, invalid("push-constant member %d ends at byte %d", i, end)
		} else if end > size {
			size = end
		}
		fields = append(fields, Field{
			Field: kernel.Field{Name: m.memberNames[key], Offset: offset, Size: uint32(bytes)},
			Type:  m.typeName(member),
		})
	}
	slices.SortStableFunc(fields, func(a, b Field) int { return int(a.Offset) - int(b.Offset) })
	return fields, uint32(roundUp(size, 4)), nil
}

// pushBlock is the struct type of the push-constant variable, 0 when there is none.
func (m *Module) pushBlock() (uint32, error) {
	var block uint32
	for _, id := range m.order {
		d := m.defs[id]
		if d.op != opVariable || d.args[0] != classPushConstant {
			continue
		}
		pointer := m.defs[d.kind]
		if pointer.op != opTypePointer || m.defs[pointer.args[1]].op != opTypeStruct {
			return 0, invalid("push-constant variable %d is no block", id)
		}
		if block != 0 {
			return 0, invalid("more than one push-constant block")
		}
		block = pointer.args[1]
	}
	return block, nil
}

// typeName names scalars and vectors; anything else is "type(opcode)".
func (m *Module) typeName(id uint32) string {
	d := m.defs[id]
	switch d.op {
	case opTypeBool:
		return "bool"
	case opTypeInt:
		if d.args[1] != 0 {
			return fmt.Sprintf("i%d", d.args[0])
		}
		return fmt.Sprintf("u%d", d.args[0])
	case opTypeFloat:
		return fmt.Sprintf("f%d", d.args[0])
	case opTypeVector:
		of := m.defs[d.args[0]]
		if of.op == opTypeInt || of.op == opTypeFloat {
			return fmt.Sprintf("%sx%d", m.typeName(d.args[0]), d.args[1])
		}
	case opTypePointer:
		if d.args[0] == classPhysicalStorageBuffer {
			return "address"
		}
	}
	return fmt.Sprintf("type(%d)", d.op)
}

// Constants returns the specialization constants in SpecId order. Two constants with one SpecId count once, as the
// host gives them one value.
func (m *Module) Constants() []Constant {
	var list []Constant
	seen := map[uint32]bool{}
	for _, id := range m.order {
		specID, ok := m.specIDs[id]
		if !ok || seen[specID] {
			continue
		}
		d := m.defs[id]
		c := Constant{Constant: kernel.Constant{ID: specID, Name: m.names[id]}}
		switch d.op {
		case opSpecConstantTrue:
			c.Type, c.Default = "bool", 1
		case opSpecConstantFalse:
			c.Type = "bool"
		case opSpecConstant:
			c.Type, c.Default = m.typeName(d.kind), d.args[0]
		default:
			continue
		}
		seen[specID] = true
		list = append(list, c)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	return list
}

// LocalSize returns the work-group size in the form of kernel.Kernel.LocalSize: per axis the index into Constants of
// the constant that sets it, or the negated literal.
func (m *Module) LocalSize() ([3]int, error) {
	const workgroupSize = 25
	var size [3]int
	ids := m.localSizeID
	for _, id := range m.order {
		d := m.defs[id]
		if m.builtIns[id] == workgroupSize && (d.op == opSpecConstantComposite || d.op == opConstantComposite) {
			if len(d.args) != 3 {
				return size, invalid("WorkgroupSize has %d components", len(d.args))
			}
			copy(ids[:], d.args)
		}
	}
	constants := m.Constants()
	for axis, id := range ids {
		if id == 0 {
			if m.localSize[axis] == 0 || m.localSize[axis] > 1<<20 {
				return size, invalid("work-group size %d on axis %d", m.localSize[axis], axis)
			}
			size[axis] = -int(m.localSize[axis])
			continue
		}
		if specID, ok := m.specIDs[id]; ok {
			size[axis] = slices.IndexFunc(constants, func(c Constant) bool { return c.ID == specID })
			if size[axis] < 0 {
				return size, invalid("work-group size on axis %d is no constant", axis)
			}
			continue
		}
		d, ok := m.defs[id]
		if !ok || d.op != opConstant || d.args[0] == 0 || d.args[0] > 1<<20 {
			return size, invalid("work-group size on axis %d is neither literal nor specialization constant", axis)
		}
		size[axis] = -int(d.args[0])
	}
	return size, nil
}

// features maps each SPIR-V capability that vkmoe's kernels may use to the device feature it needs; "" stands for
// what every device that vkmoe accepts has.
var features = map[uint32]kernel.Feature{
	1:    "", // Shader
	61:   "", // GroupNonUniform
	5347: "", // PhysicalStorageBufferAddresses
	9:    kernel.F16,
	11:   kernel.Int64,
	22:   kernel.Int16,
	39:   kernel.Int8,
	63:   kernel.SubgroupArith,
	64:   kernel.SubgroupBallot,
	65:   kernel.SubgroupShuffle,
	4428: kernel.ExplicitLayout, // WorkgroupMemoryExplicitLayoutKHR
	4429: kernel.ExplicitLayout, // WorkgroupMemoryExplicitLayout8BitAccessKHR
	4430: kernel.ExplicitLayout, // WorkgroupMemoryExplicitLayout16BitAccessKHR
	4433: kernel.Storage16,      // StorageBuffer16BitAccess
	4434: kernel.Storage16,      // UniformAndStorageBuffer16BitAccess
	4448: kernel.Storage8,       // StorageBuffer8BitAccess
	4449: kernel.Storage8,       // UniformAndStorageBuffer8BitAccess
	5116: kernel.BF16,           // BFloat16TypeKHR
	5117: kernel.BF16,           // BFloat16DotProductKHR
	5118: kernel.BF16,           // BFloat16CooperativeMatrixKHR
	5345: kernel.MemoryModel,    // VulkanMemoryModel
	5346: kernel.MemoryModel,    // VulkanMemoryModelDeviceScope
	6016: kernel.IntegerDot,     // DotProductInputAll
	6017: kernel.IntegerDot,     // DotProductInput4x8Bit
	6018: kernel.IntegerDot,     // DotProductInput4x8BitPacked
	6019: kernel.IntegerDot,     // DotProduct
	6022: kernel.CoopMat,        // CooperativeMatrixKHR
	5430: kernel.CoopMat2,       // CooperativeMatrixReductionsNV
	5431: kernel.CoopMat2,       // CooperativeMatrixConversionsNV
	5432: kernel.CoopMat2,       // CooperativeMatrixPerElementOperationsNV
	5433: kernel.CoopMat2,       // CooperativeMatrixTensorAddressingNV
	5434: kernel.CoopMat2,       // CooperativeMatrixBlockLoadsNV
	5439: kernel.CoopMat2,       // TensorAddressingNV
}

// Needs lists the device features that the module's capabilities ask for, in the order of kernel.Features. A
// capability that this package does not know is an error, so that no kernel runs where nobody checked for it.
func (m *Module) Needs() ([]kernel.Feature, error) {
	needed := map[kernel.Feature]bool{}
	for _, c := range m.Capabilities {
		f, ok := features[c]
		if !ok {
			return nil, invalid("capability %d is unknown to this reader", c)
		}
		needed[f] = true
	}
	var list []kernel.Feature
	for _, f := range kernel.Features {
		if needed[f] {
			list = append(list, f)
		}
	}
	return list, nil
}
