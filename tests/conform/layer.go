package conform

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// layerCase is what the cases of attention layers have in common: how a pass is made, over which sequences.
type layerCase struct {
	dtype      vk.DType
	lengths    []int
	save       moe.Save
	accumulate bool
	odd        bool
	steps      [][]int // of a decoding: rows that each step appends to each sequence
}

// layerLengths are sequences' lengths.
var layerLengths = []struct {
	name    string
	lengths []int
}{{"ragged", []int{17, 1, 0, 40}}, {"n1", []int{1}}, {"n65", []int{65}}, {"none", []int{0, 0}}}

// decodeSteps are what each step appends to two sequences: prompts, chunks, nothing for one or both, single tokens. Steps of as many
// rows share their kernels, which a CPU driver takes long to compile: the short ones are the required list's.
var decodeSteps = []struct {
	name  string
	steps [][]int
}{
	{"short", [][]int{{3, 1}, {2, 2}, {0, 4}, {1, 3}, {4, 0}}},
	{"steps", [][]int{{9, 5}, {4, 0}, {1, 1}, {1, 1}, {3, 17}, {0, 0}, {1, 1}, {0, 2}}},
}

// layerOptions are ways to make a pass: b_ the backward pass only, f_ the forward pass.
var layerOptions = []struct {
	name   string
	change func(c *layerCase)
}{
	{"plain", func(*layerCase) {}},
	{"odd", func(c *layerCase) { c.odd = true }},
	{"recompute", func(c *layerCase) { c.save = moe.RecomputeActivation }},
	{"f_inference", func(c *layerCase) { c.save = moe.SaveNothing }},
	{"b_accumulate", func(c *layerCase) { c.accumulate = true }},
}

// layer is an attention layer of a case.
type layer interface {
	forward(k *Kit, c layerCase) func()
	backward(k *Kit, c layerCase) func()
	decode(k *Kit, c layerCase) func()
	decodes() bool
}

// layerCases adds the cases of one layer's configurations; of the first few, those that a required list needs.
func layerCases(add func(Case), op string, names []string, of func(i int) layer) {
	for d, dtype := range storages {
		for i, config := range names {
			l := of(i)
			emit := func(pass, lengths, option string, required bool, record func(*Kit) func()) {
				add(Case{Name: fmt.Sprintf("%s.%s.%v.auto.%s.%s.%s", op, pass, dtype, config, lengths, option), Required: required, Record: record})
			}
			for j, n := range layerLengths {
				for m, option := range layerOptions {
					c := layerCase{dtype: dtype, lengths: n.lengths}
					option.change(&c)
					if m > 1 && (i+j+m)%2 == 1 {
						continue
					}
					required := j == 0 && i == (d+m)%len(names)
					switch name, only := cutPass(option.name); {
					case only != "b":
						emit("forward", n.name, name, required && m == 0, func(k *Kit) func() { return l.forward(k, c) })
						if only == "f" {
							continue
						}
						fallthrough
					default:
						emit("backward", n.name, name, required && m == 0, func(k *Kit) func() { return l.backward(k, c) })
					}
				}
			}
			for j, n := range decodeSteps {
				if !l.decodes() {
					continue
				}
				for m, option := range layerOptions[:2] {
					c := layerCase{dtype: dtype, steps: n.steps}
					option.change(&c)
					emit("decode", n.name, option.name, j == 0 && m == 0 && i == d, func(k *Kit) func() { return l.decode(k, c) })
				}
			}
		}
	}
}

// cutPass takes the pass to which an option is confined from its name.
func cutPass(option string) (name, only string) {
	if len(option) > 2 && option[1] == '_' {
		return option[2:], option[:1]
	}
	return option, ""
}

// tokens is the number of rows.
func (c layerCase) tokens() int {
	n := 0
	for _, l := range c.lengths {
		n += l
	}
	return n
}

// whole is the case of a forward pass over what the steps add up to.
func (c layerCase) whole() layerCase {
	c.lengths = make([]int, len(c.steps[0]))
	for _, step := range c.steps {
		for b, n := range step {
			c.lengths[b] += n
		}
	}
	return c
}

// capacity is the least that a cache needs for the steps. With a window its rows are used again and again.
func (c layerCase) capacity(window int) int {
	most, whole := 0, 0
	for b, n := range c.whole().lengths {
		whole = max(whole, n)
		for _, step := range c.steps {
			most = max(most, step[b])
		}
	}
	if window > 0 {
		return min(whole, window-1+most)
	}
	return whole
}

