package model

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var crossEntropyKernels = check.ByStorage{shaders.CrossEntropyF32, shaders.CrossEntropyF16, shaders.CrossEntropyBf16}

const (
	lossThreads = 128 // work-group size of target_count and loss_mean
	rowThreads  = 64  // of cross_entropy

	// chunkBytes bounds the logits that exist at a time. The head's gradient is read and written once for each chunk, so that
	// few large ones cost less, and round less where it is stored in 16 bits.
	chunkBytes = 128 << 20
)

// lossLanes is how many invocations share a row of logits. A software device takes one per row where its loops stay short:
// barriers cost it more than they save.
func lossLanes(dev *vk.Device, vocabulary int) uint32 {
	if dev.Adapter().Type == vk.Software && vocabulary <= 8192 {
		return 1
	}
	return 32
}

// maxSoftwareVocabulary keeps the loops of cross_entropy below the 65,535 iterations at which lavapipe ends them.
const maxSoftwareVocabulary = 32 * 65535 / 4

// CrossEntropy records the losses of next-token prediction and their gradient from logits F32 [T,V] and targets I32 [T]:
//
//	losses[t]     = ln Σ_c e^(scale·logits[t,c]) − scale·logits[t,target]
//	gradient[t,c] = gradientScale/n · d losses[t] / d logits[t,c]
//
// losses F32 [T]; gradient [T,V] of a storage dtype, nil for none, or logits itself; count U32 [1] holds n, from
// CountTargets, and is nil without gradient. A target outside [0, V) is ignored: loss and gradient are 0.
func CrossEntropy(rec *vk.Recorder, logits, targets, losses, gradient, count *vk.Tensor, scale, gradientScale float32) error {
	const op = "CrossEntropy"
	if err := checkCrossEntropy(rec, op, logits, targets, losses, gradient, count); err != nil {
		return rec.Fail(err)
	}
	rows, vocabulary := logits.Dim(0), logits.Dim(1)
	dtype, writes := vk.F32, []*vk.Tensor{losses}
	if gradient != nil {
		dtype, writes = gradient.DType(), append(writes, gradient)
	}
	lanes := lossLanes(rec.Device(), vocabulary)
	rec.Dispatch(vk.Dispatch{
		Kernel: crossEntropyKernels[dtype],
		Spec:   shaders.CrossEntropySpec{Threads: rowThreads, Lanes: lanes}.Values(),
		Push: shaders.CrossEntropyPush{Logits: logits.Address(), Gradient: gradient.Address(), Targets: targets.Address(),
			Losses: losses.Address(), Count: count.Address(), Rows: uint32(rows), Vocabulary: uint32(vocabulary), Scale: scale,
			GradientScale: gradientScale}.Bytes(),
		Linear: uint64(check.CeilDiv(rows, rowThreads/int(lanes))),
		Reads:  []*vk.Tensor{logits, targets, count},
		Writes: writes,
		FLOPs:  50 * float64(rows) * float64(vocabulary),
	})
	return rec.Err()
}

func checkCrossEntropy(rec *vk.Recorder, op string, logits, targets, losses, gradient, count *vk.Tensor) error {
	if err := check.Rank(op, "logits", logits, 2); err != nil {
		return err
	}
	dev, rows, vocabulary := rec.Device(), logits.Dim(0), logits.Dim(1)
	err := check.First(
		check.Tensor(dev, op, "logits", logits, vk.F32, rows, vocabulary),
		check.Tensor(dev, op, "targets", targets, vk.I32, rows),
		check.Tensor(dev, op, "losses", losses, vk.F32, rows),
		check.Apart(op, "losses", losses, check.Inputs{"logits": logits, "targets": targets, "count": count, "gradient": gradient}),
	)
	if err == nil && gradient != nil {
		err = check.First(
			check.Storage(op, "gradient", gradient),
			check.Tensor(dev, op, "gradient", gradient, gradient.DType(), rows, vocabulary),
			check.Tensor(dev, op, "count", count, vk.U32, 1),
			check.Apart(op, "gradient", gradient, check.Inputs{"targets": targets, "count": count}),
		)
		if err == nil && (gradient.DType() != vk.F32 || gradient.Address() != logits.Address()) {
			err = check.Apart(op, "gradient", gradient, check.Inputs{"logits": logits})
		}
	}
	if err == nil && (vocabulary < 1 || dev.Adapter().Type == vk.Software && vocabulary > maxSoftwareVocabulary) {
		err = &vk.ShapeError{Op: op, Arg: "logits", Want: "1 to 524280 columns on a software device, at least 1 on others",
			Got: logits.String()}
	}
	return err
}

