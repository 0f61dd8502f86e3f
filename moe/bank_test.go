package moe

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// TestBankInSeveralTensorsEqualsTheOracle runs layers whose experts lie in tensors of one, two or three experts, at aligned
// and misaligned addresses, in all storage types.
func TestBankInSeveralTensorsEqualsTheOracle(t *testing.T) {
	for i, part := range []int{1, 2, 3} {
		for _, dtype := range gputest.Storages {
			for flags := range 4 {
				st := uniform(dtype)
				st.part = part
				linearCase{40, 7, 2, 24 + flags, 31 + flags, spreads[flags%len(spreads)], ref.Layouts[(i+flags)%len(ref.Layouts)],
					flags != 3, flags != 2, flags&1 != 0, flags >> 1, Tile{}, nil}.checkIn(t, st, false)
			}
		}
	}
}

// TestSplittingABankChangesNoBit compares results of one tensor and of several.
func TestSplittingABankChangesNoBit(t *testing.T) {
	for _, dtype := range gputest.Storages {
		var first []uint32
		for _, part := range []int{0, 1, 4, 5} {
			k := newKit(t)
			st := uniform(dtype)
			st.part = part
			run := linearCase{90, 9, 2, 36, 44, spreads[0], ref.Layout{}, true, true, false, 0, Tile{}, nil}.recordIn(k, st)
			k.Run()
			got := gputest.Words(t, run.y)
			if first == nil {
				first = got
			}
			require.Equal(t, first, got, "%v, %d experts a tensor", dtype, part)
			k.Close()
		}
	}
}

// TestBankSplitsWhereTheDeviceAsks opens the device with a low limit of an allocation.
func TestBankSplitsWhereTheDeviceAsks(t *testing.T) {
	gputest.Need(t, dev)
	ctx := context.Background()
	small, err := vk.Open(vk.Options{NoCache: true, TraceLeaks: true, MaxAllocation: 4096})
	require.NoError(t, err)
	defer func() { require.NoError(t, small.Close()) }()
	for _, c := range []struct {
		dtype  vk.DType
		shape  []int
		counts []int
	}{
		{vk.F32, []int{10, 4, 64}, []int{3, 3, 4}}, // 1,024 bytes an expert
		{vk.BF16, []int{10, 4, 64}, []int{5, 5}},
		{vk.F32, []int{3, 16, 64}, []int{1, 1, 1}},
		{vk.F16, []int{7, 5, 5}, []int{7}},
		{vk.F32, []int{40, 33}, []int{20, 20}},
	} {
		b, err := NewExpertBank(small, c.dtype, c.shape...)
		require.NoError(t, err)
		var counts []int
		for _, p := range b.Parts() {
			counts = append(counts, p.Dim(0))
			require.LessOrEqual(t, p.Bytes(), uint64(4096))
		}
		require.Equal(t, c.counts, counts)
		require.Equal(t, c.shape, b.Shape())
		require.Equal(t, c.shape[0], b.Experts())

		data := make([]float32, b.Elements())
		for i := range data {
			data[i] = float32(i % 256)
		}
		require.NoError(t, UploadBank(ctx, b, data))
		last := c.shape[0] - 1
		e, err := b.Expert(last)
		require.NoError(t, err)
		require.Equal(t, c.shape[1:], e.Shape())
		size := e.Elements()
		got, err := vk.Download[float32](ctx, e)
		require.NoError(t, err)
		require.Equal(t, data[last*size:], got)
		for i := range got {
			got[i] = -1
			data[last*size+i] = -1
		}
		require.NoError(t, vk.Upload(ctx, e, got))
		all, err := DownloadBank[float32](ctx, b)
		require.NoError(t, err)
		require.Equal(t, data, all)
		raw, err := DownloadBank[byte](ctx, b)
		require.NoError(t, err)
		require.Len(t, raw, int(b.Bytes()))
		require.NoError(t, UploadBank(ctx, b, raw))
		require.NoError(t, b.Close())
		require.NoError(t, b.Close())
	}
	_, err = NewExpertBank(small, vk.F32, 2, 1025)
	require.ErrorIs(t, err, vk.ErrOutOfMemory)

	l, err := NewParallelLinear(small, ParallelLinearConfig{Experts: 9, In: 20, Out: 24, Bias: true})
	require.NoError(t, err)
	require.Len(t, l.Weight.Parts(), 5)
	requireDenseRows(t, small, l)
	require.NoError(t, l.Close())
}

// requireDenseRows runs a layer on one token per expert and compares it with the oracle.
func requireDenseRows(t *testing.T, d *vk.Device, l *ParallelLinear) {
	t.Helper()
	ctx, c := context.Background(), l.Config
	r := rand.New(rand.NewSource(3))
	w := ref.Linear[float32]{Experts: c.Experts, In: c.In, Out: c.Out, InOut: c.InOut,
		Weight: vk.Round(c.DType, gputest.Normal(r, c.Experts*c.In*c.Out))}
	require.NoError(t, UploadBank(ctx, l.Weight, w.Weight))
	if c.Bias {
		w.Bias = vk.Round(c.DType, gputest.Normal(r, c.Experts*c.Out))
		require.NoError(t, UploadBank(ctx, l.Bias, w.Bias))
	}
	idData := make([]int32, c.Experts)
	for i := range idData {
		idData[i] = int32(c.Experts - 1 - i)
	}
	ids, err := NewIDs(ctx, d, idData, 1, c.Experts)
	require.NoError(t, err)
	defer ids.Close()
	x, err := d.NewTensor(vk.F32, c.Experts, c.In)
	require.NoError(t, err)
	defer x.Close()
	y, err := d.NewTensor(vk.F32, c.Experts, c.Out)
	require.NoError(t, err)
	defer y.Close()
	data := gputest.Normal(r, c.Experts*c.In)
	require.NoError(t, vk.Upload(ctx, x, data))
	rec, err := d.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	routing, err := RouteIDs(rec, ids, nil, c.Experts)
	require.NoError(t, err)
	require.NoError(t, l.Forward(rec, routing, x, y, LinearOptions{}))
	require.NoError(t, rec.Run(ctx))
	want := ref.Scatter2scatter(w, data, ref.Route(idData, c.Experts, c.Experts, 1), ref.Layout{}, []float32(nil))
	gputest.RequireClose(t, gputest.Download[float32](t, y), want.Y, want.Bound(ref.F32, c.In), fmt.Sprintf("%+v", c))
}

