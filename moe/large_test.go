package moe

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// largeBytes is the device memory that the large tests ask for.
const largeBytes = 40 << 30

// needLarge skips a test that no software device finishes and few GPUs hold.
func needLarge(t *testing.T) {
	t.Helper()
	gputest.Need(t, dev)
	switch {
	case dev.Adapter().Type == vk.Software:
		t.Skipf("needs a GPU: %s is a software device", dev.Adapter().Name)
	case dev.Adapter().LocalBytes() < largeBytes:
		t.Skipf("needs %d GiB of device-local memory: %s has %d GiB", largeBytes>>30, dev.Adapter().Name, dev.Adapter().LocalBytes()>>30)
	}
}

// element is value i of an endless array: a multiple of 1/128 in [−1, 1), exact in bf16. Large operands are made of it
// piece by piece, and again where they are sampled, so that none of them has to lie in host memory as a whole.
func element(array uint32, i uint64) float32 {
	h := (uint32(i) ^ uint32(i>>32)*0x9e3779b9 ^ array*0x85ebca6b) * 0xcc9e2d51
	h = (h ^ h>>15) * 0x1b873593
	return float32(int8(h>>13)) / 128
}

// elements are values from to from + n of an array, as bf16 bits.
func elements(array uint32, from uint64, n int) []uint16 {
	out := make([]uint16, n)
	for i := range out {
		out[i] = vk.ToBF16(element(array, from+uint64(i)))
	}
	return out
}

// The arrays of bankCase.
const (
	bankX = iota
	bankWeight
	bankBias
)

// bankCase is a linear layer with a bank of several tensors, applied to all tokens in several calls: T·K rows of y for as
// wide a layer would exceed an allocation.
type bankCase struct {
	tokens, experts, k, in, out int
	perCall                     int // tokens
	columns                     int // of each sampled row
}

// expertOf chooses the expert of a slot: the first choice of a token prefers low experts.
func (c bankCase) expertOf(slot int) int32 {
	a, b := uint32(slot)*0x9e3779b9>>8, uint32(slot)*0x85ebca6b>>9
	e := a % uint32(c.experts)
	if slot%c.k == 0 {
		e = e * (b % uint32(c.experts)) / uint32(c.experts)
	}
	return int32(e)
}

// check runs the case on a device.
func (c bankCase) check(t *testing.T, d *vk.Device) {
	ctx := context.Background()
	l, err := NewParallelLinear(d, ParallelLinearConfig{Experts: c.experts, In: c.in, Out: c.out, Bias: true, DType: vk.BF16})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	t.Logf("%v in %d tensors, %.2f GiB", l.Weight, len(l.Weight.Parts()), float64(l.Weight.Bytes())/(1<<30))
	require.Greater(t, len(l.Weight.Parts()), 1)
	size := c.in * c.out
	for e := range c.experts {
		w, err := l.Weight.Expert(e)
		require.NoError(t, err)
		require.NoError(t, vk.Upload(ctx, w, elements(bankWeight, uint64(e)*uint64(size), size)))
	}
	require.NoError(t, UploadBank(ctx, l.Bias, elements(bankBias, 0, c.experts*c.out)))

	x, err := d.NewTensor(vk.BF16, c.tokens, c.in)
	require.NoError(t, err)
	defer x.Close()
	ids, err := d.NewTensor(vk.I32, c.tokens, c.k)
	require.NoError(t, err)
	defer ids.Close()
	all := make([]int32, c.tokens*c.k)
	for s := range all {
		all[s] = c.expertOf(s)
	}
	require.NoError(t, vk.Upload(ctx, ids, all))
	y, err := d.NewTensor(vk.BF16, c.perCall*c.k, c.out)
	require.NoError(t, err)
	defer y.Close()
	used, worst := map[int32]bool{}, 0.0
	for from := 0; from < c.tokens; from += c.perCall {
		part, err := x.View(from*c.in, c.perCall, c.in)
		require.NoError(t, err)
		require.NoError(t, vk.Upload(ctx, part, elements(bankX, uint64(from)*uint64(c.in), c.perCall*c.in)))
		partIDs, err := ids.View(from*c.k, c.perCall, c.k)
		require.NoError(t, err)
		rec, err := d.NewRecorder()
		require.NoError(t, err)
		routing, err := RouteIDs(rec, partIDs, nil, c.experts)
		require.NoError(t, err)
		require.NoError(t, l.Forward(rec, routing, part, y, LinearOptions{}))
		require.NoError(t, rec.Run(ctx))
		require.NoError(t, rec.Close())
		for _, token := range []int{0, from / c.perCall * 7 % c.perCall, c.perCall - 1} {
			for j := range c.k {
				slot := token*c.k + j
				used[all[from*c.k+slot]] = true
				worst = max(worst, c.checkRow(t, y, from, slot))
			}
		}
	}
	t.Logf("%d of %d experts sampled; largest error %.3g of its bound", len(used), c.experts, worst)
	require.Greater(t, 4*len(used), 3*c.experts, "the samples miss too many experts")
}

