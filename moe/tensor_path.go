package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// The tensor path: scatter2scatter and group_xty on cooperative matrices, for f16 and bf16 layers whose widths are
// multiples of 8. It cuts rows as the portable path does, so both serve the same routing.

var (
	// tensorKernels are the variants of scatter2scatter_coopmat.
	tensorKernels = map[tensorTypes]*vk.Kernel{
		{vk.F16, WeightsFull}:  shaders.Scatter2scatterCoopmatF16,
		{vk.BF16, WeightsFull}: shaders.Scatter2scatterCoopmatBf16,
		{vk.F16, WeightsInt8}:  shaders.Scatter2scatterCoopmatF16Int8,
		{vk.BF16, WeightsInt8}: shaders.Scatter2scatterCoopmatBf16Int8,
		{vk.F16, WeightsQ4}:    shaders.Scatter2scatterCoopmatF16Q4,
		{vk.BF16, WeightsQ4}:   shaders.Scatter2scatterCoopmatBf16Q4,
	}
	// tensorXTYKernels are those of group_xty_coopmat, by the dtypes of the rows and of the result.
	tensorXTYKernels = map[[2]vk.DType]*vk.Kernel{
		{vk.F16, vk.F16}:   shaders.GroupXtyCoopmatF16,
		{vk.F16, vk.F32}:   shaders.GroupXtyCoopmatF16F32,
		{vk.BF16, vk.BF16}: shaders.GroupXtyCoopmatBf16,
		{vk.BF16, vk.F32}:  shaders.GroupXtyCoopmatBf16F32,
	}
)

// tensorTypes are the dtype of the operands and the format of the weights.
type tensorTypes struct {
	dtype  vk.DType
	format WeightFormat
}

func (l *ParallelLinear) tensorTypes() tensorTypes {
	return tensorTypes{l.Config.DType, l.Config.Weights}
}

// A tensorTile is how the tensor path cuts a BM × BN tile: SM × SN subgroups, BK inputs at a time.
type tensorTile struct {
	BM int `json:"bm"`
	BN int `json:"bn"`
	BK int `json:"bk"`
	SM int `json:"sm"`
	SN int `json:"sn"`
}

func (t tensorTile) String() string {
	return fmt.Sprintf("%d×%d×%d tiles, %d×%d subgroups", t.BM, t.BN, t.BK, t.SM, t.SN)
}

// matrixShape finds the device's cooperative matrices for products of a dtype added up in f32: the smallest that have
// both at least 8 inputs and the least rows, so that small tiles exist.
func matrixShape(caps *vk.Capabilities, dtype vk.DType) (m, n, k int, ok bool) {
	for _, s := range caps.CooperativeMatrix {
		fits := s.Scope == "subgroup" && s.A == dtype.String() && s.B == s.A && s.C == "f32" && s.D == "f32" &&
			s.K%8 == 0 && s.N%8 == 0 && !s.Saturating
		if fits && (!ok || s.K >= uint32(k) && s.M <= uint32(m)) {
			m, n, k, ok = int(s.M), int(s.N), int(s.K), true
		}
	}
	return m, n, k, ok
}

// hasMatrices reports whether some dtype can take the tensor path on the device.
func hasMatrices(caps *vk.Capabilities) bool {
	for types, kernel := range tensorKernels {
		if _, _, _, ok := matrixShape(caps, types.dtype); ok && caps.Has(kernel.Needs...) {
			return true
		}
	}
	return false
}

// tensorTile is the layer's tile on the tensor path for so many rows; it is empty where the path is not to be taken, or the device
// runs none of the band's.
func (l *ParallelLinear) tensorTile(dev *vk.Device, rows int, x, y *vk.Tensor) tensorTile {
	switch {
	case l.matrices != (tensorTile{}):
		return l.matrices
	case l.tile != (Tile{}) || l.Config.Path == PathPortable || l.Config.Path == PathDecode:
		return tensorTile{}
	}
	band := tuning(dev).band(rows, l.Config.Experts)
	if l.Config.Path == PathCoopMat && len(band.Matrices) == 0 {
		return tensorTile{band.Wide.BM, 32, 16, 1, 2}
	}
	return fitting(band.matrices(l.Config.Weights), l.Config.In, l.outputs(), func(t tensorTile) bool {
		_, ok := tensorSpec(dev, t, l, x, y)
		return ok
	})
}

// bandRows is how many rows of tiles work-groups go through together, column by column: those that run at the same time on an
// H100, two on each of 132 multiprocessors, then read more of the same weights. Mixtral's up projection takes 11 % less time
// than row by row at 4,096 tokens.
const bandRows = 16

