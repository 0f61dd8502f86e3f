package spirv

// assembler writes small modules for the tests, one instruction a call.
type assembler struct{ words []uint32 }

func newAssembler(bound uint32) *assembler {
	return &assembler{words: []uint32{Magic, 0x00010500, 0, bound, 0}}
}

func (a *assembler) op(op uint16, args ...uint32) *assembler {
	a.words = append(a.words, uint32(len(args)+1)<<16|uint32(op))
	a.words = append(a.words, args...)
	return a
}

// str packs a literal string.
func str(s string) []uint32 {
	words := make([]uint32, len(s)/4+1)
	for i := 0; i < len(s); i++ {
		words[i/4] |= uint32(s[i]) << (8 * (i % 4))
	}
	return words
}

func join(first []uint32, rest ...[]uint32) []uint32 {
	out := append([]uint32(nil), first...)
	for _, r := range rest {
		out = append(out, r...)
	}
	return out
}

// Ids of the sample module.
const (
	idMain = iota + 1
	idThreads
	idTile
	idFlag
	idScale
	idSize
	idOne
	idFour
	idTwice
	idUint
	idBool
	idFloat
	idVec2
	idVec4
	idUvec3
	idArray
	idArrayPointer
	idArrayVariable
	idScalars
	idScalarsPointer
	idScalarsVariable
	idPush
	idPushPointer
	idPushVariable
	idHalved
	idIsLarge
	idChosen
	idBound
)

// sample is a compute module with four specialization constants, a push-constant block of an address, a float and a
// uint, and two Workgroup variables: vec4[TILE·2] and float[FLAG ? TILE / 2 : 4].
func sample() []uint32 {
	a := newAssembler(idBound)
	a.op(opCapability, 1).op(opCapability, 5347).op(opCapability, 9)
	a.op(opExtension, str("SPV_KHR_storage_buffer_storage_class")...)
	a.op(opEntryPoint, join([]uint32{5, idMain}, str("main"))...)
	a.op(opExecutionMode, idMain, 17, 1, 2, 1)
	a.op(opName, join([]uint32{idThreads}, str("THREADS"))...)
	a.op(opName, join([]uint32{idTile}, str("TILE"))...)
	a.op(opName, join([]uint32{idFlag}, str("FLAG"))...)
	a.op(opName, join([]uint32{idScale}, str("SCALE"))...)
	a.op(opMemberName, join([]uint32{idPush, 0}, str("x"))...)
	a.op(opMemberName, join([]uint32{idPush, 1}, str("alpha"))...)
	a.op(opMemberName, join([]uint32{idPush, 2}, str("count"))...)
	a.op(opDecorate, idThreads, 1, 0).op(opDecorate, idTile, 1, 3)
	a.op(opDecorate, idFlag, 1, 4).op(opDecorate, idScale, 1, 2)
	a.op(opDecorate, idSize, 11, 25).op(opDecorate, idPush, 2)
	a.op(opMemberDecorate, idPush, 0, 35, 0)
	a.op(opMemberDecorate, idPush, 1, 35, 8)
	a.op(opMemberDecorate, idPush, 2, 35, 12)
	a.op(opTypeInt, idUint, 32, 0).op(opTypeBool, idBool).op(opTypeFloat, idFloat, 32)
	a.op(opTypeVector, idVec2, idUint, 2).op(opTypeVector, idVec4, idFloat, 4).op(opTypeVector, idUvec3, idUint, 3)
	a.op(opSpecConstant, idUint, idThreads, 64).op(opSpecConstant, idUint, idTile, 16)
	a.op(opSpecConstantTrue, idBool, idFlag).op(opSpecConstant, idFloat, idScale, 0x3f800000)
	a.op(opConstant, idUint, idOne, 1).op(opConstant, idUint, idFour, 4)
	a.op(opSpecConstantComposite, idUvec3, idSize, idThreads, idFour, idOne)
	a.op(opSpecConstantOp, idUint, idTwice, 128, idTile, idTile)
	a.op(opSpecConstantOp, idUint, idHalved, 194, idTile, idOne)
	a.op(opSpecConstantOp, idUint, idChosen, 169, idFlag, idHalved, idFour)
	a.op(opTypeArray, idArray, idVec4, idTwice).op(opTypePointer, idArrayPointer, classWorkgroup, idArray)
	a.op(opTypeArray, idScalars, idFloat, idChosen).op(opTypePointer, idScalarsPointer, classWorkgroup, idScalars)
	a.op(opTypeStruct, idPush, idVec2, idFloat, idUint)
	a.op(opTypePointer, idPushPointer, classPushConstant, idPush)
	a.op(opVariable, idArrayPointer, idArrayVariable, classWorkgroup)
	a.op(opVariable, idScalarsPointer, idScalarsVariable, classWorkgroup)
	a.op(opVariable, idPushPointer, idPushVariable, classPushConstant)
	return a.words
}
