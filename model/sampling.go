package model

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A SamplingConfig says how tokens are drawn from logits. The zero value takes the most probable one.
type SamplingConfig struct {
	Temperature float32 // 0 takes the largest logit
	TopK        int     // draw from the k most probable only; 0 for all
	TopP        float32 // and of those from the fewest that hold this share of the probability; 0 or 1 for all

	Seed   uint64 // of the random numbers
	Stream uint32 // tells draws of one seed apart

	// Step U32 [1] is read when the recorder runs, so that a recording which is submitted again draws anew; nil means 0.
	Step *vk.Tensor
}

// Validate reports the first field that makes no sense as a *moe.ConfigError.
func (c SamplingConfig) Validate() error {
	switch {
	case !(c.Temperature >= 0 && c.Temperature < 1e30) || c.Temperature > 0 && c.Temperature < 1e-30:
		return &moe.ConfigError{Config: "SamplingConfig", Field: "Temperature", Want: "0, or 1e-30 to 1e30", Got: fmt.Sprint(c.Temperature)}
	case c.TopK < 0:
		return &moe.ConfigError{Config: "SamplingConfig", Field: "TopK", Want: "at least 0", Got: fmt.Sprint(c.TopK)}
	case !(c.TopP >= 0 && c.TopP <= 1):
		return &moe.ConfigError{Config: "SamplingConfig", Field: "TopP", Want: "0 to 1", Got: fmt.Sprint(c.TopP)}
	}
	return nil
}

const samplingThreads = 128

// Sample records ids[b] = a token drawn from row b of logits F32 [B,V], ids being I32 [B]. The number by which it is drawn
// comes from Philox-4×32-10 and depends on seed, stream, step and row only. Ties rank by id, the lower one first; NaN ranks
// last; a row without a distribution (all −Inf or NaN) gives its largest logit.
// Errors: see the package.
func Sample(rec *vk.Recorder, logits, ids *vk.Tensor, cfg SamplingConfig) error {
	const op = "Sample"
	err := check.First(cfg.Validate(), check.Rank(op, "logits", logits, 2))
	if err == nil {
		rows, vocabulary := logits.Dim(0), logits.Dim(1)
		err = check.First(
			check.Tensor(rec.Device(), op, "logits", logits, vk.F32, rows, vocabulary),
			check.Tensor(rec.Device(), op, "ids", ids, vk.I32, rows),
			check.Optional(rec.Device(), op, "Step", cfg.Step, vk.U32, 1),
			check.Apart(op, "ids", ids, check.Inputs{"logits": logits, "Step": cfg.Step}),
		)
		if err == nil && (vocabulary < 1 || vocabulary > 1<<19) {
			err = &vk.ShapeError{Op: op, Arg: "logits", Want: "1 to 524288 columns", Got: logits.String()}
		}
	}
	if err != nil {
		return rec.Fail(err)
	}
	rows, vocabulary := logits.Dim(0), logits.Dim(1)
	push := shaders.SamplingPush{Logits: logits.Address(), Ids: ids.Address(), Step: cfg.Step.Address(), Seed: cfg.Seed,
		Rows: uint32(rows), Vocabulary: uint32(vocabulary), K: uint32(min(cfg.TopK, vocabulary)), Stream: cfg.Stream,
		TopP: cfg.TopP}
	if cfg.TopP == 0 {
		push.TopP = 1
	}
	if cfg.Temperature > 0 {
		push.Cold = 1 / cfg.Temperature
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.Sampling,
		Spec:   shaders.SamplingSpec{Threads: samplingThreads, Greedy: cfg.Temperature == 0}.Values(),
		Push:   push.Bytes(),
		Linear: uint64(rows),
		Reads:  []*vk.Tensor{logits, cfg.Step},
		Writes: []*vk.Tensor{ids},
		FLOPs:  500 * float64(rows) * float64(vocabulary),
	})
	return rec.Err()
}
