package conform

import (
	"fmt"
	"math"
	"slices"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// oddIf shifts all tensors of a case.
func (k *Kit) oddIf(odd bool) {
	if odd {
		k.Shift = 1
	}
}

// tokenIDs draws ids, some of them outside [0, vocabulary).
func (k *Kit) tokenIDs(n, vocabulary int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(k.Rand.Intn(vocabulary))
		switch k.Rand.Intn(20) {
		case 0:
			ids[i] = []int32{-1, math.MinInt32}[k.Rand.Intn(2)]
		case 1:
			ids[i] = []int32{int32(vocabulary), math.MaxInt32}[k.Rand.Intn(2)]
		}
	}
	return ids
}

// embeddingCases look rows up and add gradients up; ids that name no row take no part.
func embeddingCases(add func(Case)) {
	sizes := []struct{ tokens, vocabulary, width int }{{0, 3, 4}, {1, 1, 1}, {7, 5, 3}, {64, 256, 32}, {300, 11, 33}, {1000, 2, 8}}
	for _, dtype := range storages {
		for i, s := range sizes {
			for j, option := range []string{"plain", "odd"} {
				name := fmt.Sprintf("t%d_v%d_w%d", s.tokens, s.vocabulary, s.width)
				add(Case{Name: fmt.Sprintf("embedding.forward.%v.%s.%s", dtype, name, option), Required: i == 4-j,
					Record: func(k *Kit) func() { return embedForward(k, dtype, s.tokens, s.vocabulary, s.width, j == 1) }})
				for m, grad := range []vk.DType{dtype, vk.F32} {
					if m == 1 && dtype == vk.F32 {
						continue
					}
					types := dtype.String()
					if m == 1 {
						types += "_f32"
					}
					for n, accumulate := range []bool{false, true} {
						how := joinOption(option, "accumulate")
						if !accumulate {
							how = option
						}
						add(Case{Name: fmt.Sprintf("embedding.backward.%s.%s.%s", types, name, how), Required: i == 4 && j == n,
							Record: func(k *Kit) func() {
								return embedBackward(k, dtype, grad, s.tokens, s.vocabulary, s.width, j == 1, accumulate)
							}})
					}
				}
			}
		}
	}
}

func embedForward(k *Kit, dtype vk.DType, tokens, vocabulary, width int, odd bool) func() {
	k.oddIf(odd)
	ids, table := k.tokenIDs(tokens, vocabulary), k.Normal(dtype, vocabulary*width)
	y := k.Output("y", dtype, tokens, width)
	k.must(model.Embed(k.Rec, k.Floats("table", dtype, table, vocabulary, width), k.I32("ids", ids, tokens), y, 1.5))
	return func() {
		want := ref.Embedding(table, ids, vocabulary, width, 1.5)
		k.Close("y", y, want.Y, want.Bound(refTypes[dtype], 1))
	}
}

func embedBackward(k *Kit, dtype, grad vk.DType, tokens, vocabulary, width int, odd, accumulate bool) func() {
	k.oddIf(odd)
	ids, dy := k.tokenIDs(tokens, vocabulary), k.Normal(dtype, tokens*width)
	dTable := linearCase{accumulate: accumulate}.target(k, "dtable", grad, false, vocabulary, width)
	k.must(model.EmbedBackward(k.Rec, k.I32("ids", ids, tokens), k.Floats("dy", dtype, dy, tokens, width), dTable.t, 0.75, accumulate))
	return func() {
		counts, most := map[int32]int{}, 0
		for _, id := range ids {
			counts[id]++
			most = max(most, counts[id])
		}
		want := ref.EmbeddingBackward(dy, ids, vocabulary, width, 0.75)
		dTable.judge(k, "dtable", want, want.Bound(refTypes[grad], most+1), false)
	}
}

