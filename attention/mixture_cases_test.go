package attention

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// TestMixtureOfGivenExperts: choices may repeat an expert, and weigh alike without gates.
func TestMixtureOfGivenExperts(t *testing.T) {
	cfg := MixtureConfig{Experts: 5, TopK: 3, HeadsPerExpert: 2, HeadWidth: 10, Width: 22, Causal: true, OutputBias: true, ExpertBias: true}
	for _, dtype := range []vk.DType{vk.F32, vk.BF16} {
		cfg.DType = dtype
		l := newMixture(t, cfg, 10)
		for _, save := range []moe.Save{moe.SaveAll, moe.RecomputeActivation} {
			k := newKit(t)
			var gates []float32
			run := l.record(k, mixtureCase{lengths: []int{9, 30}, save: save, routing: func(k *kit, tokens int) *moe.Routing {
				r := rand.New(rand.NewSource(5))
				ids := make([]int32, tokens*cfg.TopK)
				for i := range ids {
					ids[i] = int32(r.Intn(cfg.Experts))
				}
				gates = gputest.Normal(r, len(ids))
				routing, err := moe.RouteIDs(k.Rec, k.I32("ids", ids, tokens, cfg.TopK), k.F32("gates", gates, tokens, cfg.TopK), cfg.Experts)
				require.NoError(t, err)
				return routing
			}})
			k.Partial("Router") // nobody asked for these
			k.Partial("Logits")
			k.Run()
			run.requireGiven(t, gates)
			k.Close()
		}
	}
}

// requireGiven compares a run of given experts with the oracle, stage by stage since its gates follow from logits.
func (run *mixtureRun) requireGiven(t testing.TB, gates []float32) {
	t.Helper()
	m := run.layer.oracle
	m.Attention.QueryOffsets = run.offsets
	ids := gputest.Download[int32](t, run.saved.Routing.IDs)
	res := ref.MixtureOfAttentionChosen(m, run.x, ref.DenseLinear(m.Router, run.x, run.tokens), ids)
	res.Gates = ref.Widen(gates)
	width := m.Output.Out
	out := ref.Combine(res.Slots.Y, res.Gates, res.Routing, width, false)
	for i := range out.Y {
		out.Y[i] += float64(m.Bias[i%width])
	}
	relative := ref.RelativeFrobenius(gputest.Download[float32](t, run.y), out.Y)
	require.True(t, relative <= run.tolerance(), "y: %v", relative)
	g := ref.MixtureOfAttentionBackward(m, run.x, res, run.dy)
	for i, v := range g.Router.X.Y { // the router has no part in it
		g.X[i] -= v
	}
	for name, want := range map[string][]float64{"X": g.X, "Gates": g.Gates.Y, "Query": g.Query.Weight.Y, "Output": g.Output.Weight.Y,
		"Output bias": g.Output.Bias.Y, "KeyValue": g.KeyValue.Weight.Y, "OutputBias": g.Bias} {
		relative := ref.RelativeFrobenius(gputest.Download[float32](t, run.named[name]), want)
		require.True(t, relative <= run.tolerance(), "%s: %v", name, relative)
	}
}

// TestMixtureOfSlotsWithoutExperts: ids that name no expert end the run in an error; what is there is finite all the same, and
// what the slots with an expert make is as if the others were not.
func TestMixtureOfSlotsWithoutExperts(t *testing.T) {
	cfg := MixtureConfig{Experts: 3, TopK: 1, HeadsPerExpert: 2, HeadWidth: 5, Width: 7, Causal: true, DType: vk.F16}
	l := newMixture(t, cfg, 0)
	k := newKit(t)
	run := l.record(k, mixtureCase{lengths: []int{5}, routing: func(k *kit, tokens int) *moe.Routing {
		routing, err := moe.RouteIDs(k.Rec, k.I32("ids", []int32{0, -1, 2, 3, 1}, tokens, 1), nil, 3)
		require.NoError(t, err)
		return routing
	}})
	var id *moe.ExpertIDError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &id)
	require.Equal(t, 2, id.Count)
	y, gates := gputest.Download[float32](t, run.y), gputest.Download[float32](t, run.named["Gates"])
	for token, want := range []bool{true, false, true, false, true} {
		require.Equal(t, want, !slices.Equal(y[7*token:][:7], make([]float32, 7)), "y of token %d", token)
		require.Equal(t, want, gates[token] != 0, "gate gradient of token %d", token)
	}
	for _, name := range []string{"X", "Query", "KeyValue", "Output"} {
		for _, v := range gputest.Download[float32](t, run.named[name]) {
			require.False(t, math.IsNaN(float64(v)) || math.IsInf(float64(v), 0), name)
		}
	}
	for i, v := range gputest.Download[float32](t, run.named["Query"])[:5*7*2] { // expert 0 has token 0 only, which sees itself only
		require.True(t, math.Abs(float64(v)) < 1e-2, "query %d: %v", i, v)
	}
}

