package model

import (
	"errors"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A block is what a layer adds to the residual stream: its attention or its MLP.
type block interface {
	// forward records y = block(x) for x and y [T,D].
	forward(rec *vk.Recorder, x, y *vk.Tensor, seq attention.Sequences, save moe.Save) (blockSaved, error)

	// backward records dx, overwritten, and the gradients of the weights that have one, overwritten or added to. dLogits is
	// where the router's logits already have a gradient, which is added; nil for none.
	backward(rec *vk.Recorder, saved blockSaved, x, dy, dx, dLogits *vk.Tensor, accumulate bool) error

	weights() []*weight
	tensors(prefix string) []NamedTensor
	close() error
}

// blockSaved is what a forward pass leaves for the backward pass.
type blockSaved interface {
	// router returns the routing and its logits, nil for a block without a router of its own.
	router() (*moe.Routing, *vk.Tensor)
	// release gives the memory back to the recorder.
	release(rec *vk.Recorder)
}

// A weight is an array of a block's parameters on the device, a bank or a tensor, and its gradient.
type weight struct {
	name   string
	array  *[]float32 // its place in the host weights, by which a checkpoint's parts name it
	bank   *moe.ExpertBank
	tensor *vk.Tensor

	gradBank   **moe.ExpertBank // where the block looks for the gradient; nil where it has none
	gradTensor **vk.Tensor
	noDecay    bool
}

// quantized reports whether the values are codes.
func (w *weight) quantized() bool { return w.bank != nil && w.bank.Format() != moe.WeightsFull }

// newGrad allocates the gradient in dtype, or in F32 where the weight is that.
func (w *weight) newGrad(dev *vk.Device, dtype vk.DType) (err error) {
	switch {
	case w.gradBank != nil:
		*w.gradBank, err = moe.NewExpertBank(dev, dtype, w.bank.Shape()...)
	case w.gradTensor != nil:
		if w.tensor.DType() == vk.F32 {
			dtype = vk.F32
		}
		*w.gradTensor, err = dev.NewTensor(dtype, w.tensor.Shape()...)
	}
	return err
}

// closeGrad frees the gradient.
func (w *weight) closeGrad() (err error) {
	if w.gradBank != nil {
		err = (*w.gradBank).Close()
		*w.gradBank = nil
	}
	if w.gradTensor != nil {
		err = errors.Join(err, (*w.gradTensor).Close())
		*w.gradTensor = nil
	}
	return err
}

// values are the tensors that the weight lies in, and grads those of its gradient, in the same order, nil without.
func (w *weight) values() []*vk.Tensor {
	if w.bank != nil {
		return w.bank.Parts()
	}
	return []*vk.Tensor{w.tensor}
}

func (w *weight) grads() []*vk.Tensor {
	switch {
	case w.gradBank != nil && *w.gradBank != nil:
		return (*w.gradBank).Parts()
	case w.gradTensor != nil && *w.gradTensor != nil:
		return []*vk.Tensor{*w.gradTensor}
	}
	return nil
}

// linearWeights are a linear map's weight and bias; g receives their gradients.
func linearWeights(name string, l *moe.ParallelLinear, array, bias *[]float32, g *moe.WeightGrads) []*weight {
	if l == nil {
		return nil
	}
	list := []*weight{{name: name, array: array, bank: l.Weight, gradBank: &g.Weight}}
	if list[0].quantized() {
		list[0].gradBank = nil
	}
	if l.Bias != nil {
		list = append(list, &weight{name: name + ".bias", array: bias, bank: l.Bias, gradBank: &g.Bias, noDecay: true})
	}
	return list
}

// A NamedTensor is a tensor of a checkpoint and where its values are on the device: in one or several tensors, one behind the
// other, since a bank of experts may lie in several.
type NamedTensor struct {
	Name  string       // in the checkpoint
	Shape []int        // in the checkpoint
	Parts []*vk.Tensor // whose elements together are the tensor's
	Grads []*vk.Tensor // of the same lengths; nil where there is no gradient

	// Quantized is the bank of quantized weights whose elements from At on these are, in place of Parts; nil for others.
	Quantized *moe.ExpertBank
	At        int
}

// DType is the storage of the values; of quantized ones the decoder's.
func (n NamedTensor) DType() vk.DType {
	if n.Quantized != nil {
		return n.Quantized.DType()
	}
	return n.Parts[0].DType()
}

// Elements is the number of values.
func (n NamedTensor) Elements() int {
	count := 1
	for _, s := range n.Shape {
		count *= s
	}
	return count
}

// namedParts locates the parts of a block's checkpoint in its weights.
func namedParts[W any](parts []part[W], dummy *W, weights []*weight) []NamedTensor {
	var list []NamedTensor
	for _, p := range parts {
		for _, w := range weights {
			if w.array != p.array(dummy) {
				continue
			}
			if w.quantized() {
				list = append(list, NamedTensor{Name: p.name, Shape: p.shape, Quantized: w.bank, At: p.at})
				continue
			}
			list = append(list, NamedTensor{Name: p.name, Shape: p.shape, Parts: cut(w.values(), p.at, p.elements()),
				Grads: cut(w.grads(), p.at, p.elements())})
		}
	}
	return list
}

// cut returns views of n values from the at-th on of tensors that lie one behind the other.
func cut(tensors []*vk.Tensor, at, n int) []*vk.Tensor {
	var list []*vk.Tensor
	for _, t := range tensors {
		size := t.Elements()
		if from, to := max(at, 0), min(at+n, size); from < to {
			view, err := t.View(from, to-from)
			if err != nil {
				panic(err) // from and to are within the tensor
			}
			list = append(list, view)
		}
		at -= size
	}
	return list
}

// newGrads allocates the gradients of weights.
func newGrads(dev *vk.Device, dtype vk.DType, weights []*weight) error {
	for _, w := range weights {
		if err := w.newGrad(dev, dtype); err != nil {
			return err
		}
	}
	return nil
}

// scratchSet is scratch that a forward pass leaves.
type scratchSet []*vk.Tensor

func (s scratchSet) release(rec *vk.Recorder) {
	for _, t := range s {
		rec.Release(t)
	}
}

// ofRouting are the tensors of a routing.
func ofRouting(r *moe.Routing) scratchSet {
	if r == nil {
		return nil
	}
	return scratchSet{r.IDs, r.Gates, r.Order, r.Inverse, r.Offsets, r.Tiles, r.TileArgs}
}
