package spirv

import "math/bits"

// value is an integer or Boolean constant: its bits, zero-extended, and its width (1 for a Boolean).
type value struct {
	bits  uint64
	width uint32
}

func (v value) signed() int64 {
	shift := 64 - v.width
	return int64(v.bits<<shift) >> shift
}

// extent is the size and alignment of a type in bytes.
type extent struct{ size, align uint64 }

// evaluation holds every constant and every size of a module for one set of specialization values. It is filled in
// definition order, so it takes time linear in the module and cannot recurse.
type evaluation struct {
	m       *Module
	values  map[uint32]value
	extents map[uint32]extent
}

// evaluate specializes the module: spec maps SpecId to the value's bits; ids that are absent keep their default.
func (m *Module) evaluate(spec map[uint32]uint32) (*evaluation, error) {
	e := &evaluation{m: m, values: map[uint32]value{}, extents: map[uint32]extent{}}
	for _, id := range m.order {
		d := m.defs[id]
		switch {
		case isType(d.op):
			if err := e.addType(id, d); err != nil {
				return nil, err
			}
		case isConstant(d.op):
			e.addConstant(id, d, spec)
		}
	}
	return e, nil
}

// addConstant stores the value of an integer or Boolean constant. What it cannot evaluate stays unknown, which is an
// error only where an array length needs it.
func (e *evaluation) addConstant(id uint32, d def, spec map[uint32]uint32) {
	width := e.m.scalarWidth(d.kind)
	switch d.op {
	case opConstantTrue, opSpecConstantTrue:
		e.values[id] = value{1, 1}
	case opConstantFalse, opSpecConstantFalse:
		e.values[id] = value{0, 1}
	case opConstantNull:
		if width > 0 {
			e.values[id] = value{0, width}
		}
	case opConstant, opSpecConstant:
		if width == 0 {
			return
		}
		v := uint64(d.args[0])
		if len(d.args) > 1 {
			v |= uint64(d.args[1]) << 32
		}
		e.values[id] = truncate(v, width)
	case opSpecConstantOp:
		if v, ok := e.operation(d, width); ok {
			e.values[id] = v
		}
	}
	if specID, ok := e.m.specIDs[id]; ok && width > 0 {
		if v, ok := spec[specID]; ok {
			if width == 1 && v != 0 {
				v = 1
			}
			e.values[id] = truncate(uint64(v), width)
		}
	}
}

// scalarWidth is the width of an integer type in bits, 1 for Booleans and 0 for every other type.
func (m *Module) scalarWidth(id uint32) uint32 {
	switch d := m.defs[id]; d.op {
	case opTypeBool:
		return 1
	case opTypeInt:
		if w := d.args[0]; w >= 8 && w <= 64 {
			return w
		}
	}
	return 0
}

func truncate(v uint64, width uint32) value {
	if width < 64 {
		v &= 1<<width - 1
	}
	return value{v, width}
}

// operation evaluates OpSpecConstantOp; ok is false when an operand or the opcode is unknown.
func (e *evaluation) operation(d def, width uint32) (result value, ok bool) {
	if width == 0 {
		return value{}, false
	}
	op, ids := d.args[0], d.args[1:]
	if op == 81 { // CompositeExtract, as in gl_WorkGroupSize.x
		if len(ids) != 2 {
			return value{}, false
		}
		composite := e.m.defs[ids[0]]
		if composite.op != opSpecConstantComposite && composite.op != opConstantComposite ||
			uint64(ids[1]) >= uint64(len(composite.args)) {
			return value{}, false
		}
		v, ok := e.values[composite.args[ids[1]]]
		return v, ok
	}
	var in []value
	for _, id := range ids {
		v, ok := e.values[id]
		if !ok {
			return value{}, false
		}
		in = append(in, v)
	}
	switch len(in) {
	case 1:
		return unary(op, in[0], width)
	case 2:
		return binary2(op, in[0], in[1], width)
	case 3:
		if op == 169 { // Select
			if in[0].bits != 0 {
				return in[1], true
			}
			return in[2], true
		}
	}
	return value{}, false
}

