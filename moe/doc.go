// Package moe computes sparse mixtures of experts on a Vulkan device: routers, ParallelLinear (Tan, Shen, Panda and
// Courville, arXiv 2403.08245), activations, the gate-weighted combination, and the SMoE MLP built from them.
//
// # Shapes
//
//	T  tokens          a row of the input
//	E  experts         at most 1,024
//	K  choices         experts per token
//	D  width           of the model
//	H  hidden width    of one expert
//	s  slot            s = t·K + j, choice j of token t; there are T·K of them
//	p  grouped position  the place of a slot once the slots are sorted by expert
//
// All tensors are dense and row-major. Activations and weights are F32, F16 or BF16; logits and gates F32, indices I32.
// For inference, weight matrices may be quantized to 8 or 4 bits ([WeightFormat]).
// Weights are in an [ExpertBank], which may be larger than a device's largest allocation. A *scattered* matrix
// has its rows in token order: [T, width], or [T·K, width] with row s. A *grouped* one has them in expert order,
// [T·K, width] with row p.
//
// # Recording
//
// Functions and layers record into a vk.Recorder; nothing runs before its Submit, and a whole layer is one submission.
// Nothing is read back in between: how many rows an expert has stays on the device. What a call returns besides an
// error (a [Routing], an [MLPSaved]) are tensors of the recorder: they hold their contents once the recorder has run and
// live until it is closed. A recorder may be submitted again, and then computes with what its inputs hold by then.
//
// # Tuning
//
// Which kernel multiplies, and with which tile, is decided by a [Tuning]: one per class of devices is built in, and vkmoe-bench
// tune measures one for the device at hand, which [TuningOf] finds from then on. VKMOE_TUNING=off keeps to the built-in ones.
// [ParallelLinear.Choice] says what was chosen. Another table may give other bits.
//
// # Gradients
//
// Backward passes are calls of their own: the forward pass leaves what they need in an [MLPSaved], and they use it up. Each
// says which gradients it can compute; those whose tensor is nil are not, and the others are overwritten, or added to
// where an Accumulate field says so. Both passes may be recorded into one recorder, which is then a training step that
// can be submitted again and again.
//
// # Memory
//
// The layers keep no copy of x, padded or grouped, and none of the gradient that comes back. An MLP's passes take from the
// recorder, with w the dtype's bytes (exactly: [MLPConfig.PassBytes]),
//
//	SaveNothing          w·T·K·(H + D), or w·T·K·(H + max(2H, D)) for a gated activation
//	RecomputeActivation  w·T·K·((H or 2H) + H + D), of which the first term stays until the backward pass
//	SaveAll              the same, all of which stays
//
// and a few words per slot for the routing. Shared experts of width S take w·T·((S or 2S) + S) besides, of which the routed
// ones get what is not saved. The backward pass adds nothing to that except where H > D after SaveAll, and
// the gradients of logits and gates where the caller does not ask for them. H and D in RecomputeActivation vanish too
// where the gradient of Up's weights, which is idle until it is written, serves as [ForwardOptions].Workspace. The weights take
// [MLPConfig.WeightBytes], their gradients as much again.
//
// # Errors
//
// Arguments are checked where they are recorded: a wrong shape, dtype, device or range is a *vk.ShapeError that names
// the argument, a closed tensor matches vk.ErrClosed. The error is returned and is also the recorder's from then on, so
// that a recording with a hole in it cannot run. Expert ids that only the device sees are checked there and end the
// run in an [*ExpertIDError].
//
// # Ownership
//
// Whoever makes a layer closes it; that closes its weights. Layers read their weights when a recorder runs, so weights
// may be uploaded again between two runs.
//
// # Aliasing
//
// An output must not overlap an input of the same call, unless its documentation says so; this is checked. Inputs are
// never written, except that a backward pass uses up what was saved for it.
//
// # Concurrency
//
// A layer may be recorded into several recorders by several goroutines at once. A recorder belongs to one goroutine.
//
// # Numbers and determinism
//
// Sums are in f32 in a fixed order, whatever the storage; F16 and BF16 results are rounded to nearest even once, when they
// are stored. 16-bit storage needs no 16-bit feature of the device.
//
// Neither atomics on floats, nor the place of a row in a tile, nor how a bank is split changes a result. The same inputs on
// the same device give the same bits.
package moe