// TestLayerFromSeparateExperts hands experts over one by one.
func TestLayerFromSeparateExperts(t *testing.T) {
	k := newKit(t)
	k.Shift = 1
	tensors := func(n int, dtype vk.DType, shape ...int) []*vk.Tensor {
		var out []*vk.Tensor
		for range n {
			x, err := dev.NewTensor(dtype, shape...)
			require.NoError(t, err)
			k.OnClose(x.Close)
			out = append(out, x)
		}
		return out
	}
	for _, dtype := range []vk.DType{vk.F32, vk.F16, vk.BF16} {
		for _, experts := range []int{1, 6} {
			for _, inOut := range []bool{false, true} {
				cfg := ParallelLinearConfig{Experts: experts, In: 21, Out: 10, Bias: true, InOut: inOut, DType: dtype}
				l, err := NewParallelLinearFromExperts(dev, cfg, tensors(experts, dtype, cfg.weightShape()[1:]...), tensors(experts, dtype, 10))
				require.NoError(t, err)
				requireDenseRows(t, dev, l)
				require.NoError(t, l.Close())
				require.NoError(t, l.Close())
			}
		}
	}
	cfg := ParallelLinearConfig{Experts: 3, In: 4, Out: 5, Bias: true}
	good, biases := tensors(3, vk.F32, 5, 4), tensors(3, vk.F32, 5)
	closed := tensors(1, vk.F32, 5, 4)[0]
	require.NoError(t, closed.Close())
	var shape *vk.ShapeError
	for name, c := range map[string]struct{ weights, biases []*vk.Tensor }{
		"no weights":      {nil, biases},
		"no biases":       {good, nil},
		"too few":         {good[:2], biases[:2]},
		"nil":             {[]*vk.Tensor{good[0], nil, good[2]}, biases},
		"other shape":     {[]*vk.Tensor{good[0], biases[0], good[2]}, biases},
		"transposed":      {tensors(3, vk.F32, 4, 5), biases},
		"another dtype":   {tensors(3, vk.BF16, 5, 4), biases},
		"biases too wide": {good, tensors(3, vk.F32, 6)},
	} {
		_, err := NewParallelLinearFromExperts(dev, cfg, c.weights, c.biases)
		require.ErrorAs(t, err, &shape, name)
	}
	_, err := NewParallelLinearFromExperts(dev, cfg, []*vk.Tensor{good[0], closed, good[2]}, biases)
	require.ErrorIs(t, err, vk.ErrClosed)
	_, err = NewParallelLinearFromExperts(dev, ParallelLinearConfig{Experts: 3}, good, nil)
	var config *ConfigError
	require.ErrorAs(t, err, &config)
}

func TestBankArguments(t *testing.T) {
	gputest.Need(t, dev)
	var shape *vk.ShapeError
	for _, s := range [][]int{{}, {3}, {0, 4}, {3, 0}, {3, -1}} {
		_, err := NewExpertBank(dev, vk.F32, s...)
		require.ErrorAs(t, err, &shape, "%v", s)
	}
	_, err := BankOfTensor(nil)
	require.ErrorAs(t, err, &shape)
	b, err := NewExpertBank(dev, vk.BF16, 3, 4, 5)
	require.NoError(t, err)
	for _, e := range []int{-1, 3} {
		_, err := b.Expert(e)
		require.ErrorAs(t, err, &shape)
	}
	require.ErrorAs(t, UploadBank(context.Background(), b, make([]float32, 59)), &shape)
	require.ErrorAs(t, UploadBank(context.Background(), b, make([]byte, 60)), &shape)
	require.Equal(t, "bf16[3 4 5]", b.String())
	require.EqualValues(t, 120, b.Bytes())
	l := &ParallelLinear{Config: ParallelLinearConfig{Experts: 3, In: 5, Out: 4}, Weight: b}
	require.ErrorAs(t, l.checkWeights(dev, "test"), &shape, "dtype")
	l.Config.DType = vk.BF16
	require.NoError(t, l.checkWeights(dev, "test"))
	l.Config.Bias = true
	require.ErrorAs(t, l.checkWeights(dev, "test"), &shape, "no bias")
	l.Config.Bias = false
	inside, err := b.Expert(1)
	require.NoError(t, err)
	y, err := inside.Reshape(4, 5)
	require.NoError(t, err)
	require.ErrorAs(t, l.checkOutput("test", y, nil), &shape, "overlap")
	require.NoError(t, b.Close())
	require.ErrorIs(t, l.checkWeights(dev, "test"), vk.ErrClosed)
	var none *ExpertBank
	require.NoError(t, none.Close())
}
