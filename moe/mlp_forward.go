package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/vk"
)

// A Save says what a forward pass keeps for the backward pass.
type Save uint8

// What can be saved.
const (
	SaveAll             Save = iota // Z, H and Slots; the backward pass takes no memory beside them
	RecomputeActivation             // Z only; the backward pass computes H from it once more
	SaveNothing                     // for inference
)

func (s Save) String() string {
	names := [...]string{"save all", "recompute activation", "save nothing"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("save %d", uint8(s))
}

// ForwardOptions are the choices of one forward pass.
type ForwardOptions struct {
	// Routing holds experts chosen by the caller, for example by RouteIDs; the router's weights are not used then. The
	// routing's gates weight the sum; without gates the choices are added up. nil leaves the choice to the router.
	Routing *Routing

	Save Save

	// Jitter is noise on the router's input in training; the experts read x as it is, as in the Switch Transformer (Mixtral
	// in transformers lets them read the noisy one). Eps 0 means none. It takes w·T·D bytes of scratch while the router runs,
	// twice that in the backward pass, w being the dtype's bytes, which PassBytes does not count.
	Jitter JitterConfig

	// Workspace is memory of the layer's dtype for what the pass does not save; it holds nothing of use afterwards. What
	// does not fit it is the recorder's scratch, as all is when it is nil. In a training step that overwrites the
	// gradients, the one of Up's weights is idle until the layer's backward pass ends and can serve.
	Workspace *vk.Tensor

	// SaveIn is memory of the layer's dtype for Z where Save is RecomputeActivation, which stays there until the backward pass; where
	// that does not fit, Z is in the recorder's scratch, as it is when SaveIn is nil. In a training step that overwrites the gradients,
	// the one of Down's weights (its Parts()[0]) is idle until the layer's backward pass ends and can serve. The backward pass then
	// writes it last, and has h in it too where both have room: their rows, T·K of H and of h's H or 2H, in the E·D of the gradient.
	// It needs w·T·K·H/2 bytes of scratch for that instead of w·T·K·(H or 2H), and copies h once.
	SaveIn *vk.Tensor
}

// MLPSaved is what a forward pass leaves in the recorder's scratch, or Z in ForwardOptions.SaveIn, for the backward pass or for display. What its Save
// does not keep is nil.
type MLPSaved struct {
	Save    Save
	Jitter  JitterConfig // of the router's input
	Logits  *vk.Tensor   // F32 [T,E], nil when the caller gave the routing
	Routing *Routing
	Z       *vk.Tensor // [T·K, H or 2H] grouped: the activation's input
	H       *vk.Tensor // [T·K,H] grouped: its output
	Slots   *vk.Tensor // [T·K,D] scattered: the experts' results before the gates

	Shared SharedSaved // of the shared experts
}

// SharedSaved is what a forward pass keeps of the shared experts.
type SharedSaved struct {
	Z, H         *vk.Tensor // [T, SharedHidden or twice that] and [T,SharedHidden]
	Logits, Gate *vk.Tensor // F32 [T,1]: the gate before and after the logistic function, nil without
}

// Forward records y = MLP(x) for x and y [T,D] of the layer's dtype, with everything saved: router, choice, grouping,
// scattered to grouped linear with the activation, grouped to scattered linear, and the weighted sum; seven dispatches in one
// submission, and up to four more for shared experts.
//
// It takes ScratchBytes of scratch. Errors: see the package.
func (m *MLP) Forward(rec *vk.Recorder, x, y *vk.Tensor) (*MLPSaved, error) {
	return m.ForwardWith(rec, x, y, ForwardOptions{})
}

// ForwardRouted is Forward with the experts chosen by the caller.
func (m *MLP) ForwardRouted(rec *vk.Recorder, r *Routing, x, y *vk.Tensor) (*MLPSaved, error) {
	if r == nil {
		return nil, rec.Fail(&vk.ShapeError{Op: "MLP.ForwardRouted", Arg: "routing", Want: "a routing", Got: "nil"})
	}
	return m.ForwardWith(rec, x, y, ForwardOptions{Routing: r})
}

// ForwardWith is Forward with options.
func (m *MLP) ForwardWith(rec *vk.Recorder, x, y *vk.Tensor, o ForwardOptions) (*MLPSaved, error) {
	tokens, err := m.check(rec.Device(), x, y, o)
	if err != nil {
		return nil, rec.Fail(err)
	}
	s := &MLPSaved{Routing: o.Routing, Save: o.Save, Jitter: o.Jitter}
	if s.Routing == nil {
		if s.Logits = rec.Scratch(vk.F32, tokens, m.Config.Experts); rec.Err() != nil {
			return nil, rec.Err()
		}
		if err := m.routerForward(rec, x, o.Jitter, s.Logits); err != nil {
			return nil, err
		}
		if s.Routing, err = Route(rec, s.Logits, m.Config.router(m.CorrectionBias)); err != nil {
			return nil, err
		}
	}
	if err := m.sharedForward(rec, x, y, o, s); err != nil {
		return nil, err
	}
	if err := m.expertsForward(rec, x, y, o, s); err != nil {
		return nil, err
	}
	return s, nil
}

// expertsForward records the routed experts. With shared experts it adds to y.
func (m *MLP) expertsForward(rec *vk.Recorder, x, y *vk.Tensor, o ForwardOptions, s *MLPSaved) error {
	r, c := s.Routing, m.Config
	space := newWorkspace(rec, o.Workspace, c.DType)
	defer space.release()
	saved := newWorkspace(rec, nil, c.DType)
	hs := space
	if o.Save == SaveAll {
		hs = saved
	}
	zs := saved
	if o.Save == RecomputeActivation {
		zs = newWorkspace(rec, o.SaveIn, c.DType)
	}
	var z *vk.Tensor
	if o.Save != SaveNothing {
		z = zs.take(r.Slots(), c.Activation.columns(c.Hidden))
	}
	h := hs.take(r.Slots(), c.Hidden)
	if rec.Err() != nil {
		return rec.Err()
	}
	f := c.activation()
	if err := m.Up.Forward(rec, r, x, h, LinearOptions{Out: Grouped, Activation: &f, Z: z}); err != nil {
		return err
	}
	s.Z = z
	sum := CombineOptions{Bias: m.outputBias(), Accumulate: c.SharedHidden > 0}
	if o.Save != SaveAll {
		rows := space.take(r.Slots(), columnsOfSlots(r.Slots(), c.Width, c.DType))
		return sumSlots(rec, r, m.Down, h, r.Gates, rows, y, sum)
	}
	s.H, s.Slots = h, saved.take(r.Slots(), c.Width)
	if rec.Err() != nil {
		return rec.Err()
	}
	if err := m.Down.Forward(rec, r, h, s.Slots, LinearOptions{In: Grouped}); err != nil {
		return err
	}
	return CombineWith(rec, r, s.Slots, r.Gates, y, Scattered, sum)
}

// check checks the arguments and returns T.
func (m *MLP) check(dev *vk.Device, x, y *vk.Tensor, o ForwardOptions) (tokens int, err error) {
	const op = "MLP.Forward"
	c := m.Config
	tokens, _, err = matrix(op, "x", x)
	if err != nil {
		return 0, err
	}
	err = check.First(
		check.Tensor(dev, op, "x", x, c.DType, tokens, c.Width),
		check.Tensor(dev, op, "y", y, c.DType, tokens, c.Width),
		check.InRange("ForwardOptions", "Save", int(o.Save), 0, int(SaveNothing)),
		checkWorkspace(dev, op, "Workspace", o.Workspace, c.DType),
		checkWorkspace(dev, op, "SaveIn", o.SaveIn, c.DType),
		m.checkOutputBias(dev, op),
	)
	if err == nil && o.Routing != nil && o.Routing.Tokens != tokens {
		err = &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("of %d tokens", tokens), Got: fmt.Sprint(o.Routing.Tokens)}
	}
	if err == nil {
		all := namedTensors{{"OutputBias", m.outputBias()}, {"x", x}, {"y", y}, {"Workspace", o.Workspace}, {"SaveIn", o.SaveIn}}
		for _, part := range m.parts() {
			all = append((*part.layer).operands(part.cfg.Label), all...)
		}
		err = all.checkApart(op, len(all)-3)
	}
	return tokens, err
}

// operands are the layer's weights.
func (l *ParallelLinear) operands(label string) namedTensors {
	return namedTensors{}.with(label+".Weight", l.Weight).with(label+".Bias", l.Bias)
}
