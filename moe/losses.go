package moe

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A BalanceForm says how the load balancing loss is normalized.
type BalanceForm uint8

const (
	// MixtralBalance is the loss of the Switch Transformer (arXiv 2101.03961, equations 4 to 6) over the tokens of all layers
	// together, N = layers·T, as transformers computes it for Mixtral and most others:
	//
	//	E · Σ_e F_e·P_e,  F_e = choices of e / N,  P_e = Σ p_e / N
	//
	// It is K when the choices are balanced. The z-loss is the mean over the same N tokens.
	MixtralBalance BalanceForm = iota
	// JetMoEBalance is that of JetMoE's published training code: each layer alone, added up, with both distributions
	// normalized to 1. (There the z-loss has a tenth of the balance loss's coefficient.)
	//
	//	Σ_layers E · Σ_e f_e·P_e,  f_e = choices of e / choices of all,  P_e = Σ p_e / T
	//
	// It is 1 for each layer whose choices are balanced. The z-loss is the sum over layers of the mean over T tokens.
	JetMoEBalance
)

func (f BalanceForm) String() string {
	switch f {
	case MixtralBalance:
		return "mixtral"
	case JetMoEBalance:
		return "jetmoe"
	}
	return fmt.Sprintf("balance form %d", uint8(f))
}

// A LossConfig holds the coefficients of the auxiliary losses of a model's routers.
type LossConfig struct {
	Form    BalanceForm // of the load balancing loss
	Balance float32     // coefficient of the load balancing loss (router_aux_loss_coef)
	Z       float32     // coefficient of the router z-loss, mean (ln Σ_e e^logit)² (ST-MoE, arXiv 2202.08906, equation 5)
}

func (c LossConfig) validate() error {
	for field, v := range map[string]float32{"Balance": c.Balance, "Z": c.Z} {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return check.Config("LossConfig", field, "finite", fmt.Sprint(v))
		}
	}
	return check.InRange("LossConfig", "Form", int(c.Form), 0, int(JetMoEBalance))
}

// A RoutedLayer is one layer's part in the losses.
type RoutedLayer struct {
	Routing *Routing   // what Route made of Logits
	Logits  *vk.Tensor // F32 [T,E]
	DLogits *vk.Tensor // F32 [T,E]: receives the gradient; nil for none
}

// RouterLosses are the auxiliary losses of a model's routers on the device.
type RouterLosses struct {
	Loss   *vk.Tensor    // F32 [3]: Balance·b + Z·z; the load balancing loss b; the z-loss z
	Layers []*RouterSums // the statistics of each layer, from which the losses were made
}

// Losses records the auxiliary losses of all routers of a model, and their gradients: each DLogits is overwritten, or with
// accumulate added to, with the derivative of Balance·b + Z·z with respect to the layer's logits. The frequencies of the
// choices have no gradient. All layers have the same T, E and K; probabilities are those of [RouterSums]. Slots whose id
// names no expert count as no choice. Without tokens the losses are 0.
//
// It takes 4·(layers·(2·E+3) + weights + 3) bytes of scratch beside that of CollectStats, of which the weights, E or
// layers·E words, are released.
func Losses(rec *vk.Recorder, layers []RoutedLayer, cfg LossConfig, accumulate bool) (*RouterLosses, error) {
	if err := checkLosses(rec.Device(), layers, cfg); err != nil {
		return nil, rec.Fail(err)
	}
	n, experts := len(layers), layers[0].Routing.Experts
	rows := 1
	if cfg.Form == JetMoEBalance {
		rows = n
	}
	sums, counts := rec.Scratch(vk.F32, n, experts+statsExtraWords), rec.Scratch(vk.U32, n, experts+1)
	weights, loss := rec.Scratch(vk.F32, rows, experts), rec.Scratch(vk.F32, 3)
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	out := &RouterLosses{Loss: loss}
	for l, layer := range layers {
		s, err := sumsOfLayer(layer.Routing, sums, counts, l)
		if err == nil {
			err = s.collect(rec, layer.Routing, layer.Logits)
		}
		if err != nil {
			return nil, rec.Fail(err)
		}
		out.Layers = append(out.Layers, s)
	}
	recordLosses(rec, layers, cfg, sums, counts, weights, loss)
	for l, layer := range layers {
		if layer.DLogits != nil {
			lossesBackward(rec, layer, cfg, weights, min(l, rows-1), n, accumulate)
		}
	}
	rec.Release(weights)
	return out, rec.Err()
}

