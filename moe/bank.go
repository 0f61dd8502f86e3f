package moe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// An ExpertBank is an array [E, …] with one row, matrix or other block of values per expert. It lies in one tensor where
// that fits an allocation of the device, and otherwise in several of whole experts (NVIDIA's drivers give just under
// 4 GiB at a time). Expert e's block is dense and row-major wherever it is; nothing is said of where it lies relative to
// that of another expert. Layers treat all banks alike, and results do not depend on how a bank is split.
//
// The contents of a new bank are undefined. A bank may be used from several goroutines at once as long as none closes
// it.
type ExpertBank struct {
	shape []int
	parts []*vk.Tensor // whole experts each, [experts, …], in order
	first []int        // the first expert of each part
	table *vk.Tensor   // U32 [E,2]: the address of each expert, nil for a bank in one part
	owned bool         // Close closes the parts

	// Of a bank in a quantized format, whose parts are U32 [experts, words]:
	format WeightFormat
	values vk.DType // of the layer
	inOut  bool     // shape is [E,In,Out]; what is stored is [Out,In]
}

// NewExpertBank allocates a bank of the given dtype and shape [E, …] with as few tensors as the device's largest
// allocation allows, all of about the same size, and 8·E bytes more where that is not one. It fails with a *vk.ShapeError,
// and with vk.ErrOutOfMemory where one expert exceeds the largest allocation or all of them the memory.
func NewExpertBank(dev *vk.Device, dtype vk.DType, shape ...int) (*ExpertBank, error) {
	const op = "NewExpertBank"
	if len(shape) < 2 || slices.Min(shape) < 1 {
		return nil, &vk.ShapeError{Op: op, Arg: "shape", Want: "[E, …] without a zero", Got: fmt.Sprint(shape)}
	}
	expert := dtype.Bytes()
	for _, n := range shape[1:] {
		expert *= uint64(n)
	}
	b := &ExpertBank{shape: slices.Clone(shape), owned: true}
	experts := shape[0]
	parts := 1
	if per := int(min(dev.Caps().MaxTensorBytes()/expert, uint64(experts))); per > 0 {
		parts = check.CeilDiv(experts, per)
	}
	for i := range parts {
		from, to := i*experts/parts, (i+1)*experts/parts
		t, err := dev.NewTensor(dtype, append([]int{to - from}, shape[1:]...)...)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		b.parts, b.first = append(b.parts, t), append(b.first, from)
	}
	if err := b.makeTable(dev); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// BankOfTensor makes a bank of one tensor [E, …]. It stays the caller's, who closes it after the bank. It fails with a
// *vk.ShapeError for a tensor of less than two dimensions or with a zero in its shape.
func BankOfTensor(t *vk.Tensor) (*ExpertBank, error) {
	if t == nil || t.Rank() < 2 || t.Elements() == 0 {
		return nil, &vk.ShapeError{Op: "BankOfTensor", Arg: "tensor", Want: "[E, …] without a zero", Got: fmt.Sprint(t)}
	}
	return &ExpertBank{shape: t.Shape(), parts: []*vk.Tensor{t}, first: []int{0}}, nil
}

// BankOfExperts makes a bank [E, …] of one tensor […] per expert, all of one dtype and shape: for experts that were made or
// loaded one by one. The tensors stay the caller's, who closes them after the bank, which takes 8·E bytes of its own. It
// fails with a *vk.ShapeError where the tensors differ, and with vk.ErrClosed or vk.ErrOutOfMemory.
func BankOfExperts(dev *vk.Device, experts []*vk.Tensor) (*ExpertBank, error) {
	const op = "BankOfExperts"
	if len(experts) == 0 || experts[0] == nil || experts[0].Rank() < 1 || experts[0].Elements() == 0 {
		return nil, &vk.ShapeError{Op: op, Arg: "experts", Want: "tensors with elements", Got: fmt.Sprint(experts)}
	}
	shape := experts[0].Shape()
	b := &ExpertBank{shape: append([]int{len(experts)}, shape...)}
	for i, t := range experts {
		if err := check.Tensor(dev, op, fmt.Sprintf("expert %d", i), t, experts[0].DType(), shape...); err != nil {
			return nil, err
		}
		part, err := t.Reshape(append([]int{1}, shape...)...)
		if err != nil {
			return nil, err
		}
		b.parts, b.first = append(b.parts, part), append(b.first, i)
	}
	if err := b.makeTable(dev); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// makeTable uploads the experts' addresses where the bank lies in several tensors.
func (b *ExpertBank) makeTable(dev *vk.Device) error {
	if len(b.parts) == 1 {
		return nil
	}
	words := make([]uint32, 0, 2*b.shape[0])
	for i, part := range b.parts {
		stride := part.Bytes() / uint64(part.Dim(0))
		for e := range uint64(part.Dim(0)) {
			address := b.parts[i].Address() + e*stride
			words = append(words, uint32(address), uint32(address>>32))
		}
	}
	var err error
	if b.table, err = dev.NewTensor(vk.U32, b.shape[0], 2); err != nil {
		return err
	}
	return vk.Upload(context.Background(), b.table, words)
}

// Shape returns a copy of [E, …].
func (b *ExpertBank) Shape() []int { return slices.Clone(b.shape) }

// Experts is E.
func (b *ExpertBank) Experts() int { return b.shape[0] }

// DType is the element type; in a quantized format that of the layer.
func (b *ExpertBank) DType() vk.DType {
	if b.format != WeightsFull {
		return b.values
	}
	return b.parts[0].DType()
}

// Device is the device that the bank lives on.
func (b *ExpertBank) Device() *vk.Device { return b.parts[0].Device() }

// Elements is the number of elements of all experts.
func (b *ExpertBank) Elements() int {
	n := 1
	for _, s := range b.shape {
		n *= s
	}
	return n
}

// Bytes is the size of all experts in bytes, without padding behind them.
func (b *ExpertBank) Bytes() uint64 {
	if b.format != WeightsFull {
		return 4 * uint64(b.Experts()) * uint64(b.words())
	}
	return uint64(b.Elements()) * b.DType().Bytes()
}

// Parts returns the tensors [experts, …] that the bank lies in, in the order of the experts. Element-wise work, such as
// an optimizer's step, goes over them. In a quantized format they are U32 [experts, words].
func (b *ExpertBank) Parts() []*vk.Tensor { return slices.Clone(b.parts) }

// Expert returns the block of one expert as a tensor, to upload or download it by itself. It shares the bank's memory
// and needs no Close. In a quantized format it is U32 [words], laid out as WeightFormat says.
// An expert outside [0, E) is a *vk.ShapeError.
func (b *ExpertBank) Expert(e int) (*vk.Tensor, error) {
	if e < 0 || e >= b.shape[0] {
		return nil, &vk.ShapeError{Op: "ExpertBank.Expert", Arg: "expert", Want: fmt.Sprintf("0 to %d", b.shape[0]-1),
			Got: fmt.Sprint(e)}
	}
	i := b.partOf(e)
	if b.format != WeightsFull {
		return b.parts[i].View((e-b.first[i])*b.words(), b.words())
	}
	size := b.Elements() / b.shape[0]
	return b.parts[i].View((e-b.first[i])*size, b.shape[1:]...)
}

// partOf is the tensor that an expert lies in.
func (b *ExpertBank) partOf(e int) int {
	i := len(b.first) - 1
	for b.first[i] > e {
		i--
	}
	return i
}

// Close frees the memory that the bank allocated. Closing twice does nothing.
func (b *ExpertBank) Close() error {
	if b == nil {
		return nil
	}
	err := b.table.Close()
	if b.owned {
		for _, p := range b.parts {
			err = errors.Join(err, p.Close())
		}
	}
	return err
}

// String is the dtype, or the format of a quantized bank, and the shape.
func (b *ExpertBank) String() string {
	if b == nil {
		return "nil"
	}
	if b.format != WeightsFull {
		return fmt.Sprintf("%v%v", b.format, b.shape)
	}
	return fmt.Sprintf("%v%v", b.DType(), b.shape)
}

// UploadBank copies data, all experts in order, to the bank, as vk.Upload does to a tensor. One expert is uploaded by
// vk.Upload to bank.Expert(e).
//
// Data for a bank in a quantized format are float32, the bits of 16-bit values of the layer's DType, or bytes of such; they are
// quantized on the device, some MiB at a time (the matrix of one expert where the bank is [E,In,Out]). A weight without a code
// is a *QuantizeError. UploadBankAt uploads some of the experts or rows.
func UploadBank[S vk.Scalar](ctx context.Context, b *ExpertBank, data []S) error {
	var s S
	n := b.Elements()
	if unsafe.Sizeof(s) == 1 {
		n *= int(b.DType().Bytes())
	}
	if len(data) != n {
		return &vk.ShapeError{Op: "UploadBank", Arg: "data", Want: fmt.Sprintf("%d values for %v", n, b), Got: fmt.Sprint(len(data))}
	}
	if b.format != WeightsFull {
		return uploadQuantized(ctx, b, 0, data)
	}
	for _, p := range b.parts {
		m := n / b.shape[0] * p.Dim(0)
		if err := vk.Upload(ctx, p, data[:m]); err != nil {
			return err
		}
		data = data[m:]
	}
	return nil
}

// UploadBankAt uploads data as the elements of a bank in a quantized format from the at-th on, in the order of its shape: whole
// rows of In values, or whole experts where that is [E,In,Out]. Otherwise it is UploadBank.
// Errors are those of UploadBank, and a *vk.ShapeError for a bank in another format or a range that is not whole.
func UploadBankAt[S vk.Scalar](ctx context.Context, b *ExpertBank, at int, data []S) error {
	if b.format == WeightsFull {
		return &vk.ShapeError{Op: "UploadBankAt", Arg: "bank", Want: "one in a quantized format", Got: b.String()}
	}
	return uploadQuantized(ctx, b, at, data)
}

// DownloadBank returns the contents of all experts in order, as vk.Download does of a tensor. Of a bank in a quantized format it
// returns, as float32 only, the values that the codes stand for. Errors are vk.Download's, and a *vk.ShapeError for another type.
func DownloadBank[S vk.Scalar](ctx context.Context, b *ExpertBank) ([]S, error) {
	if b.format != WeightsFull {
		values, err := DownloadBankAt(ctx, b, 0, b.Elements())
		if all, ok := any(values).([]S); ok || err != nil {
			return all, err
		}
		return nil, &vk.ShapeError{Op: "DownloadBank", Arg: "type", Want: "float32", Got: fmt.Sprintf("%T", *new(S))}
	}
	if len(b.parts) == 1 {
		return vk.Download[S](ctx, b.parts[0])
	}
	var all []S
	for _, p := range b.parts {
		data, err := vk.Download[S](ctx, p)
		if err != nil {
			return nil, err
		}
		all = append(all, data...)
	}
	return all, nil
}

// operand is what a kernel gets: an address, and whether it is that of a table (shaders/include/bank.glsl). A nil bank is
// address 0.
func (b *ExpertBank) operand() (address uint64, table bool) {
	switch {
	case b == nil:
		return 0, false
	case b.table != nil:
		return b.table.Address(), true
	}
	return b.parts[0].Address(), false
}

// tensors are all that a kernel touches of the bank.
func (b *ExpertBank) tensors() []*vk.Tensor {
	if b == nil {
		return nil
	}
	if b.table == nil {
		return b.parts
	}
	return append(slices.Clone(b.parts), b.table)
}

// quads reports whether rows of this width can be read four values at a time in every part.
func (b *ExpertBank) quads(width int) bool {
	for _, p := range b.parts {
		if !quads(p, width) {
			return false
		}
	}
	return true
}

// aligned reports whether every part begins at a multiple of bytes. A bank that is nil is.
func (b *ExpertBank) aligned(bytes uint64) bool {
	return b == nil || !slices.ContainsFunc(b.parts, func(p *vk.Tensor) bool { return p.Address()%bytes != 0 })
}

// check reports why the bank cannot be the argument arg of op on a device.
func (b *ExpertBank) check(dev *vk.Device, op, arg string, dtype vk.DType, shape ...int) error {
	return b.checkFormat(dev, op, arg, WeightsFull, dtype, shape...)
}

// checkFormat is check for a bank in some format.
func (b *ExpertBank) checkFormat(dev *vk.Device, op, arg string, format WeightFormat, dtype vk.DType, shape ...int) error {
	want := fmt.Sprintf("%v%v", dtype, shape)
	if format != WeightsFull {
		want = fmt.Sprintf("%v%v for %v", format, shape, dtype)
	}
	switch {
	case b == nil:
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: "nil"}
	case b.DType() != dtype || b.format != format || !slices.Equal(b.shape, shape):
		return &vk.ShapeError{Op: op, Arg: arg, Want: want, Got: b.String()}
	}
	for _, t := range b.tensors() {
		if err := check.Tensor(dev, op, arg, t, t.DType(), t.Shape()...); err != nil {
			return err
		}
	}
	return nil
}

// checkApartFromBank reports an output that shares memory with a bank.
func checkApartFromBank(op, outArg string, out *vk.Tensor, arg string, b *ExpertBank) error {
	for _, t := range b.tensors() {
		if err := check.Apart(op, outArg, out, check.Inputs{arg: t}); err != nil {
			return err
		}
	}
	return nil
}
