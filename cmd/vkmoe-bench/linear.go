package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// linear is a ParallelLinear: forward from scattered tokens to grouped rows, or backward the gradient of the input of each
// slot from grouped rows.
type linear struct {
	*bench
	backward bool

	x, dy      []float32
	w          bankValues
	routing    *moe.Routing
	layer      *moe.ParallelLinear
	xs, ys     *vk.Tensor
	dxs        *vk.Tensor
	routingRec *vk.Recorder       // keeps the routing's tensors
	wants      map[int]ref.Result // of slots that have been checked before
	samples    int                // slots to check, 4 for 0
}

func (l *linear) prepare(ctx context.Context) (err error) {
	l.x = uniform(l.rng, l.dtype, l.t*l.in, 1)
	if err := l.makeLayer(ctx); err != nil {
		return err
	}
	if !l.backward {
		if l.xs, err = l.upload(ctx, l.x, l.t, l.in); err != nil {
			return err
		}
		if l.ys, err = l.tensor(l.slots(), l.out); err != nil {
			return err
		}
		return l.route(ctx)
	}
	l.dy = uniform(l.rng, l.dtype, l.slots()*l.out, 1)
	if l.xs, err = l.tensor(l.slots(), l.in); err != nil { // not read
		return err
	}
	if l.dxs, err = l.tensor(l.slots(), l.in); err != nil {
		return err
	}
	if l.ys, err = l.upload(ctx, l.dy, l.slots(), l.out); err != nil {
		return err
	}
	return l.route(ctx)
}

// makeLayer makes a layer with random weights, unless there is one.
func (l *linear) makeLayer(ctx context.Context) (err error) {
	if l.layer != nil {
		return nil
	}
	if l.layer, err = moe.NewParallelLinear(l.dev, moe.ParallelLinearConfig{Experts: l.experts, In: l.in, Out: l.out,
		DType: l.dtype, Weights: l.weights}); err != nil {
		return err
	}
	l.closers = append(l.closers, l.layer.Close)
	l.w, err = l.fill(ctx, l.layer.Weight, float32(1/math.Sqrt(float64(l.in))))
	return err
}

// route groups the tokens once.
func (l *linear) route(ctx context.Context) error {
	ids, err := l.deviceIDs(ctx)
	if err != nil {
		return err
	}
	if l.routingRec, err = l.recorder(); err != nil {
		return err
	}
	if l.routing, err = moe.RouteIDs(l.routingRec, ids, nil, l.experts); err != nil {
		return err
	}
	return l.routingRec.Run(ctx)
}

func (l *linear) record(rec *vk.Recorder) error {
	if l.backward {
		return l.layer.Backward(rec, l.routing, l.xs, l.ys, moe.LinearGrads{X: l.dxs}, moe.LinearOptions{Out: moe.Grouped})
	}
	return l.layer.Forward(rec, l.routing, l.xs, l.ys, moe.LinearOptions{Out: moe.Grouped})
}

func (l *linear) cost() (flops, bytes float64) {
	return 2 * float64(l.slots()) * float64(l.in) * float64(l.out),
		float64(l.active()) * float64(l.weights.ExpertBytes(l.dtype, l.in, l.out))
}

func (l *linear) memory() uint64 {
	if l.backward {
		return l.dxs.Bytes()
	}
	return l.ys.Bytes()
}

// expertWeights are the weights that an expert multiplies by.
func (l *linear) expertWeights(ctx context.Context, e int) ([]float32, error) {
	if l.weights == moe.WeightsFull {
		return l.w.of(e), nil
	}
	return moe.DownloadBankAt(ctx, l.layer.Weight, e*l.in*l.out, l.in*l.out)
}

// check compares the rows of sampled slots.
func (l *linear) check(ctx context.Context) (float64, error) {
	results, width := l.ys, l.out
	if l.backward {
		results, width = l.dxs, l.in
	}
	r := ref.Route(l.ids, l.t, l.experts, l.k)
	rng := rand.New(rand.NewPCG(2, 3))
	var d deviation
	for range cmp.Or(l.samples, 4) {
		slot := rng.IntN(l.slots())
		e, position := int(l.ids[slot]), int(r.Inverse[slot])
		at, in := position*l.out, l.in
		if l.backward {
			at, in = slot*l.in, l.out
		}
		want, err := l.want(ctx, slot, e, position)
		if err != nil {
			return 0, err
		}
		got, err := rows(ctx, results, at, width)
		if err != nil {
			return 0, err
		}
		c := ref.Compare(got, want.Y, want.Bound(refType[l.dtype], in+2)) // two roundings more of quantized weights
		if !(c.Worst.Ratio <= 1) {
			return 0, fmt.Errorf("slot %d is wrong: %+v", slot, c)
		}
		for i, v := range want.Y {
			d.add(got[i], v)
		}
	}
	return d.relative(), nil
}

