package ref

import "sync"

// MLPValues are the output and the gradients of an MLP without the scales that Result has.
type MLPValues struct {
	Out, X         []float64 // [T,D]
	Logits, Gates  []float64 // [T,E] and [T,K]: gradients
	Router         []float64 // [E,D]
	Up, UpBias     []float64
	Down, DownBias []float64
}

// MLPValuesOf computes what Forward and MLPBackward do from x and dOut [T,D] for given experts ids [T,K], expert by expert
// on gathered rows by a blocked product: for shapes at which one slot at a time takes minutes. A test holds it to them.
// The layer has weights [E,out,in] and neither shared experts nor a bias of the router.
func MLPValuesOf[F Float](m MLP[F], x, dOut []F, tokens int, ids []int32) MLPValues {
	r := Route(ids, tokens, m.Router.Out, m.K)
	logits := make([]float64, tokens*r.Experts)
	x64, dOut64, router := Widen(x), Widen(dOut), Widen(m.Router.Weight)
	addProduct(logits, x64, router, tokens, r.Experts, m.Router.In)
	gates := GatesOf(m.Mode, logits, ids, tokens, r.Experts, m.K)
	v := MLPValues{
		Out: make([]float64, len(x)), X: make([]float64, len(x)), Gates: make([]float64, r.Slots()),
		Router: make([]float64, len(router)),
		Up:     make([]float64, len(m.Up.Weight)), UpBias: make([]float64, r.Experts*m.Up.Out),
		Down: make([]float64, len(m.Down.Weight)), DownBias: make([]float64, r.Experts*m.Down.Out),
	}
	outs := make([]expertRows, r.Experts)
	var wait sync.WaitGroup
	for e := range outs {
		wait.Go(func() { outs[e] = expertValues(m, &v, r, e, x64, dOut64, gates) })
	}
	wait.Wait()
	width := m.Down.Out
	for s := range r.Slots() {
		if !r.Valid(s) {
			continue
		}
		e, t := r.IDs[s], s/r.K
		row := int(r.Inverse[s]-r.Offsets[e]) * width
		for c := range width {
			v.Out[t*width+c] += gates[s] * outs[e].y[row+c]
			v.X[t*width+c] += outs[e].dx[row+c]
		}
	}
	v.Logits = GatesBackward(m.Mode, logits, ids, v.Gates, tokens, r.Experts, m.K).Y
	addProduct(v.Router, Transposed(v.Logits, tokens, r.Experts), Transposed(x64, tokens, width), r.Experts, width, tokens)
	addProduct(v.X, v.Logits, Transposed(router, r.Experts, width), tokens, width, r.Experts)
	return v
}

// expertRows are one expert's rows in grouped order.
type expertRows struct{ y, dx []float64 }

// expertValues runs one expert forward and backward and fills in its gradients and those of its slots' gates.
func expertValues[F Float](m MLP[F], v *MLPValues, r *Routing, e int, x, dOut, gates []float64) expertRows {
	width, hidden, columns := m.Up.In, m.Down.In, m.Up.Out
	slots := r.Order[r.Offsets[e]:r.Offsets[e+1]]
	n := len(slots)
	xs, dys := make([]float64, n*width), make([]float64, n*width)
	for i, s := range slots {
		t := int(s) / r.K
		copy(xs[i*width:], x[t*width:(t+1)*width])
		copy(dys[i*width:], dOut[t*width:(t+1)*width])
	}
	up, down := Widen(m.Up.Weight[e*columns*width:(e+1)*columns*width]), Widen(m.Down.Weight[e*width*hidden:(e+1)*width*hidden])
	z, y := biasRows(m.Up, e, n), biasRows(m.Down, e, n)
	addProduct(z, xs, up, n, columns, width)
	h := m.activate(z, n, hidden).Y
	addProduct(y, h, down, n, width, hidden)
	for i, s := range slots {
		for c := range width {
			v.Gates[s] += dys[i*width+c] * y[i*width+c]
			dys[i*width+c] *= gates[s]
		}
	}
	dh, dx := make([]float64, n*hidden), make([]float64, n*width)
	addProduct(dh, dys, Transposed(down, width, hidden), n, hidden, width)
	dz := m.activateBackward(z, dh, n, hidden).Y
	addProduct(dx, dz, Transposed(up, columns, width), n, width, columns)
	dysT, dzT := Transposed(dys, n, width), Transposed(dz, n, columns)
	addProduct(v.Down[e*width*hidden:(e+1)*width*hidden], dysT, Transposed(h, n, hidden), width, hidden, n)
	addProduct(v.Up[e*columns*width:(e+1)*columns*width], dzT, Transposed(xs, n, width), columns, width, n)
	sumRows(v.DownBias[e*width:(e+1)*width], dysT, n)
	sumRows(v.UpBias[e*columns:(e+1)*columns], dzT, n)
	return expertRows{y, dx}
}

// biasRows returns n rows of an expert's bias, or zeros.
func biasRows[F Float](l Linear[F], e, n int) []float64 {
	rows := make([]float64, 0, n*l.Out)
	bias := make([]float64, l.Out)
	if l.Bias != nil {
		bias = Widen(l.Bias[e*l.Out : (e+1)*l.Out])
	}
	for range n {
		rows = append(rows, bias...)
	}
	return rows
}

// sumRows adds each row [n] of a to one element of sums.
func sumRows(sums, a []float64, n int) {
	for i := range sums {
		for _, x := range a[i*n : (i+1)*n] {
			sums[i] += x
		}
	}
}

// Transposed returns a [rows,columns] as [columns,rows].
func Transposed[E float32 | float64](a []E, rows, columns int) []E {
	out := make([]E, len(a))
	for i := range rows {
		for j := range columns {
			out[j*rows+i] = a[i*columns+j]
		}
	}
	return out
}

// addProduct adds a·bᵀ to c: a [m,k], b [n,k], c [m,n]. Blocks of four rows by two let each value that is read serve several
// sums.
func addProduct(c, a, b []float64, m, n, k int) {
	for i := 0; i+4 <= m; i += 4 {
		for j := 0; j+2 <= n; j += 2 {
			// All slices have the length of b0, which lets the compiler drop the bounds checks.
			b0 := b[j*k : (j+1)*k]
			b1 := b[(j+1)*k:][:len(b0)]
			a0, a1 := a[i*k:][:len(b0)], a[(i+1)*k:][:len(b0)]
			a2, a3 := a[(i+2)*k:][:len(b0)], a[(i+3)*k:][:len(b0)]
			var s00, s01, s10, s11, s20, s21, s30, s31 float64
			for p, x := range b0 {
				y := b1[p]
				s00 += a0[p] * x
				s01 += a0[p] * y
				s10 += a1[p] * x
				s11 += a1[p] * y
				s20 += a2[p] * x
				s21 += a2[p] * y
				s30 += a3[p] * x
				s31 += a3[p] * y
			}
			c[i*n+j] += s00
			c[i*n+j+1] += s01
			c[(i+1)*n+j] += s10
			c[(i+1)*n+j+1] += s11
			c[(i+2)*n+j] += s20
			c[(i+2)*n+j+1] += s21
			c[(i+3)*n+j] += s30
			c[(i+3)*n+j+1] += s31
		}
	}
	for i := range m {
		first := 0
		if i < m/4*4 {
			first = n / 2 * 2
		}
		for j := first; j < n; j++ {
			for p := range k {
				c[i*n+j] += a[i*k+p] * b[j*k+p]
			}
		}
	}
}
