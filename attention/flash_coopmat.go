package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// The tensor path: flash attention on cooperative matrices, for f16 and bf16 heads whose widths are multiples of 16.

// matrixFlashKernels are the variants of flash_attention_coopmat.
var matrixFlashKernels = map[vk.DType]*vk.Kernel{
	vk.F16: shaders.FlashAttentionCoopmatF16, vk.BF16: shaders.FlashAttentionCoopmatBf16,
}

// A matrixTile is how the tensor path cuts its work: a work-group of so many subgroups, each of which owns MI matrices of rows,
// and BN rows of the other side at a time.
type matrixTile struct{ subgroups, MI, BN int }

func (t matrixTile) String() string {
	return fmt.Sprintf("%d subgroups of %d matrices × %d", t.subgroups, t.MI, t.BN)
}

// A deviceMatrix is the shape of a device's cooperative matrices, and where it keeps the elements of an accumulator.
type deviceMatrix struct {
	m, n, k uint32
	places  matrixPlaces
}

// findMatrix finds the device's cooperative matrices for products of a dtype added up in f32: of those with the most inputs the
// widest. It returns false where there are none or softmax over their rows could not stay in registers.
func findMatrix(dev *vk.Device, dtype vk.DType) (x deviceMatrix, ok bool) {
	caps := dev.Caps()
	kernel := matrixFlashKernels[dtype]
	if kernel == nil || !caps.Has(kernel.Needs...) {
		return x, false
	}
	for _, s := range caps.CooperativeMatrix {
		fits := s.Scope == "subgroup" && s.A == dtype.String() && s.B == s.A && s.C == "f32" && s.D == "f32" && !s.Saturating &&
			s.M%8 == 0 && s.N%8 == 0 && s.K%8 == 0 && 16%s.N == 0 && 16%s.K == 0
		if fits && (!ok || s.K > x.k || s.K == x.k && s.N > x.n) {
			x.m, x.n, x.k, ok = s.M, s.N, s.K, true
		}
	}
	if ok {
		x.places, ok = placesFor(dev, x.m, x.n)
	}
	return x, ok
}

// rows is BM.
func (t matrixTile) rows(x deviceMatrix) int { return t.subgroups * t.MI * int(x.m) }

// flashBytes is the work-group memory of flash_attention_coopmat: tiles of keys, at times sums in their place, and values and the strips of weights, or the
// rows of queries or results that take their place, and a flag.
func (t matrixTile) flashBytes(x deviceMatrix, cfg FlashConfig) int {
	k, v := cfg.Width/8+1, cfg.ValueWidth/8+1
	loop := max(t.BN*k, t.subgroups*int(x.m*x.n)/4) + t.BN*v + t.rows(x)*(t.BN/8+1)
	return 16 * (max(loop, t.rows(x)*max(k, v)) + 1)
}

// fits reports whether a device can run work-groups of the tile that take so many bytes.
func (t matrixTile) fits(dev *vk.Device, x deviceMatrix, bytes int) bool {
	caps := dev.Caps()
	return t.BN%int(x.n) == 0 && t.BN%int(x.k) == 0 && bytes <= int(caps.SharedMemoryBytes) &&
		t.subgroups*int(caps.SubgroupSize) <= int(caps.MaxWorkgroupInvocations)
}

// A matrixRule is one line of the table of the tensor path's tiles: up to a width of the wider operand.
type matrixRule struct {
	width int
	tile  matrixTile
}

// matrixFlashRules is searched from the top for a tile that fits the device.
var matrixFlashRules = []matrixRule{
	{64, matrixTile{4, 1, 64}},
	{128, matrixTile{4, 1, 48}},
	{MaxHeadWidth, matrixTile{8, 1, 32}},
	{MaxHeadWidth, matrixTile{4, 1, 32}},
	{MaxHeadWidth, matrixTile{2, 1, 16}},
}

// softwareMatrixTile is the tile of software devices, which take seconds to compile larger ones.
var softwareMatrixTile = matrixTile{2, 1, 16}

// leastMatrixRows is the mean number of rows per sequence and key/value head from which the tensor path is taken.
const leastMatrixRows = 16

// chunked reports whether every head can be read 16 bytes at a time, by 32-bit numbers of such chunks.
func (h Heads) chunked(rows, heads, width int) bool {
	bytes := h.Tensor.DType().Bytes()
	each := int(16 / bytes)
	_, end := operand{"", h, [3]int{rows, heads, width}}.span()
	return width%each == 0 && h.RowStride%each == 0 && h.HeadStride%each == 0 && h.address()%16 == 0 &&
		end-h.address() < 1<<36
}

// suitsMatrices reports whether an attention's operands suit the tensor path.
func (in FlashInput) suitsMatrices(cfg FlashConfig, out Heads, tokens, keys int) bool {
	return cfg.Width%16 == 0 && cfg.ValueWidth%16 == 0 && in.Q.chunked(tokens, cfg.Heads, cfg.Width) &&
		in.K.chunked(keys, cfg.KVHeads, cfg.Width) && in.V.chunked(keys, cfg.KVHeads, cfg.ValueWidth) &&
		out.chunked(tokens, cfg.Heads, cfg.ValueWidth)
}

