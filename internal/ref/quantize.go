package ref

import (
	"fmt"
	"math"
)

// A WeightFormat is how a matrix of weights is quantized.
type WeightFormat uint8

// The formats.
const (
	// Int8 has codes −127 to 127 and a float32 scale per row: the largest magnitude of the row divided by 127.
	Int8 WeightFormat = iota
	// Q4 has codes −8 to 7 in blocks of 32 inputs and a float16 scale per block: the value of largest magnitude, sign
	// included, divided by −8, rounded to five significant bits.
	Q4
)

// WeightFormats lists the formats.
var WeightFormats = []WeightFormat{Int8, Q4}

func (f WeightFormat) String() string { return [...]string{"int8", "q4"}[f] }

// QuantBlock is the number of inputs that share a scale in Q4, and to a multiple of which rows are padded in both formats.
const QuantBlock = 32

// The limits of the formats' scales.
const (
	// MaxQ4Scale is the largest scale of five significant bits of which eight times is a finite float16.
	MaxQ4Scale = 7936
	// MinInt8Row is the magnitude below which a row of Int8 counts as zero: its scale would be subnormal.
	MinInt8Row = 0x1p-118
)

// Quantized is a matrix [rows,in] of codes and scales; the value of a weight is its code times its scale.
type Quantized struct {
	Format   WeightFormat
	Rows, In int
	Codes    []int8    // [rows,P] with P = Padded(in); 0 beyond in
	Scales   []float32 // [rows] for Int8, [rows,P/32] for Q4
}

// Padded is in rounded up to whole blocks.
func Padded(in int) int { return (in + QuantBlock - 1) / QuantBlock * QuantBlock }

// An UnquantizableError is a row with a NaN or an infinity, or one whose scale a format cannot hold.
type UnquantizableError struct{ Row int }

func (e *UnquantizableError) Error() string { return fmt.Sprintf("ref: row %d has no codes", e.Row) }

// Quantize returns the codes of w [rows,in]: each the integer nearest to w/scale, ties to even, within the format's range. It
// fails with an *UnquantizableError of the first row that has a NaN or an infinity, or for Q4 a scale beyond MaxQ4Scale.
func Quantize[F Float](format WeightFormat, w []F, rows, in int) (*Quantized, error) {
	requireLen("Quantize", "w", len(w), rows*in)
	q := &Quantized{Format: format, Rows: rows, In: in, Codes: make([]int8, rows*Padded(in))}
	span, low, high := in, -127.0, 127.0
	if format == Q4 {
		span, low, high = QuantBlock, -8, 7
	}
	for r := range rows {
		for from := 0; from < in; from += span {
			values := w[r*in+from : r*in+min(from+span, in)]
			extreme := extremeOf(values)
			if math.IsNaN(extreme) || math.IsInf(extreme, 0) {
				return nil, &UnquantizableError{r}
			}
			scale := format.scale(extreme)
			if format == Q4 && math.Abs(scale) > MaxQ4Scale {
				return nil, &UnquantizableError{r}
			}
			q.Scales = append(q.Scales, float32(scale))
			for i, v := range values {
				if scale != 0 {
					q.Codes[r*Padded(in)+from+i] = int8(min(high, max(low, math.RoundToEven(float64(v)/scale))))
				}
			}
		}
	}
	return q, nil
}

// extremeOf is the first value of the largest magnitude; what is not finite is larger than what is.
func extremeOf[F Float](values []F) float64 {
	extreme := 0.0
	for _, v := range values {
		x := float64(v)
		if math.IsNaN(x) {
			return x
		}
		if math.Abs(x) > math.Abs(extreme) {
			extreme = x
		}
	}
	return extreme
}

// scale is the scale of values whose largest is extreme, as it is stored.
func (f WeightFormat) scale(extreme float64) float64 {
	if f == Int8 {
		if math.Abs(extreme) < MinInt8Row {
			return 0
		}
		inverse := float32(1) / 127
		return float64(float32(math.Abs(extreme)) * inverse)
	}
	scale := RoundBits(extreme/-8, 5)
	const unit = 0x1p-24                         // of subnormal float16
	return math.RoundToEven(scale/unit)*unit + 0 // never −0
}

// RoundBits rounds to so many significant bits, ties to even.
func RoundBits(v float64, bits int) float64 {
	fraction, exponent := math.Frexp(v)
	return math.Ldexp(math.RoundToEven(math.Ldexp(fraction, bits)), exponent-bits)
}

// Scale is the scale of weight i of a row.
func (q *Quantized) Scale(row, i int) float64 {
	if q.Format == Q4 {
		return float64(q.Scales[row*Padded(q.In)/QuantBlock+i/QuantBlock])
	}
	return float64(q.Scales[row])
}

