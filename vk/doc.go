// Package vk runs compute kernels on any Vulkan device: it finds the devices, manages memory, records dispatches with
// the barriers they need, submits them and waits.
//
// # Use
//
// Open a [Device], make [Tensor]s, record work with a [Recorder], run it, close what you made:
//
//	dev, err := vk.Open(vk.Options{})
//	x, err := dev.NewTensor(vk.F32, tokens, width)
//	err = vk.Upload(ctx, x, data)
//	rec, err := dev.NewRecorder()
//	rec.Dispatch(vk.Dispatch{…})
//	err = rec.Run(ctx)
//	out, err := vk.Download[float32](ctx, y)
//
// # Ownership
//
// Whoever makes a tensor, recorder or device closes it. Close is idempotent. A closed tensor's memory is reused only
// after the GPU has finished what was submitted before. Closing a device frees everything made from it and returns a
// [*LeakError] that lists what was still open. A recorder's scratch tensors and a tensor's views need no Close.
//
// # Concurrency
//
// A Device and its Tensors may be used from several goroutines. A Recorder belongs to one goroutine while it records;
// Submit and Pending.Wait may then be called from any. Submissions of a device run in the order of Submit, each one
// seeing the results of those before it. Cancelling a context ends the waiting, never the work.
//
// # Operands
//
// Kernels receive 64-bit buffer device addresses in push constants, at most 128 bytes of them; there are no descriptor
// sets, so no binding range or offset alignment limits a tensor. A device without buffer device addresses is refused.
//
// # Environment
//
//	VKMOE_DEVICE        index or part of the name of the device to use
//	VKMOE_DISABLE       features to do without, such as "coopmat2,f16"; see the Feature constants
//	VKMOE_VALIDATION    1: Khronos validation (core and synchronization); gpu: GPU-assisted validation too
//	VKMOE_TRACE_LEAKS   1: leak reports say where each object was made
//	VKMOE_QUIET         1: no notice when the only device is a software one
//	VKMOE_LOADER        file name of the Vulkan loader to use instead of the usual ones
package vk
