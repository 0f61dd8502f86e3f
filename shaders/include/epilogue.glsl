// The activation that kernels of linear maps apply to their results before they store them, so that what it reads is never in
// memory:
//
//   h[r,c] = gate · f(z[r,c])                  z = W·x + b, [rows, out]
//   h[r,c] = gate · f(z[r,c]) · z[r,H + c]     GATED: h is [rows, H], H = out / 2; gate outputs first, then up outputs
//   h[r,c] = gate · f(z[r,2c]) · z[r,2c + 1]   the same with INTERLEAVED outputs
//
// f and, where it is CLAMPED_SWIGLU, the product are those of activations.glsl. z is f32, unless y is not null: then z is stored
// there as well, and h is made of z as it is stored, so that a backward pass that reads z finds the h that there was.
//
// A tile's columns are outputs in an order that brings gates and ups together, which is the kernel's affair. Needs the push
// constants of scatter2scatter and the constants ACTIVATION, GATED and INTERLEAVED.
//
// Kernels call activated in one place of their code, in loops that stay loops. With calls in every copy of an unrolled store an H100's
// driver took ten times as long for large tiles on cooperative matrices, even where no activation was asked for.
#ifndef EPILOGUE_GLSL
#define EPILOGUE_GLSL

#include "activations.glsl"

const uint LINEAR = 7u; // an ACTIVATION that is none: y = gate · z is stored

// hidden_width is the width of h.
uint hidden_width() { return GATED ? push.out_width / 2u : push.out_width; }

// result_end is beyond the last column of y, or of h, that the dispatch computes.
uint result_end() { return GATED ? push.end_out / 2u : push.end_out; }

// gate_output and up_output are the outputs of W that column c of h is made of.
uint gate_output(uint c) { return GATED && INTERLEAVED ? 2u * c : c; }

uint up_output(uint c) { return INTERLEAVED ? 2u * c + 1u : hidden_width() + c; }

// output_of is the output of column n of a matrix whose gates and ups take turns; beyond the last it repeats that.
uint output_of(uint n) {
    n = min(n, push.out_width - 1u);
    if (!GATED || INTERLEAVED) {
        return n;
    }
    return (n & 1u) == 0u ? gate_output(n / 2u) : up_output(n / 2u);
}

// activated is f(z), or f(z)·up where GATED.
float activated(float z, float up) {
    return activate_gated(ACTIVATION, z, GATED ? up : 1.0, push.alpha, push.limit);
}

#endif
