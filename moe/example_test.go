package moe_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A mixture of 8 experts, 2 per token, on 16 tokens of width 64.
func Example() {
	check := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	ctx := context.Background()
	dev, err := vk.Open(vk.Options{})
	check(err)
	defer dev.Close()
	layer, err := moe.NewMLP(dev, moe.MLPConfig{Experts: 8, TopK: 2, Width: 64, Hidden: 128, Activation: moe.SwiGLU})
	check(err)
	check(vk.Upload(ctx, layer.Router.Weight, make([]float32, 8*64))) // and layer.Up.Weight, layer.Down.Weight
	x, err := dev.NewTensor(vk.F32, 16, 64)
	check(err)
	y, err := dev.NewTensor(vk.F32, 16, 64)
	check(err)
	check(vk.Upload(ctx, x, make([]float32, 16*64)))
	rec, err := dev.NewRecorder()
	check(err)
	_, err = layer.Forward(rec, x, y)
	check(err)
	check(rec.Run(ctx))
	out, err := vk.Download[float32](ctx, y)
	check(err)
	fmt.Println(len(out), "values on", dev.Adapter().Name)
}