// Dequantize returns the values [rows,in] of the codes, exactly.
func (q *Quantized) Dequantize() []float64 {
	w := make([]float64, 0, q.Rows*q.In)
	for r := range q.Rows {
		for i := range q.In {
			w = append(w, float64(q.Codes[r*Padded(q.In)+i])*q.Scale(r, i))
		}
	}
	return w
}

// QuantizationBound is the largest |ŵ − w| of weight w with a scale, where codes are correctly rounded.
//
// Within the range of codes, the error is half a scale. In Int8 that is all: the row's largest magnitude is
// 127·scale·(1 ± 2⁻²³), and below MinInt8Row the whole weight is lost. In Q4 the scale's rounding leaves the block's extreme m
// within 8·|scale|·(1 ± 2⁻⁵) and lostQ4 of tiny blocks, which makes it code −8 with an error below half a scale; but a value of
// the other sign whose w/scale is beyond 7.5 gets code 7 and an error of up to |m| − 7·|scale| ≤ 1.26·|scale|.
func (f WeightFormat) QuantizationBound(w, scale float64) float64 {
	if f == Int8 {
		return math.Abs(scale)*(0.5+0x1p-16) + MinInt8Row
	}
	if scale != 0 && w/scale > 7.5 {
		return 1.26*math.Abs(scale) + lostQ4
	}
	return math.Abs(scale)*0.5 + lostQ4
}

// lostQ4 is the largest weight of a block whose scale, an eighth of it, becomes 0: five significant bits make at most 2⁻²⁵ of
// 2⁻²⁵·(1 + 2⁻⁵), and half of float16's smallest number rounds to even.
const lostQ4 = 8 * 0x1p-25 * (1 + 0x1p-5)

// Pack returns the words of a matrix as kernels read them: the codes of all rows, then the scales of all rows, and zeros up to
// a multiple of four words.
//
// Int8: a byte per code, code + 128, four to a word from the low byte on; a word per scale, the float32. Q4: four bits per
// code, code + 8, eight to a word from the low bits on; sixteen bits per scale, the float16, in two to a word of its row.
func (q *Quantized) Pack() []uint32 {
	width, offset := 8, 128
	if q.Format == Q4 {
		width, offset = 4, 8
	}
	per := 32 / width
	words := make([]uint32, len(q.Codes)/per)
	for i, c := range q.Codes {
		words[i/per] |= uint32(int(c)+offset) << (i % per * width)
	}
	if q.Format == Int8 {
		for _, s := range q.Scales {
			words = append(words, math.Float32bits(s))
		}
	} else {
		blocks := Padded(q.In) / QuantBlock
		for r := range q.Rows {
			row := make([]uint32, (blocks+1)/2)
			for b := range blocks {
				row[b/2] |= uint32(float16Bits(q.Scales[r*blocks+b])) << (b % 2 * 16)
			}
			words = append(words, row...)
		}
	}
	return append(words, make([]uint32, (4-len(words)%4)%4)...)
}

// Unpack is the inverse of Pack.
func Unpack(format WeightFormat, words []uint32, rows, in int) *Quantized {
	q := &Quantized{Format: format, Rows: rows, In: in, Codes: make([]int8, rows*Padded(in))}
	width, offset := 8, 128
	if format == Q4 {
		width, offset = 4, 8
	}
	per := 32 / width
	for i := range q.Codes {
		q.Codes[i] = int8(int(words[i/per]>>(i%per*width)&(1<<width-1)) - offset)
	}
	words = words[len(q.Codes)/per:]
	blocks := Padded(in) / QuantBlock
	for r := range rows {
		if format == Int8 {
			q.Scales = append(q.Scales, math.Float32frombits(words[r]))
			continue
		}
		for b := range blocks {
			q.Scales = append(q.Scales, float16Value(uint16(words[r*((blocks+1)/2)+b/2]>>(b%2*16))))
		}
	}
	return q
}

// float16Bits are the bits of a value that is a float16.
func float16Bits(v float32) uint16 {
	sign := uint16(math.Float32bits(v) >> 16 & 0x8000)
	fraction, exponent := math.Frexp(math.Abs(float64(v))) // v = fraction·2^exponent, fraction in [0.5, 1)
	switch {
	case v == 0:
		return sign
	case exponent > -14: // normal
		return sign | uint16(exponent+14)<<10 | uint16(math.Ldexp(fraction, 11))&0x3ff
	}
	return sign | uint16(math.Ldexp(fraction, exponent+24))
}

// float16Value is the value of a finite float16.
func float16Value(bits uint16) float32 {
	exponent, fraction := int(bits>>10&31), float64(bits&0x3ff)
	v := math.Ldexp(fraction, -24)
	if exponent > 0 {
		v = math.Ldexp(1024+fraction, exponent-25)
	}
	if bits&0x8000 != 0 {
		v = -v
	}
	return float32(v)
}
