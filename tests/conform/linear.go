package conform

import (
	"math"
	"slices"
	"strings"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// linearCase is one use of ParallelLinear.
type linearCase struct {
	shape
	x, w, y vk.DType
	path    moe.Path
	layout  ref.Layout
	spread  spread

	bias, gates, inOut, accumulate bool

	banks bool // every expert in a tensor of its own
	odd   bool // no operand is aligned to more than its element
	exact bool // data whose sums are exact in f32, so that the result has to be too
	wide  bool // gradients of 16-bit weights in f32
	parts bool // y some columns at a time

	format moe.WeightFormat // of the forward pass only
}

// withOption sets what the last word of a case's name says.
func (c linearCase) withOption(name string) linearCase {
	for _, word := range strings.Split(name, "_") {
		switch word {
		case "plain":
		case "bias":
			c.bias = true
		case "gates":
			c.gates = true
		case "inout":
			c.inOut = true
		case "accumulate":
			c.accumulate = true
		case "banks":
			c.banks = true
		case "odd":
			c.odd = true
		case "exact":
			c.exact = true
		case "wide":
			c.wide = true
		case "parts":
			c.parts = true
		default:
			panic("conform: no option " + word)
		}
	}
	return c
}

// linearRun is a linearCase on the device.
type linearRun struct {
	layer   *moe.ParallelLinear
	routing *moe.Routing
	x       *vk.Tensor
	opts    moe.LinearOptions

	weights ref.Linear[float32]
	want    *ref.Routing
	xs      []float32
	gates   []float32
}

func (c linearCase) values(k *Kit, dtype vk.DType, n int) []float32 {
	if !c.exact {
		return k.Normal(dtype, n)
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(k.Rand.Intn(9)-4) / 2
	}
	return out
}

// bank makes weights [E, …].
func (c linearCase) bank(k *Kit, name string, dtype vk.DType, data []float32, shape ...int) *moe.ExpertBank {
	if !c.banks {
		b, err := moe.BankOfTensor(k.Floats(name, dtype, data, shape...))
		k.must(err)
		return b
	}
	var experts []*vk.Tensor
	size := len(data) / shape[0]
	for e := range shape[0] {
		experts = append(experts, k.Floats(name+suffix(e), dtype, data[e*size:(e+1)*size], shape[1:]...))
	}
	b, err := moe.BankOfExperts(k.Dev, experts)
	k.must(err)
	k.closes = append(k.closes, b.Close)
	return b
}

func (c linearCase) weightShape() []int {
	if c.inOut {
		return []int{c.experts, c.in, c.out}
	}
	return []int{c.experts, c.out, c.in}
}

// setUp makes everything but outputs.
func (c linearCase) setUp(k *Kit) linearRun {
	if c.odd {
		k.Shift = 1
	}
	var run linearRun
	run.routing, run.want = k.route(c.spread.ids(k.Rand, c.slots(), c.experts), c.shape)
	run.xs = c.values(k, c.x, c.layout.InRows(run.want)*c.in)
	run.weights = ref.Linear[float32]{Experts: c.experts, In: c.in, Out: c.out, InOut: c.inOut,
		Weight: c.values(k, c.w, c.experts*c.in*c.out)}
	run.layer = &moe.ParallelLinear{Config: moe.ParallelLinearConfig{Experts: c.experts, In: c.in, Out: c.out, Bias: c.bias,
		InOut: c.inOut, DType: c.w, Path: c.path}}
	if c.format == moe.WeightsFull {
		run.layer.Weight = c.bank(k, "weight", c.w, run.weights.Weight, c.weightShape()...)
	} else {
		run.layer.Config.Weights, run.layer.Config.Bias = c.format, false
		run.layer = k.quantized(run.layer.Config, run.weights.Weight, c.w)
		run.layer.Config.Bias = c.bias
	}
	if c.bias {
		run.weights.Bias = c.values(k, c.w, c.experts*c.out)
		run.layer.Bias = c.bank(k, "bias", c.w, run.weights.Bias, c.experts, c.out)
	}
	if c.gates {
		run.gates = c.values(k, vk.F32, c.slots())
		run.opts.Gates = k.F32("gates", run.gates, c.tokens, c.k)
	}
	run.opts.In, run.opts.Out = groupedIf(c.layout.GroupedIn), groupedIf(c.layout.GroupedOut)
	run.x = k.Floats("x", c.x, run.xs, c.layout.InRows(run.want), c.in)
	return run
}

// forward records y = ParallelLinear(x).
func (c linearCase) forward(k *Kit) func() {
	run := c.setUp(k)
	run.opts.Accumulate = c.accumulate
	y := c.target(k, "y", c.y, true, c.slots(), c.out)
	for _, run.opts.Columns = range c.columns() {
		k.must(run.layer.Forward(k.Rec, run.routing, run.x, y.t, run.opts))
	}
	return func() {
		terms := c.in
		if c.format != moe.WeightsFull {
			k.judgeCodes(run.layer, run.weights.Weight)
			var err error
			run.weights.Weight, err = moe.DownloadBank[float32](k.Ctx, run.layer.Weight)
			k.must(err)
			terms += 2 // roundings: that of the scale, and that of the oracle's weights to f32
		}
		want := ref.Scatter2scatter(run.weights, run.xs, run.want, c.layout, run.gates)
		y.judge(k, "y", want, want.Bound(refTypes[c.y], terms), c.exact)
	}
}

// columns are those of y that are computed at a time: all, or the second half and then the first.
func (c linearCase) columns() []moe.Columns {
	if !c.parts {
		return []moe.Columns{{}}
	}
	first := c.out / 2 / 8 * 8
	if first == 0 {
		return []moe.Columns{{Count: c.out}}
	}
	return []moe.Columns{{First: first, Count: c.out - first}, {Count: first}}
}

// backward records the gradients that op names: dx, dw, db, dgates or all.
func (c linearCase) backward(k *Kit, op string) func() {
	run := c.setUp(k)
	dys := c.values(k, c.w, c.slots()*c.out)
	dy := k.Floats("dy", c.w, dys, c.slots(), c.out)
	weights := c.w
	if c.wide {
		weights = vk.F32
	}
	want := func(name string) bool { return op == name || op == "all" }
	g := moe.LinearGrads{AccumulateX: c.accumulate, AccumulateWeights: c.accumulate, AccumulateGates: c.accumulate}
	var dx, dw, db, dgates target
	if want("dx") {
		dx = c.target(k, "dx", c.x, true, run.x.Shape()...)
		g.X = dx.t
	}
	if want("dw") {
		dw = c.target(k, "dw", weights, false, c.weightShape()...)
		g.Weight = k.bankOf(dw.t)
	}
	if want("db") && c.bias {
		db = c.target(k, "db", weights, false, c.experts, c.out)
		g.Bias = k.bankOf(db.t)
	}
	if want("dgates") {
		dgates = c.target(k, "dgates", vk.F32, false, c.tokens, c.k)
		g.Gates = dgates.t
	}
	k.must(run.layer.Backward(k.Rec, run.routing, run.x, dy, g, run.opts))
	return func() {
		w := ref.Scatter2scatterBackward(run.weights, run.xs, run.want, c.layout, run.gates, dys)
		dx.judge(k, "dx", w.X, gradientBound(w.X, c.x, c.out*c.k+1, c.w), c.exact)
		between := vk.F32
		if c.path != moe.PathPortable && c.gates {
			between = c.w // cooperative matrices take the product of gate and row as one 16-bit value
		}
		dw.judge(k, "dw", w.Weight, gradientBound(w.Weight, weights, c.slots()+1, between), c.exact)
		db.judge(k, "db", w.Bias, gradientBound(w.Bias, weights, c.slots(), vk.F32), c.exact)
		dgates.judge(k, "dgates", w.Gates, gradientBound(w.Gates, vk.F32, c.in+c.out+2, c.w), c.exact)
	}
}

// bankOf makes a bank of one tensor.
func (k *Kit) bankOf(t *vk.Tensor) *moe.ExpertBank {
	b, err := moe.BankOfTensor(t)
	k.must(err)
	return b
}

// gradientBound is the bound of sums of so many terms in f32 that are stored as dtype and of which parts were stored as
// another in between, where they may be subnormal and lose up to its least value, each time as large a factor as any drawn.
func gradientBound(want ref.Result, dtype vk.DType, terms int, between vk.DType) []float64 {
	const largest = 8
	relative := ref.Tolerance(refTypes[dtype], terms) + 1.1*refTypes[between].Storage()
	absolute := ref.Underflow(refTypes[dtype], terms) + largest*float64(terms)*ref.Underflow(refTypes[between], 0)
	return want.BoundBy(relative, absolute)
}

// target is an output and what it held before, where it is added to.
type target struct {
	t     *vk.Tensor
	start []float32
}

// target makes an output, full of values when the case accumulates. A partial one has rows that nobody may own.
func (c linearCase) target(k *Kit, name string, dtype vk.DType, partial bool, shape ...int) target {
	switch {
	case c.accumulate:
		start := c.values(k, dtype, elements(shape))
		return target{k.InOut(name, dtype, start, shape...), start}
	case partial && c.spread.invalid:
		return target{t: k.PartialOutput(name, dtype, shape...)}
	}
	return target{t: k.Output(name, dtype, shape...)}
}

// judge compares the output with what the oracle adds to what it held. An element that was left alone must be one to which
// nothing is added.
func (o target) judge(k *Kit, name string, want ref.Result, bound []float64, exact bool) {
	if o.t == nil {
		return
	}
	dtype := o.t.DType()
	y := slices.Clone(want.Y)
	for i, s := range o.start {
		y[i] += float64(s)
		bound[i] += (2*ref.UnitF32 + refTypes[dtype].Storage()) * (math.Abs(y[i]) + math.Abs(float64(s)))
	}
	if exact {
		bound = nil
		for i := range y {
			y[i] = float64(vk.Round(dtype, []float32{float32(y[i])})[0])
		}
	}
	got := k.Values(o.t)
	bits, err := k.words(o.t)
	k.must(err)
	for i, w := range bits {
		if w == k.poison(dtype) {
			if want.Abs[i] != 0 {
				k.Fail(CheckUnwritten, name, "element %d was not written and is %v to the oracle", i, y[i])
				return
			}
			got[i] = 0
		}
	}
	k.compare(name, got, y, bound)
}
