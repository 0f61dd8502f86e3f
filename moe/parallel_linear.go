package moe

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Layout says in which order the rows of a matrix are.
type Layout uint8

// The layouts.
const (
	Scattered Layout = iota // by token or slot
	Grouped                 // by expert
)

func (l Layout) String() string {
	switch l {
	case Scattered:
		return "scattered"
	case Grouped:
		return "grouped"
	}
	return fmt.Sprintf("layout %d", uint8(l))
}

// A ParallelLinearConfig describes E linear maps of In to Out values.
type ParallelLinearConfig struct {
	Experts int      // E, 1 to 1,024; a dense layer has one
	In, Out int      // values of a row of x and of y
	Bias    bool     // b is added, [E,Out]
	InOut   bool     // weights are stored [E,In,Out], as gpt-oss has them, instead of [E,Out,In]
	DType   vk.DType // of weights and biases: F32, F16 or BF16; beside quantized weights, of biases, x and y
	// Weights is how the matrices are stored. Quantized ones serve Forward and Dense only: what asks for gradients fails with a
	// *ConfigError. InOut is then the order in which they are uploaded.
	Weights WeightFormat
	Path    Path   // which kernels multiply; the zero value leaves it to the selector
	Label   string // names the layer in timings; empty means scatter2scatter
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c ParallelLinearConfig) Validate() error {
	err := check.First(
		check.InRange("ParallelLinearConfig", "Experts", c.Experts, 1, MaxExperts),
		check.InRange("ParallelLinearConfig", "In", c.In, 1, maxWidth),
		check.InRange("ParallelLinearConfig", "Out", c.Out, 1, maxWidth),
		check.DType("ParallelLinearConfig", c.DType),
		check.InRange("ParallelLinearConfig", "Weights", int(c.Weights), 0, int(WeightsQ4)),
		check.InRange("ParallelLinearConfig", "Path", int(c.Path), 0, int(PathDecode)),
	)
	if err == nil && c.In*c.Out >= 1<<31 {
		err = check.Config("ParallelLinearConfig", "In·Out", "below 2^31", fmt.Sprint(c.In*c.Out))
	}
	if err == nil && c.Experts*max(c.In, c.Out) >= 1<<31 {
		err = check.Config("ParallelLinearConfig", "Experts·max(In, Out)", "below 2^31", fmt.Sprint(c.Experts*max(c.In, c.Out)))
	}
	return err
}

// A ParallelLinear is E linear maps, each applied to the rows that belong to its expert:
//
//	y[row of s] = gate[s] · (W[e]·x[row of s] + b[e]),  e = ids[s]
//
// (arXiv 2403.08245, section 3). Rows of x are gathered and rows of y scattered inside the multiplication: neither is
// copied or padded. The sum, the bias and the gate are in f32 whatever the dtypes. The weights are undefined until
// uploaded (UploadBank).
type ParallelLinear struct {
	Config ParallelLinearConfig
	Weight *ExpertBank // [E,Out,In], or [E,In,Out] with InOut
	Bias   *ExpertBank // [E,Out], nil without

	tile     Tile       // overrides the selector when set: the portable path with this tile
	matrices tensorTile // likewise: the tensor path with this tile
	vectors  vectorTile // likewise: the decode path with this tile
	epilogue *epilogue  // what with added
	columns  Columns    // likewise: those of y that are computed
}