// checkRow compares columns of a row of y, spread over its width, with the oracle and returns the largest error in
// units of its bound. slot counts from the first of token from.
func (c bankCase) checkRow(t *testing.T, y *vk.Tensor, from, slot int) float64 {
	t.Helper()
	row, err := y.View(slot*c.out, c.out)
	require.NoError(t, err)
	data, err := vk.Download[float32](context.Background(), row)
	require.NoError(t, err)
	e := uint64(c.expertOf(from*c.k + slot))
	w := ref.Linear[float32]{Experts: 1, In: c.in, Out: c.columns}
	got := make([]float32, c.columns)
	for n := range c.columns {
		o := uint64(n * (c.out - 1) / (c.columns - 1))
		got[n] = data[o]
		w.Bias = append(w.Bias, element(bankBias, e*uint64(c.out)+o))
		for i := range c.in {
			w.Weight = append(w.Weight, element(bankWeight, (e*uint64(c.out)+o)*uint64(c.in)+uint64(i)))
		}
	}
	xRow := make([]float32, c.in)
	for i := range xRow {
		xRow[i] = element(bankX, uint64(from+slot/c.k)*uint64(c.in)+uint64(i))
	}
	want := ref.DenseLinear(w, xRow, 1)
	bound := want.Bound(ref.BF16, c.in)
	gputest.RequireClose(t, got, want.Y, bound, fmt.Sprintf("token %d, slot %d, expert %d", from+slot/c.k, slot, e))
	return ref.Compare(got, want.Y, bound).Worst.Ratio
}

// TestLargeBank has T = 262,144 tokens, E = 64 experts, k = 8 and a bank of 4.5 GiB in bf16.
func TestLargeBank(t *testing.T) {
	needLarge(t)
	bankCase{262144, 64, 8, 6144, 6144, 8192, 32}.check(t, dev)
}

// TestLargeBankInSmall is TestLargeBank on any device, with a low limit of an allocation in place of the large bank.
func TestLargeBankInSmall(t *testing.T) {
	gputest.Need(t, dev)
	d, err := vk.Open(vk.Options{NoCache: true, MaxAllocation: 128 << 10})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	bankCase{512, 16, 4, 96, 98, 128, 9}.check(t, d)
}

// checkLargeMLP runs a layer twice on as many tokens, compares the bits of both runs, and every stage of samples
// tokens with the oracle.
func checkLargeMLP(t *testing.T, cfg MLPConfig, tokens, samples int) {
	l := newLayer(t, cfg)
	ctx := context.Background()
	x, err := dev.NewTensor(cfg.DType, tokens, cfg.Width)
	require.NoError(t, err)
	defer x.Close()
	y, err := dev.NewTensor(cfg.DType, tokens, cfg.Width)
	require.NoError(t, err)
	defer y.Close()
	require.NoError(t, vk.Upload(ctx, x, elements(bankX, 0, x.Elements())))
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	defer rec.Close()
	saved, err := l.Forward(rec, x, y)
	require.NoError(t, err)
	require.NoError(t, rec.Run(ctx))
	first, err := vk.Download[uint16](ctx, y)
	require.NoError(t, err)
	require.NoError(t, rec.Run(ctx))
	second, err := vk.Download[uint16](ctx, y)
	require.NoError(t, err)
	require.True(t, slices.Equal(first, second), "two runs differ")

	offsets := gputest.Download[int32](t, saved.Routing.Offsets)
	require.EqualValues(t, tokens*cfg.TopK, offsets[cfg.Experts])
	rows := rand.New(rand.NewSource(1)).Perm(tokens)[:samples-2]
	rows = append(rows, 0, tokens-1)
	s := sampled{layer: l, saved: saved, rows: rows}
	s.check(t, x, y)
}

