package train

import (
	"context"
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/vk"
)

// A GradientCheck compares a gradient with central differences of the loss.
type GradientCheck struct {
	Loss *vk.Recorder // records forward, loss and backward, and no update
	Out  *vk.Tensor   // the loss, one element

	// Choice is an I32 tensor that must not change with a parameter for the difference to be a derivative: the ids of a
	// router. Entries at which it does are left out. nil means none.
	Choice *vk.Tensor

	Step float32 // how far a parameter is moved to either side
}

// A Derivative is one entry's gradient, by backward pass and by central differences.
type Derivative struct {
	Param           string
	Index           int
	Got, Difference float64
	Largest         float64 // magnitude of the largest entry of this param's gradient
}

// Run returns up to count derivatives of each param, at entries spread evenly over it, and leaves the params as they were.
func (c GradientCheck) Run(ctx context.Context, params []Param, count int) ([]Derivative, error) {
	if err := c.Loss.Run(ctx); err != nil {
		return nil, err
	}
	var choice []int32
	var err error
	if c.Choice != nil {
		if choice, err = vk.Download[int32](ctx, c.Choice); err != nil {
			return nil, err
		}
	}
	var list []Derivative
	for _, p := range params {
		grad, err := vk.Download[float32](ctx, p.Grad)
		if err != nil {
			return nil, err
		}
		value, err := vk.Download[float32](ctx, p.Value)
		if err != nil {
			return nil, err
		}
		for _, i := range spread(len(value), count) {
			difference, ok, err := c.difference(ctx, p.Value, value, i, choice)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", p.Name, i, err)
			}
			if ok {
				list = append(list, Derivative{p.Name, i, float64(grad[i]), difference, largest(grad)})
			}
		}
	}
	return list, nil
}

// spread is up to count indices below n at about even distances.
func spread(n, count int) []int {
	var list []int
	for i := range min(n, count) {
		list = append(list, (2*i+1)*n/(2*min(n, count)))
	}
	return list
}

func largest(values []float32) float64 {
	var most float64
	for _, v := range values {
		most = max(most, float64(v), -float64(v))
	}
	return most
}

// difference is (loss(v + h) − loss(v − h)) / 2h, and whether the choice stayed.
func (c GradientCheck) difference(ctx context.Context, t *vk.Tensor, value []float32, i int, choice []int32) (float64, bool, error) {
	at := value[i]
	defer func() { value[i] = at }()
	same := true
	loss := func(v float32) (float64, error) {
		value[i] = v
		if err := vk.Upload(ctx, t, value); err != nil {
			return 0, err
		}
		if err := c.Loss.Run(ctx); err != nil {
			return 0, err
		}
		if c.Choice != nil {
			now, err := vk.Download[int32](ctx, c.Choice)
			if err != nil {
				return 0, err
			}
			same = same && slices.Equal(now, choice)
		}
		out, err := vk.Download[float32](ctx, c.Out)
		if err != nil {
			return 0, err
		}
		return float64(out[0]), nil
	}
	above, below := at+c.Step, at-c.Step
	high, err := loss(above)
	if err != nil {
		return 0, false, err
	}
	low, err := loss(below)
	if err != nil {
		return 0, false, err
	}
	value[i] = at
	return (high - low) / (float64(above) - float64(below)), same, vk.Upload(ctx, t, value)
}
