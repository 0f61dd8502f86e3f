package spirv

// The opcodes this package looks at (SPIR-V specification, section 3.52).
const (
	opName                  = 5
	opMemberName            = 6
	opExtension             = 10
	opEntryPoint            = 15
	opExecutionMode         = 16
	opCapability            = 17
	opTypeVoid              = 19
	opTypeBool              = 20
	opTypeInt               = 21
	opTypeFloat             = 22
	opTypeVector            = 23
	opTypeMatrix            = 24
	opTypeArray             = 28
	opTypeRuntimeArray      = 29
	opTypeStruct            = 30
	opTypePointer           = 32
	opTypeFunction          = 33
	opTypeForwardPointer    = 39
	opConstantTrue          = 41
	opConstantFalse         = 42
	opConstant              = 43
	opConstantComposite     = 44
	opConstantNull          = 46
	opSpecConstantTrue      = 48
	opSpecConstantFalse     = 49
	opSpecConstant          = 50
	opSpecConstantComposite = 51
	opSpecConstantOp        = 52
	opVariable              = 59
	opDecorate              = 71
	opMemberDecorate        = 72
	opExecutionModeID       = 331
	opTypeCoopMatKHR        = 4456
)

// The storage classes this package looks at.
const (
	classWorkgroup             = 4
	classPushConstant          = 9
	classPhysicalStorageBuffer = 5349
)

// minOperands is the least number of operands, without the instruction's first word, that the code relies on.
var minOperands = map[uint16]int{
	opName: 2, opMemberName: 3, opExtension: 1, opEntryPoint: 3, opExecutionMode: 2, opExecutionModeID: 2,
	opCapability: 1, opTypeVoid: 1, opTypeBool: 1, opTypeInt: 3, opTypeFloat: 2, opTypeVector: 3, opTypeMatrix: 3,
	opTypeArray: 3, opTypeRuntimeArray: 2, opTypeStruct: 1, opTypePointer: 3, opTypeFunction: 2, opTypeForwardPointer: 2,
	opTypeCoopMatKHR: 6,
	opConstantTrue:   2, opConstantFalse: 2, opConstant: 3, opConstantComposite: 2, opConstantNull: 2,
	opSpecConstantTrue: 2, opSpecConstantFalse: 2, opSpecConstant: 3, opSpecConstantComposite: 2,
	opSpecConstantOp: 3, opVariable: 3, opDecorate: 2, opMemberDecorate: 3,
}

func isType(op uint16) bool {
	switch op {
	case opTypeVoid, opTypeBool, opTypeInt, opTypeFloat, opTypeVector, opTypeMatrix, opTypeArray, opTypeRuntimeArray,
		opTypeStruct, opTypePointer, opTypeFunction, opTypeCoopMatKHR:
		return true
	}
	return false
}

func isConstant(op uint16) bool {
	switch op {
	case opConstantTrue, opConstantFalse, opConstant, opConstantComposite, opConstantNull,
		opSpecConstantTrue, opSpecConstantFalse, opSpecConstant, opSpecConstantComposite, opSpecConstantOp:
		return true
	}
	return false
}