// crossEntropyCases are losses of next-token prediction, their mean and their gradient; scaledAddCases sums of two tensors.
func crossEntropyCases(add func(Case)) {
	sizes := [][2]int{{0, 5}, {1, 1}, {1, 2}, {3, 7}, {70, 64}, {33, 257}, {5, 9000}}
	for _, dtype := range storages {
		for i, s := range sizes {
			for j, option := range []string{"plain", "odd"} {
				add(Case{Name: fmt.Sprintf("cross_entropy.gradient.%v.t%d_v%d.%s", dtype, s[0], s[1], option), Required: i == 4+j,
					Record: func(k *Kit) func() { return crossEntropy(k, dtype, s[0], s[1], j == 1) }})
			}
		}
		for i, s := range []headLoss{{0, 4, 5, 0}, {1, 3, 2, 0}, {50, 20, 31, 7}, {64, 32, 65, 64}, {33, 40, 64, 16}} {
			for j, option := range []string{"overwrite", "accumulate"} {
				add(Case{Name: fmt.Sprintf("cross_entropy.head.%v.t%d_w%d_v%d_c%d.%s", dtype, s.tokens, s.width, s.vocabulary, s.chunk, option),
					Required: i == 2 && j == int(dtype)%2, Record: func(k *Kit) func() { return s.record(k, dtype, j == 1) }})
			}
		}
	}
	add(Case{Name: "cross_entropy.unusual.f32", Required: true, Record: unusualLosses})
}

// lossError is the error of one loss in f32 from exact logits between −span/2 and span/2: the logarithm of a sum of exponentials,
// each of them relative to an argument that is rounded, and the scale's product.
func lossError(vocabulary int, span float64) float64 {
	return ref.Gamma(vocabulary) + 8*ref.UnitF32 + 4*span*ref.UnitF32
}

func crossEntropy(k *Kit, dtype vk.DType, rows, vocabulary int, odd bool) func() {
	const span, scale, gradientScale = 60, float32(0.8), 64
	k.oddIf(odd)
	logits, targets := k.Normal(vk.F32, rows*vocabulary), k.tokenIDs(rows, vocabulary)
	for i := range logits {
		logits[i] *= 5
	}
	losses, count, mean := k.Output("losses", vk.F32, rows), k.Output("count", vk.U32, 1), k.Output("mean", vk.F32, 1)
	gradient, place := k.Output("gradient", dtype, rows, vocabulary), k.InOut("in_place", vk.F32, logits, rows, vocabulary)
	again := k.Output("again", vk.F32, rows)
	targetsT := k.I32("targets", targets, rows)
	k.must(model.CountTargets(k.Rec, targetsT, count, vocabulary))
	k.must(model.CrossEntropy(k.Rec, k.F32("logits", logits, rows, vocabulary), targetsT, losses, gradient, count, scale, gradientScale))
	k.must(model.MeanLoss(k.Rec, losses, count, mean))
	k.must(model.CrossEntropy(k.Rec, place, targetsT, again, place, count, scale, gradientScale))
	return func() {
		want := ref.CrossEntropy(logits, targets, vocabulary, float64(scale), gradientScale)
		got, err := vk.Download[uint32](k.Ctx, count)
		k.must(err)
		k.EqualInts("count", []int32{int32(got[0])}, []int32{int32(want.Count)})
		relative := lossError(vocabulary, span)
		k.Close("losses", losses, want.Losses, []float64{relative * (1 + span)})
		k.Close("again", again, want.Losses, []float64{relative * (1 + span)})
		k.Close("mean", mean, []float64{want.Mean}, []float64{relative*(1+span) + ref.Gamma(rows+2)*want.Mean})
		k.Close("in_place", place, want.Gradient.Y, want.Gradient.BoundBy(2*relative, 1e-30))
		t := refTypes[dtype]
		k.Close("gradient", gradient, want.Gradient.Y, want.Gradient.BoundBy(2*relative+t.Storage(), ref.Underflow(t, 1)))
	}
}