// tolerance is the largest relative error (Frobenius norm) of a result: the growth of f32 roundings over all sums on the way,
// which have so many terms, and so many roundings to the storage type. Those of n stages are independent, so that about √n count:
// 4 on the way to an output, 8 to a gradient.
func (c layerCase) tolerance(terms, roundings int) float64 {
	return ref.Gamma(terms) + float64(roundings)*refTypes[c.dtype].Storage()
}

// values draws rows of normally distributed values.
func (c layerCase) values(k *Kit, width int) []float32 { return k.Normal(c.dtype, c.tokens()*width) }

// weights draws n weights of maps with so many inputs, so that values neither grow nor vanish.
func (k *Kit) weights(dtype vk.DType, n, in int) []float32 {
	data := k.Normal(vk.F32, n)
	for i := range data {
		data[i] /= float32(math.Sqrt(float64(in)))
	}
	return vk.Round(dtype, data)
}

// replace gives a linear map of a layer banded weights instead of its own, and returns them as the oracle's.
func (k *Kit) replace(name string, l *moe.ParallelLinear) ref.Linear[float32] {
	if l == nil {
		return ref.Linear[float32]{}
	}
	c := l.Config
	o := ref.Linear[float32]{Experts: c.Experts, In: c.In, Out: c.Out, InOut: c.InOut, Weight: k.weights(c.DType, c.Experts*c.In*c.Out, c.In)}
	shape := l.Weight.Shape()
	k.must(l.Weight.Close())
	l.Weight = k.bankOf(k.Floats(name, c.DType, o.Weight, shape...))
	if c.Bias {
		o.Bias = k.weights(c.DType, c.Experts*c.Out, 4)
		k.must(l.Bias.Close())
		l.Bias = k.bankOf(k.Floats(name+"_bias", c.DType, o.Bias, c.Experts, c.Out))
	}
	return o
}

// replaceVector does the same for a norm or sinks, of values around 1; t points to the layer's own, nil where it has none.
func (k *Kit) replaceVector(name string, t **vk.Tensor) []float32 {
	if *t == nil {
		return nil
	}
	data := k.Normal(vk.F32, (*t).Elements())
	for i := range data {
		data[i] = 1 + data[i]/4
	}
	data = vk.Round((*t).DType(), data)
	dtype := (*t).DType()
	k.must((*t).Close())
	*t = k.Floats(name, dtype, data, len(data))
	return data
}

// gradientTargets are the outputs of a backward pass by name, with what they held before.
type gradientTargets struct {
	k       *Kit
	c       layerCase
	targets map[string]target
}

func (c layerCase) gradients(k *Kit) *gradientTargets {
	return &gradientTargets{k, c, map[string]target{}}
}

// of makes the target of one gradient.
func (g *gradientTargets) of(name string, dtype vk.DType, shape ...int) *vk.Tensor {
	g.targets[name] = linearCase{accumulate: g.c.accumulate}.target(g.k, "d"+name, dtype, false, shape...)
	return g.targets[name].t
}

// linear makes those of a linear map.
func (g *gradientTargets) linear(name string, l *moe.ParallelLinear) moe.WeightGrads {
	if l == nil {
		return moe.WeightGrads{}
	}
	w := moe.WeightGrads{Weight: g.k.bankOf(g.of(name, g.c.dtype, l.Weight.Shape()...))}
	if l.Bias != nil {
		w.Bias = g.k.bankOf(g.of(name+"_bias", g.c.dtype, l.Bias.Shape()...))
	}
	return w
}

// vector makes that of a norm or sinks.
func (g *gradientTargets) vector(name string, t *vk.Tensor) *vk.Tensor {
	if t == nil {
		return nil
	}
	return g.of(name, t.DType(), t.Elements())
}

// judge compares all of them with the oracle's.
func (g *gradientTargets) judge(want map[string][]float64, tolerance float64) {
	for name, t := range g.targets {
		w := append([]float64(nil), want[name]...)
		for i, s := range t.start {
			w[i] += float64(s)
		}
		g.k.Norm("d"+name, t.t, w, tolerance)
	}
}

