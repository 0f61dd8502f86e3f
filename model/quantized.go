package model

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// Quantized weights are made piece by piece while a checkpoint is read, and written as the values that they stand for.

// pieces calls use with the elements of a quantized tensor, as many at a time as fit loadPiece, and one row or transposed
// expert at least.
func (n NamedTensor) pieces(use func(from, count int) error) error {
	unit := n.Quantized.Unit()
	most := max(1, loadPiece/unit) * unit
	for from := 0; from < n.Elements(); from += most {
		if err := use(from, min(most, n.Elements()-from)); err != nil {
			return fmt.Errorf("model: %s: %w", n.Name, err)
		}
	}
	return nil
}

// loadQuantized is LoadTensor for quantized weights: values of the bank's dtype go to the device as they are, others as
// float32, and are quantized there.
func loadQuantized(ctx context.Context, source tensorSource, t NamedTensor) error {
	info, err := source.Info(t.Name)
	if err != nil {
		return err
	}
	same := info.DType == storedAs[t.DType()]
	return t.pieces(func(from, count int) error {
		if same {
			raw := make([]byte, count*int(t.DType().Bytes()))
			if err := source.ReadBytesAt(t.Name, raw, from); err != nil {
				return err
			}
			return moe.UploadBankAt(ctx, t.Quantized, t.At+from, raw)
		}
		values := make([]float32, count)
		if err := source.ReadFloat32At(t.Name, values, from); err != nil {
			return err
		}
		return moe.UploadBankAt(ctx, t.Quantized, t.At+from, values)
	})
}

// writeQuantized writes the values of quantized weights in the bank's dtype.
func writeQuantized(ctx context.Context, w io.Writer, t NamedTensor) error {
	return t.pieces(func(from, count int) error {
		values, err := moe.DownloadBankAt(ctx, t.Quantized, t.At+from, count)
		if err != nil {
			return err
		}
		raw := make([]byte, 0, count*int(t.DType().Bytes()))
		for _, v := range values {
			bits := vk.Bits(t.DType(), v)
			if t.DType() == vk.F32 {
				raw = binary.LittleEndian.AppendUint32(raw, bits)
			} else {
				raw = binary.LittleEndian.AppendUint16(raw, uint16(bits))
			}
		}
		_, err = w.Write(raw)
		return err
	})
}
