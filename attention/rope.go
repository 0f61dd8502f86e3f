package attention

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// maxPositions bounds the positions of a RoPE; the table's rows are counted in 32 bits.
const maxPositions = 1 << 28

// RoPE is a rotary position embedding with its table of angles on a device: 4·Width bytes for each position. One serves any
// number of layers.
//
//	y_a = f·(x_a·cos φ − x_b·sin φ),  y_b = f·(x_b·cos φ + x_a·sin φ),  φ = position · frequency of the pair (a, b)
//
// with f the RotationFactor. cos and sin are computed by the host in float64 and rounded once to f32, since what Vulkan asks of
// a device's sine is far too loose: they are exact at every position. (transformers rounds the frequencies to f32 first, which
// turns pairs at position p by up to p·2^-24 radians from that.)
//
// A RoPE may be recorded from several goroutines at once. Close it after the recorders that use it.
type RoPE struct {
	Config RoPEConfig

	dev   *vk.Device
	mu    sync.Mutex
	table *vk.Tensor   // F32 [positions, Width/2, 2]
	old   []*vk.Tensor // tables that recordings may still read
}

// NewRoPE makes a table for positions 0 to positions − 1. It fails with a *ConfigError, with a *PositionError when positions
// exceeds cfg.Positions, or with vk.ErrOutOfMemory.
func NewRoPE(ctx context.Context, dev *vk.Device, cfg RoPEConfig, positions int) (*RoPE, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &RoPE{Config: cfg, dev: dev}
	if err := r.Grow(ctx, positions); err != nil {
		return nil, err
	}
	return r, nil
}

// Grow makes the table reach to position positions − 1, unless it does already. What was recorded before keeps the table it was
// recorded with, whose memory is freed by Close. Errors: those of NewRoPE.
func (r *RoPE) Grow(ctx context.Context, positions int) error {
	limit := r.Config.withDefaults().Positions
	if positions > limit {
		return &PositionError{Row: -1, Largest: positions - 1, Positions: limit}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	positions = max(positions, 1)
	if r.table != nil && positions <= r.table.Dim(0) {
		return nil
	}
	table, err := r.dev.NewTensor(vk.F32, positions, r.Config.Width/2, 2)
	if err != nil {
		return err
	}
	if err := vk.Upload(ctx, table, r.Config.angles(positions)); err != nil {
		return errors.Join(err, table.Close())
	}
	if r.table != nil {
		r.old = append(r.old, r.table)
	}
	r.table = table
	return nil
}

// angles computes the table's rows.
func (c RoPEConfig) angles(positions int) []float32 {
	frequencies, factor := c.Frequencies(), c.RotationFactor()
	out := make([]float32, 0, 2*positions*len(frequencies))
	for p := range positions {
		for _, f := range frequencies {
			sin, cos := math.Sincos(float64(p) * f)
			out = append(out, float32(factor*cos), float32(factor*sin))
		}
	}
	return out
}

// Positions is how many positions the table has.
func (r *RoPE) Positions() int { return r.rows().Dim(0) }

func (r *RoPE) rows() *vk.Tensor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table
}

// Close frees the tables. Closing twice does nothing.
func (r *RoPE) Close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.table.Close()
	for _, t := range r.old {
		err = errors.Join(err, t.Close())
	}
	r.old = nil
	return err
}

// Rotate records y = the rotation of the heads x: `heads` heads of width elements for each token of positions I32 [T]. The
// first Config.Width elements of a head turn, the others are copied. y may be x, exactly, or is apart from it; both are F32,
// F16 or BF16, the same. Positions are checked where they are made (MakePositions, CheckPositions): one outside the table makes
// NaN here.
// Errors: see the package.
func (r *RoPE) Rotate(rec *vk.Recorder, positions *vk.Tensor, heads, width int, x, y Heads) error {
	return r.record(rec, "RoPE.Rotate", [2]string{"x", "y"}, positions, heads, width, x, y, false)
}

// RotateBackward records dx = the gradient of Rotate's x from dy: the same rotation backwards, RotationFactor and all. dx may
// be dy, exactly, or is apart from it.
// Errors: see the package.
func (r *RoPE) RotateBackward(rec *vk.Recorder, positions *vk.Tensor, heads, width int, dy, dx Heads) error {
	return r.record(rec, "RoPE.RotateBackward", [2]string{"dy", "dx"}, positions, heads, width, dy, dx, true)
}

var ropeKernels = byStorage{shaders.RopeF32, shaders.RopeF16, shaders.RopeBf16}

