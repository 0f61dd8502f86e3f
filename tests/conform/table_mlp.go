package conform

import (
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// mlpShape is experts, choices, width, hidden width and tokens.
type mlpShape struct{ e, k, d, h, t int }

var mlpShapes = []mlpShape{{8, 2, 32, 48, 20}, {5, 3, 33, 7, 17}, {4, 4, 20, 12, 30}}

func (s mlpShape) String() string { return fmt.Sprintf("e%d_k%d_d%d_h%d_t%d", s.e, s.k, s.d, s.h, s.t) }

// mlpCaseOf makes the usual case of a shape.
func mlpCaseOf(dtype vk.DType, s mlpShape, a moe.Activation, mode moe.RouterMode) mlpCase {
	return mlpCase{tokens: s.t, cfg: moe.MLPConfig{Experts: s.e, TopK: s.k, Width: s.d, Hidden: s.h, Activation: a, Mode: mode, DType: dtype}}
}

// mlpVariants change the usual case. Those that begin with b_ make sense for the backward pass only.
var mlpVariants = []struct {
	name   string
	change func(c *mlpCase)
}{
	{"bias", func(c *mlpCase) { c.cfg.Bias, c.cfg.RouterBias = true, true }},
	{"inout", func(c *mlpCase) { c.cfg.InOut = true }},
	{"inout_bias", func(c *mlpCase) { c.cfg.InOut, c.cfg.Bias = true, true }},
	{"output_bias", func(c *mlpCase) { c.cfg.OutputBias = true }},
	{"shared", func(c *mlpCase) { c.cfg.SharedHidden = 11 }},
	{"shared_gate", func(c *mlpCase) { c.cfg.SharedHidden, c.cfg.SharedGate = 16, true }},
	{"interleaved", func(c *mlpCase) { c.cfg.Interleaved = true }},
	{"interleaved_bias", func(c *mlpCase) { c.cfg.Interleaved, c.cfg.Bias, c.cfg.Activation = true, true, moe.ClampedSwiGLU }},
	{"scaled", func(c *mlpCase) { c.cfg.GateScale = 2.5 }},
	{"deepseek", func(c *mlpCase) {
		c.cfg.Mode, c.cfg.CorrectionBias, c.cfg.GateScale, c.cfg.SharedHidden = moe.SigmoidTopKNorm, true, 2.5, 8
	}},
	{"one_choice", func(c *mlpCase) { c.cfg.TopK = 1 }},
	{"one_token", func(c *mlpCase) { c.tokens = 1 }},
	{"no_token", func(c *mlpCase) { c.tokens = 0 }},
	{"jitter", func(c *mlpCase) { c.jitter = 0.1 }},
	{"routed", func(c *mlpCase) { c.routed = true }},
	{"recompute", func(c *mlpCase) { c.save = moe.RecomputeActivation }},
	{"f_inference", func(c *mlpCase) { c.save = moe.SaveNothing }},
	{"b_accumulate", func(c *mlpCase) { c.accumulate = true }},
	{"b_accumulate_bias", func(c *mlpCase) { c.accumulate, c.cfg.Bias = true, true }},
	{"b_workspace", func(c *mlpCase) { c.save, c.workspace = moe.RecomputeActivation, true }},
	{"b_recompute_shared", func(c *mlpCase) { c.save, c.cfg.SharedHidden, c.cfg.SharedGate = moe.RecomputeActivation, 9, true }},
	{"b_save_in_h264_t10", func(c *mlpCase) { // wide enough for two halves of h, in two of the shapes
		c.save, c.workspace, c.saveIn, c.cfg.Activation, c.cfg.Hidden, c.tokens = moe.RecomputeActivation, true, true, moe.GELU, 264, 10
	}},
}

// mlpGrid calls emit for all cases of one pass.
func mlpGrid(pass string, emit func(name string, c mlpCase, required bool)) {
	name := func(c mlpCase, s mlpShape, variant string) string {
		return fmt.Sprintf("%v.%s.%s.%v.%s", c.cfg.DType, activationName(c.cfg.Activation), modeName(c.cfg.Mode), s, variant)
	}
	for d, dtype := range storages {
		for i, s := range mlpShapes {
			for n, f := range functions {
				c := mlpCaseOf(dtype, s, f.Activation, modes[(n+i)%len(modes)])
				emit(name(c, s, "plain"), c, n == i && i == d)
			}
			for n, mode := range modes {
				if n != i%len(modes) { // that one is among the above
					c := mlpCaseOf(dtype, s, moe.SwiGLU, mode)
					emit(name(c, s, "plain"), c, n == 2 && i == 0)
				}
			}
			for n, v := range mlpVariants {
				if strings.HasPrefix(v.name, "b_") && pass == "forward" || strings.HasPrefix(v.name, "f_") && pass == "backward" ||
					pass == "backward" && v.name == "jitter" {
					continue
				}
				c := mlpCaseOf(dtype, s, moe.SwiGLU, modes[n%3])
				v.change(&c)
				emit(name(c, s, strings.TrimPrefix(strings.TrimPrefix(v.name, "b_"), "f_")), c, i == 0 && n%3 == d)
			}
		}
	}
}

func mlpForward(add func(Case)) {
	mlpGrid("forward", func(name string, c mlpCase, required bool) {
		add(Case{Name: "mlp.forward." + name, Required: required, Record: c.forward})
	})
}

func mlpBackward(add func(Case)) {
	mlpGrid("backward", func(name string, c mlpCase, required bool) {
		add(Case{Name: "mlp.backward." + name, Required: required, Record: c.backward})
	})
}
