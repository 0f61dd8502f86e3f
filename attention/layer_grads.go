package attention

import (
	"errors"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A gradPart is one of a layer's linear maps, nil where the layer has none, with its gradients.
type gradPart struct {
	name  string
	layer *moe.ParallelLinear
	grads *moe.WeightGrads
}

// A gradVector is a weight that is no matrix, nil where the layer has none, with its gradient.
type gradVector struct {
	name   string
	weight *vk.Tensor
	grad   **vk.Tensor
}

// newGrads allocates the gradients of all weights in their dtypes.
func newGrads(dev *vk.Device, parts []gradPart, vectors []gradVector) (err error) {
	like := func(b *moe.ExpertBank, grad **moe.ExpertBank) {
		if b != nil && err == nil {
			*grad, err = moe.NewExpertBank(dev, b.DType(), b.Shape()...)
		}
	}
	for _, part := range parts {
		if part.layer != nil {
			like(part.layer.Weight, &part.grads.Weight)
			like(part.layer.Bias, &part.grads.Bias)
		}
	}
	for _, v := range vectors {
		if v.weight != nil && err == nil {
			*v.grad, err = dev.NewTensor(v.weight.DType(), v.weight.Shape()...)
		}
	}
	return err
}

// closeGrads frees gradients.
func closeGrads(weights []moe.WeightGrads, vectors ...*vk.Tensor) error {
	var err error
	for _, w := range weights {
		err = errors.Join(err, w.Weight.Close(), w.Bias.Close())
	}
	for _, v := range vectors {
		err = errors.Join(err, v.Close())
	}
	return err
}

// A linearGrad is a linear map with the gradient of its output and where to leave those of its weights.
type linearGrad struct {
	layer *moe.ParallelLinear
	dy    *vk.Tensor
	grads moe.WeightGrads
}

// linearsBackward records the gradients of linear maps of one x; dx, which may be nil, gets the sum.
func linearsBackward(rec *vk.Recorder, x, dx *vk.Tensor, accumulateX, accumulateWeights bool, maps ...linearGrad) error {
	for i, m := range maps {
		g := moe.LinearGrads{X: dx, Weight: m.grads.Weight, Bias: m.grads.Bias, AccumulateX: accumulateX || i > 0,
			AccumulateWeights: accumulateWeights}
		if err := m.layer.DenseBackward(rec, x, m.dy, g); err != nil {
			return err
		}
	}
	return nil
}

// gradArgs are the arguments of a layer's backward pass.
type gradArgs struct {
	x, dy, dx *vk.Tensor
	inputs    []span // all that the pass reads but dy
	parts     []gradPart
	vectors   []gradVector
}

// checkGrads checks the gradients' shapes, that none is asked for that the layer does not have, and that they share no memory
// with what the pass reads or with each other. dx alone may be dy, which has been read when dx is written.
func checkGrads(dev *vk.Device, op string, a gradArgs) error {
	if a.dx != nil {
		err := check.Tensor(dev, op, "grads.X", a.dx, a.x.DType(), a.x.Shape()...)
		if err == nil && a.dx.Address() != a.dy.Address() {
			err = checkSpansApart(op, tensorSpan("grads.X", a.dx), tensorSpan("dy", a.dy))
		}
		if err == nil {
			err = checkSpansApart(op, tensorSpan("grads.X", a.dx), a.inputs...)
		}
		if err != nil {
			return err
		}
	}
	taken := append([]span{tensorSpan("dy", a.dy), tensorSpan("grads.X", a.dx)}, a.inputs...)
	output := func(arg string, t *vk.Tensor) error {
		s := tensorSpan(arg, t)
		err := checkSpansApart(op, s, taken...)
		taken = append(taken, s)
		return err
	}
	for _, v := range a.vectors {
		grad := *v.grad
		switch {
		case grad == nil:
			continue
		case v.weight == nil:
			return &vk.ShapeError{Op: op, Arg: "grads." + v.name, Want: "nil: the layer has none", Got: grad.String()}
		}
		dtype := v.weight.DType()
		if grad.DType() == vk.F32 {
			dtype = vk.F32
		}
		if err := check.First(check.Tensor(dev, op, "grads."+v.name, grad, dtype, v.weight.Shape()...), output("grads."+v.name, grad)); err != nil {
			return err
		}
	}
	for _, p := range a.parts {
		if err := checkPartGrads(op, p, output); err != nil {
			return err
		}
	}
	return nil
}

// checkPartGrads checks what DenseBackward does not: that the layer has what a gradient is asked for, and each memory by
// output.
func checkPartGrads(op string, p gradPart, output func(arg string, t *vk.Tensor) error) error {
	for _, bank := range []struct {
		arg    string
		grad   *moe.ExpertBank
		absent bool
	}{
		{"grads." + p.name + ".Weight", p.grads.Weight, p.layer == nil},
		{"grads." + p.name + ".Bias", p.grads.Bias, p.layer == nil || p.layer.Bias == nil},
	} {
		if bank.grad == nil {
			continue
		}
		if bank.absent {
			return &vk.ShapeError{Op: op, Arg: bank.arg, Want: "nil: the layer has none", Got: bank.grad.String()}
		}
		for _, t := range bank.grad.Parts() {
			if err := output(bank.arg, t); err != nil {
				return err
			}
		}
	}
	return nil
}