// TestMixtureRepeatsItsBits runs both passes twenty times in recordings of their own, and one recording twenty times.
func TestMixtureRepeatsItsBits(t *testing.T) {
	cfg := MixtureConfig{Experts: 16, TopK: 4, HeadsPerExpert: 2, HeadWidth: 12, Width: 40, Mode: moe.TopKSoftmax, Causal: true,
		OutputBias: true, Sinks: true, DType: vk.BF16}
	l := newMixture(t, cfg, 12)
	var first map[string][]uint32
	for i := range 20 {
		k := newKit(t)
		run := l.record(k, mixtureCase{lengths: []int{70, 3, 27}})
		for j := 0; j < 20; j += 1 + 19*min(i, 1) {
			k.Run()
			got := map[string][]uint32{"y": gputest.Words(t, run.y)}
			for name, tensor := range run.named {
				got[name] = gputest.Words(t, tensor)
			}
			if first == nil {
				first = got
			}
			require.Equal(t, first, got, "recording %d, run %d", i, j)
		}
		k.Close()
	}
}

// TestSaveDoesNotChangeBits compares both passes of the two ways to save, and the forward pass that saves nothing.
func TestSaveDoesNotChangeBits(t *testing.T) {
	for _, cfg := range mixtureConfigs()[1:4] {
		cfg.DType = vk.F16
		l := newMixture(t, cfg, cfg.HeadWidth)
		lengths := []int{20, 31}
		var results []map[string][]uint32
		for _, save := range []moe.Save{moe.SaveAll, moe.RecomputeActivation} {
			k := newKit(t)
			run := l.record(k, mixtureCase{lengths: lengths, save: save})
			require.Equal(t, save == moe.SaveAll, run.saved.Query != nil && run.saved.KeyValue != nil)
			k.Run()
			got := map[string][]uint32{"y": gputest.Words(t, run.y)}
			for name, tensor := range run.named {
				got[name] = gputest.Words(t, tensor)
			}
			results = append(results, got)
			k.Close()
		}
		require.Equal(t, results[0], results[1])
		k := newKit(t)
		r := rand.New(rand.NewSource(51))
		x := k.Floats("x", cfg.DType, vk.Round(cfg.DType, gputest.Normal(r, 51*cfg.Width)), 51, cfg.Width)
		y := k.Output("y", cfg.DType, 51, cfg.Width)
		saved, err := l.ForwardWith(k.Rec, x, y, Sequences{Offsets: k.I32("offsets", offsetsOf(lengths), 3)},
			MixtureOptions{Save: moe.SaveNothing})
		require.NoError(t, err)
		require.True(t, saved.Query == nil && saved.KeyValue == nil && saved.Heads == nil && saved.LSE == nil)
		var shape *vk.ShapeError
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		require.ErrorAs(t, l.Backward(rec, saved, x, x, MixtureGrads{}), &shape)
		require.Equal(t, "saved", shape.Arg)
		require.NoError(t, rec.Close())
		k.Run()
		require.Equal(t, results[0]["y"], gputest.Words(t, y))
		k.Close()
	}
}

