package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MixtureOptions are the choices of one forward pass.
type MixtureOptions struct {
	// Routing holds experts chosen by the caller, for example by moe.RouteIDs; the router's weights are not used then. The
	// routing's gates weight the sum; without gates the choices are added up. nil leaves the choice to the router.
	Routing *moe.Routing

	// Save says what stays for the backward pass: all of MixtureSaved (SaveAll), all but Query and KeyValue, which the backward
	// pass computes once more (RecomputeActivation), or nothing (SaveNothing).
	Save moe.Save

	// Cache holds the keys and values that the sequences had before: x is what follows. The new ones are appended to it, and the
	// queries see all of them. Without a RoPE's Positions given, they go on from the cache's Lengths. The layer must be Causal,
	// the cache as MixtureConfig.CacheConfig says, and nothing is saved, whatever Save is. See Decode.
	Cache *KVCache
}

// MixtureSaved is what a forward pass leaves in the recorder's scratch, for the backward pass or for display. What its Save
// does not keep is nil.
type MixtureSaved struct {
	Save      moe.Save
	Sequences Sequences  // with the positions that were made
	Logits    *vk.Tensor // F32 [T,E], nil when the caller gave the routing
	Routing   *moe.Routing
	Query     *vk.Tensor // [T·K, h·d] scattered, turned by the RoPE
	KeyValue  *vk.Tensor // [T, 2·h·d]: keys, turned, then values
	Heads     *vk.Tensor // [T·K, h·d] scattered: the attention's output
	LSE       *vk.Tensor // F32 [T, K·h]: the logarithm of the softmax's denominators
}

// Forward records y = Mixture(x) for x and y [T,D] of the layer's dtype, with everything saved: router, choice and grouping,
// the projections of queries, keys and values, their rotation, attention, the projection of the outputs and the weighted sum,
// in one submission.
//
// It takes PassBytes of scratch. Errors: see the package.
func (m *Mixture) Forward(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) (*MixtureSaved, error) {
	return m.ForwardWith(rec, x, y, seq, MixtureOptions{})
}

// ForwardWith is Forward with options.
func (m *Mixture) ForwardWith(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences, o MixtureOptions) (*MixtureSaved, error) {
	const op = "Mixture.Forward"
	tokens, err := m.check(rec.Device(), op, x, y, seq, o)
	if err != nil {
		return nil, rec.Fail(err)
	}
	if o.Cache != nil {
		o.Save = moe.SaveNothing
	}
	s := &MixtureSaved{Save: o.Save, Sequences: seq}
	if err := m.route(rec, x, o.Routing, s); err != nil {
		return nil, err
	}
	if err := makePositions(rec, m.RoPE, tokens, &s.Sequences, o.Cache); err != nil {
		return nil, err
	}
	s.Sequences.check(rec, tokens)
	heads, whole := clearable(rec, m.Config.DType, tokens*m.Config.TopK, m.Config.columns())
	if o.Save != moe.SaveNothing {
		s.Heads, s.LSE = heads, rec.Scratch(vk.F32, tokens, m.Config.heads())
	} else {
		defer rec.Release(heads)
	}
	p := m.forwardSpace(rec, tokens, s)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	defer rec.Release(p.block)
	if err := m.project(rec, x, s, p); err != nil {
		return nil, err
	}
	if seq.Padded {
		rec.Fill(whole, 0)
	}
	in, err := m.cachedInput(rec, s.Sequences, p, o.Cache)
	if err != nil {
		return nil, err
	}
	if err := Flash(rec, m.Config.flash(), in, m.slotHeads(heads), s.LSE); err != nil {
		return nil, err
	}
	if o.Save == moe.SaveAll {
		s.Query, s.KeyValue = p.query, p.keyValue
	}
	return s, m.combine(rec, s, heads, p.block, y)
}

// route leaves the routing in s: the caller's, or the router's.
func (m *Mixture) route(rec *vk.Recorder, x *vk.Tensor, given *moe.Routing, s *MixtureSaved) error {
	if s.Routing = given; given != nil {
		return nil
	}
	if s.Logits = rec.Scratch(vk.F32, x.Dim(0), m.Config.Experts); rec.Err() != nil {
		return rec.Err()
	}
	err := m.Router.Dense(rec, x, s.Logits)
	if err == nil {
		s.Routing, err = moe.Route(rec, s.Logits, m.Config.router())
	}
	return err
}

// projections are the memory of queries, keys and values.
type projections struct {
	query, keyValue *vk.Tensor
	block           *vk.Tensor // what the pass gives back in the end, nil for nothing
	whole           *vk.Tensor // the queries' memory in whole words
}