// chooseMatrices decides on the tensor path and its tile, or returns false. It is not taken where the other cuts keys in splits.
func (p flashPlan) chooseMatrices(dev *vk.Device, cfg FlashConfig, in FlashInput, out Heads, tokens, keys, splits int) (matrixTile,
	deviceMatrix, bool) {
	none := matrixTile{}
	asked := p.matrices != none || cfg.Path == moe.PathCoopMat
	few := splits > 1 || tokens*cfg.group() < leastMatrixRows*in.sequences() || dev.Adapter().Type == vk.Software
	if cfg.Path == moe.PathPortable || p.tile != (flashTile{}) || !asked && few || !in.suitsMatrices(cfg, out, tokens, keys) {
		return none, deviceMatrix{}, false
	}
	x, ok := findMatrix(dev, cfg.DType)
	if !ok || p.matrices != none {
		return p.matrices, x, ok && p.matrices.fits(dev, x, p.matrices.flashBytes(x, cfg))
	}
	rules := matrixFlashRules
	if dev.Adapter().Type == vk.Software {
		rules = []matrixRule{{MaxHeadWidth, softwareMatrixTile}}
	}
	for _, r := range rules {
		if max(cfg.Width, cfg.ValueWidth) <= r.width && r.tile.fits(dev, x, r.tile.flashBytes(x, cfg)) {
			return r.tile, x, true
		}
	}
	return none, x, false
}

// matrixSpec are the specialization constants that the kernels of the tensor path share.
func (t matrixTile) matrixSpec(dev *vk.Device, x deviceMatrix, cfg FlashConfig) shaders.FlashAttentionCoopmatSpec {
	lanes := dev.Caps().SubgroupSize
	return shaders.FlashAttentionCoopmatSpec{Threads: uint32(t.subgroups) * lanes, Subgroup: lanes, MI: uint32(t.MI),
		BN: uint32(t.BN), MM: x.m, MN: x.n, MK: x.k, Slots: x.places.slots, Shift: x.places.shift, Mates: x.places.mates,
		Pairs: x.places.pairs, Width: uint32(cfg.Width), ValueWidth: uint32(cfg.ValueWidth), Cap: cfg.SoftCap}
}

// subgroupOf is the subgroup size that a dispatch of the tensor path asks for: 0 where the device has but one.
func subgroupOf(dev *vk.Device) uint32 {
	if caps := dev.Caps(); caps.Has(vk.FeatureSubgroupSize) {
		return caps.SubgroupSize
	}
	return 0
}

// noFlashMatrices says why an attention cannot take the tensor path.
func noFlashMatrices(dev *vk.Device, cfg FlashConfig) error {
	e := &vk.UnsupportedError{Device: dev.Adapter().Name}
	kernel := matrixFlashKernels[cfg.DType]
	if kernel == nil {
		e.Need = fmt.Sprintf("16-bit storage for cooperative matrices; the attention is %v", cfg.DType)
		return e
	}
	if e.Feature = dev.Caps().Missing(kernel.Needs...); e.Feature != "" {
		e.Need = "flash attention by cooperative matrices"
		return e
	}
	if _, ok := findMatrix(dev, cfg.DType); !ok {
		e.Need = fmt.Sprintf("cooperative matrices of %v products added up in f32 whose rows lie among few invocations", cfg.DType)
		return e
	}
	e.Need = fmt.Sprintf("widths that are multiples of 16, rows aligned to 16 bytes and a tile that fits, for heads of %d and %d by "+
		"cooperative matrices", cfg.Width, cfg.ValueWidth)
	return e
}

// flashByMatrices records flash_attention_coopmat.
func flashByMatrices(rec *vk.Recorder, cfg FlashConfig, in FlashInput, out Heads, lse *vk.Tensor, tile matrixTile, x deviceMatrix) error {
	tokens, keys := in.Q.Rows(cfg.Heads, cfg.Width), in.K.Rows(cfg.KVHeads, cfg.Width)
	push := flashPush(cfg, in, tokens, keys)
	push.Splits, push.Result, push.Lse = 1, out.address(), lse.Address()
	push.ResultRow, push.ResultHead = out.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: matrixFlashKernels[cfg.DType], Spec: tile.matrixSpec(rec.Device(), x, cfg).Values(),
		Push:         shaders.FlashAttentionCoopmatPush(push).Bytes(),
		SubgroupSize: subgroupOf(rec.Device()),
		Reads:        []*vk.Tensor{in.Q.Tensor, in.K.Tensor, in.V.Tensor, in.QueryOffsets, in.KeyOffsets, in.KeyLengths, in.Sinks},
		Writes:       []*vk.Tensor{out.Tensor, lse},
		FLOPs:        flashFLOPs(cfg, in, tokens, keys),
	}, uint64(cfg.KVHeads)*uint64(tokens*cfg.group()/tile.rows(x)+in.sequences()))
}
