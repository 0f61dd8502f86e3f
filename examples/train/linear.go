package train

import (
	"errors"
	"fmt"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Linear is a ParallelLinear in F32, without bias, with the gradient of its weights.
type Linear struct {
	*moe.ParallelLinear
	Grad *moe.ExpertBank // [E,Out,In]
}

// NewLinear allocates both; their contents are undefined.
func NewLinear(dev *vk.Device, name string, experts, in, out int) (*Linear, error) {
	layer, err := moe.NewParallelLinear(dev, moe.ParallelLinearConfig{Experts: experts, In: in, Out: out, Label: name})
	if err != nil {
		return nil, err
	}
	grad, err := moe.NewExpertBank(dev, vk.F32, experts, out, in)
	if err != nil {
		return nil, errors.Join(err, layer.Close())
	}
	return &Linear{layer, grad}, nil
}

// Params are the weights: one param for each tensor that their bank lies in.
func (l *Linear) Params() []Param {
	grads := l.Grad.Parts() // a bank of the same shape is split in the same way
	var params []Param
	for i, value := range l.Weight.Parts() {
		params = append(params, Param{fmt.Sprintf("%s.%d", l.Config.Label, i), value, grads[i]})
	}
	return params
}

// Close frees weights and gradient.
func (l *Linear) Close() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.ParallelLinear.Close(), l.Grad.Close())
}
