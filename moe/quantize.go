package moe

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A WeightFormat is how a layer's weight matrices are stored. Quantized weights are for inference: they are made on the device
// of values that are uploaded, and the kernels make values of them again while they multiply. Activations, biases and sums
// stay what they are.
//
// A quantized expert is one block of 32-bit words, a multiple of four of them: the codes of its rows [Out,P], in order of the
// inputs from the low bits on, with P being In rounded up to a multiple of 32, and then the scales of its rows.
type WeightFormat uint8

// The formats.
const (
	// WeightsFull are values of the layer's DType.
	WeightsFull WeightFormat = iota

	// WeightsInt8 are integers −127 to 127, 8 bits each, with an f32 scale per row (output): the row's largest magnitude divided
	// by 127. w becomes ŵ = scale·round(w/scale), to nearest, and |ŵ − w| ≤ 0.5001·scale. For normally distributed weights of
	// rows of 4,096 the error is 0.9 % of their root mean square. 8 bits a weight and 32 a row.
	WeightsInt8

	// WeightsQ4 are integers −8 to 7, 4 bits each, in blocks of 32 inputs with an f16 scale: the block's value of largest magnitude,
	// sign included, divided by −8 and rounded to five significant bits, so that every ŵ is exact in f16 and bf16.
	// |ŵ − w| ≤ 0.5001·|scale|, or up to 1.26·|scale| where w has the other sign than the block's largest value and 15/16 of
	// its magnitude or more; and 1.04·2⁻²² where the scale is subnormal. For normally distributed weights the error is 8.6 % of their
	// root mean square. 4.5 bits a weight. Magnitudes from 64,512 on have no code.
	WeightsQ4
)

func (f WeightFormat) String() string {
	names := [...]string{"full", "int8", "q4"}
	if int(f) < len(names) {
		return names[f]
	}
	return fmt.Sprintf("weight format %d", uint8(f))
}

// QuantBlock is the number of inputs that share a scale in WeightsQ4; rows are padded to a multiple of it in all quantized
// formats.
const QuantBlock = 32

// ExpertBytes is what the matrix of one expert takes: In·Out values of the dtype, or in a quantized format the codes and
// scales, rounded up to 16 bytes.
func (f WeightFormat) ExpertBytes(dtype vk.DType, in, out int) uint64 {
	if f == WeightsFull {
		return uint64(in) * uint64(out) * dtype.Bytes()
	}
	codes, scales := f.rowWords(in)
	return (4*uint64(out)*uint64(codes+scales) + 15) / 16 * 16
}

// rowWords is the number of words of a row's codes and of its scales.
func (f WeightFormat) rowWords(in int) (codes, scales int) {
	blocks := check.CeilDiv(in, QuantBlock)
	if f == WeightsInt8 {
		return blocks * QuantBlock / 4, 1
	}
	return blocks * QuantBlock / 8, check.CeilDiv(blocks, 2)
}

// chunkValues is the number of weights in 16 bytes.
func (f WeightFormat) chunkValues(dtype vk.DType) int {
	switch f {
	case WeightsInt8:
		return 16
	case WeightsQ4:
		return 32
	}
	return int(16 / dtype.Bytes())
}

// A QuantizeError is a weight that has no code: a NaN, an infinity, or for WeightsQ4 a magnitude from 64,512 on. Of several it
// names the first expert and row. The codes of the row, or of its blocks with such weights, are zeros then. An upload ends with
// the piece that such a weight is in.
type QuantizeError struct {
	Format      WeightFormat
	Expert, Row int // Row is the output
}

func (e *QuantizeError) Error() string {
	want := "is not finite"
	if e.Format == WeightsQ4 {
		want += " or too large"
	}
	return fmt.Sprintf("moe: a weight of row %d of expert %d %s for %v", e.Row, e.Expert, want, e.Format)
}

// newQuantizedBank allocates the weights of a layer in its quantized format.
func newQuantizedBank(dev *vk.Device, c ParallelLinearConfig) (*ExpertBank, error) {
	words := int(c.Weights.ExpertBytes(c.DType, c.In, c.Out) / 4)
	b, err := NewExpertBank(dev, vk.U32, c.Experts, words)
	if err != nil {
		return nil, err
	}
	b.shape, b.format, b.values, b.inOut = c.weightShape(), c.Weights, c.DType, c.InOut
	return b, nil
}

// Format is how the weights are stored.
func (b *ExpertBank) Format() WeightFormat { return b.format }

// widths are In and Out of a quantized bank.
func (b *ExpertBank) widths() (in, out int) {
	if b.inOut {
		return b.shape[1], b.shape[2]
	}
	return b.shape[2], b.shape[1]
}

// words is the size of a quantized expert.
func (b *ExpertBank) words() int { return b.parts[0].Dim(1) }