// Norm is Frobenius, with the norm of values of 1/8 in place of a smaller one: where terms cancel, as they do in the gradients
// of a query that sees one key only, the sum is judged by what it is made of.
func (k *Kit) Norm(name string, t *vk.Tensor, want []float64, tolerance float64) {
	k.relative(name, k.Values(t), want, tolerance, 0.125)
}

// sequences makes the offsets of a pass.
func (c layerCase) sequences(k *Kit, name string, lengths []int) attention.Sequences {
	return attention.Sequences{Offsets: k.I32(name, offsetsOf(lengths), len(lengths)+1)}
}

// decoding is a layer's decoding in one recording: a cache that is emptied first, and one output per step.
type decoding struct {
	cache   *attention.KVCache
	outputs []*vk.Tensor
	rows    [][]int // of the whole, by step
}

// record records the steps on rows xs of the whole sequences.
func (d *decoding) record(k *Kit, c layerCase, cfg attention.KVCacheConfig, width int, xs []float32,
	step func(x, y *vk.Tensor, seq attention.Sequences) error) {
	d.cache = k.cache(cfg)
	k.Rec.Fill(d.cache.Lengths, 0)
	next := offsetsOf(c.whole().lengths)
	for s, counts := range c.steps {
		var rows []int
		var in []float32
		for b, n := range counts {
			for range n {
				rows = append(rows, int(next[b]))
				in = append(in, xs[int(next[b])*width:][:width]...)
				next[b]++
			}
		}
		y := k.Output(fmt.Sprintf("y_%d", s), c.dtype, len(rows), width)
		x := k.Floats(fmt.Sprintf("x_%d", s), c.dtype, in, len(rows), width)
		k.must(step(x, y, c.sequences(k, fmt.Sprintf("offsets_%d", s), counts)))
		d.outputs, d.rows = append(d.outputs, y), append(d.rows, rows)
	}
}

// judge compares every step with the rows of the whole, and the cache's lengths.
func (d *decoding) judge(k *Kit, c layerCase, width int, want []float64, tolerance float64) {
	for s, y := range d.outputs {
		var rows []float64
		for _, row := range d.rows[s] {
			rows = append(rows, want[row*width:(row+1)*width]...)
		}
		k.Norm(fmt.Sprintf("y_%d", s), y, rows, tolerance)
	}
	var lengths []int32
	for _, n := range c.whole().lengths {
		lengths = append(lengths, int32(n))
	}
	k.EqualInts("lengths", k.Ints(d.cache.Lengths), lengths)
}

// cache makes a cache inside guard bands; of its rows some may stay unwritten.
func (k *Kit) cache(cfg attention.KVCacheConfig) *attention.KVCache {
	k.must(cfg.Validate())
	return &attention.KVCache{Config: cfg, Lengths: k.Output("lengths", vk.I32, cfg.Sequences),
		Keys:   k.PartialOutput("keys", cfg.DType, cfg.Sequences, cfg.Capacity, cfg.KVHeads, cfg.Width),
		Values: k.PartialOutput("values", cfg.DType, cfg.Sequences, cfg.Capacity, cfg.KVHeads, cfg.ValueWidth)}
}

// rope makes a table of angles for the case's positions.
func (k *Kit) rope(cfg *attention.RoPEConfig) *attention.RoPE {
	if cfg == nil {
		return nil
	}
	r, err := attention.NewRoPE(k.Ctx, k.Dev, *cfg, 128)
	k.must(err)
	k.closes = append(k.closes, r.Close)
	return r
}

// ropeOracle is the oracle's form of a configuration that gives every number itself; of a head the elements from first on turn.
func ropeOracle(c *attention.RoPEConfig, first int) ref.RoPE {
	if c == nil {
		return ref.RoPE{Base: 1}
	}
	kinds := map[attention.RoPEScaling]ref.RoPEScalingKind{attention.ScaleNone: ref.NoScaling, attention.ScaleYaRN: ref.YaRNScaling}
	return ref.RoPE{First: first, Width: c.Width, Interleaved: c.Interleaved, Base: c.Base, Scaling: ref.RoPEScaling{Kind: kinds[c.Scaling],
		Factor: c.Factor, OriginalLength: float64(c.OriginalPositions), BetaFast: c.BetaFast, BetaSlow: c.BetaSlow,
		KeepFractions: c.NoTruncate, MScale: c.MScale, MScaleAllDim: c.MScaleAllDim, AttentionFactor: c.AttentionFactor}}
}