// unusualLosses are rows of NaN and infinities: NaN has to stay, and an ignored row is ignored whatever it holds.
func unusualLosses(k *Kit) func() {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	logits := []float32{0, nan, 1, 2, inf, 1, 2, 3, -inf, 1, -inf, 1, 88, -88, 1e30, 0, nan, nan, nan, nan}
	losses, count, gradient := k.Output("losses", vk.F32, 5), k.Output("count", vk.U32, 1), k.PartialOutput("gradient", vk.F32, 5, 4)
	logitsT, targets := k.F32("logits", logits, 5, 4), k.I32("targets", []int32{0, 1, 1, 2, 9}, 5)
	k.must(model.CountTargets(k.Rec, targets, count, 4))
	k.must(model.CrossEntropy(k.Rec, logitsT, targets, losses, gradient, count, 1, 4))
	return func() {
		k.Close("losses", losses, []float64{math.NaN(), math.NaN(), math.Ln2, 0, 0}, []float64{1e-6})
		got := k.Values(gradient)
		k.compare("gradient", slices.Concat(got[8:12], got[16:20]), []float64{0, -0.5, 0, 0.5, 0, 0, 0, 0}, []float64{1e-6})
	}
}

// headLoss is a loss from the rows before a head, in chunks of rows.
type headLoss struct{ tokens, width, vocabulary, chunk int }

func (s headLoss) record(k *Kit, dtype vk.DType, accumulate bool) func() {
	x, w := k.Normal(dtype, s.tokens*s.width), k.weights(dtype, s.vocabulary*s.width, s.width)
	targets := k.tokenIDs(s.tokens, s.vocabulary)
	head := &moe.ParallelLinear{Config: moe.ParallelLinearConfig{Experts: 1, In: s.width, Out: s.vocabulary, DType: dtype},
		Weight: k.bankOf(k.Floats("weight", dtype, w, 1, s.vocabulary, s.width))}
	dw := linearCase{accumulate: accumulate}.target(k, "dweight", vk.F32, false, 1, s.vocabulary, s.width)
	dx, mean := k.Output("dx", dtype, s.tokens, s.width), k.Output("mean", vk.F32, 1)
	losses, err := model.HeadCrossEntropy(k.Rec, head, k.Floats("x", dtype, x, s.tokens, s.width), k.I32("targets", targets, s.tokens), mean,
		model.HeadLoss{Scale: 0.5, X: dx, Weight: k.bankOf(dw.t), Accumulate: accumulate, ChunkRows: s.chunk})
	k.must(err)
	k.Scratch("losses", losses)
	return func() {
		linear := ref.Linear[float32]{Experts: 1, In: s.width, Out: s.vocabulary, Weight: w}
		logits := ref.DenseLinear(linear, x, s.tokens)
		want := ref.CrossEntropy(logits.Y, targets, s.vocabulary, 0.5, 1)
		g := ref.Scatter2scatterBackward(linear, x, ref.Dense(s.tokens), ref.Layout{}, []float32(nil), want.Gradient.Y)
		off := lossError(s.vocabulary, 20) + 20*ref.Gamma(s.width+2)
		k.Close("losses", losses, want.Losses, []float64{20 * off})
		k.Close("mean", mean, []float64{want.Mean}, []float64{20 * off})
		tolerance := 2*off + ref.Gamma(s.tokens+s.vocabulary) + 2*refTypes[dtype].Storage()
		k.relative("dx", k.Values(dx), g.X.Y, tolerance, 1e-3)
		y := slices.Clone(g.Weight.Y)
		for i, v := range dw.start {
			y[i] += float64(v)
		}
		k.relative("dweight", k.Values(dw.t), y, tolerance, 1e-3)
	}
}

// scaledAddCases are α·a + β·b into a third tensor, of one alone, and in place.
func scaledAddCases(add func(Case)) {
	for _, dtype := range storages {
		for i, n := range []int{0, 1, 3, 4, 255, 256, 1001} {
			for j, option := range []string{"plain", "odd"} {
				add(Case{Name: fmt.Sprintf("scaled_add.sum.%v.n%d.%s", dtype, n, option), Required: i == 6-j,
					Record: func(k *Kit) func() { return scaledAdd(k, dtype, n, j == 1) }})
			}
		}
	}
}