func unary(op uint32, a value, width uint32) (value, bool) {
	switch op {
	case 113, 124: // UConvert, Bitcast
		return truncate(a.bits, width), true
	case 114: // SConvert
		return truncate(uint64(a.signed()), width), true
	case 126: // SNegate
		return truncate(-a.bits, width), true
	case 168: // LogicalNot
		return value{a.bits ^ 1, 1}, true
	case 200: // Not
		return truncate(^a.bits, width), true
	}
	return value{}, false
}

func binary2(op uint32, a, b value, width uint32) (value, bool) {
	flag := func(is bool) (value, bool) {
		if is {
			return value{1, 1}, true
		}
		return value{0, 1}, true
	}
	switch op {
	case 164, 170: // LogicalEqual, IEqual
		return flag(a.bits == b.bits)
	case 165, 171: // LogicalNotEqual, INotEqual
		return flag(a.bits != b.bits)
	case 172:
		return flag(a.bits > b.bits)
	case 173:
		return flag(a.signed() > b.signed())
	case 174:
		return flag(a.bits >= b.bits)
	case 175:
		return flag(a.signed() >= b.signed())
	case 176:
		return flag(a.bits < b.bits)
	case 177:
		return flag(a.signed() < b.signed())
	case 178:
		return flag(a.bits <= b.bits)
	case 179:
		return flag(a.signed() <= b.signed())
	}
	v, ok := arithmetic(op, a, b)
	return truncate(v, width), ok
}

// arithmetic evaluates the two-operand integer operations; division by zero has no value.
func arithmetic(op uint32, a, b value) (uint64, bool) {
	switch op {
	case 128: // IAdd
		return a.bits + b.bits, true
	case 130: // ISub
		return a.bits - b.bits, true
	case 132: // IMul
		return a.bits * b.bits, true
	case 166, 197: // LogicalOr, BitwiseOr
		return a.bits | b.bits, true
	case 167, 199: // LogicalAnd, BitwiseAnd
		return a.bits & b.bits, true
	case 198: // BitwiseXor
		return a.bits ^ b.bits, true
	case 194: // ShiftRightLogical
		return a.bits >> min(b.bits, 64), true
	case 195: // ShiftRightArithmetic
		return uint64(a.signed() >> min(b.bits, 63)), true
	case 196: // ShiftLeftLogical
		return a.bits << min(b.bits, 64), true
	}
	if b.bits == 0 {
		return 0, false
	}
	switch op {
	case 134: // UDiv
		return a.bits / b.bits, true
	case 137: // UMod
		return a.bits % b.bits, true
	case 135: // SDiv
		return uint64(a.signed() / b.signed()), true
	case 138: // SRem
		return uint64(a.signed() % b.signed()), true
	case 139: // SMod: the sign of the divisor
		r := a.signed() % b.signed()
		if r != 0 && (r < 0) != (b.signed() < 0) {
			r += b.signed()
		}
		return uint64(r), true
	}
	return 0, false
}

