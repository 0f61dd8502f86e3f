package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// lossCase is the statistics of routers, or the losses made from them.
type lossCase struct {
	experts, k, tokens, layers int
	mode                       moe.RouterMode
	form                       moe.BalanceForm
	accumulate                 bool
}

func (c lossCase) String() string {
	return fmt.Sprintf("e%d_k%d_t%d_l%d", c.experts, c.k, c.tokens, c.layers)
}

func statsCases(add func(Case)) {
	for _, mode := range modes {
		for i, s := range routerShapes {
			c := lossCase{experts: s[0], k: s[1], tokens: s[2], layers: 1, mode: mode}
			add(Case{Name: fmt.Sprintf("router.stats.%s.%v", modeName(mode), c), Required: i == 7, Record: c.stats})
		}
	}
}

func lossCases(add func(Case)) {
	sizes := []lossCase{
		{experts: 8, k: 2, tokens: 0, layers: 2}, {experts: 1, k: 1, tokens: 1, layers: 1}, {experts: 60, k: 4, tokens: 65, layers: 3},
		{experts: 1000, k: 8, tokens: 20, layers: 1}, {experts: 2, k: 1, tokens: 300, layers: 2}, {experts: 64, k: 8, tokens: 128, layers: 4},
	}
	for _, form := range []moe.BalanceForm{moe.MixtralBalance, moe.JetMoEBalance} {
		for _, mode := range modes {
			for i, c := range sizes {
				for j, name := range []string{"overwrite", "accumulate"} {
					c.form, c.mode, c.accumulate = form, mode, j == 1
					add(Case{Name: fmt.Sprintf("router.losses.%v.%s.%v.%s", form, modeName(mode), c, name),
						Required: i == 2 && (mode == moe.SoftmaxTopK || mode == moe.SigmoidTopKNorm), Record: c.losses})
				}
			}
		}
	}
}

// layer draws one layer's logits, which like the first expert more than the others, and routes them.
func (c lossCase) layer(k *Kit, l int) (*moe.Routing, *vk.Tensor, []float32) {
	data := topKCase{experts: c.experts, tokens: c.tokens, values: "mixed"}.logits(k)
	for t := range c.tokens {
		data[t*c.experts] += 2
	}
	logits := k.F32(fmt.Sprintf("logits_%d", l), data, c.tokens, c.experts)
	r, err := moe.Route(k.Rec, logits, moe.RouterConfig{TopK: c.k, Mode: c.mode})
	k.must(err)
	return r, logits, data
}

func (c lossCase) stats(k *Kit) func() {
	r, logits, data := c.layer(k, 0)
	sums, err := moe.CollectStats(k.Rec, r, logits)
	k.must(err)
	k.Scratch("sums", sums.Sums)
	k.Scratch("counts", sums.Counts)
	return func() {
		k.judgeSums(sums, ref.CollectRouterStats(ref.RouterMode(c.mode), data, k.Ints(r.IDs), c.tokens, c.experts))
	}
}

// probabilityTolerance is the relative error of one probability and of what is made of it.
func probabilityTolerance(experts int) float64 {
	return 2*ref.GateTolerance(ref.SoftmaxTopK, experts, 1, 10) + 2*ref.SigmoidTolerance
}

// depth is how many additions a term of a sum over tokens may pass: any order over tokens, experts and layers.
func (c lossCase) depth() int { return c.tokens + c.experts + c.layers + 144 }

// judgeSums compares the statistics of a router.
func (k *Kit) judgeSums(got *moe.RouterSums, want ref.RouterStats) {
	counts := make([]int32, want.Experts+1)
	for e, n := range want.Counts {
		counts[e] = n
		counts[want.Experts] += n
	}
	words, err := vk.Download[uint32](k.Ctx, got.Counts)
	k.must(err)
	signed := make([]int32, len(words))
	for i, w := range words {
		signed[i] = int32(w)
	}
	k.EqualInts("counts", signed, counts)
	tolerance := probabilityTolerance(want.Experts) + ref.Gamma(lossCase{tokens: want.Tokens, experts: want.Experts}.depth())
	sums, p := k.Values(got.Sums), want.Probability
	k.compare("sums of probabilities", sums[:want.Experts], p.Y, p.BoundBy(tolerance, 1e-30))
	k.compare("sum of entropies", sums[want.Experts:want.Experts+1], want.Entropy.Y, want.Entropy.BoundBy(tolerance, 0))
	k.compare("sum of squared logsumexp", sums[want.Experts+1:], want.LogSumExp2.Y, want.LogSumExp2.BoundBy(tolerance, 0))
}

func (c lossCase) losses(k *Kit) func() {
	var layers []moe.RoutedLayer
	var oracle []ref.RoutedLayer[float32]
	var grads []target
	for l := range c.layers {
		r, logits, data := c.layer(k, l)
		g := linearCase{accumulate: c.accumulate}.target(k, fmt.Sprintf("dlogits_%d", l), vk.F32, false, c.tokens, c.experts)
		grads = append(grads, g)
		layers = append(layers, moe.RoutedLayer{Routing: r, Logits: logits, DLogits: g.t})
		oracle = append(oracle, ref.RoutedLayer[float32]{Logits: data})
	}
	cfg := moe.LossConfig{Form: c.form, Balance: 3, Z: 0.5}
	got, err := moe.Losses(k.Rec, layers, cfg, c.accumulate)
	k.must(err)
	k.Scratch("loss", got.Loss)
	return func() {
		o := ref.RouterLoss{Mode: ref.RouterMode(c.mode), Experts: c.experts, Form: ref.BalanceForm(c.form), Balance: 3, Z: 0.5}
		zScale := 0.0
		for l := range oracle {
			oracle[l].IDs = k.Ints(layers[l].Routing.IDs)
			s := ref.CollectRouterStats(o.Mode, oracle[l].Logits, oracle[l].IDs, c.tokens, c.experts)
			zScale += s.LogSumExp2.Abs[0] / float64(max(1, c.tokens))
			k.judgeSums(got.Layers[l], s)
		}
		total, balance, z := ref.RouterLosses(o, oracle, c.tokens)
		tolerance := probabilityTolerance(c.experts) + ref.Gamma(c.depth())
		k.Close("loss", got.Loss, []float64{total, balance, z},
			[]float64{tolerance * (o.Balance*balance + o.Z*zScale), tolerance * balance, tolerance * zScale})
		for l, want := range ref.RouterLossesBackward(o, oracle, c.tokens) {
			bound := want.BoundBy(2*probabilityTolerance(c.experts)+ref.Gamma(c.experts+c.layers+16), 1e-30)
			for i := range grads[l].start {
				bound[i] += ref.Gamma(3) * want.Abs[i]
			}
			grads[l].judge(k, fmt.Sprintf("dlogits_%d", l), want, bound, false)
		}
	}
}
