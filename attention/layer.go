package attention

import (
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// An attentionLayer is a SelfAttention or an MLA: attention between linear maps of one expert.
type attentionLayer interface {
	parts() []linearPart
	vectors() []vectorPart
	rows() (width int, dtype vk.DType) // of x and y
}

// A linearPart is one of a layer's linear maps.
type linearPart struct {
	layer **moe.ParallelLinear
	cfg   moe.ParallelLinearConfig
}

// denseMap is a linear map of one expert.
func denseMap(layer **moe.ParallelLinear, label string, in, out int, bias bool, dtype vk.DType) linearPart {
	return linearPart{layer, moe.ParallelLinearConfig{Experts: 1, In: in, Out: out, Bias: bias, DType: dtype, Label: label}}
}

// A vectorPart is a weight of a layer that is no matrix.
type vectorPart struct {
	name   string
	tensor **vk.Tensor
	dtype  vk.DType
	length int
}

// newWeights allocates a layer's weights; those before a failure are the layer's to close.
func newWeights(dev *vk.Device, l attentionLayer) (err error) {
	for _, part := range l.parts() {
		if *part.layer, err = moe.NewParallelLinear(dev, part.cfg); err != nil {
			return err
		}
	}
	for _, v := range l.vectors() {
		if *v.tensor, err = dev.NewTensor(v.dtype, v.length); err != nil {
			return err
		}
	}
	return nil
}

// closeWeights frees a layer's weights.
func closeWeights(l attentionLayer) error {
	var err error
	for _, part := range l.parts() {
		err = errors.Join(err, (*part.layer).Close())
	}
	for _, v := range l.vectors() {
		err = errors.Join(err, (*v.tensor).Close())
	}
	return err
}

// weightBytes is the memory of a layer's weights.
func weightBytes(l attentionLayer) uint64 {
	n := uint64(0)
	for _, part := range l.parts() {
		p := part.cfg
		n += check.TensorBytes(p.DType.Bytes(), p.In, p.Out)
		if p.Bias {
			n += check.TensorBytes(p.DType.Bytes(), p.Out)
		}
	}
	for _, v := range l.vectors() {
		n += check.TensorBytes(v.dtype.Bytes(), v.length)
	}
	return n
}

// makePositions fills in the positions where a RoPE needs them and the caller gave none. Those of a cache's sequences, if there is
// one, go on from its lengths, and are made before it is appended to.
func makePositions(rec *vk.Recorder, rope *RoPE, tokens int, seq *Sequences, cache *KVCache) (err error) {
	var first *vk.Tensor
	if cache != nil {
		first = cache.Lengths
	}
	switch {
	case rope == nil || seq.Positions != nil:
	case tokens == 0: // maybe of no sequence
		seq.Positions = rec.Scratch(vk.I32, 0)
	default:
		seq.Positions, err = rope.MakePositions(rec, tokens, seq.Offsets, first)
	}
	return err
}

// attend records a layer's attention: the positions, where its RoPE needs some, what project records, which returns queries, keys
// and values, and attention's heads [T,Hq·dv]. lse F32 [T,Hq] is for the backward pass, nil where nothing is saved. All is the
// recorder's scratch.
func attend(rec *vk.Recorder, c FlashConfig, rope *RoPE, tokens int, seq *Sequences, save moe.Save,
	project func() (FlashInput, error)) (heads, lse *vk.Tensor, err error) {
	if err := makePositions(rec, rope, tokens, seq, nil); err != nil {
		return nil, nil, err
	}
	seq.check(rec, tokens)
	heads, whole := clearable(rec, c.DType, tokens, c.Heads*c.ValueWidth)
	if save != moe.SaveNothing {
		lse = rec.Scratch(vk.F32, tokens, c.Heads)
	}
	in, err := project()
	if err != nil {
		return nil, nil, err
	}
	if seq.Padded {
		rec.Fill(whole, 0)
	}
	return heads, lse, Flash(rec, c, in, DenseHeads(heads, c.Heads, c.ValueWidth), lse)
}

// checkForward checks all that the operations of a forward pass do not check themselves, and returns T.
func checkForward(dev *vk.Device, op string, l attentionLayer, x, y *vk.Tensor, seq Sequences) (int, error) {
	tokens, err := checkLayerRows(dev, op, l, x, y, seq)
	if err == nil {
		err = checkVectors(dev, op, l.vectors())
	}
	if err == nil {
		err = checkSpansApart(op, tensorSpan("y", y), inputSpans(x, seq, l.parts(), l.vectors())...)
	}
	return tokens, err
}

func errNotSaved(op string) error {
	return &vk.ShapeError{Op: op, Arg: "saved", Want: "what a forward pass that saves left", Got: "another"}
}

// checkBackward checks what the operations of a backward pass do not check themselves, but for its gradients.
func checkBackward(dev *vk.Device, op string, l attentionLayer, c FlashConfig, save moe.Save, heads, lse, x, dy *vk.Tensor,
	seq Sequences) error {
	if heads == nil || lse == nil || save == moe.SaveNothing {
		return errNotSaved(op)
	}
	tokens, err := checkLayerRows(dev, op, l, x, dy, seq)
	if err != nil {
		return err
	}
	return check.First(
		checkVectors(dev, op, l.vectors()),
		check.Tensor(dev, op, "saved.Heads", heads, c.DType, tokens, c.Heads*c.ValueWidth),
		check.Tensor(dev, op, "saved.LSE", lse, vk.F32, tokens, c.Heads),
	)
}

// checkLayerRows checks x and y [T,D] of a layer, and the sequences, and returns T.
func checkLayerRows(dev *vk.Device, op string, l attentionLayer, x, y *vk.Tensor, seq Sequences) (int, error) {
	width, dtype := l.rows()
	if x == nil || x.Rank() != 2 {
		return 0, &vk.ShapeError{Op: op, Arg: "x", Want: fmt.Sprintf("[T,%d]", width), Got: fmt.Sprint(x)}
	}
	tokens := x.Dim(0)
	return tokens, check.First(
		check.Tensor(dev, op, "x", x, dtype, tokens, width),
		check.Tensor(dev, op, "y", y, dtype, tokens, width),
		checkSequences(dev, op, tokens, seq),
	)
}

// checkVectors checks a layer's weights that are no matrices; the linear maps check theirs.
func checkVectors(dev *vk.Device, op string, vectors []vectorPart) error {
	for _, v := range vectors {
		if err := check.Tensor(dev, op, v.name, *v.tensor, v.dtype, v.length); err != nil {
			return err
		}
	}
	return nil
}

// inputSpans are the memory of all that a pass of a layer reads.
func inputSpans(x *vk.Tensor, seq Sequences, parts []linearPart, vectors []vectorPart) []span {
	spans := []span{tensorSpan("x", x), tensorSpan("offsets", seq.Offsets), tensorSpan("positions", seq.Positions)}
	for _, v := range vectors {
		spans = append(spans, tensorSpan(v.name, *v.tensor))
	}
	for _, part := range parts {
		layer := *part.layer
		for arg, bank := range map[string]*moe.ExpertBank{"weight": layer.Weight, "bias": layer.Bias} {
			if bank == nil {
				continue
			}
			for _, t := range bank.Parts() {
				spans = append(spans, tensorSpan(part.cfg.Label+" "+arg, t))
			}
		}
	}
	return spans
}
