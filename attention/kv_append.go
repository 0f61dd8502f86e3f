package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// kvAppendKernels are the variants for F32, F16 and BF16.
var kvAppendKernels = [3]*vk.Kernel{shaders.KvAppendF32, shaders.KvAppendF16, shaders.KvAppendBf16}

const (
	kvLanes          = 32 // work-group shape of kv_append
	kvRows           = 2
	kvAdvanceThreads = 64
)

// Append records that rows of k [T,Hkv,d] and v [T,Hkv,dv], of the cache's dtype, are appended to their sequences, of which
// offsets I32 [B+1] say which they are; rows of no sequence are left out. A sequence gets all its rows or, without room, none:
// then waiting for the run returns a *CacheFullError.
func (c *KVCache) Append(rec *vk.Recorder, k, v Heads, offsets *vk.Tensor) error {
	tokens, err := c.checkAppend(rec.Device(), k, v, offsets)
	if err != nil || tokens == 0 {
		return rec.Fail(err)
	}
	if err := c.copy(rec, k, v, tokens, offsets, 0); err != nil {
		return err
	}
	status := rec.Scratch(vk.U32, 1)
	if rec.Err() != nil {
		return rec.Err()
	}
	rec.Fill(status, noSequence)
	err = check.Record(rec, vk.Dispatch{
		Kernel: shaders.KvAdvance,
		Spec:   shaders.KvAdvanceSpec{Threads: kvAdvanceThreads}.Values(),
		Push: shaders.KvAdvancePush{Offsets: offsets.Address(), Lengths: c.Lengths.Address(), Status: status.Address(),
			Sequences: uint32(c.Config.Sequences), Capacity: uint32(c.Config.Capacity), Window: uint32(c.Config.Window)}.Bytes(),
		Reads:  []*vk.Tensor{offsets, c.Lengths},
		Writes: []*vk.Tensor{c.Lengths, status},
	}, uint64(check.CeilDiv(c.Config.Sequences, kvAdvanceThreads)))
	capacity := c.Config.Capacity
	rec.Check(status, func(words []uint32) error {
		if words[0] == noSequence {
			return nil
		}
		return &CacheFullError{Sequence: int(words[0]), Capacity: capacity}
	})
	return err
}

// noSequence is kv_advance's status when all rows had room.
const noSequence = 1<<32 - 1

// copy records kv_append: of so many rows of the source, to those that offsets say, or with a source capacity from the rows
// of another cache.
func (c *KVCache) copy(rec *vk.Recorder, k, v Heads, rows int, offsets *vk.Tensor, sourceCapacity int) error {
	cfg := c.Config
	keys, values := DenseHeads(c.Keys, cfg.KVHeads, cfg.Width), DenseHeads(c.Values, cfg.KVHeads, cfg.ValueWidth)
	push := shaders.KvAppendPush{K: k.address(), V: v.address(), Keys: keys.address(), Values: values.address(),
		Offsets: offsets.Address(), Lengths: c.Lengths.Address(), Rows: uint32(rows), Sequences: uint32(cfg.Sequences),
		Heads: uint32(cfg.KVHeads), Capacity: uint32(cfg.Capacity), SourceCapacity: uint32(sourceCapacity),
		Window: uint32(cfg.Window)}
	push.KRow, push.KHead = k.strides()
	push.VRow, push.VHead = v.strides()
	spec := shaders.KvAppendSpec{Lanes: kvLanes, Rows: kvRows, Width: uint32(cfg.Width), ValueWidth: uint32(cfg.ValueWidth),
		Quads: k.quads(cfg.Width) && v.quads(cfg.ValueWidth) && keys.quads(cfg.Width) && values.quads(cfg.ValueWidth),
		Move:  sourceCapacity > 0}
	return check.Record(rec, vk.Dispatch{
		Kernel: kvAppendKernels[cfg.DType], Spec: spec.Values(), Push: push.Bytes(),
		Reads:  []*vk.Tensor{k.Tensor, v.Tensor, offsets, c.Lengths},
		Writes: []*vk.Tensor{c.Keys, c.Values},
		FLOPs:  float64(rows) * float64(cfg.KVHeads) * float64(cfg.Width+cfg.ValueWidth),
	}, uint64(check.CeilDiv(rows, kvRows)))
}

// move records that another cache with the same lengths gets this one's rows.
func (c *KVCache) move(rec *vk.Recorder, to *KVCache) error {
	k := DenseHeads(c.Keys, c.Config.KVHeads, c.Config.Width)
	v := DenseHeads(c.Values, c.Config.KVHeads, c.Config.ValueWidth)
	return to.copy(rec, k, v, c.Config.Sequences*c.Config.Capacity, nil, c.Config.Capacity)
}

// checkAppend checks all arguments and returns T.
func (c *KVCache) checkAppend(dev *vk.Device, k, v Heads, offsets *vk.Tensor) (tokens int, err error) {
	const op = "KVCache.Append"
	cfg := c.Config
	err = check.First(
		c.check(dev, op),
		k.check(dev, op, "k", cfg.DType),
		v.check(dev, op, "v", cfg.DType),
		check.Tensor(dev, op, "offsets", offsets, vk.I32, cfg.Sequences+1),
	)
	if err != nil {
		return 0, err
	}
	tokens = k.Rows(cfg.KVHeads, cfg.Width)
	if tokens >= 1<<30 {
		return 0, &vk.ShapeError{Op: op, Arg: "k", Want: "fewer than 2^30 rows", Got: fmt.Sprint(tokens)}
	}
	if err := v.checkRows(op, "v", tokens, cfg.KVHeads, cfg.ValueWidth); err != nil {
		return 0, err
	}
	sources := []operand{{"k", k, [3]int{tokens, cfg.KVHeads, cfg.Width}}, {"v", v, [3]int{tokens, cfg.KVHeads, cfg.ValueWidth}},
		wholeOperand("offsets", offsets)}
	for _, t := range []*vk.Tensor{c.Keys, c.Values, c.Lengths} {
		for _, s := range sources {
			if err := checkHeadsApart(op, "cache", wholeOperand("cache", t), s); err != nil {
				return 0, err
			}
		}
	}
	return tokens, nil
}

// check reports a cache that is closed or another device's.
func (c *KVCache) check(dev *vk.Device, op string) error {
	if c == nil {
		return &vk.ShapeError{Op: op, Arg: "cache", Want: "a cache", Got: "nil"}
	}
	cfg := c.Config
	return check.First(
		check.Tensor(dev, op, "Keys", c.Keys, cfg.DType, cfg.Sequences, cfg.Capacity, cfg.KVHeads, cfg.Width),
		check.Tensor(dev, op, "Values", c.Values, cfg.DType, cfg.Sequences, cfg.Capacity, cfg.KVHeads, cfg.ValueWidth),
		check.Tensor(dev, op, "Lengths", c.Lengths, vk.I32, cfg.Sequences),
	)
}