// NewParallelLinear allocates the weights: E·(In·Out + Out with Bias) values in as many tensors as the device's largest
// allocation asks for; in a quantized format E·Weights.ExpertBytes bytes for the matrices. It fails with a *ConfigError, or with
// vk.ErrOutOfMemory when one expert exceeds the largest allocation or all of them the memory.
func NewParallelLinear(dev *vk.Device, cfg ParallelLinearConfig) (*ParallelLinear, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &ParallelLinear{Config: cfg}
	var err error
	if cfg.Weights == WeightsFull {
		l.Weight, err = NewExpertBank(dev, cfg.DType, cfg.weightShape()...)
	} else {
		l.Weight, err = newQuantizedBank(dev, cfg)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Bias {
		if l.Bias, err = NewExpertBank(dev, cfg.DType, cfg.Experts, cfg.Out); err != nil {
			return nil, errors.Join(err, l.Weight.Close())
		}
	}
	return l, nil
}

// NewParallelLinearFromExperts makes a layer of experts that exist as separate tensors: weights has one [Out,In] per
// expert ([In,Out] with InOut), biases one [Out] per expert, or is nil without Bias, all of cfg.DType. The tensors stay
// the caller's, who closes them after the layer. It fails with a *ConfigError, also for quantized weights, with a
// *vk.ShapeError that names the expert, or with vk.ErrClosed.
func NewParallelLinearFromExperts(dev *vk.Device, cfg ParallelLinearConfig, weights, biases []*vk.Tensor) (*ParallelLinear, error) {
	const op = "NewParallelLinearFromExperts"
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Weights != WeightsFull {
		return nil, check.Config("ParallelLinearConfig", "Weights", "full for experts that exist", cfg.Weights.String())
	}
	if cfg.Bias != (biases != nil) {
		return nil, &vk.ShapeError{Op: op, Arg: "biases", Want: fmt.Sprintf("what Bias: %v says", cfg.Bias),
			Got: fmt.Sprintf("%d tensors", len(biases))}
	}
	l := &ParallelLinear{Config: cfg}
	var err error
	if l.Weight, err = BankOfExperts(dev, weights); err != nil {
		return nil, err
	}
	if cfg.Bias {
		if l.Bias, err = BankOfExperts(dev, biases); err != nil {
			return nil, errors.Join(err, l.Weight.Close())
		}
	}
	if err := l.checkWeights(dev, op); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// weightShape is [E,Out,In], or [E,In,Out] with InOut.
func (c ParallelLinearConfig) weightShape() []int {
	if c.InOut {
		return []int{c.Experts, c.In, c.Out}
	}
	return []int{c.Experts, c.Out, c.In}
}

// Close frees the weights. Closing twice does nothing.
func (l *ParallelLinear) Close() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.Weight.Close(), l.Bias.Close())
}

// LinearOptions say how ParallelLinear reads and writes.
type LinearOptions struct {
	In, Out Layout     // the order of the rows of x and of y
	Gates   *vk.Tensor // F32 [T,K]: weights of the results, nil for none

	Accumulate bool // add to y instead of overwriting it

	// Activation is applied to the results before they meet the gates: y = gate·f(W·x + b), which has Out/2 columns where f is
	// gated. f is evaluated in f32 on the sums themselves, which are in memory nowhere. nil stands for none.
	Activation *ActivationConfig
	// Z keeps what the activation is applied to, W·x + b, with Out columns in the rows of y and in y's dtype, for a backward pass
	// (ActivateBackward). y is then what Activate makes of Z as it is stored. nil keeps nothing; only with an Activation.
	Z *vk.Tensor

	// Columns are those of y to compute, for example some at a time where the whole matrix has no room; First is a multiple of 8. y
	// then has either all columns, of which the others are left as they are, or these alone. Z has all of its columns always; those
	// that the asked ones are made of are written.
	Columns Columns
}

// Forward records the layer on the rows that the routing names.
//
//	x  Scattered  [T,In]: the slots of a token read its row; or [T·K,In]: slot s reads row s
//	   Grouped    [T·K,In]: slot s reads row p = Inverse[s]
//	y  Scattered  [T·K,Out]: slot s writes row s
//	   Grouped    [T·K,Out]: slot s writes row p
//
// x and y have the layer's dtype, or are F32, each for itself: 16-bit weights also serve f32 activations. With quantized weights
// both have the layer's dtype.
// Rows of y that belong to no valid slot are left as they are. Only the routing and its gates tell which rows an expert
// gets, so one recording serves every input. Errors: see the package.
func (l *ParallelLinear) Forward(rec *vk.Recorder, r *Routing, x, y *vk.Tensor, opts LinearOptions) error {
	fanIn, err := l.checkForward(rec.Device(), "ParallelLinear.Forward", r, x, y, opts)
	if err != nil {
		return rec.Fail(err)
	}
	l = l.with(opts)
	push := l.push(x, y)
	push.FanIn = uint32(fanIn)
	push.Gates = opts.Gates.Address()
	push.Order = r.Order.Address()
	push.Tiles, push.TileArgs, push.Rows = r.Tiles.Address(), r.TileArgs.Address(), uint32(r.TileBound)
	if opts.In == Grouped {
		push.Flags |= flagXGrouped
	}
	if opts.Out == Grouped {
		push.Flags |= flagYGrouped
	}
	push.Flags |= bit(flagAccumulate, opts.Accumulate)
	tile := l.tile
	if tile == (Tile{}) {
		tile = ChooseTile(rec.Device(), r.Slots(), r.Experts, l.outputs())
	}
	if tile.BM != r.BlockM && l.matrices.BM != r.BlockM {
		return rec.Fail(&vk.ShapeError{Op: "ParallelLinear.Forward", Arg: "routing", Want: fmt.Sprintf("tiles of %d rows", tile.BM),
			Got: fmt.Sprintf("%d: it was recorded before UseTuning", r.BlockM)})
	}
	return l.dispatch(rec, tile, push, r.TileBound, r.Slots(), r.Tokens, x, y,
		opts.Gates, r.Order, r.Tiles, r.TileArgs)
}

