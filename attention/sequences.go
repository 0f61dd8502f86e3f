package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// Sequences say which rows belong together, and where they are in time.
type Sequences struct {
	// Offsets I32 [B+1]: sequence b has the rows Offsets[b] to Offsets[b+1] − 1; they ascend. Unless Padded they run from 0 to
	// T: if they do not, waiting for the run returns a *SequenceError.
	Offsets *vk.Tensor

	// Padded says that rows may belong to no sequence, so that one recording serves batches of different lengths. The heads of
	// such a row are 0, and so are the gradients of its query, key and value: only biases, gates and the router learn from its
	// dy. It costs a pass of writing over heads and these gradients.
	Padded bool

	// Positions I32 [T] are the RoPE's positions of the rows. nil counts each sequence's rows from 0. One that is not in the
	// RoPE's table makes its row NaN; RoPE.CheckPositions, once for all layers, makes an error of it.
	Positions *vk.Tensor
}

// A SequenceError is offsets of sequences that do not run from 0 to the number of rows.
type SequenceError struct {
	First, Last int // what the offsets begin and end with
	Rows        int
}

func (e *SequenceError) Error() string {
	return fmt.Sprintf("attention: the sequences have rows %d to %d of %d", e.First, e.Last, e.Rows)
}

// check records a look at the offsets' ends, unless there may be padding.
func (s Sequences) check(rec *vk.Recorder, rows int) {
	if s.Padded {
		return
	}
	first, last := view(rec, s.Offsets, 0, 1), view(rec, s.Offsets, s.Offsets.Dim(0)-1, 1)
	if rec.Err() != nil {
		return
	}
	rec.Check(first, func(words []uint32) error {
		if words[0] == 0 {
			return nil
		}
		return &SequenceError{First: int(int32(words[0])), Last: rows, Rows: rows}
	})
	rec.Check(last, func(words []uint32) error {
		if int(int32(words[0])) == rows {
			return nil
		}
		return &SequenceError{Last: int(int32(words[0])), Rows: rows}
	})
}

// checkSequences reports sequences that cannot be those of so many rows.
func checkSequences(dev *vk.Device, op string, rows int, seq Sequences) error {
	if seq.Offsets == nil || seq.Offsets.Rank() != 1 || seq.Offsets.Dim(0) < 1 {
		return &vk.ShapeError{Op: op, Arg: "offsets", Want: "i32[B+1]", Got: fmt.Sprint(seq.Offsets)}
	}
	err := check.Tensor(dev, op, "offsets", seq.Offsets, vk.I32, seq.Offsets.Dim(0))
	if err == nil && seq.Positions != nil {
		err = check.Tensor(dev, op, "positions", seq.Positions, vk.I32, rows)
	}
	return err
}
