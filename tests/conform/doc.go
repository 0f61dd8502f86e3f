// Package conform holds the conformance cases: what a Vulkan device and driver must compute to be called right, each case
// one use of the library's public API with data, judged on what the device leaves in memory.
//
// # Names
//
// A case has a stable hierarchical name of lower-case words, digits and underscores between dots: operation, variant,
// dtype, path and so on down to the shape, for example
//
//	parallel_linear.backward_dw.bf16.portable.s2g.e8_k2_t70_i36_o40.skewed.gates
//
// Globs select cases: * stands for any run of characters, dots included, and ? for one. A glob without either also names
// everything below it: parallel_linear.forward is parallel_linear.forward.*.
//
// # What every case checks
//
// A case is recorded and run, submitted once more, and recorded once more into a new recorder. Then
//
//	oracle      outputs are within a bound derived from dtype and accumulation length of package internal/ref's float64 values
//	guard       the poisoned bands around all tensors, inputs too, are intact
//	input       inputs are unchanged
//	unwritten   no output still holds the poison that it was filled with
//	repeat      the other two runs gave the same bits, with another poison in the outputs before
//	validation  the validation layer, where it is on, had nothing to say
//
// The poison is a NaN, so a value that was read past an end, or from an output before it was written, shows.
//
// # Families
//
// A family is a table that expands into cases: see table_*.go and families, which lists them. A new operation adds a
// function there and nothing else.
package conform
