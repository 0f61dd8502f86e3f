package model

import (
	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/vk"
)

func (b *selfBlock) cacheConfig(sequences, capacity int) attention.KVCacheConfig {
	c := b.layer.Config
	return attention.KVCacheConfig{Sequences: sequences, Capacity: capacity, KVHeads: c.KVHeads, Width: c.HeadWidth,
		ValueWidth: c.HeadWidth, DType: c.DType}
}

func (b *selfBlock) decode(rec *vk.Recorder, cache *attention.KVCache, x, y *vk.Tensor, seq attention.Sequences) error {
	return b.layer.Decode(rec, cache, x, y, seq)
}

func (b *mlaBlock) cacheConfig(sequences, capacity int) attention.KVCacheConfig {
	c := b.layer.Config
	return attention.KVCacheConfig{Sequences: sequences, Capacity: capacity, KVHeads: c.Heads, Width: c.PlainWidth + c.TurnedWidth,
		ValueWidth: c.ValueWidth, DType: c.DType}
}

func (b *mlaBlock) decode(rec *vk.Recorder, cache *attention.KVCache, x, y *vk.Tensor, seq attention.Sequences) error {
	return b.layer.Decode(rec, cache, x, y, seq)
}

func (b *mixtureBlock) cacheConfig(sequences, capacity int) attention.KVCacheConfig {
	return b.layer.Config.CacheConfig(sequences, capacity)
}

func (b *mixtureBlock) decode(rec *vk.Recorder, cache *attention.KVCache, x, y *vk.Tensor, seq attention.Sequences) error {
	saved, err := b.layer.Decode(rec, cache, x, y, seq)
	if err == nil {
		mixtureSaved{saved}.release(rec)
	}
	return err
}