func scaledAdd(k *Kit, dtype vk.DType, n int, odd bool) func() {
	const alpha, beta = -3, float32(0.22)
	k.oddIf(odd)
	a, b := k.Normal(dtype, n), k.Normal(dtype, n)
	at, bt := k.Floats("a", dtype, a, n), k.Floats("b", dtype, b, n)
	y, scaled, place := k.Output("y", dtype, n), k.Output("scaled", dtype, n), k.InOut("in_place", dtype, a, n)
	k.must(model.ScaledAdd(k.Rec, at, bt, y, 1, beta))
	k.must(model.ScaledAdd(k.Rec, at, nil, scaled, alpha, 0))
	k.must(model.ScaledAdd(k.Rec, bt, place, place, 2, 1))
	return func() {
		judge := func(name string, t *vk.Tensor, want ref.Result) {
			k.Close(name, t, want.Y, want.Bound(refTypes[dtype], 2))
		}
		judge("y", y, ref.ScaledAdd(a, b, 1, float64(beta)))
		judge("scaled", scaled, ref.ScaledAdd(a, nil, alpha, 0))
		judge("in_place", place, ref.ScaledAdd(b, a, 2, 1))
	}
}

// samplingCases draw tokens from logits, of which many are equal.
func samplingCases(add func(Case)) {
	configs := []struct {
		name string
		cfg  model.SamplingConfig
	}{
		{"greedy", model.SamplingConfig{TopK: 3}}, {"plain", model.SamplingConfig{Temperature: 1}},
		{"top1", model.SamplingConfig{Temperature: 0.5, TopK: 1}}, {"top7", model.SamplingConfig{Temperature: 2, TopK: 7}},
		{"share", model.SamplingConfig{Temperature: 1, TopP: 0.6}}, {"top40_share", model.SamplingConfig{Temperature: 1.3, TopK: 40, TopP: 0.9}},
		{"least_share", model.SamplingConfig{Temperature: 1, TopP: 1e-9}}, {"top_all", model.SamplingConfig{Temperature: 1, TopK: 1 << 20}},
	}
	for i, vocabulary := range []int{1, 2, 50, 128, 256, 1000} {
		for j, c := range configs {
			for m, rows := range []int{0, 1, 41} {
				if m == 0 && j > 0 {
					continue
				}
				add(Case{Name: fmt.Sprintf("sampling.draw.b%d_v%d.%s", rows, vocabulary, c.name), Required: m == 2 && i == 5 && (j == 0 || j == 5),
					Record: func(k *Kit) func() { return sample(k, rows, vocabulary, c.cfg, (i+j)%2 == 1) }})
			}
		}
	}
}

// sample judges each row's token: the oracle must draw it for a number within rounding of the row's.
func sample(k *Kit, rows, vocabulary int, cfg model.SamplingConfig, odd bool) func() {
	k.oddIf(odd)
	logits := k.Normal(vk.F32, rows*vocabulary)
	for i := range logits {
		logits[i] = float32(math.Round(float64(logits[i])*8) / 4)
	}
	const step = 11
	cfg.Seed, cfg.Stream, cfg.Step = uint64(k.Rand.Int63()), 3, k.tensor("step", vk.U32, []uint32{step}, []int{1}).view
	ids := k.Output("ids", vk.I32, rows)
	k.must(model.Sample(k.Rec, k.F32("logits", logits, rows, vocabulary), ids, cfg))
	oracle := ref.Sampling{Temperature: float64(cfg.Temperature), TopK: cfg.TopK, TopP: float64(cfg.TopP)}
	if cfg.TopP == 0 {
		oracle.TopP = 1
	}
	tolerance := 2*ref.Gamma(vocabulary) + 2*ref.ExpError(30) // of a border: a sum of exponentials over their sum
	return func() {
		for b, id := range k.Ints(ids) {
			u := ref.SamplingUniform(b, cfg.Seed, step, cfg.Stream)
			drawn := slices.ContainsFunc(oracle.Candidates(logits[b*vocabulary:(b+1)*vocabulary]), func(c ref.Candidate) bool {
				return c.ID == int(id) && u >= c.From-tolerance && u <= c.To+tolerance
			})
			if !drawn {
				k.Fail(CheckOracle, "ids", "row %d: token %d, which the oracle does not draw for %v", b, id, u)
				return
			}
		}
	}
}
