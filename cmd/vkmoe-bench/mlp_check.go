package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
)

// checkTraining compares sampled gradients of both weights, and those of a token's input and gates.
func (m *mlp) checkTraining(ctx context.Context, rng *rand.Rand) (float64, error) {
	worst := 0.0
	for _, part := range []struct {
		what  string
		check func(ctx context.Context, rng *rand.Rand) (deviation, error)
	}{{"the second weights", m.checkDown}, {"the first weights", m.checkUp}, {"the input", m.checkInput}, {"the gates", m.checkGates}} {
		d, err := part.check(ctx, rng)
		if err != nil {
			return 0, err
		}
		if !(d.relative() <= m.limit()) {
			return 0, fmt.Errorf("gradients of %s are off by %g", part.what, d.relative())
		}
		worst = math.Max(worst, d.relative())
	}
	return worst, nil
}

// slotsOf calls f for every slot of an expert.
func (m *mlp) slotsOf(e int, f func(slot int)) {
	for slot, id := range m.ids {
		if int(id) == e {
			f(slot)
		}
	}
}

// compareGradient adds one gradient of an expert's weight to a deviation.
func compareGradient(ctx context.Context, d *deviation, grads *moe.ExpertBank, e, at int, want float64) error {
	matrix, err := grads.Expert(e)
	if err != nil {
		return err
	}
	got, err := rows(ctx, matrix, at, 1)
	if err == nil {
		d.add(got[0], want)
	}
	return err
}

// checkDown compares gradients of the second weights.
func (m *mlp) checkDown(ctx context.Context, rng *rand.Rand) (d deviation, err error) {
	for range 20 {
		e, n, unit := rng.IntN(m.experts), rng.IntN(m.in), rng.IntN(m.out)
		sum := 0.0
		m.slotsOf(e, func(slot int) {
			sum += float64(m.gates[slot]) * float64(m.dy[slot/m.k*m.in+n]) * m.activated(slot, unit)
		})
		if err := compareGradient(ctx, &d, m.grads.Down.Weight, e, n*m.out+unit, sum); err != nil {
			return d, err
		}
	}
	return d, nil
}

// checkUp compares gradients of the first weights: of an activation with a gate, those of both halves.
func (m *mlp) checkUp(ctx context.Context, rng *rand.Rand) (d deviation, err error) {
	for range 10 {
		e, i, unit := rng.IntN(m.experts), rng.IntN(m.in), rng.IntN(m.out)
		column := make([]float32, m.in) // from the hidden unit
		for n := range column {
			column[n] = m.down.of(e)[n*m.out+unit]
		}
		var gate, up float64
		m.slotsOf(e, func(slot int) {
			t := slot / m.k * m.in
			dh := float64(m.gates[slot]) * dot(m.dy[t:t+m.in], column)
			dz := m.hiddenGradient(slot, unit, dh)
			gate, up = gate+dz[0]*float64(m.x[t+i]), up+dz[1]*float64(m.x[t+i])
		})
		if err := compareGradient(ctx, &d, m.grads.Up.Weight, e, unit*m.in+i, gate); err != nil {
			return d, err
		}
		if m.activation.Gated() {
			if err := compareGradient(ctx, &d, m.grads.Up.Weight, e, (m.out+unit)*m.in+i, up); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

// hiddenGradient turns the gradient of a slot's hidden unit after the activation into that before it, of gate and factor.
func (m *mlp) hiddenGradient(slot, unit int, dh float64) [2]float64 {
	gate, up := m.hidden(slot, unit)
	if m.activation.Gated() {
		return [2]float64{dh * up * ref.SiLU.Derivative(gate), dh * ref.SiLU.Of(gate)}
	}
	return [2]float64{dh * ref.GELU.Derivative(gate)}
}

// checkInput compares the gradient of a token.
func (m *mlp) checkInput(ctx context.Context, rng *rand.Rand) (d deviation, err error) {
	t := rng.IntN(m.t)
	dx, err := rows(ctx, m.grads.X, t*m.in, m.in)
	if err != nil {
		return d, err
	}
	want := make([]float64, m.in)
	for slot := t * m.k; slot < (t+1)*m.k; slot++ {
		m.addInputGradient(want, slot)
	}
	for n, v := range want {
		d.add(dx[n], v)
	}
	return d, nil
}

// addInputGradient adds a slot's share of its token's dX.
func (m *mlp) addInputGradient(dx []float64, slot int) {
	e, dy := int(m.ids[slot]), m.dy[slot/m.k*m.in:(slot/m.k+1)*m.in]
	up, down := m.up.of(e), m.down.of(e)
	dh := make([]float64, m.out)
	for n, v := range dy {
		for unit := range dh {
			dh[unit] += float64(m.gates[slot]) * float64(v) * float64(down[n*m.out+unit])
		}
	}
	add := func(n int, dz float64) {
		for i, w := range up[n*m.in:][:m.in] {
			dx[i] += dz * float64(w)
		}
	}
	for unit, v := range dh {
		dz := m.hiddenGradient(slot, unit, v)
		add(unit, dz[0])
		if m.activation.Gated() {
			add(m.out+unit, dz[1])
		}
	}
}

// checkGates compares that of a slot: how its token's output gradient goes along the expert's result. Such a sum may happen to be
// small, so errors are held against the size of its terms.
func (m *mlp) checkGates(ctx context.Context, rng *rand.Rand) (d deviation, err error) {
	h := make([]float32, m.out)
	for range 2 {
		slot := rng.IntN(m.slots())
		got, err := rows(ctx, m.grads.Gates, slot, 1)
		if err != nil {
			return d, err
		}
		for unit := range h {
			h[unit] = float32(m.activated(slot, unit))
		}
		down, want := m.down.of(int(m.ids[slot])), 0.0
		for n, v := range m.dy[slot/m.k*m.in:][:m.in] {
			term := float64(v) * dot(h, down[n*m.out:])
			want += term
			d.norm += term * term
		}
		d.diff += (float64(got[0]) - want) * (float64(got[0]) - want)
	}
	return d, nil
}