// order says in which order work-groups go through tiles, and whether tiles of few rows take less time. Both pay except where
// weights that are read transposed meet an expert's only whole tile: then a short tile no longer keeps step with the whole one
// and reads the weights from memory once more, which took 10 % more time for dX of Mixtral's up projection at 512 tokens.
func (t tensorTile) order(transposed bool, rows, experts int) (band uint32, short bool) {
	if transposed && rows < 2*t.BM*experts {
		return 1, false
	}
	return bandRows, true
}

// tensorSpec turns a tile into the kernel's specialization for a layer, or returns false where the device, the dtype, a
// width or an address rules the tensor path out.
func tensorSpec(dev *vk.Device, t tensorTile, l *ParallelLinear, x, y *vk.Tensor) (shaders.Scatter2scatterCoopmatSpec, bool) {
	none := shaders.Scatter2scatterCoopmatSpec{}
	dtype, caps := l.Config.DType, dev.Caps()
	kernel := tensorKernels[l.tensorTypes()]
	if kernel == nil || x.DType() != dtype || y.DType() != dtype || t.BM == 0 || !caps.Has(kernel.Needs...) {
		return none, false
	}
	in, out, outputs := l.Config.In, l.Config.Out, l.outputs()
	columns := 8 // of a tile that make 16 bytes of y
	if l.epilogue.gated() {
		columns = 16
	}
	aligned := in%8 == 0 && out%columns == 0 && outputs%columns == 0 && y.Dim(1)%8 == 0
	aligned = aligned && x.Address()%16 == 0 && y.Address()%16 == 0 && l.Weight.aligned(16) && l.Bias.aligned(16)
	m, n, k, ok := matrixShape(caps, dtype)
	for _, z := range l.epilogue.tensors() {
		aligned = aligned && z.Address()%16 == 0
	}
	if !aligned || !ok || t.BM%(t.SM*m) != 0 || t.BN%(t.SN*n) != 0 || t.BN/t.SN%columns != 0 || t.BK%k != 0 {
		return none, false
	}
	for t.BK > k && t.sharedBytes(m, l.transposed()) > int(caps.SharedMemoryBytes) {
		t.BK /= 2
	}
	s := shaders.Scatter2scatterCoopmatSpec{Subgroup: caps.SubgroupSize, SM: uint32(t.SM), SN: uint32(t.SN),
		MI: uint32(t.BM / (t.SM * m)), NI: uint32(t.BN / (t.SN * n)), BK: uint32(t.BK),
		MM: uint32(m), MN: uint32(n), MK: uint32(k), Whole: in%t.BK == 0 && outputs%t.BN == 0, Transposed: l.transposed()}
	s.Threads = s.Subgroup * s.SM * s.SN
	s.Activation, s.Gated, s.Interleaved = l.epilogue.constants()
	band, short := t.order(l.transposed(), y.Dim(0), l.Config.Experts)
	s.BandRows, s.Short = band, short && s.MI > 2
	chunks := uint32(t.BK / 8)
	whole := s.Threads%(chunks*uint32(columns/8)) == 0 && uint32(t.BM)*chunks%s.Threads == 0 && uint32(t.BN)*chunks%s.Threads == 0 &&
		(!l.transposed() || s.Threads%uint32(t.BN/8) == 0)
	return s, whole && s.Threads <= caps.MaxWorkgroupInvocations && t.sharedBytes(m, l.transposed()) <= int(caps.SharedMemoryBytes)
}

// sharedBytes is the shared memory of a tile for matrices of m rows: the tiles of x and W, or the strips of results that
// take their place at the end, and the slots of its rows. It says what the kernel's constants do.
func (t tensorTile) sharedBytes(m int, inOut bool) int {
	w := t.BN * (t.BK/8 + 1)
	if inOut {
		w = t.BK * (t.BN/8 + 1)
	}
	chunks := max(t.BM*(t.BK/8+1)+w, t.SM*t.SN*m*(t.BN/t.SN/4+1))
	if rounded := t.BM * t.SN * (t.BN/t.SN/8 + 1); rounded-chunks <= chunks/32 {
		chunks = max(chunks, rounded)
	}
	return 16 * (chunks + (t.BM+3)/4)
}

// tensorDispatch fills in a dispatch on the tensor path and reports how many columns a tile has, or false where the
// path does not apply. plain says that sums are results but for rounding.
func tensorDispatch(dev *vk.Device, t tensorTile, l *ParallelLinear, x, y *vk.Tensor, d *vk.Dispatch, plain bool) (columns int, ok bool) {
	spec, ok := tensorSpec(dev, t, l, x, y)
	if !ok {
		return 0, false
	}
	// Software devices compile it for seconds, a large tile for minutes.
	spec.Plain = plain && (!software(dev) || spec.MI*spec.NI <= 2)
	d.Kernel, d.Spec = tensorKernels[l.tensorTypes()], spec.Values()
	if caps := dev.Caps(); caps.Has(vk.FeatureSubgroupSize) {
		d.SubgroupSize = caps.SubgroupSize
	}
	return t.BN, true
}

