package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// ceilings are what the device does when nothing holds it up, measured in the same run as the cases.
type ceilings struct {
	Copy   float64 `json:"copy_tb_per_s"`             // bytes read and written by copies, the faster of a transfer and a kernel
	F32    float64 `json:"f32_tflops"`                // fused multiply-adds in registers
	Matrix float64 `json:"matrix_tflops,omitempty"`   // cooperative matrices of the dtype in registers; 0 without them
	Tile   string  `json:"matrix_subgroup,omitempty"` // what a subgroup multiplied then
}

// arithmetic is the ceiling of products.
func (c ceilings) arithmetic() float64 { return max(c.F32, c.Matrix) }

func (c ceilings) String() string {
	s := fmt.Sprintf("ceilings: copy %.3g TB/s, f32 %.3g TFLOP/s", c.Copy, c.F32)
	if c.Matrix > 0 {
		s += fmt.Sprintf(", matrices %.3g TFLOP/s (%s)", c.Matrix, c.Tile)
	}
	return s
}

// measureCeilings measures them for layers of a dtype.
func measureCeilings(ctx context.Context, dev *vk.Device, dtype vk.DType) (ceilings, error) {
	work, bytes := 1, 1<<29
	if dev.Adapter().Type == vk.Software {
		work, bytes = 1024, 1<<25
	}
	var c ceilings
	var err error
	if c.Copy, err = copyRate(ctx, dev, bytes); err != nil {
		return c, fmt.Errorf("copy: %w", err)
	}
	f := fmaPeak{threads: 256, chains: 16, groups: max(4, 8192/work), every: 512, rounds: max(64, 4096/work)}
	if c.F32, err = f.measure(ctx, dev); err != nil {
		return c, fmt.Errorf("fma_peak: %w", err)
	}
	for _, tile := range [][2]int{{2, 4}, {4, 4}, {4, 6}} {
		m, ok := newMatrixPeak(dev, dtype, tile[0], tile[1])
		if !ok {
			continue
		}
		m.groups, m.every, m.rounds = max(4, 4096/work), 512, max(16, 2048/work)
		rate, err := m.measure(ctx, dev)
		if err != nil {
			return c, fmt.Errorf("matrix_peak: %w", err)
		}
		if rate > c.Matrix {
			c.Matrix, c.Tile = rate, fmt.Sprintf("%d×%d results per subgroup, %d×%d×%d matrices", m.mi*m.m, m.ni*m.n, m.m, m.n, m.k)
		}
	}
	return c, nil
}

// fastest runs what record records until the clocks are up and returns the shortest of the times of its single command, µs: a
// ceiling is what can be done.
func fastest(ctx context.Context, dev *vk.Device, record func(rec *vk.Recorder) error) (µs float64, err error) {
	rec, err := dev.NewRecorder()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	if err := record(rec); err != nil {
		return 0, err
	}
	times, _, err := timeRuns(ctx, rec, 1, 10, warmUp)
	if err != nil {
		return 0, err
	}
	return quantile(times, 0), nil
}

// copyRate is the rate of copying a buffer in 10¹² bytes a second, read and written.
func copyRate(ctx context.Context, dev *vk.Device, bytes int) (rate float64, err error) {
	var tensors [2]*vk.Tensor
	for i := range tensors {
		if tensors[i], err = dev.NewTensor(vk.F32, bytes/4); err != nil {
			return 0, err
		}
		defer tensors[i].Close()
	}
	transfer, err := fastest(ctx, dev, func(rec *vk.Recorder) error {
		rec.Copy(tensors[1], tensors[0])
		return rec.Err()
	})
	if err != nil {
		return 0, err
	}
	kernel, err := fastest(ctx, dev, func(rec *vk.Recorder) error {
		return model.ScaledAdd(rec, tensors[0], nil, tensors[1], 1, 0)
	})
	return 2 * float64(bytes) / min(transfer, kernel) / 1e6, err
}

// fmaPeak are runs of fma_peak.
type fmaPeak struct{ threads, chains, groups, every, rounds int }

// stored is how many work-groups of all store their results.
func stored(groups, every int) int { return (groups + every - 1) / every }

// measure returns TFLOP/s after holding the results to the reference.
func (f fmaPeak) measure(ctx context.Context, dev *vk.Device) (rate float64, err error) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := uniform(rng, vk.F32, f.threads*f.chains, 1)
	in, err := dev.NewTensor(vk.F32, len(x))
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := dev.NewTensor(vk.F32, stored(f.groups, f.every), len(x))
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if err := vk.Upload(ctx, in, x); err != nil {
		return 0, err
	}
	const factor, term = 0.75, 0.3
	µs, err := fastest(ctx, dev, func(rec *vk.Recorder) error { return f.record(rec, in, out, factor, term) })
	if err != nil {
		return 0, err
	}
	y, err := vk.Download[float32](ctx, out)
	if err != nil {
		return 0, err
	}
	want := ref.FMAPeak(x, factor, term, f.rounds)
	// The sums stay below term/(1−factor), and each error shrinks by factor with each step.
	if err := compareCopies(y, want, want.Bound(ref.F32, 2+int(1/(1-factor)))); err != nil {
		return 0, err
	}
	return 2 * float64(f.groups*f.threads*f.chains) * float64(f.rounds) / µs / 1e6, nil
}