// forwardSpace takes the memory of queries, keys and values, and of the experts' results. Unless queries, keys and values are
// saved the results take their place.
func (m *Mixture) forwardSpace(rec *vk.Recorder, tokens int, s *MixtureSaved) projections {
	c, direct := m.Config, m.direct(s.Routing, s.Logits)
	if s.Save != moe.SaveAll {
		return m.viewProjections(rec, rec.Scratch(c.DType, c.blockElements(tokens, s.Save, direct)), tokens)
	}
	p := m.takeProjections(rec, tokens)
	if !direct {
		p.block = rec.Scratch(c.DType, c.blockElements(tokens, s.Save, direct))
	}
	return p
}

// takeProjections takes memory of queries, keys and values only, in two parts.
func (m *Mixture) takeProjections(rec *vk.Recorder, tokens int) projections {
	c := m.Config
	p := projections{keyValue: rec.Scratch(c.DType, tokens, 2*c.columns())}
	p.query, p.whole = clearable(rec, c.DType, tokens*c.TopK, c.columns())
	return p
}

// viewProjections finds queries, keys and values in a block.
func (m *Mixture) viewProjections(rec *vk.Recorder, block *vk.Tensor, tokens int) projections {
	c := m.Config
	rows, keys := tokens*c.TopK, aligned(tokens*c.TopK*c.columns())
	return projections{block: block, whole: view(rec, block, 0, keys), query: view(rec, block, 0, rows, c.columns()),
		keyValue: view(rec, block, keys, tokens, 2*c.columns())}
}

// direct reports whether the experts' results are the layer's: one choice, which the router made for every token, and nothing
// to add.
func (m *Mixture) direct(r *moe.Routing, logits *vk.Tensor) bool {
	return r.K == 1 && logits != nil && m.OutputBias == nil
}

// project records queries, keys and values of x.
func (m *Mixture) project(rec *vk.Recorder, x *vk.Tensor, s *MixtureSaved, p projections) error {
	if s.Logits == nil { // a slot without an expert has a query all the same, which must do no harm
		rec.Fill(p.whole, 0)
	}
	if err := m.Query.Forward(rec, s.Routing, x, p.query, moe.LinearOptions{}); err != nil {
		return err
	}
	if err := m.KeyValue.Dense(rec, x, p.keyValue); err != nil || m.RoPE == nil {
		return err
	}
	c, q, k := m.Config, m.slotHeads(p.query), m.keyHeads(p.keyValue)
	if err := m.RoPE.Rotate(rec, s.Sequences.Positions, c.heads(), c.HeadWidth, q, q); err != nil {
		return err
	}
	return m.RoPE.Rotate(rec, s.Sequences.Positions, c.HeadsPerExpert, c.HeadWidth, k, k)
}

// combine records y from the attention's output. The experts' results, one per slot, are K times as large as y: the block
// holds those of some tokens at a time.
func (m *Mixture) combine(rec *vk.Recorder, s *MixtureSaved, heads, block, y *vk.Tensor) error {
	if m.direct(s.Routing, s.Logits) {
		return m.Output.Forward(rec, s.Routing, heads, y, moe.LinearOptions{Gates: s.Routing.Gates})
	}
	options := moe.CombineOptions{Bias: m.outputBias()}
	return m.inParts(rec, s.Routing, block, func(p mixtureRows) error {
		err := m.Output.Forward(rec, p.routing, p.slots(rec, heads), p.results, moe.LinearOptions{})
		if err != nil {
			return err
		}
		return moe.CombineWith(rec, p.routing, p.results, p.routing.Gates, p.tokens(rec, y), moe.Scattered, options)
	})
}

// mixtureRows are some of the tokens.
type mixtureRows struct {
	routing *moe.Routing
	from    int        // the first token
	results *vk.Tensor // [tokens·K, D]
}

// slots are the rows of a matrix with one row per slot, and tokens those of one with a row per token.
func (p mixtureRows) slots(rec *vk.Recorder, t *vk.Tensor) *vk.Tensor {
	return view(rec, t, p.from*p.routing.K*t.Dim(1), p.routing.Slots(), t.Dim(1))
}

func (p mixtureRows) tokens(rec *vk.Recorder, t *vk.Tensor) *vk.Tensor {
	return view(rec, t, p.from*t.Dim(1), p.routing.Tokens, t.Dim(1))
}

