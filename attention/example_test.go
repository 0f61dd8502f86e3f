package attention_test

import (
	"context"
	"fmt"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// Eight query heads share two key/value heads. A prompt of two sequences fills a cache; a recorded step then goes on with one
// token each.
func ExampleSelfAttention_Decode() {
	err := decode(context.Background())
	fmt.Println(err)
}

func decode(ctx context.Context) error {
	dev, err := vk.Open(vk.Options{})
	if err != nil {
		return err
	}
	defer dev.Close()
	rope, err := attention.NewRoPE(ctx, dev, attention.RoPEConfig{Width: 64, Base: 500000}, 4096)
	if err != nil {
		return err
	}
	defer rope.Close()
	layer, err := attention.NewSelfAttention(dev, attention.SelfAttentionConfig{
		Width: 512, Heads: 8, KVHeads: 2, HeadWidth: 64, Causal: true, QKNorm: attention.NormHead, Eps: 1e-6, DType: vk.BF16,
	}, rope)
	if err != nil {
		return err
	}
	defer layer.Close()
	// Upload the weights here: moe.UploadBank(ctx, layer.Query.Weight, …), vk.Upload(ctx, layer.QueryNorm, …) and so on.
	cache, err := attention.NewKVCache(ctx, dev, layer.Config.CacheConfig(2, 4096))
	if err != nil {
		return err
	}
	defer cache.Close()

	prompt := []int{700, 41}
	if err := step(ctx, dev, layer, cache, prompt...); err != nil {
		return err
	}
	return step(ctx, dev, layer, cache, 1, 1)
}

// step appends so many rows to each sequence.
func step(ctx context.Context, dev *vk.Device, layer *attention.SelfAttention, cache *attention.KVCache, counts ...int) error {
	offsets := []int32{0}
	for _, n := range counts {
		offsets = append(offsets, offsets[len(offsets)-1]+int32(n))
	}
	tokens := int(offsets[len(counts)])
	x, err := dev.NewTensor(vk.BF16, tokens, layer.Config.Width)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := dev.NewTensor(vk.BF16, tokens, layer.Config.Width)
	if err != nil {
		return err
	}
	defer y.Close()
	seq := attention.Sequences{}
	if seq.Offsets, err = dev.NewTensor(vk.I32, len(offsets)); err != nil {
		return err
	}
	defer seq.Offsets.Close()
	if err := vk.Upload(ctx, seq.Offsets, offsets); err != nil {
		return err
	}
	if err := cache.Reserve(counts...); err != nil { // a *CacheFullError
		return err
	}
	rec, err := dev.NewRecorder()
	if err != nil {
		return err
	}
	defer rec.Close()
	if err := layer.Decode(rec, cache, x, y, seq); err != nil {
		return err
	}
	return rec.Run(ctx)
}

// A training step of latent attention in DeepSeek-V3's shape: the forward pass, what it saves, and all gradients.
func ExampleMLA_Backward() {
	train := func(rec *vk.Recorder, layer *attention.MLA, grads *attention.MLAGrads, x, y, dy *vk.Tensor, seq attention.Sequences) error {
		saved, err := layer.ForwardWith(rec, x, y, seq, attention.MLAOptions{Save: moe.RecomputeActivation})
		if err != nil {
			return err
		}
		grads.X = dy // dy is not needed any more when the gradient of x is written
		return layer.Backward(rec, saved, x, dy, *grads)
	}
	_ = train
}
