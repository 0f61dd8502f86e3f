package attention

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MaxHeadWidth is the largest width of a query, key or value head.
const MaxHeadWidth = 256

// maxHeads bounds the numbers of heads, which are 16-bit numbers on the device.
const maxHeads = 1<<16 - 1

// A FlashConfig describes an attention.
type FlashConfig struct {
	Heads, KVHeads    int      // Hq, a multiple of Hkv
	Width, ValueWidth int      // d of queries and keys, dv of values and the output; 1 to MaxHeadWidth
	Tiled             bool     // query head h reads key/value head h mod KVHeads, as mixtures do, instead of h / (Heads/KVHeads)
	Causal            bool     // a query sees no key beyond its own position
	Window            int      // above 0: a query at position p sees keys beyond p − Window only
	SoftCap           float32  // c above 0: scores become c·tanh(score/c) after scaling
	Scale             float32  // of q·k; 0 means 1/√Width
	DType             vk.DType // of queries, keys, values and the output: F32, F16 or BF16
	Path              moe.Path // family of kernels; the zero value takes the one measured to be fastest on devices like this
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c FlashConfig) Validate() error {
	const name = "FlashConfig"
	err := check.First(
		check.InRange(name, "Heads", c.Heads, 1, maxHeads),
		check.InRange(name, "KVHeads", c.KVHeads, 1, maxHeads),
		check.InRange(name, "Width", c.Width, 1, MaxHeadWidth),
		check.InRange(name, "ValueWidth", c.ValueWidth, 1, MaxHeadWidth),
		check.InRange(name, "Window", c.Window, 0, math.MaxInt32/2),
	)
	switch {
	case err != nil:
		return err
	case c.Heads%c.KVHeads != 0:
		return check.Config(name, "Heads", fmt.Sprintf("a multiple of KVHeads, %d", c.KVHeads), fmt.Sprint(c.Heads))
	case !(c.SoftCap >= 0) || math.IsInf(float64(c.SoftCap), 0):
		return check.Config(name, "SoftCap", "0 or above, finite", fmt.Sprint(c.SoftCap))
	case math.IsNaN(float64(c.Scale)) || math.IsInf(float64(c.Scale), 0):
		return check.Config(name, "Scale", "finite", fmt.Sprint(c.Scale))
	case !check.IsStorage(c.DType):
		return check.Config(name, "DType", "f32, f16 or bf16", c.DType.String())
	case c.Path > moe.PathCoopMat:
		return check.Config(name, "Path", "auto, portable or coopmat", c.Path.String())
	}
	return nil
}

// scale is what q·k is multiplied with.
func (c FlashConfig) scale() float32 {
	if c.Scale != 0 {
		return c.Scale
	}
	return float32(1 / math.Sqrt(float64(c.Width)))
}

// group is how many query heads share a key/value head.
func (c FlashConfig) group() int { return c.Heads / c.KVHeads }

// A FlashInput are the operands of an attention over B sequences.
//
// Without KeyCapacity the keys of sequence b are rows [KeyOffsets[b], KeyOffsets[b+1]) of K and V. With it K and V are
// caches: the keys that sequence b had so far are numbered from 0 to KeyLengths[b], and key j is in row
// b·KeyCapacity + j mod KeyCapacity; of more than KeyCapacity keys only the last so many are there, and the others are not
// seen. A KVCache fills these in.
//
// Query i of a sequence's n, with m keys, has position i + m − n.
type FlashInput struct {
	Q, K, V      Heads      // [T,Hq,d], [Tk,Hkv,d], [Tk,Hkv,dv]
	QueryOffsets *vk.Tensor // I32 [B+1]
	KeyOffsets   *vk.Tensor // I32 [B+1]; nil: those of the queries
	Sinks        *vk.Tensor // F32 [Hq]: a logit of the softmax's denominator that has no value; nil for none

	KeyCapacity int        // rows of each sequence in a cache, 0 without one
	KeyLengths  *vk.Tensor // I32 [B], with KeyCapacity

	MaxQueries, MaxKeys int // bounds of one sequence's queries and keys where better ones than T and Tk are known; else 0
}