func (r *RoPE) record(rec *vk.Recorder, op string, args [2]string, positions *vk.Tensor, heads, width int, x, y Heads,
	inverse bool) error {
	dev, table := rec.Device(), r.rows()
	tokens, err := vectorLen(op, "positions", positions)
	if err == nil {
		err = check.First(
			check.Tensor(dev, op, "positions", positions, vk.I32, tokens),
			check.Tensor(dev, op, "table", table, vk.F32, table.Shape()...),
			check.InRange(op, "heads", heads, 1, maxHeads),
			check.InRange(op, "width", width, r.Config.Width, maxRowWidth),
			checkHeads(dev, op, args[0], x, tokens, heads, width, false),
			checkHeads(dev, op, args[1], y, tokens, heads, width, true),
		)
	}
	if err == nil {
		err = check.First(sameDType(op, args[1], x, y),
			checkApartOrSame(op, args[1], y, args[0], x, tokens, heads, width),
			checkSpansApart(op, headSpan(args[1], y, tokens, heads, width), tensorSpan("positions", positions), tensorSpan("table", table)))
	}
	if err != nil || tokens == 0 {
		return rec.Fail(err)
	}
	items := check.CeilDiv(r.Config.Width/2, 2)
	if !x.same(y) {
		items += check.CeilDiv(width-r.Config.Width, 4)
	}
	shape := chooseTeam(items, 64)
	push := shaders.RopePush{X: x.address(), Y: y.address(), Table: table.Address(), Index: positions.Address(),
		Rows: uint32(tokens * heads), Heads: uint32(heads), Items: uint32(items), HalfWidth: uint32(r.Config.Width / 2),
		Width: uint32(width), Positions: uint32(table.Dim(0))}
	push.XToken, push.XHead = x.strides()
	push.YToken, push.YHead = y.strides()
	return check.Record(rec, vk.Dispatch{
		Kernel: ropeKernels[x.Tensor.DType()],
		Spec: shaders.RopeSpec{Columns: uint32(shape.lanes), Rows: uint32(shape.rows), Interleaved: r.Config.Interleaved,
			Inverse: inverse}.Values(),
		Push:   push.Bytes(),
		Reads:  []*vk.Tensor{x.Tensor, table, positions},
		Writes: []*vk.Tensor{y.Tensor},
		FLOPs:  3 * float64(tokens) * float64(heads) * float64(r.Config.Width),
	}, uint64(check.CeilDiv(tokens*heads, shape.rows))*uint64(check.CeilDiv(items, shape.lanes)))
}

// A PositionError is a position outside [0, Positions).
type PositionError struct {
	Row       int // the first token with such a position, −1 where none was asked for
	Largest   int // the largest position asked for; 0 where all are negative
	Positions int
}

func (e *PositionError) Error() string {
	if e.Row < 0 {
		return fmt.Sprintf("attention: position %d is not below the limit %d", e.Largest, e.Positions)
	}
	return fmt.Sprintf("attention: token %d has a position outside the table's %d; the largest is %d", e.Row, e.Positions, e.Largest)
}

const positionThreads = 64

// MakePositions records the position of each of tokens tokens, I32 [tokens], in a scratch tensor of the recorder: sequence b
// has the tokens offsets[b] to offsets[b+1] − 1, of offsets I32 [B+1], and begins at position starts[b] of starts I32 [B], or 0
// when starts is nil. A token of no sequence has position 0. A position outside the table ends the run in a *PositionError.
func (r *RoPE) MakePositions(rec *vk.Recorder, tokens int, offsets, starts *vk.Tensor) (*vk.Tensor, error) {
	const op = "RoPE.MakePositions"
	bounds, err := vectorLen(op, "offsets", offsets)
	if err == nil {
		err = check.First(
			check.InRange(op, "tokens", tokens, 0, math.MaxInt32),
			check.InRange(op, "offsets", bounds, 2, math.MaxInt32),
			check.Tensor(rec.Device(), op, "offsets", offsets, vk.I32, bounds),
		)
	}
	if err == nil && starts != nil {
		err = check.Tensor(rec.Device(), op, "starts", starts, vk.I32, bounds-1)
	}
	if rec.Fail(err) != nil {
		return nil, rec.Err()
	}
	out := rec.Scratch(vk.I32, tokens)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	push := shaders.PositionsPush{Offsets: offsets.Address(), Starts: starts.Address(), Sequences: uint32(bounds - 1)}
	return out, r.recordPositions(rec, push, out, offsets, starts)
}

// CheckPositions records a check of positions I32 [T]: one outside the table ends the run in a *PositionError.
func (r *RoPE) CheckPositions(rec *vk.Recorder, positions *vk.Tensor) error {
	tokens, err := vectorLen("RoPE.CheckPositions", "positions", positions)
	if err == nil {
		err = check.Tensor(rec.Device(), "RoPE.CheckPositions", "positions", positions, vk.I32, tokens)
	}
	if rec.Fail(err) != nil {
		return rec.Err()
	}
	return r.recordPositions(rec, shaders.PositionsPush{}, positions)
}

// recordPositions records the kernel and what the host makes of its status; reads are what positions are made from, none where
// they are given.
func (r *RoPE) recordPositions(rec *vk.Recorder, push shaders.PositionsPush, positions *vk.Tensor, reads ...*vk.Tensor) error {
	tokens := positions.Dim(0)
	if tokens == 0 {
		return rec.Err()
	}
	lowest, largest := rec.Scratch(vk.U32, 2), (*vk.Tensor)(nil)
	if rec.Err() != nil {
		return rec.Err()
	}
	largest, err := lowest.View(1, 1)
	if rec.Fail(err) != nil {
		return rec.Err()
	}
	rec.Fill(lowest, math.MaxUint32)
	rec.Fill(largest, 0)
	limit := r.Positions()
	push.Positions, push.Status = positions.Address(), lowest.Address()
	push.Tokens, push.Limit = uint32(tokens), uint32(limit)
	d := vk.Dispatch{
		Kernel: shaders.Positions,
		Spec:   shaders.PositionsSpec{Threads: positionThreads, Given: len(reads) == 0}.Values(),
		Push:   push.Bytes(),
		Reads:  append(reads, lowest),
		Writes: []*vk.Tensor{lowest},
	}
	if len(reads) == 0 {
		d.Reads = append(d.Reads, positions)
	} else {
		d.Writes = append(d.Writes, positions)
	}
	if err := check.Record(rec, d, uint64(check.CeilDiv(tokens, positionThreads))); err != nil {
		return err
	}
	rec.Check(lowest, func(words []uint32) error {
		if words[0] == math.MaxUint32 {
			return nil
		}
		return &PositionError{Row: int(words[0]), Largest: int(words[1]), Positions: limit}
	})
	return rec.Err()
}