// Dense records y = x·Wᵀ + b for x [rows,In] and y [rows,Out] of dtypes as in Forward; the layer must have one
// expert. Routers are made of it.
// Errors: see the package.
func (l *ParallelLinear) Dense(rec *vk.Recorder, x, y *vk.Tensor) error {
	return l.dense(rec, x, y, LinearOptions{})
}

// DenseActivated records y = f(x·Wᵀ + b) for x [rows,In], y [rows,Out], or [rows,Out/2] where f is gated, and z [rows,Out] for
// x·Wᵀ + b, or nil to keep it nowhere; the dtypes are those of Forward, that of z is y's, and the layer must have one expert. It is
// Dense with Activation and Z of LinearOptions.
// Errors: see the package.
func (l *ParallelLinear) DenseActivated(rec *vk.Recorder, x, z, y *vk.Tensor, f ActivationConfig) error {
	return l.dense(rec, x, y, LinearOptions{Activation: &f, Z: z})
}

// dense is Dense with gates of the rows, with an activation, or adding to y.
func (l *ParallelLinear) dense(rec *vk.Recorder, x, y *vk.Tensor, opts LinearOptions) error {
	const op = "ParallelLinear.Dense"
	rows, columns, err := matrix(op, "x", x)
	if err == nil {
		columns, err = l.checkActivation(rec.Device(), op, opts, y, rows)
	}
	if err == nil {
		err = check.First(
			check.InRange("ParallelLinearConfig", "Experts", l.Config.Experts, 1, 1),
			l.checkWeights(rec.Device(), op),
			check.Tensor(rec.Device(), op, "x", x, l.rowsDType(x), rows, l.Config.In),
			check.Tensor(rec.Device(), op, "y", y, l.rowsDType(y), rows, columns),
		)
	}
	if err == nil {
		err = l.checkOutputs(op, y, opts, map[string]*vk.Tensor{"x": x})
	}
	if err != nil {
		return rec.Fail(err)
	}
	l = l.with(opts)
	push := l.push(x, y)
	push.FanIn, push.Rows, push.Gates = 1, uint32(rows), opts.Gates.Address()
	push.Flags |= flagDense | bit(flagAccumulate, opts.Accumulate)
	tile := l.tile
	if tile == (Tile{}) {
		tile = ChooseTile(rec.Device(), rows, 1, l.outputs())
	}
	return l.dispatch(rec, tile, push, check.CeilDiv(rows, tile.BM), rows, rows, x, y, opts.Gates)
}

// The bits of scatter2scatter's flags.
const (
	flagXGrouped = 1 << iota
	flagYGrouped
	flagDense
	flagWeightTable
	flagBiasTable
	flagAccumulate
)

// push fills in what every use of the layer has.
func (l *ParallelLinear) push(x, y *vk.Tensor) shaders.Scatter2scatterPush {
	push := shaders.Scatter2scatterPush{X: x.Address(), Y: y.Address(),
		InWidth: uint32(l.Config.In), OutWidth: uint32(l.Config.Out)}
	var table bool
	if push.W, table = l.Weight.operand(); table {
		push.Flags |= flagWeightTable
	}
	if push.Bias, table = l.Bias.operand(); table {
		push.Flags |= flagBiasTable
	}
	l.fillColumns(&push, y)
	l.epilogue.fill(&push)
	return push
}

