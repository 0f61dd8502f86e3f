// Package spirv reads the parts of a SPIR-V module that a host program needs to know: the push-constant block, the
// specialization constants, the work-group size, the capabilities, and how much work-group memory the module takes
// for given specialization values.
//
// It is written from the SPIR-V 1.6 specification and handles compute modules with one entry point. It never
// panics on damaged input: Parse checks every length and every id and returns an error that names the word.
package spirv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Magic is the first word of every SPIR-V module.
const Magic = 0x07230203

// maxBound is the largest id bound accepted, the universal limit of the specification (section 2.17).
const maxBound = 4194303

// ErrInvalid is matched (errors.Is) by every error that Parse returns for a damaged or unsupported module.
var ErrInvalid = errors.New("invalid SPIR-V")

func invalid(format string, args ...any) error {
	return fmt.Errorf("spirv: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Words turns the bytes of a .spv file (little-endian) into words. It fails when the length is no multiple of four.
func Words(blob []byte) ([]uint32, error) {
	if len(blob)%4 != 0 {
		return nil, invalid("%d bytes are no whole number of words", len(blob))
	}
	words := make([]uint32, len(blob)/4)
	for i := range words {
		words[i] = binary.LittleEndian.Uint32(blob[4*i:])
	}
	return words, nil
}

// A Module is a parsed compute module.
type Module struct {
	Version      [2]int   // major and minor version of SPIR-V
	EntryPoint   string   // name of the compute entry point
	Capabilities []uint32 // operands of OpCapability, in order
	Extensions   []string // operands of OpExtension, in order

	bound       uint32
	names       map[uint32]string
	memberNames map[[2]uint32]string
	specIDs     map[uint32]uint32    // result id → SpecId
	builtIns    map[uint32]uint32    // result id → BuiltIn
	strides     map[uint32]uint32    // array type → ArrayStride
	offsets     map[[2]uint32]uint32 // struct type, member → Offset
	blocks      map[uint32]bool      // struct types decorated Block
	descriptors map[uint32]bool      // variables decorated Binding or DescriptorSet
	defs        map[uint32]def       // types, constants and module-scope variables
	order       []uint32             // ids of defs in definition order
	announced   map[uint32]bool      // pointer types declared by OpTypeForwardPointer and not yet defined
	entry       uint32               // id of the entry point's function
	localSize   [3]uint32            // literals of LocalSize, 0 when absent
	localSizeID [3]uint32            // operands of LocalSizeId, 0 when absent
}

// def is one type, constant or variable: its opcode and its operands without the result id. Constants and variables
// keep their type in kind.
type def struct {
	op   uint16
	kind uint32
	args []uint32
}

// Parse reads a module. The error matches ErrInvalid when the words are no complete compute module.
func Parse(words []uint32) (*Module, error) {
	if len(words) < 5 {
		return nil, invalid("%d words are shorter than a header", len(words))
	}
	if words[0] != Magic {
		return nil, invalid("magic number 0x%08x", words[0])
	}
	if words[3] == 0 || words[3] > maxBound {
		return nil, invalid("id bound %d", words[3])
	}
	m := &Module{
		Version:     [2]int{int(words[1] >> 16 & 0xff), int(words[1] >> 8 & 0xff)},
		bound:       words[3],
		names:       map[uint32]string{},
		memberNames: map[[2]uint32]string{},
		specIDs:     map[uint32]uint32{},
		builtIns:    map[uint32]uint32{},
		strides:     map[uint32]uint32{},
		offsets:     map[[2]uint32]uint32{},
		blocks:      map[uint32]bool{},
		descriptors: map[uint32]bool{},
		defs:        map[uint32]def{},
		announced:   map[uint32]bool{},
	}
	for at := 5; at < len(words); {
		n := int(words[at] >> 16)
		if n == 0 || n > len(words)-at {
			return nil, invalid("word %d: instruction of %d words, %d left", at, n, len(words)-at)
		}
		if err := m.instruction(uint16(words[at]), words[at+1:at+n]); err != nil {
			return nil, fmt.Errorf("word %d: %w", at, err)
		}
		at += n
	}
	if m.entry == 0 {
		return nil, invalid("no compute entry point")
	}
	return m, nil
}

// instruction takes in one instruction; those that say nothing about the interface are skipped.
func (m *Module) instruction(op uint16, args []uint32) error {
	if want, ok := minOperands[op]; ok && len(args) < want {
		return invalid("opcode %d has %d operands, needs %d", op, len(args), want)
	}
	switch op {
	case opCapability:
		m.Capabilities = append(m.Capabilities, args[0])
	case opExtension:
		name, _, err := text(args)
		if err != nil {
			return err
		}
		m.Extensions = append(m.Extensions, name)
	case opName:
		name, _, err := text(args[1:])
		if err != nil {
			return err
		}
		m.names[args[0]] = name
	case opMemberName:
		name, _, err := text(args[2:])
		if err != nil {
			return err
		}
		m.memberNames[[2]uint32{args[0], args[1]}] = name
	case opEntryPoint:
		return m.entryPoint(args)
	case opExecutionMode, opExecutionModeID:
		return m.executionMode(op, args)
	case opDecorate, opMemberDecorate:
		return m.decorate(op, args)
	case opTypeForwardPointer:
		return m.announce(args[0], args[1])
	default:
		return m.define(op, args)
	}
	return nil
}

// announce takes in the promise of a pointer type whose target comes later. Its size is known already.
func (m *Module) announce(id, class uint32) error {
	const unknown = 0 // no id
	if err := m.define(opTypePointer, []uint32{id, class, unknown}); err != nil {
		return err
	}
	m.announced[id] = true
	return nil
}

// text decodes a literal string and returns how many words it took.
func text(words []uint32) (string, int, error) {
	var b []byte
	for i, w := range words {
		for s := 0; s < 32; s += 8 {
			c := byte(w >> s)
			if c == 0 {
				if !utf8.Valid(b) {
					return "", 0, invalid("a name is not UTF-8")
				}
				return string(b), i + 1, nil
			}
			b = append(b, c)
		}
	}
	return "", 0, invalid("a name has no end")
}

func (m *Module) entryPoint(args []uint32) error {
	const glCompute = 5
	if args[0] != glCompute {
		return invalid("execution model %d is not GLCompute", args[0])
	}
	if m.entry != 0 {
		return invalid("more than one entry point")
	}
	name, _, err := text(args[2:])
	if err != nil {
		return err
	}
	m.entry, m.EntryPoint = args[1], name
	return nil
}

func (m *Module) executionMode(op uint16, args []uint32) error {
	const localSize, localSizeID = 17, 38
	size := [3]uint32{}
	switch {
	case op == opExecutionMode && args[1] == localSize:
		if len(args) != 5 {
			return invalid("LocalSize with %d operands", len(args)-2)
		}
		copy(size[:], args[2:])
		m.localSize = size
	case op == opExecutionModeID && args[1] == localSizeID:
		if len(args) != 5 {
			return invalid("LocalSizeId with %d operands", len(args)-2)
		}
		copy(size[:], args[2:])
		m.localSizeID = size
	}
	return nil
}

func (m *Module) decorate(op uint16, args []uint32) error {
	const specID, block, arrayStride, builtIn, binding, descriptorSet, offset = 1, 2, 6, 11, 33, 34, 35
	rest := args[1:]
	if op == opMemberDecorate {
		rest = args[2:]
	}
	kind, values := rest[0], rest[1:]
	switch kind {
	case specID, arrayStride, builtIn, offset:
		if len(values) < 1 {
			return invalid("decoration %d has no operand", kind)
		}
	}
	switch {
	case op == opMemberDecorate && kind == offset:
		m.offsets[[2]uint32{args[0], args[1]}] = values[0]
	case op == opMemberDecorate:
	case kind == specID:
		m.specIDs[args[0]] = values[0]
	case kind == block:
		m.blocks[args[0]] = true
	case kind == binding, kind == descriptorSet:
		m.descriptors[args[0]] = true
	case kind == arrayStride:
		m.strides[args[0]] = values[0]
	case kind == builtIn:
		m.builtIns[args[0]] = values[0]
	}
	return nil
}

// define keeps types, constants and module-scope variables, and checks that everything they are made of has been
// defined before them, so that later walks end.
func (m *Module) define(op uint16, args []uint32) error {
	var id uint32
	var d def
	switch {
	case isType(op):
		id, d = args[0], def{op: op, args: args[1:]}
	case isConstant(op), op == opVariable:
		id, d = args[1], def{op: op, kind: args[0], args: args[2:]}
	default:
		return nil
	}
	if op == opVariable && d.args[0] != classWorkgroup && d.args[0] != classPushConstant {
		return nil
	}
	if id == 0 || id >= m.bound {
		return invalid("id %d is outside the bound %d", id, m.bound)
	}
	if m.announced[id] && op == opTypePointer {
		delete(m.announced, id)
		m.defs[id] = d
		return nil
	}
	if _, ok := m.defs[id]; ok {
		return invalid("id %d is defined twice", id)
	}
	for _, ref := range d.references() {
		if _, ok := m.defs[ref]; !ok {
			return invalid("id %d refers to %d, which is no earlier type or constant", id, ref)
		}
	}
	m.defs[id] = d
	m.order = append(m.order, id)
	return nil
}

// references lists the ids that a definition is made of, as far as sizes and values depend on them. Pointers are
// left out: physical storage pointers may refer to types that come later.
func (d def) references() []uint32 {
	switch d.op {
	case opTypeVector, opTypeMatrix, opTypeRuntimeArray:
		return d.args[:1]
	case opTypeArray:
		return d.args[:2]
	case opTypeStruct:
		return d.args
	case opConstant, opSpecConstant, opConstantTrue, opConstantFalse, opSpecConstantTrue, opSpecConstantFalse,
		opConstantNull, opVariable:
		return []uint32{d.kind}
	case opConstantComposite, opSpecConstantComposite:
		return append([]uint32{d.kind}, d.args...)
	case opSpecConstantOp:
		return []uint32{d.kind}
	}
	return nil
}
