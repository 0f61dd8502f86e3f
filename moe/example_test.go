package moe_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A mixture of 8 experts, 2 of them for each of 16 tokens of width 64, with all its values at 0.
func Example() {
	ctx := context.Background()
	dev := must(vk.Open(vk.Options{}))
	defer dev.Close()
	layer := must(moe.NewMLP(dev, moe.MLPConfig{Experts: 8, TopK: 2, Width: 64, Hidden: 128, Activation: moe.SwiGLU}))
	defer layer.Close()
	x := must(dev.NewTensor(vk.F32, 16, 64))
	defer x.Close()
	y := must(dev.NewTensor(vk.F32, 16, 64))
	defer y.Close()
	for _, w := range []*moe.ExpertBank{layer.Router.Weight, layer.Up.Weight, layer.Down.Weight} {
		check(moe.UploadBank(ctx, w, make([]float32, w.Elements())))
	}
	check(vk.Upload(ctx, x, make([]float32, x.Elements())))
	rec := must(dev.NewRecorder())
	defer rec.Close()
	must(layer.Forward(rec, x, y))
	check(rec.Run(ctx))
	out := must(vk.Download[float32](ctx, y))
	fmt.Println(len(out), "values computed by", dev.Adapter().Name)
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