// sampled judges some tokens of a forward pass.
type sampled struct {
	layer
	saved *MLPSaved
	rows  []int // tokens
}

// pick downloads rows of a matrix as f32, one after the other.
func pick[E float32 | int32](t *testing.T, x *vk.Tensor, rows []int) []E {
	t.Helper()
	width := x.Elements() / x.Dim(0)
	var out []E
	for _, r := range rows {
		v, err := x.View(r*width, width)
		require.NoError(t, err)
		data, err := vk.Download[E](context.Background(), v)
		require.NoError(t, err)
		out = append(out, data...)
	}
	return out
}

func (s sampled) check(t *testing.T, xAll, yAll *vk.Tensor) {
	c, n := s.Config, len(s.rows)
	dtype := gputest.Oracle(c.DType)
	x := pick[float32](t, xAll, s.rows)
	logits := pick[float32](t, s.saved.Logits, s.rows)
	wantLogits := ref.DenseLinear(s.oracle.Router, x, n)
	gputest.RequireClose(t, logits, wantLogits.Y, wantLogits.Bound(ref.F32, c.Width), "logits")
	ids, gates := pick[int32](t, s.saved.Routing.IDs, s.rows), pick[float32](t, s.saved.Routing.Gates, s.rows)
	requireTopK(t, c.Mode, logits, ids, gates, n, c.Experts, c.TopK)

	var slots, positions []int
	for _, r := range s.rows {
		for j := range c.TopK {
			slots = append(slots, r*c.TopK+j)
		}
	}
	for i, p := range pick[int32](t, s.saved.Routing.Inverse, slots) {
		positions = append(positions, int(p))
		require.EqualValues(t, slots[i], pick[int32](t, s.saved.Routing.Order, []int{int(p)})[0])
	}
	routing, none := ref.Route(ids, n, c.Experts, c.TopK), []float32(nil)
	z := pick[float32](t, s.saved.Z, positions)
	wantZ := ref.Scatter2scatter(s.oracle.Up, x, routing, ref.Layout{}, none)
	gputest.RequireClose(t, z, wantZ.Y, wantZ.Bound(dtype, c.Width), "z")
	h := pick[float32](t, s.saved.H, positions)
	wantH := refActivate(c.Activation, z, n*c.TopK, c.Hidden)
	gputest.RequireClose(t, h, wantH.Y, wantH.BoundBy(ref.ActivationTolerance(dtype), ref.Underflow(dtype, 1)), "h")
	results := pick[float32](t, s.saved.Slots, slots)
	want := ref.Scatter2scatter(s.oracle.Down, h, routing, ref.Layout{PerSlot: true}, none)
	gputest.RequireClose(t, results, want.Y, want.Bound(dtype, c.Hidden), "slots")
	out := ref.Combine(results, gates, routing, c.Width, false)
	gputest.RequireClose(t, pick[float32](t, yAll, s.rows), out.Y, out.Bound(dtype, c.TopK), "out")
}

// TestLargeMLP is T = 262,144, E = 64, k = 8 in one submission, as wide as Z in one allocation of 4 GiB allows.
func TestLargeMLP(t *testing.T) {
	needLarge(t)
	checkLargeMLP(t, MLPConfig{Experts: 64, TopK: 8, Width: 960, Hidden: 480, Mode: SoftmaxTopKNorm, DType: vk.BF16}, 262144, 48)
}

// TestLargeMLPInSmall is TestLargeMLP on any device.
func TestLargeMLPInSmall(t *testing.T) {
	checkLargeMLP(t, MLPConfig{Experts: 16, TopK: 4, Width: 24, Hidden: 12, Mode: SoftmaxTopKNorm, DType: vk.BF16}, 1000, 20)
}
