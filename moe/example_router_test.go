package moe_test

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A training step with load balancing and z-loss: their gradient goes to the router's logits first, and the layer's backward
// pass adds the experts' part before it goes on to the router's weights.
func ExampleLosses() {
	ctx := context.Background()
	dev := must(vk.Open(vk.Options{}))
	defer dev.Close()
	layer := must(moe.NewMLP(dev, moe.MLPConfig{Experts: 8, TopK: 2, Width: 64, Hidden: 128, Mode: moe.SoftmaxTopKNorm}))
	defer layer.Close()
	for _, w := range []*moe.ExpertBank{layer.Router.Weight, layer.Up.Weight, layer.Down.Weight} {
		check(moe.UploadBank(ctx, w, make([]float32, w.Elements())))
	}
	x, y, dy := must(dev.NewTensor(vk.F32, 16, 64)), must(dev.NewTensor(vk.F32, 16, 64)), must(dev.NewTensor(vk.F32, 16, 64))
	step := must(dev.NewTensor(vk.U32, 1))
	for _, t := range []*vk.Tensor{x, y, dy, step} {
		defer t.Close()
		check(vk.Upload(ctx, t, make([]byte, t.Bytes())))
	}
	grads := must(layer.NewGrads())
	defer grads.Close()
	rec := must(dev.NewRecorder())
	defer rec.Close()

	noise := moe.JitterConfig{Eps: 0.01, Seed: 42, Step: step}
	saved := must(layer.ForwardWith(rec, x, y, moe.ForwardOptions{Jitter: noise}))
	grads.Logits, grads.AccumulateLogits = rec.Scratch(vk.F32, 16, 8), true
	routed := []moe.RoutedLayer{{Routing: saved.Routing, Logits: saved.Logits, DLogits: grads.Logits}}
	losses := must(moe.Losses(rec, routed, moe.LossConfig{Balance: 0.01, Z: 0.001}, false))
	check(layer.Backward(rec, saved, x, dy, *grads))

	for n := range uint32(3) { // one recording, other noise each time
		check(vk.Upload(ctx, step, []uint32{n}))
		check(rec.Run(ctx))
		loss := must(vk.Download[float32](ctx, losses.Loss))
		stats := must(losses.Layers[0].Read(ctx))
		fmt.Printf("auxiliary loss %v, the busiest expert has %v times its share\n", loss[0], stats.Balance)
	}
}
