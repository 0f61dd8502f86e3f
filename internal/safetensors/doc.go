// Package safetensors reads and writes the safetensors checkpoint format without cgo and without a GPU.
//
// A file is an unsigned 64-bit little-endian header length, a JSON header that gives each tensor's dtype, shape and byte
// range, and the data: dense, row-major, little-endian. Open reads and checks the header only; a tensor's bytes are read
// when asked for, converted in pieces, so no second copy of a tensor and never the whole file is held.
//
// Files come from strangers, so nothing in them is trusted: every claim of the header is checked against the file before
// anything is allocated from it, and what is wrong is reported as a *FormatError that names the file and the tensor.
package safetensors

import (
	"fmt"
	"strings"
)

// MaxHeaderBytes is the largest header that is read: the limit of the format's reference implementation.
const MaxHeaderBytes = 100_000_000

// A DType is an element type, named as headers name it.
type DType string

// The element types. F8 types can be read as bytes but not converted.
const (
	Bool   DType = "BOOL"
	U8     DType = "U8"
	I8     DType = "I8"
	F8E5M2 DType = "F8_E5M2"
	F8E4M3 DType = "F8_E4M3"
	F8E8M0 DType = "F8_E8M0"
	U16    DType = "U16"
	I16    DType = "I16"
	F16    DType = "F16"
	BF16   DType = "BF16"
	U32    DType = "U32"
	I32    DType = "I32"
	F32    DType = "F32"
	U64    DType = "U64"
	I64    DType = "I64"
	F64    DType = "F64"
	C64    DType = "C64"
)

var dtypeBytes = map[DType]int{
	Bool: 1, U8: 1, I8: 1, F8E5M2: 1, F8E4M3: 1, F8E8M0: 1,
	U16: 2, I16: 2, F16: 2, BF16: 2,
	U32: 4, I32: 4, F32: 4,
	U64: 8, I64: 8, F64: 8, C64: 8,
}

// Bytes is the size of one element, 0 for a dtype that this package does not know.
func (d DType) Bytes() int { return dtypeBytes[d] }

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar

	begin, end int64 // byte range within the data section
}

// Elements is the product of the shape, 1 for a scalar.
func (i *Info) Elements() int { return int(i.end-i.begin) / i.DType.Bytes() }

// Bytes is the length of the data.
func (i *Info) Bytes() int64 { return i.end - i.begin }

// A Fault is a kind of defect of a file.
type Fault string

// The defects.
const (
	Truncated      Fault = "truncated file"
	HeaderTooLarge Fault = "oversized header"
	HeaderSyntax   Fault = "malformed header"
	DuplicateName  Fault = "duplicate name"
	BadOffsets     Fault = "bad offsets"
	Overlap        Fault = "overlapping tensors"
	Hole           Fault = "unused bytes"
	SizeMismatch   Fault = "size mismatch"
	UnknownDType   Fault = "unknown dtype"
	NegativeDim    Fault = "negative dimension"
	SizeOverflow   Fault = "size overflow"
	BadIndex       Fault = "bad shard index"
)

// A FormatError is a defect of a file: what kind, in which file, at which tensor where it is one tensor's, and the
// particulars.
type FormatError struct {
	Fault  Fault
	Path   string
	Tensor string // "" when the defect is not one tensor's
	Detail string
}

func (e *FormatError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "safetensors: %s: %s", e.Path, e.Fault)
	if e.Tensor != "" {
		fmt.Fprintf(&b, ": tensor %q", e.Tensor)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// A MissingTensorError is a request for a tensor that a file or folder does not hold.
type MissingTensorError struct{ Path, Tensor string }

func (e *MissingTensorError) Error() string {
	return fmt.Sprintf("safetensors: %s holds no tensor %q", e.Path, e.Tensor)
}

// A ConversionError is a request to read a tensor as a type its dtype does not convert to, or a value that does not fit.
type ConversionError struct {
	Path, Tensor string
	DType        DType
	Want         string
	Detail       string
}

func (e *ConversionError) Error() string {
	s := fmt.Sprintf("safetensors: %s: tensor %q of dtype %s cannot be read as %s", e.Path, e.Tensor, e.DType, e.Want)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}