// The most rows of a part, and the most shared memory of a work-group of group_xty_coopmat: NVIDIA's limit, which also leaves room
// for a second work-group.
const (
	maxPart   = 640
	maxShared = 48 << 10
)

// xtyPart is how many rows a work-group of group_xty_coopmat with matrices of m rows looks up at once: what of two parts is looked
// up, 8 bytes of each row, 12 with gates, takes a third of what the tiles of a and b or the strips of results take, but is at least a
// step's. It is 0 where that is too much for the device.
func (t tensorTile) xtyPart(caps *vk.Capabilities, m int, gated bool) int {
	row := 8
	if gated {
		row = 12
	}
	tiles := 16 * max(t.BK*(t.BM/8+t.BN/8+2), t.SM*t.SN*m*(t.BN/t.SN/4+1))
	free := min(int(caps.SharedMemoryBytes), maxShared) - tiles
	part := max(min(maxPart, tiles/3/(2*row)), t.BK)
	part = min(part, free/(2*row))
	return max(0, part/t.BK*t.BK)
}

// onTensors reports whether the weight gradient of rows a and b takes the tensor path.
func (l *ParallelLinear) onTensors(dev *vk.Device, a, b *vk.Tensor, c *ExpertBank) bool {
	_, ok := l.tensorXTY(dev, a, b, nil, c, &vk.Dispatch{})
	return ok
}

// tensorXTY makes a dispatch of group_xty one of the tensor path and returns its tile, or false where the device, a dtype, a
// width or an address rules that out.
func (l *ParallelLinear) tensorXTY(dev *vk.Device, a, b, gates *vk.Tensor, c *ExpertBank, d *vk.Dispatch) (tensorTile, bool) {
	t := l.matrices
	if t == (tensorTile{}) && l.tile == (Tile{}) && l.Config.Path != PathPortable && l.Config.Path != PathDecode {
		tiles := tuning(dev).Gradients
		t = fitting(tiles, b.Dim(1), a.Dim(1), nil)
		if len(tiles) == 0 && l.Config.Path == PathCoopMat {
			t = tensorTile{32, 32, 16, 2, 2}
		}
	}
	caps := dev.Caps()
	kernel := tensorXTYKernels[[2]vk.DType{a.DType(), c.DType()}]
	if t.BM == 0 || kernel == nil || b.DType() != a.DType() || !caps.Has(kernel.Needs...) {
		return t, false
	}
	aligned := a.Dim(1)%8 == 0 && b.Dim(1)%8 == 0 && c.shape[2]%8 == 0 && a.Address()%16 == 0 && b.Address()%16 == 0 && c.aligned(16)
	m, n, k, ok := matrixShape(caps, a.DType())
	if !aligned || !ok || t.BM%(t.SM*m) != 0 || t.BN%(t.SN*n) != 0 || t.BK%k != 0 {
		return t, false
	}
	part := t.xtyPart(caps, m, gates != nil)
	for t.BK > k && part == 0 {
		t.BK /= 2
		part = t.xtyPart(caps, m, gates != nil)
	}
	threads := int(caps.SubgroupSize) * t.SM * t.SN
	// Pieces of 128 bytes waste no part of a cache line; smaller tiles have shorter rows.
	piece := min(8, t.BM/8, t.BN/8)
	whole := t.BM/8%piece == 0 && t.BN/8%piece == 0 && threads%piece == 0 && t.BK%(threads/piece) == 0
	if !whole || threads > int(caps.MaxWorkgroupInvocations) || part == 0 {
		return t, false
	}
	d.Kernel = kernel
	d.Spec = shaders.GroupXtyCoopmatSpec{Threads: uint32(threads), Subgroup: caps.SubgroupSize, SM: uint32(t.SM),
		SN: uint32(t.SN), MI: uint32(t.BM / (t.SM * m)), NI: uint32(t.BN / (t.SN * n)), BK: uint32(t.BK),
		MM: uint32(m), MN: uint32(n), MK: uint32(k), Whole: a.Dim(1)%t.BM == 0 && b.Dim(1)%t.BN == 0,
		Gated: gates != nil, Piece: uint32(piece), Part: uint32(part)}.Values()
	if caps.Has(vk.FeatureSubgroupSize) {
		d.SubgroupSize = caps.SubgroupSize
	}
	return t, true
}
