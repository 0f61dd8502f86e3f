package main

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// route is the routing of random logits: top-k, gates, grouping by expert and the tile map.
type route struct {
	*bench
	values  []float32
	logits  *vk.Tensor
	routing *moe.Routing // of the last recording
}

func (r *route) prepare(ctx context.Context) (err error) {
	r.values = make([]float32, r.t*r.experts)
	for i := range r.values {
		r.values[i] = float32(r.rng.NormFloat64())
	}
	if r.logits, err = r.dev.NewTensor(vk.F32, r.t, r.experts); err != nil {
		return err
	}
	r.closers = append(r.closers, r.logits.Close)
	return vk.Upload(ctx, r.logits, r.values)
}

func (r *route) record(rec *vk.Recorder) (err error) {
	r.routing, err = moe.Route(rec, r.logits, moe.RouterConfig{TopK: r.k})
	return err
}

func (r *route) cost() (flops, bytes float64) { return 0, 4 * float64(len(r.values)) }

func (r *route) memory() uint64 { return 0 }

// check holds the choices against the logits and the grouping against the choices.
func (r *route) check(ctx context.Context) (float64, error) {
	ids, err := vk.Download[int32](ctx, r.routing.IDs)
	if err != nil {
		return 0, err
	}
	for t := range r.t {
		row, chosen := r.values[t*r.experts:(t+1)*r.experts], map[int32]bool{}
		least := row[ids[t*r.k]]
		for _, id := range ids[t*r.k : (t+1)*r.k] {
			chosen[id] = true
			least = min(least, row[id])
		}
		for e, v := range row {
			if len(chosen) != r.k || v > least && !chosen[int32(e)] {
				return 0, fmt.Errorf("token %d: experts %v are not the best", t, ids[t*r.k:(t+1)*r.k])
			}
		}
	}
	want := ref.Route(ids, r.t, r.experts, r.k)
	order, err := vk.Download[int32](ctx, r.routing.Order)
	if err != nil {
		return 0, err
	}
	for p, slot := range order {
		if int32(want.Order[p]) != slot {
			return 0, fmt.Errorf("position %d holds slot %d instead of %d", p, slot, want.Order[p])
		}
	}
	return 0, nil
}
