package session

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A learner is a model on a device with what trains it and what watches its routers.
type learner struct {
	cfg     Config
	v       variant
	decoder *model.Decoder
	trainer *train.Trainer

	// Each router has a row, attention before MLP, layer by layer.
	routers int
	offsets *vk.Tensor // I32 [R·(E+1)]: Routing.Offsets of the newest step
	ids     *vk.Tensor // I32 [R·T·K] of the newest look at held-out text
	gates   *vk.Tensor // F32 [R·T·K]
}

// learningSchedule rises over a tenth of the run, at most 40 steps.
func (c Config) schedule() train.Schedule {
	if c.Steps == 0 {
		return train.Schedule{Peak: c.Sizes.Rate, Warmup: 40}
	}
	return train.Schedule{Peak: c.Sizes.Rate, Warmup: min(40, c.Steps/10), Steps: c.Steps, Floor: 0.05}
}

// lossScale keeps gradients of f16 activations from vanishing.
func (v variant) lossScale() float32 {
	if v.dtype == vk.F16 {
		return 1024
	}
	return 1
}

func newLearner(ctx context.Context, dev *vk.Device, cfg Config, v variant) (*learner, error) {
	l := &learner{cfg: cfg, v: v, routers: 2 * cfg.Sizes.Layers}
	if v.dense {
		l.routers = cfg.Sizes.Layers
	}
	var err error
	if l.decoder, err = model.NewDecoder(ctx, dev, cfg.decoder(v)); err != nil {
		return nil, err
	}
	if err := l.allocate(ctx, dev); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *learner) allocate(ctx context.Context, dev *vk.Device) error {
	s := l.cfg.Sizes
	if err := l.decoder.Initialize(ctx, l.cfg.Seed, 0.05); err != nil {
		return err
	}
	slots := s.Batch * s.Length * l.v.k
	for _, n := range []struct {
		tensor **vk.Tensor
		dtype  vk.DType
		length int
	}{{&l.offsets, vk.I32, s.Experts + 1}, {&l.ids, vk.I32, slots}, {&l.gates, vk.F32, slots}} {
		var err error
		if *n.tensor, err = dev.NewTensor(n.dtype, l.routers*n.length); err != nil {
			return err
		}
	}
	var err error
	l.trainer, err = train.New(ctx, l.decoder, train.Config{
		Batch: s.Batch, Length: s.Length, GradDType: vk.F32, LossScale: l.v.lossScale(),
		Adam:     train.AdamWConfig{Beta2: 0.98, Decay: 0.1, ClipNorm: 1},
		Schedule: l.cfg.schedule(),
		Router:   moe.LossConfig{Form: moe.JetMoEBalance, Balance: 0.01},
		Observe:  l.observe,
	})
	return err
}

// row is the place of a router.
func (l *learner) row(layer int, block model.Block) int {
	if l.v.dense {
		return layer
	}
	return 2*layer + int(block)
}

// observe records copies of what a router chose: how many tokens each expert got in a step, and the choices themselves in a
// look at held-out text.
func (l *learner) observe(o train.Observation) error {
	type copying struct{ to, from *vk.Tensor }
	list := []copying{{l.offsets, o.Routing.Offsets}}
	if o.Judging {
		list = []copying{{l.ids, o.Routing.IDs}, {l.gates, o.Routing.Gates}}
	}
	for _, c := range list {
		n := c.from.Elements()
		from, err := c.from.Reshape(n)
		if err != nil {
			return err
		}
		to, err := c.to.View(l.row(o.Layer, o.Block)*n, n)
		if err != nil {
			return err
		}
		o.Recorder.Copy(to, from)
	}
	return o.Recorder.Err()
}

// loads returns how many tokens of the newest step each expert of each router got.
func (l *learner) loads(ctx context.Context) ([][]int, error) {
	offsets, err := vk.Download[int32](ctx, l.offsets)
	if err != nil {
		return nil, err
	}
	e := l.cfg.Sizes.Experts
	var loads [][]int
	for r := range l.routers {
		row := offsets[r*(e+1) : (r+1)*(e+1)]
		load := make([]int, e)
		for i := range load {
			load[i] = int(row[i+1] - row[i])
		}
		loads = append(loads, load)
	}
	return loads, nil
}

// choices returns routers with what they chose in the newest look at held-out text.
func (l *learner) choices(ctx context.Context) ([]dashboard.Router, error) {
	ids, err := vk.Download[int32](ctx, l.ids)
	if err != nil {
		return nil, err
	}
	gates, err := vk.Download[float32](ctx, l.gates)
	if err != nil {
		return nil, err
	}
	n := len(ids) / l.routers
	var list []dashboard.Router
	for r := range l.routers {
		router := dashboard.Router{Layer: r, Block: model.AttentionBlock.String(), K: l.v.k, IDs: slices.Clone(ids[r*n : (r+1)*n]),
			Gates: slices.Clone(gates[r*n : (r+1)*n])}
		if !l.v.dense {
			router.Layer, router.Block = r/2, model.Block(r%2).String()
		}
		list = append(list, router)
	}
	return list, nil
}

// A look at held-out text takes the batches at its beginning, which are shown, and others spread over the rest.
const (
	shownLooks = 2
	otherLooks = 2
)

// shown is how many tokens of a held-out text are shown, where it has that many.
func (c Config) shown(text int) int {
	n := c.Sizes.Batch * c.Sizes.Length
	return n * min(shownLooks, (text-1)/n)
}

// looks are the places in a held-out text at which the batches of a look begin: the same every time, and none twice.
func (c Config) looks(text int) []int {
	n := c.Sizes.Batch * c.Sizes.Length
	var list []int
	for at := 0; at < c.shown(text); at += n {
		list = append(list, at)
	}
	rest := text - 1 - c.shown(text)
	for i := range min(otherLooks, rest/n) {
		list = append(list, c.shown(text)+(i+1)*(rest-n)/min(otherLooks, rest/n))
	}
	return list
}

// look is the mean loss on some of the held-out text, the same every time, and what the routers choose for its beginning.
func (l *learner) look(ctx context.Context, heldOut []int32) (loss float64, routers []dashboard.Router, err error) {
	n, places := l.trainer.Config.Tokens(), l.cfg.looks(len(heldOut))
	for i, at := range places {
		part, err := l.trainer.Loss(ctx, heldOut[at:at+n], heldOut[at+1:at+n+1])
		if err != nil {
			return 0, nil, err
		}
		loss += part / float64(len(places))
		if i >= shownLooks {
			continue
		}
		chosen, err := l.choices(ctx)
		if err != nil {
			return 0, nil, err
		}
		if i == 0 {
			routers = chosen
			continue
		}
		for j, r := range chosen {
			routers[j].IDs, routers[j].Gates = append(routers[j].IDs, r.IDs...), append(routers[j].Gates, r.Gates...)
		}
	}
	return loss, routers, nil
}

// change builds the learner of another variant that goes on from this one's state, or from that of the model it turns to.
func (l *learner) change(ctx context.Context, dev *vk.Device, v variant, state *train.State) (*learner, error) {
	next, err := newLearner(ctx, dev, l.cfg, v)
	if err != nil {
		return nil, err
	}
	if state != nil {
		if err := next.trainer.SetState(ctx, state); err != nil {
			return nil, errors.Join(fmt.Errorf("session: %w", err), next.close())
		}
	}
	return next, nil
}

func (l *learner) close() error {
	var err error
	if l.trainer != nil {
		err = l.trainer.Close()
	}
	return errors.Join(err, l.offsets.Close(), l.ids.Close(), l.gates.Close(), l.decoder.Close())
}