// TestMixtureKeepsNaNToItsSequence: one token's NaN reaches the later tokens of its sequence, and no other sequence.
func TestMixtureKeepsNaNToItsSequence(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 2, HeadWidth: 8, Width: 12, Mode: moe.TopKSoftmax, Causal: true}
	l := newMixture(t, cfg, 8)
	k := newKit(t)
	const tokens = 12
	data := gputest.Normal(rand.New(rand.NewSource(1)), tokens*cfg.Width)
	data[6*cfg.Width] = float32(math.NaN()) // sequence 1 has tokens 4 to 8
	x, y := k.F32("x", data, tokens, cfg.Width), k.Output("y", vk.F32, tokens, cfg.Width)
	_, err := l.Forward(k.Rec, x, y, Sequences{Offsets: k.I32("offsets", []int32{0, 4, 9, 12}, 4)})
	require.NoError(t, err)
	k.Run()
	for i, v := range gputest.Download[float32](t, y) {
		token := i / cfg.Width
		require.Equal(t, token >= 6 && token < 9, math.IsNaN(float64(v)), "token %d", token)
	}
}

// TestPaddedSequences: rows before and behind the sequences change nothing and have biases for results.
func TestPaddedSequences(t *testing.T) {
	cfg := MixtureConfig{Experts: 4, TopK: 2, HeadsPerExpert: 1, HeadWidth: 7, Width: 9, Mode: moe.TopKSoftmax, Causal: true,
		OutputBias: true, DType: vk.BF16}
	l := newMixture(t, cfg, 6)
	r := rand.New(rand.NewSource(3))
	data, dys := vk.Round(cfg.DType, gputest.Normal(r, 13*cfg.Width)), vk.Round(cfg.DType, gputest.Normal(r, 13*cfg.Width))
	clear(dys[:2*cfg.Width])
	clear(dys[11*cfg.Width:])
	type result struct{ y, x, query, keyValue []uint32 }
	pass := func(from, to int, offsets []int32, padded bool) result {
		k := newKit(t)
		rows := to - from
		x := k.Floats("x", cfg.DType, data[from*cfg.Width:to*cfg.Width], rows, cfg.Width)
		dy := k.Floats("dy", cfg.DType, dys[from*cfg.Width:to*cfg.Width], rows, cfg.Width)
		y, dx := k.Output("y", cfg.DType, rows, cfg.Width), k.Output("dx", cfg.DType, rows, cfg.Width)
		g, err := l.NewGrads()
		require.NoError(t, err)
		g.X = dx
		s, err := l.Forward(k.Rec, x, y, Sequences{Offsets: k.I32("offsets", offsets, len(offsets)), Padded: padded})
		require.NoError(t, err)
		require.NoError(t, l.Backward(k.Rec, s, x, dy, *g))
		k.Run()
		out := result{gputest.Words(t, y), gputest.Words(t, dx), gputest.Words(t, g.Query.Weight.Parts()[0]), gputest.Words(t, g.KeyValue.Weight.Parts()[0])}
		require.NoError(t, g.Close())
		k.Close()
		return out
	}
	want, got := pass(2, 11, []int32{0, 5, 9}, false), pass(0, 13, []int32{2, 7, 11}, true)
	inside := func(v []uint32) []uint32 { return v[2*cfg.Width : 11*cfg.Width] }
	require.Equal(t, want.y, inside(got.y))
	require.Equal(t, want.x, inside(got.x))
	require.Equal(t, want.query, got.query)
	require.Equal(t, want.keyValue, got.keyValue)
	bias := gputest.Words(t, l.OutputBias.Parts()[0])
	for _, row := range []int{0, 1, 11, 12} {
		require.Equal(t, bias, got.y[row*cfg.Width:][:cfg.Width])
	}

	k := newKit(t) // unless it is announced
	x, y := k.Floats("x", cfg.DType, data, 13, cfg.Width), k.PartialOutput("y", cfg.DType, 13, cfg.Width)
	_, err := l.Forward(k.Rec, x, y, Sequences{Offsets: k.I32("offsets", []int32{0, 7, 11}, 3)})
	require.NoError(t, err)
	var sequence *SequenceError
	require.ErrorAs(t, k.Rec.Run(k.Ctx), &sequence)
	require.Equal(t, SequenceError{Last: 11, Rows: 13}, *sequence)
	require.Equal(t, "attention: the sequences have rows 0 to 11 of 13", sequence.Error())
}