// Unit is the number of consecutive elements that UploadBankAt and DownloadBankAt take together: a row, or an expert of a bank
// [E,In,Out], whose rows do not lie together. The bank must be in a quantized format.
func (b *ExpertBank) Unit() int {
	in, out := b.widths()
	if b.inOut {
		return in * out
	}
	return in
}

// quantizeKernels are the variants of quantize.
var quantizeKernels = map[WeightFormat]map[vk.DType]*vk.Kernel{
	WeightsInt8: {vk.F32: shaders.QuantizeF32Int8, vk.F16: shaders.QuantizeF16Int8, vk.BF16: shaders.QuantizeBf16Int8},
	WeightsQ4:   {vk.F32: shaders.QuantizeF32Q4, vk.F16: shaders.QuantizeF16Q4, vk.BF16: shaders.QuantizeBf16Q4},
}

const quantizeThreads = 64

// Quantize records the quantization of values, F32, F16 or BF16 of any shape, as the elements of the bank [E,Out,In] from the
// at-th on: whole rows, or of a bank [E,In,Out] whole experts, which are stored as [Out,In] all the same. It is for weights
// that are on the device; UploadBank brings them from the host. Codes are within a few 10⁻⁶ of a tie of what correct rounding
// gives. When the recorder runs, a weight without a code is a *QuantizeError; otherwise errors are as the package says.
func Quantize(rec *vk.Recorder, b *ExpertBank, at int, values *vk.Tensor) error {
	if err := b.checkQuantize(rec.Device(), at, values); err != nil {
		return rec.Fail(err)
	}
	in, out := b.widths()
	flat, err := values.Reshape(values.Elements())
	if err != nil {
		return rec.Fail(err)
	}
	for from := 0; from < flat.Elements(); {
		i := b.partOf((at + from) / (in * out))
		part := b.parts[i]
		first := at + from - b.first[i]*in*out // within the part
		n := min(flat.Elements()-from, part.Dim(0)*in*out-first)
		if b.inOut { // one expert at a time
			n = min(n, in*out)
		}
		piece, err := flat.View(from, n)
		if err != nil {
			return rec.Fail(err)
		}
		if err := b.quantize(rec, i, first/in, piece); err != nil {
			return err
		}
		from += n
	}
	return rec.Err()
}

// quantize records the rows from first on of part i.
func (b *ExpertBank) quantize(rec *vk.Recorder, i, first int, piece *vk.Tensor) error {
	in, out := b.widths()
	fault := rec.Scratch(vk.U32, 1)
	if rec.Err() != nil {
		return rec.Err()
	}
	const none = 1<<32 - 1
	rec.Fill(fault, none)
	push := shaders.QuantizePush{Src: piece.Address(), Dst: b.parts[i].Address(), Fault: fault.Address(), First: uint32(first),
		Rows: uint32(piece.Elements() / in), InWidth: uint32(in), OutWidth: uint32(out), RowStep: uint32(in), InStep: 1}
	if b.inOut {
		push.RowStep, push.InStep = 1, uint32(out)
	}
	if err := check.Record(rec, vk.Dispatch{
		Kernel: quantizeKernels[b.format][piece.DType()],
		Spec:   shaders.QuantizeSpec{Threads: quantizeThreads}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{piece, fault},
		Writes: []*vk.Tensor{b.parts[i], fault},
		FLOPs:  2 * float64(piece.Elements()),
	}, uint64(push.Rows)); err != nil {
		return err
	}
	rec.Check(fault, func(words []uint32) error {
		if words[0] == none {
			return nil
		}
		row := int(words[0])
		return &QuantizeError{b.format, b.first[i] + row/out, row % out}
	})
	return rec.Err()
}

// checkQuantize checks the arguments of Quantize.
func (b *ExpertBank) checkQuantize(dev *vk.Device, at int, values *vk.Tensor) error {
	const op = "Quantize"
	if b == nil || b.format == WeightsFull {
		return &vk.ShapeError{Op: op, Arg: "bank", Want: "one in a quantized format", Got: fmt.Sprint(b)}
	}
	if values == nil || !check.IsStorage(values.DType()) {
		return &vk.ShapeError{Op: op, Arg: "values", Want: "f32, f16 or bf16", Got: fmt.Sprint(values)}
	}
	err := check.First(
		b.checkFormat(dev, op, "bank", b.format, b.values, b.shape...),
		check.Tensor(dev, op, "values", values, values.DType(), values.Shape()...),
		b.checkSpan(op, at, values.Elements()),
	)
	if err == nil {
		err = checkApartFromBank(op, "values", values, "bank", b)
	}
	return err
}

