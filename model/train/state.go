package train

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/vk"
)

// A State is all that a run has learned, in host memory and independent of dtype, batch and number of choices: with it a
// trainer of another such configuration, or on another device, goes on from there.
type State struct {
	Steps  int          // that were made
	Params []ParamState // in the trainer's order
}

// A ParamState is one parameter with the optimizer's means. Value is the master copy where there is one, so that no precision
// is lost on the way through a 16-bit model.
type ParamState struct {
	Name        string    // Param.Name
	Value, M, V []float32 // the parameter, and the means of its gradient and of that squared
}

// A StateError is a state of other parameters than the trainer's.
type StateError struct {
	Param     string
	Want, Got string
}

func (e *StateError) Error() string {
	return fmt.Sprintf("train: state of %s: want %s, got %s", e.Param, e.Want, e.Got)
}

// State copies what has been learned to the host.
func (t *Trainer) State(ctx context.Context) (*State, error) {
	s := &State{Steps: t.steps}
	for i, p := range t.adam.params {
		kept, out := t.adam.states[i], ParamState{Name: p.Name}
		value := p.Value
		if kept.master != nil {
			value = kept.master
		}
		for _, part := range []struct {
			to   *[]float32
			from *vk.Tensor
		}{{&out.Value, value}, {&out.M, kept.m}, {&out.V, kept.v}} {
			var err error
			if *part.to, err = vk.Download[float32](ctx, part.from); err != nil {
				return nil, err
			}
		}
		s.Params = append(s.Params, out)
	}
	return s, nil
}

// SetState goes on from a state: of this trainer, or of one whose decoder has the same parameters in the same shapes, be its
// routers' number of choices another one, or its dtype, to which values are rounded. A state of other parameters is a
// *StateError, and then nothing has changed.
func (t *Trainer) SetState(ctx context.Context, s *State) error {
	if s.Steps < 0 || len(s.Params) != len(t.adam.params) {
		return &StateError{"the model", fmt.Sprint(len(t.adam.params), " parameters"), fmt.Sprint(len(s.Params))}
	}
	for i, p := range t.adam.params {
		got, n := s.Params[i], p.Value.Elements()
		if got.Name != p.Name {
			return &StateError{fmt.Sprint("parameter ", i), p.Name, got.Name}
		}
		if len(got.Value) != n || len(got.M) != n || len(got.V) != n {
			return &StateError{p.Name, fmt.Sprint(n, " values of each kind"), fmt.Sprint(len(got.Value), ", ", len(got.M), " and ", len(got.V))}
		}
	}
	for i, p := range t.adam.params {
		kept, from := t.adam.states[i], s.Params[i]
		flat, err := p.Value.Reshape(p.Value.Elements())
		if err != nil {
			return err
		}
		for _, part := range []struct {
			to     *vk.Tensor
			values []float32
		}{{flat, from.Value}, {kept.master, from.Value}, {kept.m, from.M}, {kept.v, from.V}} {
			if part.to == nil {
				continue
			}
			if err := vk.Upload(ctx, part.to, part.values); err != nil {
				return fmt.Errorf("train: %s: %w", p.Name, err)
			}
		}
	}
	t.steps = s.Steps
	return nil
}
