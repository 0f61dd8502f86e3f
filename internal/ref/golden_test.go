package ref

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/safetensors"
)

// A goldenLayer reads one layer's MLP block of a reference model (tests/testdata/golden/README.md).
type goldenLayer struct {
	t        *testing.T
	weights  *safetensors.Checkpoint
	expected *safetensors.File
	prefix   string
	config   map[string]any
}

func openGolden(t *testing.T, name string, layer int) *goldenLayer {
	dir := filepath.Join("..", "..", "tests", "testdata", "golden", name)
	g := &goldenLayer{t: t, prefix: fmt.Sprintf("model.layers.%d.mlp.", layer)}
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &g.config))
	g.weights, err = safetensors.OpenFolder(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.weights.Close()) })
	g.expected, err = safetensors.Open(filepath.Join(dir, "expected.safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, g.expected.Close()) })
	return g
}

func (g *goldenLayer) size(field string) int { return int(g.config[field].(float64)) }

func (g *goldenLayer) weight(name string) []float64 {
	g.t.Helper()
	info, err := g.weights.Info(g.prefix + name)
	require.NoError(g.t, err)
	data := make([]float32, info.Elements())
	require.NoError(g.t, g.weights.ReadFloat32(g.prefix+name, data))
	return Widen(data)
}

// block returns the recorded input and output [T,D].
func (g *goldenLayer) block() (in, out []float64) {
	for name, to := range map[string]*[]float64{"input": &in, "output": &out} {
		data, err := g.expected.Float32s(g.prefix + name)
		require.NoError(g.t, err)
		*to = Widen(data)
	}
	return in, out
}

// linear is W·x + b for W [out,in], or [in,out] when transposed.
func linear(w, b, x []float64, transposed bool) []float64 {
	out := len(w) / len(x)
	y := make([]float64, out)
	copy(y, b)
	for o := range y {
		for i, v := range x {
			at := o*len(x) + i
			if transposed {
				at = i*out + o
			}
			y[o] += w[at] * v
		}
	}
	return y
}

// swiglu is Down·(silu(Gate·x) ∘ Up·x).
func swiglu(gate, up, down, x []float64) []float64 {
	g, u := linear(gate, nil, x, false), linear(up, nil, x, false)
	for i := range g {
		g[i] *= sigmoid(g[i]) * u[i]
	}
	return linear(down, nil, g, false)
}

// separateExpert is stored as three matrices, prefix + "gate_proj" and so on.
func (g *goldenLayer) separateExpert(prefix string) func(x []float64) []float64 {
	gate, up, down := g.weight(prefix+"gate_proj.weight"), g.weight(prefix+"up_proj.weight"), g.weight(prefix+"down_proj.weight")
	return func(x []float64) []float64 { return swiglu(gate, up, down, x) }
}

func (g *goldenLayer) separateExperts(n int) func(e int, x []float64) []float64 {
	experts := make([]func([]float64) []float64, n)
	for e := range experts {
		experts[e] = g.separateExpert(fmt.Sprintf("experts.%d.", e))
	}
	return func(e int, x []float64) []float64 { return experts[e](x) }
}

// jetMoEExpert has gate and up rows in one matrix.
func (g *goldenLayer) jetMoEExpert(experts int) func(e int, x []float64) []float64 {
	in, down := g.weight("input_linear.weight"), g.weight("output_linear.weight")
	return func(e int, x []float64) []float64 {
		half, size := len(in)/experts/2, len(down)/experts
		w := in[2*e*half:]
		return swiglu(w[:half], w[half:2*half], down[e*size:(e+1)*size], x)
	}
}

// gptOSSExpert interleaves gate and up columns of [in,out] matrices and clamps both.
func (g *goldenLayer) gptOSSExpert(experts int) func(e int, x []float64) []float64 {
	const alpha, limit = 1.702, 7
	part := func(all []float64, e int) []float64 { return all[e*len(all)/experts : (e+1)*len(all)/experts] }
	in, inBias := g.weight("experts.gate_up_proj"), g.weight("experts.gate_up_proj_bias")
	down, downBias := g.weight("experts.down_proj"), g.weight("experts.down_proj_bias")
	return func(e int, x []float64) []float64 {
		z := linear(part(in, e), part(inBias, e), x, true)
		h := make([]float64, len(z)/2)
		for i := range h {
			gate, up := math.Min(z[2*i], limit), math.Max(-limit, math.Min(z[2*i+1], limit))
			h[i] = gate * sigmoid(alpha*gate) * (up + 1)
		}
		return linear(part(down, e), part(downBias, e), h, true)
	}
}

// mixture runs every token through its experts.
func mixture(r Router, logits, x []float64, tokens int, expert func(e int, x []float64) []float64) []float64 {
	ids := Select(r, logits, tokens)
	gates := RouterGates(r, logits, ids, tokens)
	width := len(x) / tokens
	out := make([]float64, len(x))
	for s, e := range ids {
		t := s / r.K
		for c, v := range expert(int(e), x[t*width:(t+1)*width]) {
			out[t*width+c] += gates[s] * v
		}
	}
	return out
}

// TestRoutersReproduceReferenceModels runs whole MLP blocks of models that transformers evaluated, by the router of this
// package and experts written down once more, and finds the recorded outputs.
func TestRoutersReproduceReferenceModels(t *testing.T) {
	const tokens = 48
	for _, c := range []struct {
		name  string
		layer int
		run   func(g *goldenLayer, x []float64) []float64
	}{
		{"deepseekv3", 1, func(g *goldenLayer, x []float64) []float64 {
			r := Router{Mode: SigmoidTopKNorm, Experts: g.size("n_routed_experts"), K: g.size("num_experts_per_tok"),
				Scale: g.config["routed_scaling_factor"].(float64), Groups: g.size("n_group"), TopGroups: g.size("topk_group")}
			for _, b := range g.weight("gate.e_score_correction_bias") {
				r.Bias = append(r.Bias, float32(b))
			}
			logits := rowsOf(x, tokens, func(x []float64) []float64 { return linear(g.weight("gate.weight"), nil, x, false) })
			plain := Router{Mode: r.Mode, Experts: r.Experts, K: r.K}
			unbiased := r
			unbiased.Bias = nil
			require.NotEqual(g.t, Select(plain, logits, tokens), Select(unbiased, logits, tokens), "groups matter")
			require.NotEqual(g.t, Select(unbiased, logits, tokens), Select(r, logits, tokens), "the bias matters")
			out := mixture(r, logits, x, tokens, g.separateExperts(r.Experts))
			return plus(out, rowsOf(x, tokens, g.separateExpert("shared_experts.")))
		}},
		{"qwen2moe", 0, func(g *goldenLayer, x []float64) []float64 {
			r := Router{Mode: SoftmaxTopK, Experts: g.size("num_experts"), K: g.size("num_experts_per_tok")}
			logits := rowsOf(x, tokens, func(x []float64) []float64 { return linear(g.weight("gate.weight"), nil, x, false) })
			out := mixture(r, logits, x, tokens, g.separateExperts(r.Experts))
			shared, gate := g.separateExpert("shared_expert."), g.weight("shared_expert_gate.weight")
			return plus(out, rowsOf(x, tokens, func(x []float64) []float64 {
				y, weight := shared(x), sigmoid(linear(gate, nil, x, false)[0])
				for i := range y {
					y[i] *= weight
				}
				return y
			}))
		}},
		{"jetmoe", 1, func(g *goldenLayer, x []float64) []float64 {
			r := Router{Mode: TopKSoftmax, Experts: g.size("num_local_experts"), K: g.size("num_experts_per_tok")}
			logits := rowsOf(x, tokens, func(x []float64) []float64 {
				return linear(g.weight("router.layer.weight"), nil, x, false)
			})
			out := mixture(r, logits, x, tokens, g.jetMoEExpert(r.Experts))
			return plus(out, rowsOf(x, tokens, func([]float64) []float64 { return g.weight("bias") }))
		}},
		{"gptoss", 0, func(g *goldenLayer, x []float64) []float64 {
			r := Router{Mode: TopKSoftmax, Experts: g.size("num_local_experts"), K: g.size("num_experts_per_tok")}
			logits := rowsOf(x, tokens, func(x []float64) []float64 {
				return linear(g.weight("router.weight"), g.weight("router.bias"), x, false)
			})
			return mixture(r, logits, x, tokens, g.gptOSSExpert(r.Experts))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := openGolden(t, c.name, c.layer)
			in, want := g.block()
			got := c.run(g, in)
			diff := RelativeFrobenius(got, want)
			t.Logf("relative Frobenius error %.2g", diff)
			require.True(t, diff <= 3e-7, "%v: inputs and outputs are recorded in float32", diff)
		})
	}
}

// rowsOf applies f to each row and joins the results.
func rowsOf(x []float64, rows int, f func([]float64) []float64) []float64 {
	var out []float64
	for r := range rows {
		out = append(out, f(x[r*len(x)/rows:(r+1)*len(x)/rows])...)
	}
	return out
}

func plus(a, b []float64) []float64 {
	for i := range a {
		a[i] += b[i]
	}
	return a
}