// dispatch records the kernel on at most tiles tiles of rows, at most most of which are one expert's; reads are the tensors beside
// x and the weights.
func (l *ParallelLinear) dispatch(rec *vk.Recorder, tile Tile, push shaders.Scatter2scatterPush, tiles, rows, most int,
	x, y *vk.Tensor, reads ...*vk.Tensor) error {
	d := vk.Dispatch{
		Kernel: linearKernels[l.types(x, y)],
		Spec:   l.portableSpec(tile, x).Values(),
		Push:   push.Bytes(),
		Reads:  slices.Concat(reads, []*vk.Tensor{x, y}, l.epilogue.tensors(), l.Weight.tensors(), l.Bias.tensors()),
		Writes: append(l.epilogue.tensors(), y),
		Label:  l.label(),
		FLOPs:  2 * float64(rows) * float64(l.Config.In) * float64(l.outputs()),
	}
	path, columns := l.choosePath(rec.Device(), tile, rows, most, x, y, &d, l.plain(push))
	switch {
	case l.Config.Path == PathCoopMat && path != PathCoopMat:
		return rec.Fail(l.noTensorPath(rec.Device()))
	case l.Config.Path == PathDecode && path != PathDecode:
		return rec.Fail(l.noDecodePath(rec.Device()))
	}
	return check.Record(rec, d, uint64(tiles)*uint64(check.CeilDiv(l.outputs(), columns)))
}

// portableSpec is the portable kernel's specialization.
func (l *ParallelLinear) portableSpec(tile Tile, x *vk.Tensor) shaders.Scatter2scatterSpec {
	spec := tile.spec()
	spec.XQuads = quads(x, l.Config.In)
	spec.Transposed = l.transposed()
	spec.WQuads = l.Weight.quads(l.wQuads())
	spec.Activation, spec.Gated, spec.Interleaved = l.epilogue.constants()
	return spec
}

// plain reports whether sums are results but for rounding.
func (l *ParallelLinear) plain(push shaders.Scatter2scatterPush) bool {
	return push.Bias == 0 && push.Gates == 0 && push.Flags&flagAccumulate == 0 && l.epilogue == nil && l.Config.Weights != WeightsInt8
}

// choosePath makes a dispatch of the portable kernel one of a faster path where the device's table and the operands allow that. It
// returns the path and how many columns a tile has.
func (l *ParallelLinear) choosePath(dev *vk.Device, tile Tile, rows, most int, x, y *vk.Tensor, d *vk.Dispatch, plain bool) (Path, int) {
	if columns, ok := decodeDispatch(dev, l.vectorTile(dev, rows, most), l, tile.BM, x, y, d); ok {
		return PathDecode, columns
	}
	if columns, ok := tensorDispatch(dev, l.tensorTile(dev, rows, x, y), l, x, y, d, plain); ok {
		return PathCoopMat, columns
	}
	return PathPortable, tile.BN
}

// transposed reports whether the weights are stored [E,In,Out]; quantized ones never are.
func (l *ParallelLinear) transposed() bool { return l.Config.InOut && l.Config.Weights == WeightsFull }

// types are what the kernels are chosen by.
func (l *ParallelLinear) types(x, y *vk.Tensor) linearTypes {
	return linearTypes{x.DType(), l.Config.DType, y.DType(), l.Config.Weights}
}

// rowsDType is the dtype that x or y must have: F32 where the tensor is that and the weights are full, else the layer's.
func (l *ParallelLinear) rowsDType(t *vk.Tensor) vk.DType {
	if t != nil && t.DType() == vk.F32 && l.Config.Weights == WeightsFull {
		return vk.F32
	}
	return l.Config.DType
}

// wQuads is what must be a multiple of four for loads of four weights: a row of them, or the gates in it where the ups lie behind.
func (l *ParallelLinear) wQuads() int {
	width := l.Config.weightShape()[2]
	if l.transposed() && l.epilogue.gated() && !l.epilogue.cfg.Interleaved {
		return width / 2
	}
	return width
}
