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

// sumOf adds up f of every slot of an expert.
func (m *mlp) sumOf(e int, f func(slot int) [2]float64) (sum [2]float64) {
	var slots []int
	for slot, id := range m.ids {
		if int(id) == e {
			slots = append(slots, slot)
		}
	}
	terms := make([][2]float64, len(slots))
	inParallel(len(slots), func(i int) { terms[i] = f(slots[i]) })
	for _, t := range terms {
		sum[0], sum[1] = sum[0]+t[0], sum[1]+t[1]
	}
	return sum
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
		sum := m.sumOf(e, func(slot int) [2]float64 {
			return [2]float64{float64(m.gates[slot]) * float64(m.dy[slot/m.k*m.in+n]) * m.activated(slot, unit)}
		})
		if err := compareGradient(ctx, &d, m.grads.Down.Weight, e, n*m.out+unit, sum[0]); err != nil {
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
		sum := m.sumOf(e, func(slot int) [2]float64 {
			t := slot / m.k * m.in
			dh := float64(m.gates[slot]) * dot(m.dy[t:t+m.in], column)
			dz := m.hiddenGradient(slot, unit, dh)
			return [2]float64{dz[0] * float64(m.x[t+i]), dz[1] * float64(m.x[t+i])}
		})
		if err := compareGradient(ctx, &d, m.grads.Up.Weight, e, unit*m.in+i, sum[0]); err != nil {
			return d, err
		}
		if m.activation.Gated() {
			if err := compareGradient(ctx, &d, m.grads.Up.Weight, e, (m.out+unit)*m.in+i, sum[1]); err != nil {
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
	dz := make([][2]float64, m.out)
	inParallel(m.out, func(unit int) {
		dh := 0.0
		for n, v := range dy {
			dh += float64(v) * float64(down[n*m.out+unit])
		}
		dz[unit] = m.hiddenGradient(slot, unit, float64(m.gates[slot])*dh)
	})
	inParallel(m.in, func(i int) {
		for unit, v := range dz {
			dx[i] += v[0] * float64(up[unit*m.in+i])
			if m.activation.Gated() {
				dx[i] += v[1] * float64(up[(m.out+unit)*m.in+i])
			}
		}
	})
}

// checkGates compares that of a slot: how its token's output gradient goes along the expert's result. Such a sum may happen to be
// small, so errors are held against the size of its terms.
func (m *mlp) checkGates(ctx context.Context, rng *rand.Rand) (d deviation, err error) {
	for range 2 {
		slot := rng.IntN(m.slots())
		got, err := rows(ctx, m.grads.Gates, slot, 1)
		if err != nil {
			return d, err
		}
		h, down, terms := m.activatedRow(slot), m.down.of(int(m.ids[slot])), make([]float64, m.in)
		inParallel(m.in, func(n int) { terms[n] = float64(m.dy[slot/m.k*m.in+n]) * dot(h, down[n*m.out:]) })
		want := 0.0
		for _, term := range terms {
			want += term
			d.norm += term * term
		}
		d.diff += (float64(got[0]) - want) * (float64(got[0]) - want)
	}
	return d, nil
}