// TestMixtureMemoryIsWhatTheFormulasSay compares the device's count of live and peak bytes with WeightBytes and PassBytes.
func TestMixtureMemoryIsWhatTheFormulasSay(t *testing.T) {
	gputest.Need(t, dev)
	for _, cfg := range []MixtureConfig{
		{Experts: 8, TopK: 2, HeadsPerExpert: 4, HeadWidth: 16, Width: 128, Causal: true, Sinks: true, RouterBias: true, QueryBias: true},
		{Experts: 16, TopK: 4, HeadsPerExpert: 3, HeadWidth: 11, Width: 100, ExpertBias: true, KeyValueBias: true},
		{Experts: 40, TopK: 1, HeadsPerExpert: 4, HeadWidth: 24, Width: 96, DType: vk.F16},
		{Experts: 8, TopK: 8, HeadsPerExpert: 2, HeadWidth: 40, Width: 640, DType: vk.BF16, OutputBias: true},
	} {
		for _, turning := range []int{0, 10} {
			before := dev.Memory().LiveBytes
			var rope *RoPE
			if turning > 0 {
				var err error
				rope, err = NewRoPE(context.Background(), dev, RoPEConfig{Width: turning}, 1300)
				require.NoError(t, err)
			}
			start := dev.Memory().LiveBytes
			m, err := NewMixture(dev, cfg, rope)
			require.NoError(t, err)
			require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-start)
			start = dev.Memory().LiveBytes
			g, err := m.NewGrads()
			require.NoError(t, err)
			require.Equal(t, cfg.WeightBytes(), dev.Memory().LiveBytes-start)
			for _, tokens := range []int{700, 1300, 4000} {
				for flags := range 10 {
					p := MixturePass{Save: moe.Save(flags % 3), Backward: flags >= 6, Routed: flags/3 == 1, Positions: turning > 0}
					if p.Backward = p.Backward || flags == 3; p.Save == moe.SaveNothing {
						p.Backward = false
					}
					t.Run(fmt.Sprintf("%+v T=%d %+v", cfg, tokens, p), func(t *testing.T) { requireMixturePassBytes(t, m, g, tokens, p) })
				}
			}
			require.NoError(t, g.Close())
			require.NoError(t, m.Close())
			require.NoError(t, rope.Close())
			require.Equal(t, before, dev.Memory().LiveBytes)
		}
	}
}

// TestPartsDoNotChangeResults: of many tokens the experts' results are summed in parts, of few at once.
func TestPartsDoNotChangeResults(t *testing.T) {
	cfg := MixtureConfig{Experts: 16, TopK: 8, HeadsPerExpert: 1, HeadWidth: 8, Width: 64, Mode: moe.TopKSoftmax, Causal: true,
		OutputBias: true, Window: 9, DType: vk.F16}
	l := newMixture(t, cfg, 8)
	const half = 700
	require.Less(t, cfg.tokensPerBlock(2*half, cfg.blockElements(2*half, moe.SaveAll, false)), 2*half)
	require.Equal(t, half, cfg.tokensPerBlock(half, cfg.blockElements(half, moe.SaveAll, false)))
	r := rand.New(rand.NewSource(1))
	x, dy := vk.Round(cfg.DType, gputest.Normal(r, 2*half*cfg.Width)), vk.Round(cfg.DType, gputest.Normal(r, 2*half*cfg.Width))
	pass := func(from, to int, offsets ...int32) (y []uint32, dx []float32) {
		k := newKit(t)
		rows := to - from
		out, grad := k.Output("y", cfg.DType, rows, cfg.Width), k.Output("dx", cfg.DType, rows, cfg.Width)
		xs := k.Floats("x", cfg.DType, x[from*cfg.Width:to*cfg.Width], rows, cfg.Width)
		saved, err := l.Forward(k.Rec, xs, out, Sequences{Offsets: k.I32("offsets", offsets, len(offsets))})
		require.NoError(t, err)
		err = l.Backward(k.Rec, saved, xs, k.Floats("dy", cfg.DType, dy[from*cfg.Width:to*cfg.Width], rows, cfg.Width), MixtureGrads{X: grad})
		require.NoError(t, err)
		k.Run()
		defer k.Close()
		return gputest.Words(t, out), gputest.Download[float32](t, grad)
	}
	y, dx := pass(0, 2*half, 0, half, 2*half)
	for i := range 2 {
		wantY, wantX := pass(i*half, (i+1)*half, 0, half)
		require.Equal(t, wantY, y[i*half*cfg.Width:][:half*cfg.Width])
		relative := ref.RelativeFrobenius(dx[i*half*cfg.Width:][:half*cfg.Width], ref.Widen(wantX))
		require.True(t, relative <= gputest.Oracle(cfg.DType).Storage(), "half %d: %v", i, relative)
	}
}

