package moe

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// What slots' rows [T·K,D] that are only added up may take: those beyond slotBytes are made in two halves of the columns, the first a
// multiple of slotColumns so that no tile of a matrix is cut. A part ends with work-groups that leave the device half empty and reads
// its input once more: with two of them forward passes at 8,192 tokens took about 1 % more time on an H100, with four of them 2 %.
const (
	slotBytes   = 128 << 20
	slotColumns = 256
)

// columnsOfSlots is how many columns of the rows of so many slots are in memory at once.
func columnsOfSlots(slots, width int, dtype vk.DType) int {
	if uint64(slots)*uint64(width)*dtype.Bytes() <= slotBytes {
		return width
	}
	return halfOfColumns(width)
}

// halfOfColumns is a half of so many columns, rounded up to whole tiles.
func halfOfColumns(width int) int {
	return min(width, check.CeilDiv(width, 2*slotColumns)*slotColumns)
}

// sumSlots records out[t] (+)= Σ_j gate[t,j]·l(row of x of slot t·K + j) for a grouped x [T·K,In] and out [T,Out], as many columns at
// a time as rows [T·K,…] has, in which the slots' rows then are. With the same tiles no bit depends on how many. The options' Columns do not matter.
func sumSlots(rec *vk.Recorder, r *Routing, l *ParallelLinear, x, gates, rows, out *vk.Tensor, o CombineOptions) error {
	if rec.Err() != nil {
		return rec.Err()
	}
	width := l.Config.Out
	for first := 0; first < width; first += rows.Dim(1) {
		o.Columns = Columns{first, min(rows.Dim(1), width-first)}
		slots, err := rows.View(0, r.Slots(), o.Columns.Count)
		if err != nil {
			return rec.Fail(err)
		}
		if err := l.Forward(rec, r, x, slots, LinearOptions{In: Grouped, Columns: o.Columns}); err != nil {
			return err
		}
		if err := CombineWith(rec, r, slots, gates, out, Scattered, o); err != nil {
			return err
		}
	}
	return nil
}
