// Package train trains decoders of package model on a Vulkan device: the AdamW optimizer, clipping by the global norm,
// learning-rate schedules, and a Trainer that records a whole step once and submits it again and again.
//
// # Numbers
//
// Optimizer states and master weights are f32 whatever the parameters are stored as. Sums have a fixed order: the same
// steps from the same state give the same bits, so a run that is resumed from a checkpoint continues exactly.
//
// # Ownership
//
// Whoever makes an optimizer or a Trainer closes it. Parameters and gradients stay with the decoder.
package train