// addType stores the size of a type in memory that has no explicit layout, or its decorated one where it has.
func (e *evaluation) addType(id uint32, d def) error {
	x := extent{}
	switch d.op {
	case opTypeBool:
		x = extent{4, 4}
	case opTypeInt, opTypeFloat:
		size := uint64(d.args[0]) / 8
		if size == 0 || size > 8 || size&(size-1) != 0 {
			return invalid("type %d has %d bits", id, d.args[0])
		}
		x = extent{size, size}
	case opTypePointer:
		x = extent{8, 8}
	case opTypeVector:
		of := e.extents[d.args[0]]
		n := uint64(d.args[1])
		if n < 2 || n > 16 || of.size == 0 {
			return invalid("vector type %d has %d components", id, n)
		}
		x = extent{n * of.size, of.align << bits.Len64(n-1)}
	case opTypeMatrix:
		of := e.extents[d.args[0]]
		size, err := product(id, roundUp(of.size, of.align), uint64(d.args[1]))
		if err != nil {
			return err
		}
		x = extent{size, of.align}
	case opTypeArray:
		size, err := e.arraySize(id, d)
		if err != nil {
			return err
		}
		x = extent{size, e.extents[d.args[0]].align}
	case opTypeStruct:
		var err error
		if x, err = e.structExtent(id, d); err != nil {
			return err
		}
	}
	e.extents[id] = x
	return nil
}

// maxBytes bounds every size, so that sums of a module's worth of them cannot overflow.
const maxBytes = 1 << 40

func product(id uint32, a, b uint64) (uint64, error) {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 || lo > maxBytes {
		return 0, invalid("type %d is larger than %d bytes", id, uint64(maxBytes))
	}
	return lo, nil
}

func roundUp(n, align uint64) uint64 {
	if align == 0 {
		return n
	}
	return (n + align - 1) / align * align
}

func (e *evaluation) arraySize(id uint32, d def) (uint64, error) {
	length, ok := e.values[d.args[1]]
	if !ok {
		return 0, invalid("the length of array type %d cannot be evaluated", id)
	}
	of := e.extents[d.args[0]]
	stride := roundUp(of.size, of.align)
	if s, ok := e.m.strides[id]; ok {
		stride = uint64(s)
	}
	return product(id, stride, length.bits)
}

func (e *evaluation) structExtent(id uint32, d def) (extent, error) {
	x := extent{align: 1}
	for i, member := range d.args {
		of := e.extents[member]
		at := roundUp(x.size, of.align)
		if offset, ok := e.m.offsets[[2]uint32{id, uint32(i)}]; ok {
			at = uint64(offset)
		}
		x.size = max(x.size, at+of.size)
		x.align = max(x.align, of.align)
		if x.size > maxBytes {
			return x, invalid("type %d is larger than %d bytes", id, uint64(maxBytes))
		}
	}
	return x, nil
}

// SharedBytes is the work-group memory in bytes that the module takes: the sum over its Workgroup variables, or the
// largest of them where they are blocks with an explicit layout, which overlap. values are the specialization values
// in the order of Constants; nil stands for the defaults. Vectors count as aligned to their power-of-two size, so
// the result may exceed what a driver that packs three-component vectors takes.
func (m *Module) SharedBytes(values []uint32) (uint64, error) {
	constants := m.Constants()
	if values != nil && len(values) != len(constants) {
		return 0, invalid("%d specialization values for %d constants", len(values), len(constants))
	}
	spec := map[uint32]uint32{}
	for i, v := range values {
		spec[constants[i].ID] = v
	}
	e, err := m.evaluate(spec)
	if err != nil {
		return 0, err
	}
	var sum, largest uint64
	for _, id := range m.order {
		d := m.defs[id]
		if d.op != opVariable || d.args[0] != classWorkgroup {
			continue
		}
		pointer := m.defs[d.kind]
		if pointer.op != opTypePointer {
			return 0, invalid("variable %d has no pointer type", id)
		}
		of := e.extents[pointer.args[1]]
		if m.blocks[pointer.args[1]] {
			largest = max(largest, of.size)
			continue
		}
		if sum = roundUp(sum, of.align) + of.size; sum > maxBytes {
			return 0, invalid("work-group memory exceeds %d bytes", uint64(maxBytes))
		}
	}
	return sum + largest, nil
}

// SharedBytes is Parse followed by Module.SharedBytes.
func SharedBytes(words, values []uint32) (uint64, error) {
	m, err := Parse(words)
	if err != nil {
		return 0, err
	}
	return m.SharedBytes(values)
}