// sequences is B.
func (in FlashInput) sequences() int {
	if in.QueryOffsets == nil || in.QueryOffsets.Rank() != 1 {
		return 0
	}
	return in.QueryOffsets.Dim(0) - 1
}

// keyOffsets are the offsets of the keys.
func (in FlashInput) keyOffsets() *vk.Tensor {
	if in.KeyOffsets == nil {
		return in.QueryOffsets
	}
	return in.KeyOffsets
}

// check checks all operands and returns T and Tk.
func (in FlashInput) check(dev *vk.Device, op string, cfg FlashConfig) (tokens, keys int, err error) {
	if err := cfg.Validate(); err != nil {
		return 0, 0, err
	}
	b := in.sequences()
	if b < 0 || in.QueryOffsets == nil || in.QueryOffsets.Rank() != 1 {
		return 0, 0, &vk.ShapeError{Op: op, Arg: "QueryOffsets", Want: "i32[B+1]", Got: shapeOf(in.QueryOffsets)}
	}
	err = check.First(
		check.Tensor(dev, op, "QueryOffsets", in.QueryOffsets, vk.I32, b+1),
		in.Q.check(dev, op, "Q", cfg.DType),
		in.K.check(dev, op, "K", cfg.DType),
		in.V.check(dev, op, "V", cfg.DType),
		in.checkKeys(dev, op, b),
	)
	if err == nil && in.Sinks != nil {
		err = check.Tensor(dev, op, "Sinks", in.Sinks, vk.F32, cfg.Heads)
	}
	if err != nil {
		return 0, 0, err
	}
	tokens, keys = in.Q.Rows(cfg.Heads, cfg.Width), in.K.Rows(cfg.KVHeads, cfg.Width)
	err = in.V.checkRows(op, "V", keys, cfg.KVHeads, cfg.ValueWidth)
	switch {
	case err != nil:
	case in.KeyCapacity > 0 && b > keys/in.KeyCapacity:
		err = &vk.ShapeError{Op: op, Arg: "K", Want: fmt.Sprintf("%d rows for each of %d sequences", in.KeyCapacity, b),
			Got: fmt.Sprintf("%d rows", keys)}
	case tokens*cfg.Heads >= 1<<31 || keys >= 1<<30:
		err = &vk.ShapeError{Op: op, Arg: "Q and K", Want: "fewer than 2^31 query heads and 2^30 keys",
			Got: fmt.Sprintf("%d and %d", tokens*cfg.Heads, keys)}
	}
	return tokens, keys, err
}

// checkKeys checks what says which keys belong to a sequence.
func (in FlashInput) checkKeys(dev *vk.Device, op string, b int) error {
	err := check.First(
		check.InRange("FlashInput", "KeyCapacity", in.KeyCapacity, 0, math.MaxInt32),
		check.InRange("FlashInput", "MaxQueries", in.MaxQueries, 0, math.MaxInt32),
		check.InRange("FlashInput", "MaxKeys", in.MaxKeys, 0, math.MaxInt32),
	)
	switch {
	case err != nil:
		return err
	case in.KeyCapacity > 0 && in.KeyOffsets != nil:
		return &vk.ShapeError{Op: op, Arg: "KeyOffsets", Want: "nil beside KeyCapacity", Got: in.KeyOffsets.String()}
	case in.KeyCapacity > 0:
		return check.Tensor(dev, op, "KeyLengths", in.KeyLengths, vk.I32, b)
	case in.KeyLengths != nil:
		return &vk.ShapeError{Op: op, Arg: "KeyLengths", Want: "nil without KeyCapacity", Got: in.KeyLengths.String()}
	case in.KeyOffsets != nil:
		return check.Tensor(dev, op, "KeyOffsets", in.KeyOffsets, vk.I32, b+1)
	}
	return nil
}

// shapeOf prints a tensor that may be nil.
func shapeOf(t *vk.Tensor) string {
	if t == nil {
		return "nil"
	}
	return t.String()
}