// checkSpan reports elements that are not in the bank, or that begin or end within what is quantized together.
func (b *ExpertBank) checkSpan(op string, at, n int) error {
	if q := b.Unit(); at < 0 || at%q != 0 || n%q != 0 || at+n > b.Elements() {
		return &vk.ShapeError{Op: op, Arg: "values", Want: fmt.Sprintf("multiples of %d elements within %v", q, b),
			Got: fmt.Sprintf("%d from element %d on", n, at)}
	}
	return nil
}

// quantizePiece is how many values are staged at a time, where what is quantized together is not more.
const quantizePiece = 1 << 22

// uploadQuantized is UploadBankAt for a bank in a quantized format: it stages some MiB at a time, or the matrix of one expert
// [In,Out].
func uploadQuantized[S vk.Scalar](ctx context.Context, b *ExpertBank, at int, data []S) (err error) {
	const op = "UploadBank"
	var s S
	dtype, size := b.values, 1
	switch any(s).(type) {
	case float32:
		dtype = vk.F32
	case uint16:
		if dtype == vk.F32 {
			return &vk.ShapeError{Op: op, Arg: "data", Want: "float32 or bytes", Got: "uint16"}
		}
	case byte:
		size = int(dtype.Bytes())
	default:
		return &vk.ShapeError{Op: op, Arg: "data", Want: "float32, uint16 or bytes", Got: fmt.Sprintf("%T", s)}
	}
	if len(data)%size != 0 {
		return &vk.ShapeError{Op: op, Arg: "data", Want: fmt.Sprintf("whole values of %v", dtype), Got: fmt.Sprintf("%d bytes", len(data))}
	}
	n := len(data) / size
	if err := b.checkSpan(op, at, n); err != nil || n == 0 {
		return err
	}
	q := b.Unit()
	most := min(n, max(1, quantizePiece/q)*q)
	staging, err := b.Device().NewTensor(dtype, most)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, staging.Close()) }()
	for from := 0; from < n; from += most {
		view, err := staging.View(0, min(most, n-from))
		if err != nil {
			return err
		}
		if err := vk.Upload(ctx, view, data[from*size:][:view.Elements()*size]); err != nil {
			return err
		}
		if err := runQuantize(ctx, b, at+from, view); err != nil {
			return err
		}
	}
	return nil
}

// runQuantize is Quantize with a recorder of its own.
func runQuantize(ctx context.Context, b *ExpertBank, at int, values *vk.Tensor) (err error) {
	rec, err := b.Device().NewRecorder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	if err := Quantize(rec, b, at, values); err != nil {
		return err
	}
	return rec.Run(ctx)
}

// DownloadBankAt returns the values that n codes of a bank in a quantized format stand for, from element at on in the order of
// its shape: whole Units. Those of WeightsInt8 are rounded to f32. Errors are those of UploadBankAt.
func DownloadBankAt(ctx context.Context, b *ExpertBank, at, n int) ([]float32, error) {
	if b.format == WeightsFull {
		return nil, &vk.ShapeError{Op: "DownloadBankAt", Arg: "bank", Want: "one in a quantized format", Got: b.String()}
	}
	if err := b.checkSpan("DownloadBankAt", at, n); err != nil {
		return nil, err
	}
	in, out := b.widths()
	values := make([]float32, 0, n)
	for n > 0 {
		e, from := at/(in*out), at%(in*out)
		count := min(n, in*out-from)
		matrix, err := b.dequantized(ctx, e)
		if err != nil {
			return nil, err
		}
		values = append(values, matrix[from:from+count]...)
		at, n = at+count, n-count
	}
	return values, nil
}

// dequantized returns the values of an expert's codes, in the bank's order.
func (b *ExpertBank) dequantized(ctx context.Context, e int) ([]float32, error) {
	expert, err := b.Expert(e)
	if err != nil {
		return nil, err
	}
	words, err := vk.Download[uint32](ctx, expert)
	if err != nil {
		return nil, err
	}
	in, out := b.widths()
	codes, scales := b.format.rowWords(in)
	values := make([]float32, in*out)
	for o := range out {
		row, rowScales := words[o*codes:][:codes], words[out*codes+o*scales:][:scales]
		for i := range in {
			at := o*in + i
			if b.inOut {
				at = i*out + o
			}
			values[at] = b.format.value(row, rowScales, i)
		}
	}
	return values, nil
}

// value is ŵ of input i of a row, rounded to f32.
func (f WeightFormat) value(codes, scales []uint32, i int) float32 {
	if f == WeightsInt8 {
		code := int(codes[i/4]>>(i%4*8)&0xff) - 128
		return float32(code) * math.Float32frombits(scales[0])
	}
	code := int(codes[i/8]>>(i%8*4)&0xf) - 8
	return float32(code) * vk.FromF16(uint16(scales[i/64]>>(i/32%2*16)))
}
