package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// ceilingCases are the kernels that measure what a device can do: chains of multiply-adds, and cooperative matrices alone.
func ceilingCases(add func(Case)) {
	for i, s := range []struct{ threads, chains, groups, every, rounds int }{{64, 1, 1, 1, 0}, {32, 16, 5, 2, 100}, {128, 3, 4, 1, 7}} {
		add(Case{Name: fmt.Sprintf("ceiling.fma_peak.f32.n%d_c%d_g%d_r%d", s.threads, s.chains, s.groups, s.rounds), Required: i == 1,
			Record: func(k *Kit) func() { return fmaPeak(k, s.threads, s.chains, s.groups, s.every, s.rounds) }})
	}
	for _, dtype := range storages[1:] {
		for i, s := range []struct{ mi, ni, subgroups, groups, rounds int }{{1, 1, 1, 1, 1}, {2, 3, 4, 3, 9}} {
			add(Case{Name: fmt.Sprintf("ceiling.matrix_peak.%v.coopmat.m%d_n%d_s%d_g%d_r%d", dtype, s.mi, s.ni, s.subgroups, s.groups, s.rounds),
				Needs: matrixPeaks[dtype].Needs, Required: i == 1,
				Record: func(k *Kit) func() { return matrixPeak(k, dtype, s.mi, s.ni, s.subgroups, s.groups, s.rounds) }})
		}
	}
}

var matrixPeaks = map[vk.DType]*vk.Kernel{vk.F16: shaders.MatrixPeakF16, vk.BF16: shaders.MatrixPeakBf16}

func fmaPeak(k *Kit, threads, chains, groups, every, rounds int) func() {
	const factor, term = 0.75, 0.3
	data, copies := k.Normal(vk.F32, threads*chains), (groups+every-1)/every
	x, y := k.F32("x", data, len(data)), k.Output("y", vk.F32, copies, len(data))
	k.Rec.Dispatch(vk.Dispatch{Kernel: shaders.FmaPeak, Spec: shaders.FmaPeakSpec{Threads: uint32(threads), Chains: uint32(chains)}.Values(),
		Push: shaders.FmaPeakPush{X: x.Address(), Y: y.Address(), Rounds: uint32(rounds), Every: uint32(every), Groups: uint32(groups),
			Factor: factor, Term: term}.Bytes(),
		Linear: uint64(groups), Reads: []*vk.Tensor{x}, Writes: []*vk.Tensor{y}})
	return func() {
		want := ref.FMAPeak(data, factor, float32(term), rounds)
		k.closeCopies("y", y, want, want.Bound(ref.F32, 2+rounds), copies)
	}
}

// closeCopies compares a tensor of so many equal results.
func (k *Kit) closeCopies(name string, t *vk.Tensor, want ref.Result, bound []float64, copies int) {
	var all, bounds []float64
	for range copies {
		all, bounds = append(all, want.Y...), append(bounds, bound...)
	}
	k.Close(name, t, all, bounds)
}

// matrixPeak multiplies by the device's largest matrices of a dtype that are added up in f32.
func matrixPeak(k *Kit, dtype vk.DType, mi, ni, subgroups, groups, rounds int) func() {
	caps, kernel := k.Dev.Caps(), matrixPeaks[dtype]
	var m, n, depth int
	for _, s := range caps.CooperativeMatrix {
		if s.Scope == "subgroup" && s.A == dtype.String() && s.B == s.A && s.C == "f32" && s.D == "f32" && s.K%8 == 0 && !s.Saturating &&
			int(s.M*s.N*s.K) > m*n*depth {
			m, n, depth = int(s.M), int(s.N), int(s.K)
		}
	}
	if m == 0 {
		k.must(&vk.UnsupportedError{Device: k.Dev.Adapter().Name, Need: fmt.Sprintf("cooperative matrices of %v products added up in f32", dtype)})
	}
	rows, columns := mi*m, ni*n
	as, bs := k.Normal(dtype, rows*depth), k.Normal(dtype, columns*depth)
	a, b := k.Floats("a", dtype, as, rows, depth), k.Floats("b", dtype, bs, columns, depth)
	c := k.Output("c", vk.F32, groups, subgroups, rows, columns)
	d := vk.Dispatch{Kernel: kernel, Spec: shaders.MatrixPeakSpec{Threads: caps.SubgroupSize * uint32(subgroups), Subgroup: caps.SubgroupSize,
		MI: uint32(mi), NI: uint32(ni), MM: uint32(m), MN: uint32(n), MK: uint32(depth)}.Values(),
		Push: shaders.MatrixPeakPush{A: a.Address(), B: b.Address(), C: c.Address(), Rounds: uint32(rounds), Every: 1,
			Groups: uint32(groups)}.Bytes(),
		Linear: uint64(groups), Reads: []*vk.Tensor{a, b}, Writes: []*vk.Tensor{c}}
	if caps.Has(vk.FeatureSubgroupSize) {
		d.SubgroupSize = caps.SubgroupSize
	}
	k.Rec.Dispatch(d)
	return func() {
		want := ref.MatrixPeak(as, bs, rows, columns, depth, rounds)
		k.closeCopies("c", c, want, want.Bound(ref.F32, depth*rounds), groups*subgroups)
	}
}
