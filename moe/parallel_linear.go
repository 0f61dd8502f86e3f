package moe

import (
	"errors"
	"fmt"
	"slices"

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
	Experts int // E, 1 to 1,024; a dense layer has one
	In, Out int
	Bias    bool
	InOut   bool     // weights are stored [E,In,Out], as gpt-oss has them, instead of [E,Out,In]
	DType   vk.DType // of weights and biases: F32, F16 or BF16
	Path    Path     // which kernels multiply; the zero value leaves it to the selector
	Label   string   // names the layer in timings; empty means scatter2scatter
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c ParallelLinearConfig) Validate() error {
	err := firstError(
		inRange("ParallelLinearConfig", "Experts", c.Experts, 1, MaxExperts),
		inRange("ParallelLinearConfig", "In", c.In, 1, maxWidth),
		inRange("ParallelLinearConfig", "Out", c.Out, 1, maxWidth),
		storageDType("ParallelLinearConfig", c.DType),
		inRange("ParallelLinearConfig", "Path", int(c.Path), 0, int(PathCoopMat)),
	)
	if err == nil && c.In*c.Out >= 1<<31 {
		err = &ConfigError{"ParallelLinearConfig", "In·Out", "below 2^31", fmt.Sprint(c.In * c.Out)}
	}
	if err == nil && c.Experts*max(c.In, c.Out) >= 1<<31 {
		err = &ConfigError{"ParallelLinearConfig", "Experts·max(In, Out)", "below 2^31", fmt.Sprint(c.Experts * max(c.In, c.Out))}
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
}

// NewParallelLinear allocates the weights: E·(In·Out + Out with Bias) values in as many tensors as the device's largest
// allocation asks for. It fails with a *ConfigError, or with vk.ErrOutOfMemory when one expert exceeds the largest
// allocation or all of them the memory.
func NewParallelLinear(dev *vk.Device, cfg ParallelLinearConfig) (*ParallelLinear, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &ParallelLinear{Config: cfg}
	var err error
	if l.Weight, err = NewExpertBank(dev, cfg.DType, cfg.weightShape()...); err != nil {
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
// the caller's, who closes them after the layer. It fails with a *ConfigError, with a *vk.ShapeError that names the
// expert, or with vk.ErrClosed.
func NewParallelLinearFromExperts(dev *vk.Device, cfg ParallelLinearConfig, weights, biases []*vk.Tensor) (*ParallelLinear, error) {
	const op = "NewParallelLinearFromExperts"
	if err := cfg.Validate(); err != nil {
		return nil, err
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
	In, Out Layout
	Gates   *vk.Tensor // F32 [T,K]: weights of the results, nil for none

	Accumulate bool // add to y instead of overwriting it
}

// Forward records the layer on the rows that the routing names.
//
//	x  Scattered  [T,In]: the slots of a token read its row; or [T·K,In]: slot s reads row s
//	   Grouped    [T·K,In]: slot s reads row p = Inverse[s]
//	y  Scattered  [T·K,Out]: slot s writes row s
//	   Grouped    [T·K,Out]: slot s writes row p
//
// x and y have the layer's dtype, or are F32, each for itself: 16-bit weights also serve f32 activations.
// Rows of y that belong to no valid slot are left as they are. Only the routing and its gates tell which rows an expert
// gets, so one recording serves every input. Errors: see the package.
func (l *ParallelLinear) Forward(rec *vk.Recorder, r *Routing, x, y *vk.Tensor, opts LinearOptions) error {
	fanIn, err := l.checkForward(rec.Device(), "ParallelLinear.Forward", r, x, y, opts)
	if err != nil {
		return rec.Fail(err)
	}
	push := l.push(x, y)
	push.FanIn = uint32(fanIn)
	push.Gates = opts.Gates.Address()
	push.Order, push.Offsets = r.Order.Address(), r.Offsets.Address()
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
		tile = ChooseTile(rec.Device(), r.Slots(), r.Experts, l.Config.Out)
	}
	return l.dispatch(rec, tile, push, r.TileBound, r.Slots(), x, y,
		opts.Gates, r.Order, r.Offsets, r.Tiles, r.TileArgs)
}

// Dense records y = x·Wᵀ + b for x [rows,In] and y [rows,Out], each of the layer's dtype or F32; the layer must have one
// expert. Routers are made of it.
func (l *ParallelLinear) Dense(rec *vk.Recorder, x, y *vk.Tensor) error {
	return l.dense(rec, x, y, LinearOptions{})
}

// dense is Dense with gates of the rows, or adding to y.
func (l *ParallelLinear) dense(rec *vk.Recorder, x, y *vk.Tensor, opts LinearOptions) error {
	const op = "ParallelLinear.Dense"
	rows, _, err := matrix(op, "x", x)
	if err == nil {
		err = firstError(
			inRange("ParallelLinearConfig", "Experts", l.Config.Experts, 1, 1),
			l.checkWeights(rec.Device(), op),
			checkTensor(rec.Device(), op, "x", x, l.rowsDType(x), rows, l.Config.In),
			checkTensor(rec.Device(), op, "y", y, l.rowsDType(y), rows, l.Config.Out),
		)
	}
	if err == nil {
		err = l.checkOutput(op, y, map[string]*vk.Tensor{"x": x})
	}
	if err != nil {
		return rec.Fail(err)
	}
	push := l.push(x, y)
	push.FanIn, push.Rows, push.Gates = 1, uint32(rows), opts.Gates.Address()
	push.Flags |= flagDense | bit(flagAccumulate, opts.Accumulate)
	tile := l.tile
	if tile == (Tile{}) {
		tile = ChooseTile(rec.Device(), rows, 1, l.Config.Out)
	}
	return l.dispatch(rec, tile, push, ceilDiv(rows, tile.BM), rows, x, y, opts.Gates)
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
	return push
}

// dispatch records the kernel on at most tiles tiles of rows; reads are the tensors beside x and the weights.
func (l *ParallelLinear) dispatch(rec *vk.Recorder, tile Tile, push shaders.Scatter2scatterPush, tiles, rows int,
	x, y *vk.Tensor, reads ...*vk.Tensor) error {
	spec := tile.spec()
	spec.XQuads = quads(x, l.Config.In)
	spec.Transposed = l.Config.InOut
	spec.Short = tile.TM == 8 // only devices that lack registers have smaller ones
	spec.WQuads = l.Weight.quads(l.Config.weightShape()[2])
	d := vk.Dispatch{
		Kernel: linearKernels[linearTypes{x.DType(), l.Config.DType, y.DType()}],
		Spec:   spec.Values(),
		Push:   push.Bytes(),
		Reads:  slices.Concat(reads, []*vk.Tensor{x, y}, l.Weight.tensors(), l.Bias.tensors()),
		Writes: []*vk.Tensor{y},
		Label:  l.label(),
		FLOPs:  2 * float64(rows) * float64(l.Config.In) * float64(l.Config.Out),
	}
	columns := tile.BN
	dev := rec.Device()
	if bn, ok := decodeDispatch(dev, l.vectorTile(dev, rows), l, tile.BM, x, y, &d); ok {
		columns = bn
	} else if bn, ok := tensorDispatch(dev, l.tensorTile(dev, rows), l, x, y, &d); ok {
		columns = bn
	}
	if l.Config.Path == PathCoopMat && d.Kernel != tensorKernels[l.Config.DType] {
		return rec.Fail(l.noTensorPath(rec.Device()))
	}
	return record(rec, d, uint64(tiles)*uint64(ceilDiv(l.Config.Out, columns)))
}

func (l *ParallelLinear) checkWeights(dev *vk.Device, op string) error {
	c := l.Config
	err := l.Weight.check(dev, op, "Weight", c.DType, c.weightShape()...)
	if err == nil && c.Bias {
		err = l.Bias.check(dev, op, "Bias", c.DType, c.Experts, c.Out)
	}
	return err
}

// rowsDType is the dtype that x or y must have: F32 where the tensor is that, else the layer's.
func (l *ParallelLinear) rowsDType(t *vk.Tensor) vk.DType {
	if t != nil && t.DType() == vk.F32 {
		return vk.F32
	}
	return l.Config.DType
}

// checkOutput reports an output that shares memory with the weights or an input.
func (l *ParallelLinear) checkOutput(op string, y *vk.Tensor, inputs map[string]*vk.Tensor) error {
	return firstError(
		checkApart(op, "y", y, inputs),
		checkApartFromBank(op, "y", y, "Weight", l.Weight),
		checkApartFromBank(op, "y", y, "Bias", l.Bias),
	)
}

// checkForward checks all arguments and returns how many slots share a row of x.
func (l *ParallelLinear) checkForward(dev *vk.Device, op string, r *Routing, x, y *vk.Tensor, opts LinearOptions) (int, error) {
	if r == nil {
		return 0, &vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"}
	}
	if r.Experts != l.Config.Experts {
		return 0, &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("%d experts", l.Config.Experts),
			Got: fmt.Sprintf("%d", r.Experts)}
	}
	if l.tile != (Tile{}) && l.tile.BM != r.BlockM {
		return 0, &vk.ShapeError{Op: op, Arg: "routing", Want: fmt.Sprintf("tiles of %d rows", l.tile.BM), Got: fmt.Sprint(r.BlockM)}
	}
	rows, fanIn := r.Slots(), 1
	if opts.In == Scattered && x != nil && x.Rank() == 2 && x.Dim(0) == r.Tokens {
		rows, fanIn = r.Tokens, r.K
	}
	err := firstError(
		inRange("LinearOptions", "In", int(opts.In), 0, int(Grouped)),
		inRange("LinearOptions", "Out", int(opts.Out), 0, int(Grouped)),
		l.checkWeights(dev, op),
		r.check(dev, op),
		checkTensor(dev, op, "x", x, l.rowsDType(x), rows, l.Config.In),
		checkTensor(dev, op, "y", y, l.rowsDType(y), r.Slots(), l.Config.Out),
	)
	if err == nil && opts.Gates != nil {
		err = checkTensor(dev, op, "Gates", opts.Gates, vk.F32, r.Tokens, r.K)
	}
	if err == nil {
		err = l.checkOutput(op, y, map[string]*vk.Tensor{"x": x, "Gates": opts.Gates, "Order": r.Order})
	}
	return fanIn, err
}

// check reports a routing with tensors that are closed or do not fit together.
func (r *Routing) check(dev *vk.Device, op string) error {
	return firstError(
		checkTensor(dev, op, "routing.Order", r.Order, vk.I32, r.Slots()),
		checkTensor(dev, op, "routing.Inverse", r.Inverse, vk.I32, r.Slots()),
		checkTensor(dev, op, "routing.Offsets", r.Offsets, vk.I32, r.Experts+1),
		checkTensor(dev, op, "routing.Tiles", r.Tiles, vk.I32, r.TileBound, 2),
		checkTensor(dev, op, "routing.TileArgs", r.TileArgs, vk.U32, 4),
	)
}