// want is what a slot's row should be, at a position in grouped order.
func (l *linear) want(ctx context.Context, slot, expert, position int) (ref.Result, error) {
	if want, ok := l.wants[slot]; ok {
		return want, nil
	}
	one := ref.Linear[float32]{Experts: 1, In: l.in, Out: l.out}
	var err error
	if one.Weight, err = l.expertWeights(ctx, expert); err != nil {
		return ref.Result{}, err
	}
	var row []float32
	if l.backward { // the transposed matrix, from grouped rows to scattered
		one.In, one.Out, one.InOut = l.out, l.in, true
		row = l.dy[position*l.out : (position+1)*l.out]
	} else {
		row = l.x[slot/l.k*l.in : (slot/l.k+1)*l.in]
	}
	want := ref.Scatter2scatterSlot(one, row, ref.Route(make([]int32, 1), 1, 1, 1), ref.Layout{GroupedOut: true}, 0, 1)
	if l.wants == nil {
		l.wants = map[int]ref.Result{}
	}
	l.wants[slot] = want
	return want, nil
}

// weightGradient is dW of a ParallelLinear, from tokens x and grouped rows dy.
type weightGradient struct{ linear }

func (g *weightGradient) prepare(ctx context.Context) (err error) {
	g.x = uniform(g.rng, g.dtype, g.t*g.in, 1)
	g.dy = uniform(g.rng, g.dtype, g.slots()*g.out, 1)
	if g.layer, err = moe.NewParallelLinear(g.dev, moe.ParallelLinearConfig{Experts: g.experts, In: g.in, Out: g.out,
		DType: g.dtype}); err != nil {
		return err
	}
	g.closers = append(g.closers, g.layer.Close)
	if g.xs, err = g.upload(ctx, g.x, g.t, g.in); err != nil {
		return err
	}
	if g.ys, err = g.upload(ctx, g.dy, g.slots(), g.out); err != nil {
		return err
	}
	if g.dxs, err = g.tensor(g.experts, g.out, g.in); err != nil {
		return err
	}
	return g.route(ctx)
}

func (g *weightGradient) record(rec *vk.Recorder) error {
	bank, err := moe.BankOfTensor(g.dxs)
	if err != nil {
		return err
	}
	return g.layer.Backward(rec, g.routing, g.xs, g.ys, moe.LinearGrads{Weight: bank}, moe.LinearOptions{Out: moe.Grouped})
}

func (g *weightGradient) memory() uint64 { return g.dxs.Bytes() }

// check compares sampled rows of dW.
func (g *weightGradient) check(ctx context.Context) (float64, error) {
	r := ref.Route(g.ids, g.t, g.experts, g.k)
	rng := rand.New(rand.NewPCG(2, 3))
	var d deviation
	for range 6 {
		e, m := rng.IntN(g.experts), rng.IntN(g.out)
		want := ref.Result{Y: make([]float64, g.in), Abs: make([]float64, g.in)}
		for _, slot := range r.Order[r.Offsets[e]:r.Offsets[e+1]] {
			dy := float64(g.dy[int(r.Inverse[slot])*g.out+m])
			for n, x := range g.x[int(slot)/g.k*g.in:][:g.in] {
				want.Y[n] += dy * float64(x)
				want.Abs[n] += math.Abs(dy * float64(x))
			}
		}
		got, err := rows(ctx, g.dxs, (e*g.out+m)*g.in, g.in)
		if err != nil {
			return 0, err
		}
		c := ref.Compare(got, want.Y, want.Bound(refType[g.dtype], int(r.Counts[e])))
		if !(c.Worst.Ratio <= 1) {
			return 0, fmt.Errorf("row %d of dW[%d] is wrong: %+v", m, e, c)
		}
		for n, v := range want.Y {
			d.add(got[n], v)
		}
	}
	return d.relative(), nil
}
