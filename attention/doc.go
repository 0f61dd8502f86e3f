// Package attention computes scaled dot-product attention on a Vulkan device: flash attention over sequences of unequal
// lengths, its key/value cache, and the layers built of it.
//
// # Shapes
//
//	T    tokens           rows of all sequences of a batch together
//	B    sequences        of a batch
//	Hq   query heads      Heads of a FlashConfig
//	Hkv  key/value heads  KVHeads; each serves Hq / Hkv query heads
//	d    width            of a query or key head
//	dv   value width      of a value head
//
// Queries, keys and values are [Heads], which says where a head of a row begins, so that they may be parts of one wider
// matrix. Sequences lie one behind the other, and an offsets tensor I32 [B+1] says where each begins: sequence b has rows
// [offsets[b], offsets[b+1]). Offsets stay on the device; nothing is read back.
//
// # Layers
//
// [SelfAttention] (grouped heads), [MLA] (latent keys and values) and [Mixture] (experts of query heads) go from rows [T,D] to rows
// [T,D], with gradients of all they are made of. Their Forward takes a whole batch of [Sequences]; Decode goes on from a [KVCache].
// A [RoPE], which many layers may share, turns queries and keys, and [RMSNorm] normalizes them. What a pass takes from its recorder
// its configuration's PassBytes says beforehand; no buffer grows with T².
//
// # Errors, ownership, aliasing and concurrency
//
// They are those of package moe: arguments are checked where they are recorded, and the error is the recorder's too. A
// configuration that makes no sense is a *[ConfigError], a tensor that does not fit a *vk.ShapeError. Offsets and lengths,
// which only the device sees, are held within the rows that the tensors have.
//
// # Numbers and determinism
//
// Scores, softmax and sums are in f32 whatever the storage, and results are rounded once. The same inputs on the same
// device give the same bits. How keys are cut into tiles and splits follows from shapes and the device alone.
package attention
