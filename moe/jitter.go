package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A JitterConfig says by which random numbers Jitter multiplies. The number of an element depends on its index, the seed,
// the stream and the step only, so a backward pass finds those of the forward pass again.
type JitterConfig struct {
	Eps    float32 // 0 to 1: the numbers are uniform in [1 − Eps, 1 + Eps)
	Seed   uint64  // of the run
	Stream uint32  // tells layers of one model apart

	// Step U32 [1] is read when the recorder runs, so that a recording which is submitted again can use other numbers. nil
	// means step 0, and then every submission uses the same.
	Step *vk.Tensor
}

// Jitter records y = x ∘ u for x and y of one shape and storage dtype, with u uniform in [1 − Eps, 1 + Eps): the noise that the Switch
// Transformer multiplies a router's input by in training (arXiv 2101.03961, section 2.2), and Mixtral's
// router_jitter_noise. The random integers come from Philox-4×32-10 (Salmon et al., SC 2011).
// Errors: see the package.
func Jitter(rec *vk.Recorder, x, y *vk.Tensor, cfg JitterConfig) error {
	return recordJitter(rec, "Jitter", [2]string{"x", "y"}, x, y, cfg, false)
}

// JitterBackward records dx = dy ∘ u, or dx += dy ∘ u, with the u of Jitter under the same configuration and step.
// Errors: see the package.
func JitterBackward(rec *vk.Recorder, dy, dx *vk.Tensor, cfg JitterConfig, accumulate bool) error {
	return recordJitter(rec, "JitterBackward", [2]string{"dy", "dx"}, dy, dx, cfg, accumulate)
}

var jitterKernels = byStorage{shaders.JitterF32, shaders.JitterF16, shaders.JitterBf16}

// jitterThreads is the work-group size of jitter; each invocation takes 4 elements.
const jitterThreads = 64

// maxJitter bounds the elements of one call, whose groups of four are counted in 32 bits.
const maxJitter = 1 << 33

func recordJitter(rec *vk.Recorder, op string, args [2]string, x, y *vk.Tensor, cfg JitterConfig, accumulate bool) error {
	err := cfg.check(rec.Device(), op)
	if err == nil && x == nil {
		err = &vk.ShapeError{Op: op, Arg: args[0], Want: "a tensor", Got: "nil"}
	}
	if err == nil {
		err = check.First(
			check.Storage(op, args[0], x),
			check.Tensor(rec.Device(), op, args[0], x, x.DType(), x.Shape()...),
			check.Tensor(rec.Device(), op, args[1], y, x.DType(), x.Shape()...),
			check.InRange(op, "elements", x.Elements(), 0, maxJitter),
		)
	}
	if err == nil {
		err = check.Apart(op, args[1], y, check.Inputs{args[0]: x, "Step": cfg.Step})
	}
	if err != nil {
		return rec.Fail(err)
	}
	reads := []*vk.Tensor{x, cfg.Step}
	if accumulate {
		reads = append(reads, y)
	}
	quads := check.CeilDiv(x.Elements(), 4)
	rec.Dispatch(vk.Dispatch{
		Kernel: jitterKernels[x.DType()],
		Spec:   shaders.JitterSpec{Threads: jitterThreads, Accumulate: accumulate}.Values(),
		Push: shaders.JitterPush{X: x.Address(), Y: y.Address(), Step: cfg.Step.Address(), Seed: cfg.Seed, Stream: cfg.Stream,
			Quads: uint32(quads), Tail: uint32(x.Elements() - 4*(quads-1)), Scale: cfg.Eps / (1 << 22)}.Bytes(),
		Linear: uint64(check.CeilDiv(quads, jitterThreads)),
		Reads:  reads,
		Writes: []*vk.Tensor{y},
		FLOPs:  60 * float64(quads),
	})
	return rec.Err()
}

func (c JitterConfig) check(dev *vk.Device, op string) error {
	if !(c.Eps >= 0 && c.Eps <= 1) {
		return check.Config("JitterConfig", "Eps", "0 to 1", fmt.Sprint(c.Eps))
	}
	if c.Step == nil {
		return nil
	}
	return check.Tensor(dev, op, "Step", c.Step, vk.U32, 1)
}
