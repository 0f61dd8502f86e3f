package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// Rows records the routing of the tokens from to to − 1 by themselves: what belongs to each of a batch's tokens, such as the
// experts' results, can then be computed for some of them at a time, in less memory. Ids and gates are views of r's, the rest is
// RouteBytes of scratch, which Release gives back. Errors: see the package.
func (r *Routing) Rows(rec *vk.Recorder, from, to int) (*Routing, error) {
	if from < 0 || from > to || to > r.Tokens {
		return nil, rec.Fail(&vk.ShapeError{Op: "Routing.Rows", Arg: "range", Want: fmt.Sprintf("within %d tokens", r.Tokens),
			Got: fmt.Sprintf("%d to %d", from, to)})
	}
	err := check.Tensor(rec.Device(), "Routing.Rows", "routing.IDs", r.IDs, vk.I32, r.Tokens, r.K)
	if err == nil {
		err = check.Optional(rec.Device(), "Routing.Rows", "routing.Gates", r.Gates, vk.F32, r.Tokens, r.K)
	}
	part := &Routing{Tokens: to - from, K: r.K, Experts: r.Experts, Router: r.Router}
	if err == nil {
		part.IDs, err = r.IDs.View(from*r.K, part.Tokens, r.K)
	}
	if err == nil && r.Gates != nil {
		part.Gates, err = r.Gates.View(from*r.K, part.Tokens, r.K)
	}
	if err != nil {
		return nil, rec.Fail(err)
	}
	status, err := part.group(rec)
	rec.Release(status) // the ids were judged with r
	return part, err
}

// Release lets the recorder reuse the memory of a routing that nothing recorded from then on reads. Ids and gates stay.
func (r *Routing) Release(rec *vk.Recorder) {
	for _, t := range []*vk.Tensor{r.Order, r.Inverse, r.Offsets, r.Tiles, r.TileArgs} {
		rec.Release(t)
	}
}
