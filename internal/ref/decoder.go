package ref

import (
	"fmt"
	"math"
)

// A Decoder is a whole language model of pre-norm layers. With h [T,D] the residual stream of tokens ids [T],
//
//	h = EmbeddingScale·Embedding[id]
//	h += ResidualScale·Mix(norm(h)),  h += ResidualScale·MLP(norm(h))   layer by layer
//	logits = Head·norm(h) / LogitScale
//
// A scale of 0 means 1. The loss is the mean over all tokens but the last of each sequence of −log softmax(logits)[next token].
type Decoder struct {
	Width   int
	Offsets []int32 // [B+1] of the sequences

	Embedding []float64 // [V,D]
	Layers    []DecoderLayer
	Norm      []float64 // [D]
	Head      []float64 // [V,D], nil for the embedding itself
	Epsilon   float64   // of every norm

	EmbeddingScale, ResidualScale, LogitScale float64
}

// A DecoderLayer is one layer; Mix is its attention.
type DecoderLayer struct {
	MixNorm, MLPNorm []float64 // [D]
	Mix, MLP         DecoderBlock
}

// A DecoderBlock maps rows [T,D] to rows, and returns what turns the gradient of its output into that of its input. The
// gradients of its own parameters are its own affair.
type DecoderBlock func(x []float64) (out []float64, backward func(dOut []float64) (dX []float64))

// A DecoderResult is what a decoder computes, and the gradients of its loss.
type DecoderResult struct {
	Logits []float64 // [T,V]
	Loss   float64

	Layers                []DecoderLayerResult
	Embedding, Norm, Head []float64 // gradients; the embedding's includes that of a head it serves as
}

// A DecoderLayerResult holds the inputs of a layer's blocks, the gradients of their outputs, and those of the norms, [T,D].
type DecoderLayerResult struct {
	MixIn, MLPIn, DMixOut, DMLPOut []float64
	DMixNorm, DMLPNorm             []float64 // [D]
}

// RunDecoder runs the model on ids [T], forward and backward.
func RunDecoder(d Decoder, ids []int32) DecoderResult {
	tokens, vocabulary := len(ids), len(d.Embedding)/d.Width
	requireLen("RunDecoder", "ids", tokens, int(d.Offsets[len(d.Offsets)-1]))
	h := make([]float64, tokens*d.Width)
	for t, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			panic(fmt.Sprintf("ref.RunDecoder: token %d of %d", id, vocabulary))
		}
		for i := range d.Width {
			h[t*d.Width+i] = orOne(d.EmbeddingScale) * d.Embedding[int(id)*d.Width+i]
		}
	}
	res := DecoderResult{Layers: make([]DecoderLayerResult, len(d.Layers))}
	var back []func(dH []float64) []float64
	for l, layer := range d.Layers {
		r := &res.Layers[l]
		var mix, mlp func(dH []float64) []float64
		h, mix = d.residual(h, layer.MixNorm, layer.Mix, &r.MixIn, &r.DMixOut, &r.DMixNorm)
		h, mlp = d.residual(h, layer.MLPNorm, layer.MLP, &r.MLPIn, &r.DMLPOut, &r.DMLPNorm)
		back = append(back, mix, mlp)
	}
	dH := d.head(&res, ids, h, vocabulary)
	for i := range back {
		dH = back[len(back)-1-i](dH)
	}
	for t, id := range ids {
		for i := range d.Width {
			res.Embedding[int(id)*d.Width+i] += orOne(d.EmbeddingScale) * dH[t*d.Width+i]
		}
	}
	return res
}

func orOne(scale float64) float64 {
	if scale == 0 {
		return 1
	}
	return scale
}

// residual adds a block of the normalized stream to the stream, and notes the block's input and later its gradients.
func (d *Decoder) residual(h, weight []float64, block DecoderBlock, in, dOut, dNorm *[]float64) ([]float64, func([]float64) []float64) {
	*in = RMSNorm(h, weight, d.Width, d.Epsilon).Y
	out, backward := block(*in)
	return sum(h, scaled(out, orOne(d.ResidualScale))), func(dH []float64) []float64 {
		*dOut = scaled(dH, orOne(d.ResidualScale))
		norm := RMSNormBackward(h, weight, d.Width, d.Epsilon, backward(*dOut))
		*dNorm = norm.Weight.Y
		return sum(dH, norm.X.Y)
	}
}

// head computes logits, loss and their gradients, and returns that of the stream.
func (d *Decoder) head(res *DecoderResult, ids []int32, h []float64, vocabulary int) []float64 {
	weight := d.Head
	if weight == nil {
		weight = d.Embedding
	}
	head := Linear[float64]{Experts: 1, In: d.Width, Out: vocabulary, Weight: weight}
	normed := RMSNorm(h, d.Norm, d.Width, d.Epsilon).Y
	res.Logits = scaled(DenseLinear(head, normed, len(ids)).Y, 1/orOne(d.LogitScale))
	dLogits := d.crossEntropy(res, ids, vocabulary)
	g := denseBackward(head, normed, scaled(dLogits, 1/orOne(d.LogitScale)))
	res.Head, res.Embedding = g.Weight.Y, make([]float64, len(d.Embedding))
	if d.Head == nil {
		res.Embedding, res.Head = res.Head, nil
	}
	norm := RMSNormBackward(h, d.Norm, d.Width, d.Epsilon, g.X.Y)
	res.Norm = norm.Weight.Y
	return norm.X.Y
}

// crossEntropy sets the loss and returns its gradient with respect to the logits.
func (d *Decoder) crossEntropy(res *DecoderResult, ids []int32, vocabulary int) []float64 {
	dLogits := make([]float64, len(res.Logits))
	judged := 0
	for b, first := range d.Offsets[:len(d.Offsets)-1] {
		judged += max(int(d.Offsets[b+1]-first)-1, 0)
	}
	for b, first := range d.Offsets[:len(d.Offsets)-1] {
		for t := int(first); t+1 < int(d.Offsets[b+1]); t++ {
			row, next := res.Logits[t*vocabulary:(t+1)*vocabulary], int(ids[t+1])
			lse := logSumExp(row)
			res.Loss += (lse - row[next]) / float64(judged)
			for v, x := range row {
				dLogits[t*vocabulary+v] = math.Exp(x-lse) / float64(judged)
			}
			dLogits[t*vocabulary+next] -= 1 / float64(judged)
		}
	}
	return dLogits
}

func logSumExp(row []float64) float64 {
	top, total := math.Inf(-1), 0.0
	for _, x := range row {
		top = math.Max(top, x)
	}
	for _, x := range row {
		total += math.Exp(x - top)
	}
	return top + math.Log(total)
}

func scaled(x []float64, factor float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = factor * v
	}
	return out
}
