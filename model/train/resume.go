package train

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model"
)

// StateFile is the optimizer's part of a training checkpoint, beside the weights.
const StateFile = "trainer.safetensors"

// stepName is the tensor of the state file that holds the number of steps, I32 [1]; the first word of the weights' and the
// state's agreement.
const stepName = "step"

// Save writes a checkpoint to dir: the weights as Decoder.Save does, and the optimizer's states, master copies and number of
// steps. A trainer of the same configuration that loads it goes on bit for bit as if it had not stopped; batches that are
// chosen from the number of the step, as [Windows] does, are the same too. Save each checkpoint to a folder of its own: one
// that was interrupted lacks StateFile, which is written last.
func (t *Trainer) Save(ctx context.Context, dir string) error {
	if err := t.Decoder.Save(ctx, dir); err != nil {
		return err
	}
	entries := []safetensors.Entry{safetensors.Int32(stepName, []int{1}, []int32{int32(t.steps)})}
	for _, n := range t.adam.named() {
		entries = append(entries, model.TensorEntry(ctx, n))
	}
	return safetensors.WriteFile(filepath.Join(dir, StateFile), entries, nil)
}

// Load restores what Save wrote. The decoder must be of the same configuration; what is missing, unexpected or mis-shaped is
// a *model.TensorError.
func (t *Trainer) Load(ctx context.Context, dir string) error {
	path := filepath.Join(dir, StateFile)
	state, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	steps, err := state.Int32s(stepName)
	if err != nil {
		return err
	}
	if len(steps) != 1 || steps[0] < 0 {
		return fmt.Errorf("train: %s: %s is %v", path, stepName, steps)
	}
	named := t.adam.named()
	if err := model.CheckTensors(state, path, named, stepName); err != nil {
		return err
	}
	if err := t.Decoder.Load(ctx, dir); err != nil {
		return err
	}
	for _, n := range named {
		if err := model.LoadTensor(ctx, state, n); err != nil {
			return err
		}
	}
	t.steps = int(steps[0])
	return nil
}
