package attention

import (
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MixtureGrads says where a backward pass leaves the gradients of a Mixture; what is nil is not computed. They are overwritten,
// or added to where Accumulate says so.
type MixtureGrads struct {
	X                       *vk.Tensor      // [T,D]; it may be the forward's y, or dy
	Router                  moe.WeightGrads // all nil when the caller chose the experts
	Query, KeyValue, Output moe.WeightGrads
	OutputBias              *moe.ExpertBank // [1,D], of the layer's dtype or F32
	Sinks                   *vk.Tensor      // F32 [K·h]
	Gates                   *vk.Tensor      // F32 [T,K]: of the routing's gates
	Logits                  *vk.Tensor      // F32 [T,E]: of the router's logits

	AccumulateX, AccumulateWeights bool // AccumulateWeights is also that of biases and sinks
	// AccumulateLogits adds to what Logits holds, for example the gradients of router losses, before they go on to the
	// router's weights and X.
	AccumulateLogits bool
}

// NewGrads allocates the gradients of all weights, biases and sinks, as many bytes as they take themselves, in the layer's
// dtype. The caller closes them with Close. It fails with vk.ErrOutOfMemory.
func (m *Mixture) NewGrads() (*MixtureGrads, error) {
	g := &MixtureGrads{}
	dev := m.Router.Weight.Device()
	like := func(b *moe.ExpertBank, grad **moe.ExpertBank) (err error) {
		if b != nil {
			*grad, err = moe.NewExpertBank(dev, m.Config.DType, b.Shape()...)
		}
		return err
	}
	err := like(m.OutputBias, &g.OutputBias)
	for _, part := range m.gradParts(g) {
		if err == nil {
			err = errors.Join(like(part.layer.Weight, &part.grads.Weight), like(part.layer.Bias, &part.grads.Bias))
		}
	}
	if err == nil && m.Sinks != nil {
		g.Sinks, err = dev.NewTensor(vk.F32, m.Config.heads())
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Close frees the gradients of weights, biases and sinks; X, Gates and Logits stay. Closing twice does nothing.
func (g *MixtureGrads) Close() error {
	err := errors.Join(g.OutputBias.Close(), g.Sinks.Close())
	for _, w := range []moe.WeightGrads{g.Router, g.Query, g.KeyValue, g.Output} {
		err = errors.Join(err, w.Weight.Close(), w.Bias.Close())
	}
	return err
}

// mixtureGradPart is a linear map of the layer with its gradients.
type mixtureGradPart struct {
	name  string
	layer *moe.ParallelLinear
	grads *moe.WeightGrads
}

func (m *Mixture) gradParts(g *MixtureGrads) []mixtureGradPart {
	return []mixtureGradPart{{"Router", m.Router, &g.Router}, {"Query", m.Query, &g.Query},
		{"KeyValue", m.KeyValue, &g.KeyValue}, {"Output", m.Output, &g.Output}}
}

// weights are the gradients of a linear map's weights.
func (g MixtureGrads) weights(w moe.WeightGrads) moe.LinearGrads {
	return moe.LinearGrads{Weight: w.Weight, Bias: w.Bias, AccumulateWeights: g.AccumulateWeights}
}

// beyondOutput reports whether anything is asked for that lies behind the attention.
func (g MixtureGrads) beyondOutput() bool {
	return g.X != nil || g.Query != moe.WeightGrads{} || g.KeyValue != moe.WeightGrads{} || g.Sinks != nil
}

// Backward records the gradients of the forward pass that left saved, at the same x [T,D], from dy [T,D], the gradient of
// its y; both of the layer's dtype. The choice of experts has no gradient; that of the gates flows on through the router.
// A slot without an expert, which only ids of the caller make, has a gate gradient of 0.
//
// The pass takes the memory of the gradients of queries, keys and values, that of the heads' gradient, in which the forward pass
// had the experts' results, and of queries, keys and values where they were not saved (see PassBytes). Recorded with its
// forward pass in one recorder, it can be submitted again and again. Errors: see the package.
func (m *Mixture) Backward(rec *vk.Recorder, s *MixtureSaved, x, dy *vk.Tensor, g MixtureGrads) error {
	const op = "Mixture.Backward"
	if err := m.checkBackward(rec.Device(), op, s, x, dy, g); err != nil {
		return rec.Fail(err)
	}
	block := rec.Scratch(m.Config.DType, m.Config.blockElements(s.Routing.Tokens, s.Save, m.direct(s.Routing, s.Logits)))
	defer rec.Release(block)
	routed := s.Logits != nil
	dLogits, dGates := g.Logits, g.Gates
	if routed && dLogits == nil && (g.X != nil || g.Router != moe.WeightGrads{}) {
		dLogits = rec.Scratch(vk.F32, s.Routing.Tokens, s.Routing.Experts)
		defer rec.Release(dLogits)
	}
	if dGates == nil && dLogits != nil {
		dGates = rec.Scratch(vk.F32, s.Routing.Tokens, s.Routing.K)
		defer rec.Release(dGates)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if g.OutputBias != nil {
		if err := moe.SumRows(rec, dy, g.OutputBias, g.AccumulateWeights); err != nil {
			return err
		}
	}
	if err := m.headsBackward(rec, s, x, dy, dGates, block, g); err != nil {
		return err
	}
	if !routed || dLogits == nil {
		return nil
	}
	accumulate := g.Logits != nil && g.AccumulateLogits
	if err := moe.TopKBackward(rec, s.Routing, s.Logits, dGates, dLogits, accumulate); err != nil {
		return err
	}
	return m.routerBackward(rec, x, dLogits, g)
}

// headsBackward records the gradients of everything but the router and the output bias.
func (m *Mixture) headsBackward(rec *vk.Recorder, s *MixtureSaved, x, dy, dGates, block *vk.Tensor, g MixtureGrads) error {
	c, r := m.Config, s.Routing
	rows := r.Slots()
	out := g.weights(g.Output)
	out.Gates = dGates
	if g.beyondOutput() || dGates != nil {
		out.X = view(rec, block, 0, rows, c.columns())
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := m.Output.CombinedBackward(rec, r, s.Heads, dy, out, moe.LinearOptions{Gates: r.Gates}); err != nil {
		return err
	}
	if !g.beyondOutput() {
		return nil
	}
	p, err := m.savedProjections(rec, s, x)
	if err != nil {
		return err
	}
	dQuery, whole := clearable(rec, c.DType, rows, c.columns())
	dKeyValue := rec.Scratch(c.DType, r.Tokens, 2*c.columns())
	if rec.Err() != nil {
		return rec.Err()
	}
	defer rec.Release(dQuery)
	defer rec.Release(dKeyValue)
	if s.Sequences.Padded {
		rec.Fill(whole, 0)
		rec.Fill(dKeyValue, 0)
	}
	grads := FlashGrads{Q: m.slotHeads(dQuery), K: m.keyHeads(dKeyValue), V: m.valueHeads(dKeyValue), Sinks: g.Sinks,
		AccumulateSinks: g.AccumulateWeights}
	err = FlashBackward(rec, c.flash(), m.flashInput(s.Sequences, p.query, p.keyValue), m.slotHeads(s.Heads), s.LSE,
		m.slotHeads(out.X), grads)
	if err != nil {
		return err
	}
	if s.Query == nil {
		rec.Release(p.whole)
		rec.Release(p.keyValue)
	}
	if err := m.rotateBackward(rec, s, dQuery, dKeyValue); err != nil {
		return err
	}
	return m.projectionsBackward(rec, s, x, dQuery, dKeyValue, block, g)
}

// savedProjections returns queries, keys and values, computing them once more where they were not saved.
func (m *Mixture) savedProjections(rec *vk.Recorder, s *MixtureSaved, x *vk.Tensor) (projections, error) {
	if s.Query != nil {
		return projections{query: s.Query, keyValue: s.KeyValue}, nil
	}
	p := m.takeProjections(rec, s.Routing.Tokens)
	if rec.Err() != nil {
		return p, rec.Err()
	}
	return p, m.project(rec, x, s, p)
}

// rotateBackward turns the gradients of queries and keys back, in place.
func (m *Mixture) rotateBackward(rec *vk.Recorder, s *MixtureSaved, dQuery, dKeyValue *vk.Tensor) error {
	if m.RoPE == nil {
		return nil
	}
	c, q, k := m.Config, m.slotHeads(dQuery), m.keyHeads(dKeyValue)
	if err := m.RoPE.RotateBackward(rec, s.Sequences.Positions, c.heads(), c.HeadWidth, q, q); err != nil {
		return err
	}
	return m.RoPE.RotateBackward(rec, s.Sequences.Positions, c.HeadsPerExpert, c.HeadWidth, k, k)
}

// projectionsBackward records the gradients of Query and KeyValue, and theirs of grads.X.
func (m *Mixture) projectionsBackward(rec *vk.Recorder, s *MixtureSaved, x, dQuery, dKeyValue, block *vk.Tensor,
	g MixtureGrads) error {
	r := s.Routing
	if err := m.Query.Backward(rec, r, x, dQuery, g.weights(g.Query), moe.LinearOptions{}); err != nil {
		return err
	}
	keyValue := g.weights(g.KeyValue)
	keyValue.X, keyValue.AccumulateX = g.X, g.AccumulateX
	if err := m.KeyValue.DenseBackward(rec, x, dKeyValue, keyValue); err != nil || g.X == nil {
		return err
	}
	if r.K == 1 && s.Logits != nil { // every slot has an expert, and a row of X for itself
		return m.Query.Transposed().Forward(rec, r, dQuery, g.X, moe.LinearOptions{Accumulate: true})
	}
	back := m.Query.Transposed()
	return m.inParts(rec, r, block, func(p mixtureRows) error {
		if err := back.Forward(rec, p.routing, p.slots(rec, dQuery), p.results, moe.LinearOptions{}); err != nil {
			return err
		}
		return moe.CombineWith(rec, p.routing, p.results, nil, p.tokens(rec, g.X), moe.Scattered,
			moe.CombineOptions{Accumulate: true})
	})
}

// routerBackward records the gradients of the router from those of its logits, which are rounded to the layer's dtype, and
// adds theirs to grads.X.
func (m *Mixture) routerBackward(rec *vk.Recorder, x, dLogits *vk.Tensor, g MixtureGrads) error {
	if g.X == nil && g.Router == (moe.WeightGrads{}) {
		return nil
	}
	if m.Config.DType != vk.F32 {
		rounded := rec.Scratch(m.Config.DType, dLogits.Shape()...)
		defer rec.Release(rounded)
		if rec.Err() != nil {
			return rec.Err()
		}
		if err := moe.Convert(rec, dLogits, rounded); err != nil {
			return err
		}
		dLogits = rounded
	}
	router := g.weights(g.Router)
	router.X, router.AccumulateX = g.X, true
	return m.Router.DenseBackward(rec, x, dLogits, router)
}

// checkBackward checks what the operations of a backward pass do not check themselves.
func (m *Mixture) checkBackward(dev *vk.Device, op string, s *MixtureSaved, x, dy *vk.Tensor, g MixtureGrads) error {
	c := m.Config
	if s == nil || s.Routing == nil || s.Heads == nil || s.LSE == nil {
		return &vk.ShapeError{Op: op, Arg: "saved", Want: "what a forward pass that saves left", Got: "another"}
	}
	tokens := s.Routing.Tokens
	err := check.First(
		check.Tensor(dev, op, "saved.Heads", s.Heads, c.DType, s.Routing.Slots(), c.columns()),
		check.Tensor(dev, op, "saved.LSE", s.LSE, vk.F32, tokens, c.heads()),
		check.Tensor(dev, op, "x", x, c.DType, tokens, c.Width),
		check.Tensor(dev, op, "dy", dy, c.DType, tokens, c.Width),
		m.checkParts(dev, op),
		checkSequences(dev, op, tokens, s.Sequences),
		check.Optional(dev, op, "grads.X", g.X, c.DType, tokens, c.Width),
		check.Optional(dev, op, "grads.Gates", g.Gates, vk.F32, tokens, c.TopK),
		check.Optional(dev, op, "grads.Logits", g.Logits, vk.F32, tokens, c.Experts),
		check.Optional(dev, op, "grads.Sinks", g.Sinks, vk.F32, c.heads()),
	)
	absent := func(arg string, missing bool) {
		if err == nil && missing {
			err = &vk.ShapeError{Op: op, Arg: arg, Want: "nil: the layer or the pass has none", Got: "a gradient"}
		}
	}
	absent("grads.Router", s.Logits == nil && (g.Router != moe.WeightGrads{} || g.Logits != nil))
	absent("grads.Sinks", g.Sinks != nil && m.Sinks == nil)
	absent("grads.OutputBias", g.OutputBias != nil && m.OutputBias == nil)
	for _, part := range m.gradParts(&g) {
		absent(fmt.Sprintf("grads.%s.Bias", part.name), part.grads.Bias != nil && part.layer.Bias == nil)
	}
	if err != nil {
		return err
	}
	return m.checkGradsApart(op, s, x, dy, g)
}

// checkGradsApart reports gradients that share memory with something that is still read, or with each other.
func (m *Mixture) checkGradsApart(op string, s *MixtureSaved, x, dy *vk.Tensor, g MixtureGrads) error {
	inputs := append(m.weightSpans(), tensorSpan("x", x), tensorSpan("saved.Heads", s.Heads), tensorSpan("saved.LSE", s.LSE),
		tensorSpan("saved.Query", s.Query), tensorSpan("saved.KeyValue", s.KeyValue), tensorSpan("saved.Logits", s.Logits))
	outputs := []span{tensorSpan("grads.X", g.X)} // dy has been read when it is written
	err := checkSpansApart(op, outputs[0], inputs...)
	inputs = append(inputs, tensorSpan("dy", dy))
	add := func(arg string, tensors ...*vk.Tensor) {
		for _, t := range tensors {
			out := tensorSpan(arg, t)
			err = check.First(err, checkSpansApart(op, out, inputs...), checkSpansApart(op, out, outputs...))
			outputs = append(outputs, out)
		}
	}
	add("grads.Gates", g.Gates)
	add("grads.Logits", g.Logits)
	add("grads.Sinks", g.Sinks)
	if g.OutputBias != nil {
		add("grads.OutputBias", g.OutputBias.Parts()...)
	}
	for _, part := range m.gradParts(&g) {
		if part.grads.Weight != nil {
			add("grads."+part.name+".Weight", part.grads.Weight.Parts()...)
		}
		if part.grads.Bias != nil {
			add("grads."+part.name+".Bias", part.grads.Bias.Parts()...)
		}
	}
	return err
}
