package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlp is a sparse MLP with experts chosen beforehand: grouping, experts and weighted sum, and in training the gradients of
// input, gates and weights too.
type mlp struct {
	*bench
	training bool

	x, dy, gates   []float32
	up, down       bankValues
	layer          *moe.MLP
	grads          *moe.MLPGrads
	xs, ys, dys    *vk.Tensor
	idsOn, gatesOn *vk.Tensor
	space          *vk.Tensor // the memory of the gradient of the first weights
	saveIn         *vk.Tensor // that of the second, or nil
}

// savedBytes is what the activation's input takes from which on it is saved in the gradient of the second weights: below, a percent of
// the time is worth more.
const savedBytes = 128 << 20

// columns is the width of an expert's hidden rows before the activation.
func (m *mlp) columns() int {
	if m.activation.Gated() {
		return 2 * m.out
	}
	return m.out
}

func (m *mlp) config() moe.MLPConfig {
	return moe.MLPConfig{Experts: m.experts, TopK: m.k, Width: m.in, Hidden: m.out, Activation: m.activation, DType: m.dtype}
}

func (m *mlp) prepare(ctx context.Context) (err error) {
	m.x = uniform(m.rng, m.dtype, m.t*m.in, 1)
	m.gates = uniform(m.rng, vk.F32, m.slots(), 1)
	if m.layer, err = moe.NewMLP(m.dev, m.config()); err != nil {
		return err
	}
	m.closers = append(m.closers, m.layer.Close)
	if m.up, err = m.fill(ctx, m.layer.Up.Weight, float32(2/math.Sqrt(float64(m.in)))); err != nil {
		return err
	}
	if m.down, err = m.fill(ctx, m.layer.Down.Weight, float32(2/math.Sqrt(float64(m.out)))); err != nil {
		return err
	}
	if m.xs, err = m.upload(ctx, m.x, m.t, m.in); err != nil {
		return err
	}
	if m.ys, err = m.tensor(m.t, m.in); err != nil {
		return err
	}
	if m.idsOn, err = m.deviceIDs(ctx); err != nil {
		return err
	}
	if m.gatesOn, err = m.dev.NewTensor(vk.F32, m.t, m.k); err != nil {
		return err
	}
	m.closers = append(m.closers, m.gatesOn.Close)
	if err := vk.Upload(ctx, m.gatesOn, m.gates); err != nil || !m.training {
		return err
	}
	m.dy = uniform(m.rng, m.dtype, m.t*m.in, 1)
	if m.dys, err = m.upload(ctx, m.dy, m.t, m.in); err != nil {
		return err
	}
	if m.grads, err = m.layer.NewGrads(); err != nil {
		return err
	}
	m.closers = append(m.closers, m.grads.Close)
	m.grads.Router = moe.WeightGrads{} // the experts are given
	m.space = m.grads.Up.Weight.Parts()[0]
	if uint64(m.slots())*uint64(m.columns())*m.dtype.Bytes() >= savedBytes {
		m.saveIn = m.grads.Down.Weight.Parts()[0]
	}
	m.grads.X = m.ys // the next layer is done with y by then
	m.grads.Gates, err = m.dev.NewTensor(vk.F32, m.t, m.k)
	if err == nil {
		m.closers = append(m.closers, m.grads.Gates.Close)
	}
	return err
}

func (m *mlp) record(rec *vk.Recorder) error {
	routing, err := moe.RouteIDs(rec, m.idsOn, m.gatesOn, m.experts)
	if err != nil {
		return err
	}
	o := moe.ForwardOptions{Routing: routing, Save: moe.SaveNothing}
	if m.training { // what takes the least memory: the activation again, and the gradients of the weights as workspace
		o.Save, o.Workspace, o.SaveIn = moe.RecomputeActivation, m.space, m.saveIn
	}
	saved, err := m.layer.ForwardWith(rec, m.xs, m.ys, o)
	if err != nil || !m.training {
		return err
	}
	return m.layer.Backward(rec, saved, m.xs, m.dys, *m.grads)
}

func (m *mlp) cost() (flops, bytes float64) {
	weights := float64(m.in) * float64(m.out+m.columns())
	flops, bytes = 2*float64(m.slots())*weights, float64(m.active())*weights*float64(m.dtype.Bytes())
	if m.training { // twice as many operations backward; weights are read twice and their gradients written
		flops, bytes = 3*flops, 3*bytes
	}
	return flops, bytes
}

// memory is the output's, where the gradient of the input will be, and of training that of all gradients.
func (m *mlp) memory() uint64 {
	if !m.training {
		return m.ys.Bytes()
	}
	return m.ys.Bytes() + m.grads.Gates.Bytes() + m.grads.Up.Weight.Bytes() + m.grads.Down.Weight.Bytes()
}

// hidden returns z, of a slot: all of it, or of one hidden unit.
func (m *mlp) hidden(slot, unit int) (gate, up float64) {
	e, x := int(m.ids[slot]), m.x[slot/m.k*m.in:(slot/m.k+1)*m.in]
	row := func(n int) float64 { return dot(x, m.up.of(e)[n*m.in:]) }
	if m.activation.Gated() {
		return row(unit), row(m.out + unit)
	}
	return row(unit), 1
}

// activated is the activation of a slot's hidden unit.
func (m *mlp) activated(slot, unit int) float64 {
	gate, up := m.hidden(slot, unit)
	if m.activation.Gated() {
		return ref.SiLU.Of(gate) * up
	}
	return ref.GELU.Of(gate)
}

// activatedRow is those of all of a slot's hidden units.
func (m *mlp) activatedRow(slot int) []float32 {
	h := make([]float32, m.out)
	inParallel(len(h), func(unit int) { h[unit] = float32(m.activated(slot, unit)) })
	return h
}

// limit is how far results may be from the reference, relative to all of them: a few roundings of intermediates, whose
// errors are independent.
func (m *mlp) limit() float64 { return max(1e-4, 4*refType[m.dtype].Storage()) }

// check compares the outputs of sampled tokens, or sampled gradients: that of the input is where the outputs were.
func (m *mlp) check(ctx context.Context) (float64, error) {
	rng := rand.New(rand.NewPCG(2, 3))
	if m.training {
		return m.checkTraining(ctx, rng)
	}
	var d deviation
	for range 2 {
		t := rng.IntN(m.t)
		y := make([]float64, m.in)
		for slot := t * m.k; slot < (t+1)*m.k; slot++ {
			h, matrix := m.activatedRow(slot), m.down.of(int(m.ids[slot]))
			inParallel(len(y), func(n int) { y[n] += float64(m.gates[slot]) * dot(h, matrix[n*m.out:]) })
		}
		got, err := rows(ctx, m.ys, t*m.in, m.in)
		if err != nil {
			return 0, err
		}
		for n, v := range y {
			d.add(got[n], v)
		}
	}
	if !(d.relative() <= m.limit()) {
		return 0, fmt.Errorf("outputs are off by %g", d.relative())
	}
	return d.relative(), nil
}

// dot is the product of a with as much of b, in four sums so that additions need not wait for each other.
func dot(a, b []float32) float64 {
	var sum [4]float64
	b = b[:len(a)]
	for len(a) >= 4 {
		sum[0] += float64(a[0]) * float64(b[0])
		sum[1] += float64(a[1]) * float64(b[1])
		sum[2] += float64(a[2]) * float64(b[2])
		sum[3] += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		sum[0] += float64(v) * float64(b[i])
	}
	return sum[0] + sum[1] + sum[2] + sum[3]
}