func (f fmaPeak) record(rec *vk.Recorder, in, out *vk.Tensor, factor, term float32) error {
	rec.Dispatch(vk.Dispatch{Kernel: shaders.FmaPeak,
		Spec: shaders.FmaPeakSpec{Threads: uint32(f.threads), Chains: uint32(f.chains)}.Values(),
		Push: shaders.FmaPeakPush{X: in.Address(), Y: out.Address(), Rounds: uint32(f.rounds), Every: uint32(f.every),
			Groups: uint32(f.groups), Factor: factor, Term: term}.Bytes(),
		Linear: uint64(f.groups), Reads: []*vk.Tensor{in}, Writes: []*vk.Tensor{out}, Label: "fma_peak"})
	return rec.Err()
}

// compareCopies holds every work-group's results to the reference.
func compareCopies(got []float32, want ref.Result, bound []float64) error {
	for at := 0; at < len(got); at += len(want.Y) {
		if c := ref.Compare(got[at:at+len(want.Y)], want.Y, bound); !(c.Worst.Ratio <= 1) {
			return fmt.Errorf("results from %d on are wrong: %+v", at, c)
		}
	}
	return nil
}

// matrixPeak are runs of matrix_peak.
type matrixPeak struct {
	kernel                           *vk.Kernel
	dtype                            vk.DType
	m, n, k, mi, ni                  int
	subgroups, groups, every, rounds int
}

// newMatrixPeak chooses the device's largest matrices of a dtype, or returns false without any.
func newMatrixPeak(dev *vk.Device, dtype vk.DType, mi, ni int) (matrixPeak, bool) {
	p := matrixPeak{kernel: map[vk.DType]*vk.Kernel{vk.F16: shaders.MatrixPeakF16, vk.BF16: shaders.MatrixPeakBf16}[dtype],
		dtype: dtype, mi: mi, ni: ni, subgroups: 4}
	caps := dev.Caps()
	if p.kernel == nil || !caps.Has(p.kernel.Needs...) {
		return p, false
	}
	for _, s := range caps.CooperativeMatrix {
		if s.Scope == "subgroup" && s.A == dtype.String() && s.B == s.A && s.C == "f32" && s.D == "f32" && s.K%8 == 0 &&
			!s.Saturating && int(s.M*s.N*s.K) > p.m*p.n*p.k {
			p.m, p.n, p.k = int(s.M), int(s.N), int(s.K)
		}
	}
	return p, p.m > 0
}

// measure returns TFLOP/s after holding the results to the reference.
func (p matrixPeak) measure(ctx context.Context, dev *vk.Device) (rate float64, err error) {
	rng := rand.New(rand.NewPCG(3, 4))
	rows, columns := p.mi*p.m, p.ni*p.n
	values := [2][]float32{uniform(rng, p.dtype, rows*p.k, 1), uniform(rng, p.dtype, columns*p.k, 1)}
	var in [2]*vk.Tensor
	for i, list := range values {
		if in[i], err = dev.NewTensor(p.dtype, len(list)); err != nil {
			return 0, err
		}
		defer in[i].Close()
		if err := vk.Upload(ctx, in[i], list); err != nil {
			return 0, err
		}
	}
	out, err := dev.NewTensor(vk.F32, stored(p.groups, p.every)*p.subgroups, rows, columns)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	µs, err := fastest(ctx, dev, func(rec *vk.Recorder) error { return p.record(rec, in[0], in[1], out) })
	if err != nil {
		return 0, err
	}
	c, err := vk.Download[float32](ctx, out)
	if err != nil {
		return 0, err
	}
	want := ref.MatrixPeak(values[0], values[1], rows, columns, p.k, p.rounds)
	if err := compareCopies(c, want, want.Bound(ref.F32, p.k*p.rounds)); err != nil {
		return 0, err
	}
	return 2 * float64(p.groups*p.subgroups*rows*columns*p.k) * float64(p.rounds) / µs / 1e6, nil
}

func (p matrixPeak) record(rec *vk.Recorder, a, b, c *vk.Tensor) error {
	caps := rec.Device().Caps()
	d := vk.Dispatch{Kernel: p.kernel,
		Spec: shaders.MatrixPeakSpec{Threads: caps.SubgroupSize * uint32(p.subgroups), Subgroup: caps.SubgroupSize, MI: uint32(p.mi),
			NI: uint32(p.ni), MM: uint32(p.m), MN: uint32(p.n), MK: uint32(p.k)}.Values(),
		Push: shaders.MatrixPeakPush{A: a.Address(), B: b.Address(), C: c.Address(), Rounds: uint32(p.rounds),
			Every: uint32(p.every), Groups: uint32(p.groups)}.Bytes(),
		Linear: uint64(p.groups), Reads: []*vk.Tensor{a, b}, Writes: []*vk.Tensor{c}, Label: "matrix_peak"}
	if caps.Has(vk.FeatureSubgroupSize) {
		d.SubgroupSize = caps.SubgroupSize
	}
	rec.Dispatch(d)
	return rec.Err()
}
