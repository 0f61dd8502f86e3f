package model

import (
	"fmt"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// MLPWeights are the host weights of one layer's MLP block; what the configuration does not have is nil. A layer without
// experts is one expert that is always chosen: Experts and TopK are 1, RouterWeight is zero, and the softmax over its one
// logit is exactly 1.
//
// H counts hidden values of one expert and S those of the shared experts. Matrices are [out,in] with the gate rows before
// the up rows, or with Config's InOut [in,out], and with its Interleaved gate and up in turns.
type MLPWeights struct {
	Config moe.MLPConfig

	RouterWeight   []float32 // [E,D]
	RouterBias     []float32 // [E]
	CorrectionBias []float32 // [E]

	Up, UpBias     []float32 // [E,2H,D] or [E,D,2H]; [E,2H]
	Down, DownBias []float32 // [E,D,H] or [E,H,D]; [E,D]

	SharedUp, SharedDown []float32 // [2S,D], [D,S]
	SharedGate           []float32 // [1,D]
	OutputBias           []float32 // [D]
}

// Rounded returns the weights as a layer of that dtype stores them, and Config with the dtype set: each value rounded to
// nearest even, f16 to infinity from 65,520 on. CorrectionBias stays as it is, in F32. NewMLP computes the same from
// unrounded weights; this is for those who compare.
func (w *MLPWeights) Rounded(dtype vk.DType) *MLPWeights {
	out := *w
	out.Config.DType = dtype
	for _, a := range []*[]float32{&out.RouterWeight, &out.RouterBias, &out.Up, &out.UpBias, &out.Down, &out.DownBias,
		&out.SharedUp, &out.SharedDown, &out.SharedGate, &out.OutputBias} {
		*a = vk.Round(dtype, *a)
	}
	return &out
}

// LoadMLP reads the MLP block of one layer, converting to float32. Every tensor of the block must be there in the shape the
// configuration asks for, and nothing else may be: a checkpoint with weights that would be ignored is refused with a
// *TensorError.
func (c *Checkpoint) LoadMLP(layer int) (*MLPWeights, error) {
	if layer < 0 || layer >= c.Config.Layers {
		return nil, fmt.Errorf("model: layer %d of a model with %d layers", layer, c.Config.Layers)
	}
	w := &MLPWeights{Config: c.mlpConfig(layer)}
	if err := readParts(c, c.arch.prefix(layer), c.mlpParts(layer), w); err != nil {
		return nil, err
	}
	if w.RouterWeight == nil {
		w.RouterWeight = make([]float32, w.Config.Experts*w.Config.Width)
	}
	return w, nil
}

func (c *Checkpoint) mlpConfig(layer int) moe.MLPConfig {
	if c.Config.Dense(layer) {
		return moe.MLPConfig{Experts: 1, TopK: 1, Width: c.Config.Width, Hidden: c.Config.DenseHidden,
			Activation: c.Config.MLP.Activation}
	}
	return c.Config.MLP
}

func upArray(w *MLPWeights) *[]float32         { return &w.Up }
func downArray(w *MLPWeights) *[]float32       { return &w.Down }
func sharedUpArray(w *MLPWeights) *[]float32   { return &w.SharedUp }
func sharedDownArray(w *MLPWeights) *[]float32 { return &w.SharedDown }

// mlpParts lists the tensors of a layer's MLP block.
func (c *Checkpoint) mlpParts(layer int) []part[MLPWeights] {
	cfg, prefix := c.mlpConfig(layer), c.arch.prefix(layer)
	if c.Config.Dense(layer) {
		return denseParts(prefix, cfg.Width, cfg.Hidden)
	}
	return c.arch.mlpParts(prefix, cfg)
}

// gatedParts lists a gated network's three matrices: those of Up, one behind the other, and that of Down, of expert e.
func gatedParts(prefix string, names [3]string, width, hidden, e int, ups, downs func(*MLPWeights) *[]float32) []part[MLPWeights] {
	inner, outer, size := []int{hidden, width}, []int{width, hidden}, hidden*width
	return []part[MLPWeights]{
		{prefix + names[0], inner, ups, 2 * e * size},
		{prefix + names[1], inner, ups, (2*e + 1) * size},
		{prefix + names[2], outer, downs, e * size},
	}
}

// denseParts lists the tensors of an MLP without experts, which all architectures name alike.
func denseParts(prefix string, width, hidden int) []part[MLPWeights] {
	names := [3]string{"gate_proj.weight", "up_proj.weight", "down_proj.weight"}
	return gatedParts(prefix, names, width, hidden, 0, upArray, downArray)
}

// mlpParts lists the tensors of an MLP block with experts.
func (arch *architecture) mlpParts(prefix string, cfg moe.MLPConfig) []part[MLPWeights] {
	whole := func(name string, array func(*MLPWeights) *[]float32, shape ...int) part[MLPWeights] {
		return part[MLPWeights]{prefix + name, shape, array, 0}
	}
	parts := []part[MLPWeights]{whole(arch.router, func(w *MLPWeights) *[]float32 { return &w.RouterWeight }, cfg.Experts, cfg.Width)}
	switch {
	case arch.gate != "":
		for e := range cfg.Experts {
			names := [3]string{fmt.Sprintf(arch.gate, e), fmt.Sprintf(arch.up, e), fmt.Sprintf(arch.down, e)}
			parts = append(parts, gatedParts(prefix, names, cfg.Width, cfg.Hidden, e, upArray, downArray)...)
		}
	case cfg.InOut:
		parts = append(parts, whole(arch.fusedUp, upArray, cfg.Experts, cfg.Width, 2*cfg.Hidden),
			whole(arch.fusedDown, downArray, cfg.Experts, cfg.Hidden, cfg.Width))
	default:
		parts = append(parts, whole(arch.fusedUp, upArray, cfg.Experts, 2*cfg.Hidden, cfg.Width),
			whole(arch.fusedDown, downArray, cfg.Experts, cfg.Width, cfg.Hidden))
	}
	if cfg.RouterBias {
		parts = append(parts, whole(arch.routerBias, func(w *MLPWeights) *[]float32 { return &w.RouterBias }, cfg.Experts))
	}
	if cfg.CorrectionBias {
		parts = append(parts, whole(arch.correctionBias, func(w *MLPWeights) *[]float32 { return &w.CorrectionBias }, cfg.Experts))
	}
	if cfg.Bias {
		parts = append(parts,
			whole(arch.upBias, func(w *MLPWeights) *[]float32 { return &w.UpBias }, cfg.Experts, 2*cfg.Hidden),
			whole(arch.downBias, func(w *MLPWeights) *[]float32 { return &w.DownBias }, cfg.Experts, cfg.Width))
	}
	if cfg.SharedHidden > 0 {
		names := [3]string{arch.shared + "gate_proj.weight", arch.shared + "up_proj.weight", arch.shared + "down_proj.weight"}
		parts = append(parts, gatedParts(prefix, names, cfg.Width, cfg.SharedHidden, 0, sharedUpArray, sharedDownArray)...)
	}
	if cfg.SharedGate {
		parts = append(parts, whole(arch.sharedGate, func(w *MLPWeights) *[]float32 { return &w.SharedGate }, 1, cfg.Width))
	}
	if cfg.OutputBias {
		parts = append(parts, whole(arch.outputBias, func(w *MLPWeights) *[]float32 { return &w.OutputBias }, cfg.Width))
	}
	return parts
}