// requireMixturePassBytes records a pass and asks that it takes PassBytes exactly.
func requireMixturePassBytes(t *testing.T, m *Mixture, weights *MixtureGrads, tokens int, p MixturePass) {
	t.Helper()
	tensor := func(dtype vk.DType, shape ...int) *vk.Tensor {
		x, err := dev.NewTensor(dtype, shape...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, x.Close()) })
		return x
	}
	c := m.Config
	x, y, dy := tensor(c.DType, tokens, c.Width), tensor(c.DType, tokens, c.Width), tensor(c.DType, tokens, c.Width)
	ids, gates := tensor(vk.I32, tokens, c.TopK), tensor(vk.F32, tokens, c.TopK)
	seq := Sequences{Offsets: tensor(vk.I32, 3)}
	g := *weights
	g.X = y
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	before := dev.Memory().LiveBytes
	dev.ResetPeak()
	o := MixtureOptions{Save: p.Save}
	if p.Routed {
		g.Router, g.Gates = moe.WeightGrads{}, gates
		o.Routing, err = moe.RouteIDs(rec, ids, tensor(vk.F32, tokens, c.TopK), c.Experts)
		before = dev.Memory().LiveBytes - moe.RouteBytes(tokens, c.TopK, c.Experts, o.Routing.BlockM, true)
		require.NoError(t, err)
	}
	saved, err := m.ForwardWith(rec, x, y, seq, o)
	require.NoError(t, err)
	if p.Backward {
		require.NoError(t, m.Backward(rec, saved, x, dy, g))
	}
	want, live, peak := c.PassBytes(tokens, saved.Routing.BlockM, p), dev.Memory().LiveBytes-before, dev.Memory().PeakBytes-before
	require.NoError(t, rec.Close())
	require.Equal(t, live, peak)
	require.LessOrEqual(t, live, want)
	require.LessOrEqual(t, want-live, 512+want/200, "no more than a few words of the routing are reused by chance")
}

// TestMixtureReproducesJetMoE runs the attention of the recorded model, whose values transformers computed.
func TestMixtureReproducesJetMoE(t *testing.T) {
	gputest.Need(t, dev)
	dir := filepath.Join("..", "tests", "testdata", "golden", "jetmoe")
	open := func(name string) func(string) []float32 {
		f, err := safetensors.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		return func(tensor string) []float32 {
			data, err := f.Float32s(tensor)
			require.NoError(t, err)
			return data
		}
	}
	weights, expected := open("model.safetensors"), open("expected.safetensors")
	cfg := MixtureConfig{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 32, Mode: moe.TopKSoftmax, OutputBias: true,
		Causal: true}
	ctx := context.Background()
	rope, err := NewRoPE(ctx, dev, RoPEConfig{Width: 16}, 128)
	require.NoError(t, err)
	defer rope.Close()
	for layer := range 2 {
		prefix := fmt.Sprintf("model.layers.%d.self_attention.", layer)
		m, err := NewMixture(dev, cfg, rope)
		require.NoError(t, err)
		for name, bank := range map[string]*moe.ExpertBank{"experts.router.layer.weight": m.Router.Weight,
			"experts.input_linear.weight": m.Query.Weight, "kv_proj.weight": m.KeyValue.Weight,
			"experts.output_linear.weight": m.Output.Weight, "experts.bias": m.OutputBias} {
			require.NoError(t, moe.UploadBank(ctx, bank, weights(prefix+name)))
		}
		k := newKit(t)
		x, y := k.F32("x", expected(prefix+"input"), 48, 32), k.Output("y", vk.F32, 48, 32)
		_, err = m.Forward(k.Rec, x, y, Sequences{Offsets: k.I32("offsets", []int32{0, 24, 48}, 3)})
		require.NoError(t, err)
		k.Run()
		relative := ref.RelativeFrobenius(gputest.Download[float32](t, y), ref.Widen(expected(prefix+"output")))
		t.Logf("layer %d: %.3g", layer, relative)
		require.True(t, relative <= 1e-5, "layer %d: %v", layer, relative)
		k.Close()
		require.NoError(t, m.Close())
	}
}