// CountTargets records count[0] = the number of targets I32 [T] in [0, vocabulary), count being U32 [1].
// Errors: see the package.
func CountTargets(rec *vk.Recorder, targets, count *vk.Tensor, vocabulary int) error {
	const op = "CountTargets"
	err := check.Rank(op, "targets", targets, 1)
	if err == nil {
		err = check.First(
			check.Tensor(rec.Device(), op, "targets", targets, vk.I32, targets.Dim(0)),
			check.Tensor(rec.Device(), op, "count", count, vk.U32, 1),
			check.Apart(op, "count", count, check.Inputs{"targets": targets}),
		)
	}
	if err != nil {
		return rec.Fail(err)
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.TargetCount,
		Spec:   shaders.TargetCountSpec{Threads: lossThreads}.Values(),
		Push: shaders.TargetCountPush{Targets: targets.Address(), Count: count.Address(), Tokens: uint32(targets.Dim(0)),
			Vocabulary: uint32(vocabulary)}.Bytes(),
		Groups: [3]uint32{1, 1, 1},
		Reads:  []*vk.Tensor{targets},
		Writes: []*vk.Tensor{count},
		FLOPs:  float64(targets.Dim(0)),
	})
	return rec.Err()
}

// MeanLoss records mean[0] = Σ losses / count[0] for losses F32 [T], count U32 [1] and mean F32 [1]; 0 where count is 0.
// Errors: see the package.
func MeanLoss(rec *vk.Recorder, losses, count, mean *vk.Tensor) error {
	const op = "MeanLoss"
	err := check.Rank(op, "losses", losses, 1)
	if err == nil {
		err = check.First(
			check.Tensor(rec.Device(), op, "losses", losses, vk.F32, losses.Dim(0)),
			check.Tensor(rec.Device(), op, "count", count, vk.U32, 1),
			check.Tensor(rec.Device(), op, "mean", mean, vk.F32, 1),
			check.Apart(op, "mean", mean, check.Inputs{"losses": losses, "count": count}),
		)
	}
	if err != nil {
		return rec.Fail(err)
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.LossMean,
		Spec:   shaders.LossMeanSpec{Threads: lossThreads}.Values(),
		Push: shaders.LossMeanPush{Losses: losses.Address(), Count: count.Address(), Mean: mean.Address(),
			Tokens: uint32(losses.Dim(0))}.Bytes(),
		Groups: [3]uint32{1, 1, 1},
		Reads:  []*vk.Tensor{losses, count},
		Writes: []*vk.Tensor{mean},
		FLOPs:  float64(losses.Dim(0)),
	})
	return rec.Err()
}

// HeadLoss says what HeadCrossEntropy computes.
type HeadLoss struct {
	Scale         float32 // the logits' multiplier; 0 means 1
	GradientScale float32 // of the gradients: 1 divided by the batches that are added up, times a loss scale; 0 means 1

	// Gradients with respect to x [T,D] of the layer's dtype and to the head's weights; nil for none. They are overwritten,
	// Weight is added to where Accumulate says so.
	X          *vk.Tensor
	Weight     *moe.ExpertBank
	Accumulate bool

	// ChunkRows is how many rows of logits exist at a time: 0 for as many as fit 128 MiB.
	ChunkRows int
}