// sumsOfLayer are the rows of layer l of sums [L,E+2] and counts [L,E+1].
func sumsOfLayer(r *Routing, sums, counts *vk.Tensor, l int) (*RouterSums, error) {
	s := &RouterSums{Tokens: r.Tokens, K: r.K, Experts: r.Experts}
	var err error
	if s.Sums, err = sums.View(l*sums.Dim(1), sums.Dim(1)); err != nil {
		return nil, err
	}
	s.Counts, err = counts.View(l*counts.Dim(1), counts.Dim(1))
	return s, err
}

// maxLossLayers keeps the loops over layers of router_losses below maxLoop.
const maxLossLayers = 2048

func checkLosses(dev *vk.Device, layers []RoutedLayer, cfg LossConfig) error {
	const op = "Losses"
	if err := check.First(cfg.validate(), check.InRange(op, "layers", len(layers), 1, maxLossLayers)); err != nil {
		return err
	}
	for l, layer := range layers {
		if err := checkRouted(dev, op, layer.Routing, layer.Logits); err != nil {
			return fmt.Errorf("layer %d: %w", l, err)
		}
		first, r := layers[0].Routing, layer.Routing
		if r.Tokens != first.Tokens || r.Experts != first.Experts || r.K != first.K || r.sigmoid() != first.sigmoid() {
			return &vk.ShapeError{Op: op, Arg: fmt.Sprintf("layers[%d].Routing", l), Want: "the sizes and mode of the first layer",
				Got: fmt.Sprintf("%d tokens, %d of %d experts", r.Tokens, r.K, r.Experts)}
		}
		if layer.DLogits == nil {
			continue
		}
		err := check.Tensor(dev, op, fmt.Sprintf("layers[%d].DLogits", l), layer.DLogits, vk.F32, r.Tokens, r.Experts)
		for other := 0; err == nil && other < len(layers); other++ {
			err = check.Apart(op, fmt.Sprintf("layers[%d].DLogits", l), layer.DLogits,
				map[string]*vk.Tensor{fmt.Sprintf("layers[%d].Logits", other): layers[other].Logits})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recordLosses records the pass that makes the losses and the gradient's weights of all layers' sums.
func recordLosses(rec *vk.Recorder, layers []RoutedLayer, cfg LossConfig, sums, counts, weights, loss *vk.Tensor) {
	r := layers[0].Routing
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.RouterLosses,
		Spec:   shaders.RouterLossesSpec{Threads: statsThreads, PerLayer: cfg.Form == JetMoEBalance}.Values(),
		Push: shaders.RouterLossesPush{Sums: sums.Address(), Counts: counts.Address(), Loss: loss.Address(),
			Weights: weights.Address(), Layers: uint32(len(layers)), Experts: uint32(r.Experts), Tokens: uint32(r.Tokens),
			Balance: cfg.Balance, Z: cfg.Z}.Bytes(),
		Groups: [3]uint32{1, 1, 1},
		Reads:  []*vk.Tensor{sums, counts},
		Writes: []*vk.Tensor{weights, loss},
		FLOPs:  4 * float64(len(layers)) * float64(r.Experts),
	})
}

// lossesBackward records one layer's gradient with the given row of weights.
func lossesBackward(rec *vk.Recorder, layer RoutedLayer, cfg LossConfig, weights *vk.Tensor, row, layers int, accumulate bool) {
	r := layer.Routing
	tokens := r.Tokens
	if cfg.Form == MixtralBalance {
		tokens *= layers
	}
	reads := []*vk.Tensor{layer.Logits, weights, layer.DLogits}
	if !accumulate {
		reads = reads[:2]
	}
	lanes := topKLanes(software(rec.Device()), r.Experts)
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.RouterLossesBackward,
		Spec: shaders.RouterLossesBackwardSpec{Threads: topKThreads, Lanes: uint32(lanes), Sigmoid: r.sigmoid(),
			Accumulate: accumulate}.Values(),
		Push: shaders.RouterLossesBackwardPush{Logits: layer.Logits.Address(), Weights: weights.Address() + uint64(4*row*r.Experts),
			DLogits: layer.DLogits.Address(), Tokens: uint32(r.Tokens), Experts: uint32(r.Experts),
			Z: float32(2 * float64(cfg.Z) / float64(max(1, tokens)))}.Bytes(),
		Linear: uint64(check.CeilDiv(r.Tokens, topKThreads/lanes)),
		Reads:  reads,
		Writes: []*vk.Tensor{layer.DLogits},
		FLOPs:  80 * float64(r.Tokens) * float64(r.Experts),
	})
}