// inParts records do for as many tokens at a time as the block holds results of.
func (m *Mixture) inParts(rec *vk.Recorder, r *moe.Routing, block *vk.Tensor, do func(mixtureRows) error) error {
	if rec.Err() != nil {
		return rec.Err()
	}
	c := m.Config
	per := c.tokensPerBlock(r.Tokens, block.Elements())
	for from := 0; from == 0 || from < r.Tokens; from += per {
		part := r
		if per < r.Tokens {
			var err error
			if part, err = r.Rows(rec, from, min(from+per, r.Tokens)); err != nil {
				return err
			}
		}
		if err := do(mixtureRows{part, from, view(rec, block, 0, part.Slots(), c.Width)}); err != nil {
			return err
		}
		if part != r {
			part.Release(rec)
		}
	}
	return rec.Err()
}

// slotHeads are the heads of a tensor [T·K, h·d]: K·h of a token, choice by choice.
func (m *Mixture) slotHeads(t *vk.Tensor) Heads {
	return Heads{Tensor: t, RowStride: m.Config.TopK * m.Config.columns(), HeadStride: m.Config.HeadWidth}
}

// keyHeads are the keys in a tensor [T, 2·h·d], and valueHeads the values.
func (m *Mixture) keyHeads(t *vk.Tensor) Heads {
	return Heads{Tensor: t, RowStride: 2 * m.Config.columns(), HeadStride: m.Config.HeadWidth}
}

func (m *Mixture) valueHeads(t *vk.Tensor) Heads {
	h := m.keyHeads(t)
	h.Offset = m.Config.columns()
	return h
}

func (m *Mixture) flashInput(seq Sequences, query, keyValue *vk.Tensor) FlashInput {
	return FlashInput{Q: m.slotHeads(query), K: m.keyHeads(keyValue), V: m.valueHeads(keyValue),
		QueryOffsets: seq.Offsets, Sinks: m.Sinks}
}

// check checks the arguments of a forward pass and returns T.
func (m *Mixture) check(dev *vk.Device, op string, x, y *vk.Tensor, seq Sequences, o MixtureOptions) (tokens int, err error) {
	c := m.Config
	if x == nil || x.Rank() != 2 {
		return 0, &vk.ShapeError{Op: op, Arg: "x", Want: "a matrix", Got: fmt.Sprint(x)}
	}
	tokens = x.Dim(0)
	err = check.First(
		check.Tensor(dev, op, "x", x, c.DType, tokens, c.Width),
		check.Tensor(dev, op, "y", y, c.DType, tokens, c.Width),
		check.InRange("MixtureOptions", "Save", int(o.Save), 0, int(moe.SaveNothing)),
		m.checkParts(dev, op),
		checkSequences(dev, op, tokens, seq),
	)
	if err == nil && o.Cache != nil {
		err = m.checkCache(dev, op, seq, o.Cache)
	}
	if r := o.Routing; err == nil && r != nil && (r.Tokens != tokens || r.K != c.TopK || r.Experts != c.Experts) {
		err = &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("%d of %d experts for %d tokens", c.TopK, c.Experts, tokens),
			Got: fmt.Sprintf("%d of %d for %d", r.K, r.Experts, r.Tokens)}
	}
	if err == nil {
		inputs := append(m.weightSpans(), tensorSpan("x", x), tensorSpan("offsets", seq.Offsets),
			tensorSpan("positions", seq.Positions))
		err = checkSpansApart(op, tensorSpan("y", y), inputs...)
	}
	return tokens, err
}

// checkParts checks what the linear maps do not check themselves.
func (m *Mixture) checkParts(dev *vk.Device, op string) error {
	c := m.Config
	var err error
	if c.OutputBias {
		err = check.Tensor(dev, op, "OutputBias", m.outputBias(), c.DType, 1, c.Width)
	}
	if err == nil && c.Sinks {
		err = check.Tensor(dev, op, "Sinks", m.Sinks, vk.F32, c.heads())
	}
	return err
}

// weightSpans are the memory of all that the layer reads.
func (m *Mixture) weightSpans() []span {
	spans := []span{tensorSpan("Sinks", m.Sinks)}
	bank := func(arg string, b *moe.ExpertBank) {
		if b == nil {
			return
		}
		for _, t := range b.Parts() {
			spans = append(spans, tensorSpan(arg, t))
		}
	}
	bank("OutputBias", m.OutputBias)
	for _, part := range m.parts() {
		bank(part.cfg.Label+".Weight", (*part.layer).Weight)
		bank(part.cfg.Label+".Bias", (*part.layer).Bias)
	}
	return spans
}