// HeadCrossEntropy records mean F32 [1] = the mean cross-entropy of targets I32 [T] under the logits head·x, x [T,D], and its
// gradients. It goes over chunks of rows: the logits of one, their losses, their gradient in the same place, and its part
// of dX and dW. The matrix of all probabilities never exists. Besides the chunk, V·rows·4 bytes (6 in 16 bits) of scratch,
// it takes 4·T + 4. losses are F32 [T], scratch of rec.
// Errors: see the package.
func HeadCrossEntropy(rec *vk.Recorder, head *moe.ParallelLinear, x, targets, mean *vk.Tensor, h HeadLoss) (losses *vk.Tensor, err error) {
	const op = "HeadCrossEntropy"
	cfg := head.Config
	if err := check.Rank(op, "targets", targets, 1); err != nil {
		return nil, rec.Fail(err)
	}
	tokens := targets.Dim(0)
	err = check.First(
		check.Tensor(rec.Device(), op, "x", x, cfg.DType, tokens, cfg.In),
		check.Optional(rec.Device(), op, "X", h.X, cfg.DType, tokens, cfg.In),
		check.Apart(op, "X", h.X, check.Inputs{"x": x}),
	)
	if err != nil {
		return nil, rec.Fail(err)
	}
	if h.Scale == 0 {
		h.Scale = 1
	}
	if h.GradientScale == 0 {
		h.GradientScale = 1
	}
	count := rec.Scratch(vk.U32, 1)
	if losses = rec.Scratch(vk.F32, tokens); rec.Err() != nil {
		return nil, rec.Err()
	}
	defer rec.Release(count)
	if err := CountTargets(rec, targets, count, cfg.Out); err != nil {
		return nil, err
	}
	if tokens == 0 && h.Weight != nil && !h.Accumulate {
		for _, part := range h.Weight.Parts() {
			if err := clearTensor(rec, part); err != nil {
				return nil, err
			}
		}
	}
	if err := h.chunks(rec, head, x, targets, losses, count); err != nil {
		return nil, err
	}
	return losses, MeanLoss(rec, losses, count, mean)
}

// chunks records the loss chunk by chunk.
func (h HeadLoss) chunks(rec *vk.Recorder, head *moe.ParallelLinear, x, targets, losses, count *vk.Tensor) error {
	cfg, tokens := head.Config, targets.Dim(0)
	rows := h.ChunkRows
	if rows <= 0 {
		rows = max(1, chunkBytes/(4*cfg.Out))
	}
	rows = min(rows, tokens)
	logits := rec.Scratch(vk.F32, rows, cfg.Out)
	gradient := logits
	backward := h.X != nil || h.Weight != nil
	if backward && cfg.DType != vk.F32 {
		gradient = rec.Scratch(cfg.DType, rows, cfg.Out)
		defer rec.Release(gradient)
	}
	if rec.Err() != nil {
		return rec.Err()
	}
	defer rec.Release(logits)
	for from := 0; from < tokens; from += rows {
		n := min(rows, tokens-from)
		v := views{rec: rec}
		z, xs := v.of(logits, 0, n, cfg.Out), v.of(x, from*cfg.In, n, cfg.In)
		ts, ls := v.of(targets, from, n), v.of(losses, from, n)
		var dz *vk.Tensor
		if backward {
			dz = v.of(gradient, 0, n, cfg.Out)
		}
		if rec.Err() != nil {
			return rec.Err()
		}
		if err := head.Dense(rec, xs, z); err != nil {
			return err
		}
		if err := CrossEntropy(rec, z, ts, ls, dz, countOf(backward, count), h.Scale, h.GradientScale); err != nil {
			return err
		}
		if !backward {
			continue
		}
		g := moe.LinearGrads{Weight: h.Weight, AccumulateWeights: h.Accumulate || from > 0}
		if h.X != nil {
			g.X = v.of(h.X, from*cfg.In, n, cfg.In)
		}
		if err := head.DenseBackward(rec, xs, dz, g); err != nil {
			return err
		}
	}
	return rec.Err()
}

func countOf(backward bool, count *vk.Tensor) *vk.Tensor {
	if backward {
		return count
	}
	return nil
}

// views makes views of tensors; a fault becomes the recorder's error.
type views struct{ rec *vk.Recorder }

func (v views) of(t *vk.Tensor, offset int, shape ...int) *vk.Tensor {
	out, err := t.View(offset, shape...)
	if err != nil {
		v.rec.Fail(err)
	}
	return out
}
