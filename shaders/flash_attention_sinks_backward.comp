#version 460
// flash_attention_sinks_backward: the gradient of attention's sinks, one logit per head without a value, in two passes. The
// first adds up blocks of BLOCK rows, the second the blocks' sums:
//
//   partial[block][h] = −Σ_t exp(sinks[h] − lse[t][h]) · delta[t][h]
//   dsinks[h]         = Σ_block partial[block][h]
//
// t runs over the rows of the sequences, from query_offsets[0] to query_offsets[sequences]. FINAL is the second pass;
// ACCUMULATE then adds to dsinks.
//
// Push constants: device addresses of sinks f32 [heads], lse f32 [rows,heads], terms: delta f32 [rows,heads] or, when
// FINAL, partial [rows,heads]; sums: partial [⌈rows / BLOCK⌉,heads] or dsinks f32 [heads]; query_offsets i32 [sequences + 1];
// rows, heads, sequences, flags: 1 accumulates.
// Mapping: one work-group of COLUMNS × ROWS invocations per block (all rows when FINAL) and COLUMNS heads, heads fastest;
// an invocation adds every ROWS-th row of a head.
// Accumulation: f32, rows ascending, then the ROWS partial sums in order.
// Oracle: internal/ref/attention_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint COLUMNS = 16;
layout(constant_id = 1) const uint ROWS = 8;
layout(constant_id = 2) const uint BLOCK = 1024;
layout(constant_id = 3) const bool FINAL = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 sinks;
    uvec2 lse;
    uvec2 terms;
    uvec2 sums;
    uvec2 query_offsets;
    uint rows;
    uint heads;
    uint sequences;
    uint flags;
} push;

const uint ACCUMULATE = 1u;

shared float partial[COLUMNS * ROWS];

// term is one row's part of a head's sum.
float term(uint row, uint head) {
    float v = load_f32(address_at(push.terms, row, push.heads * 4u), head);
    if (FINAL) {
        return v;
    }
    return -exp_f32(load_f32(push.sinks, head) - load_f32(address_at(push.lse, row, push.heads * 4u), head)) * v;
}

void main() {
    uint across = (push.heads + COLUMNS - 1u) / COLUMNS;
    uint block = group_id() / across;
    uint head = (group_id() - block * across) * COLUMNS + gl_LocalInvocationID.x;
    uint first = FINAL ? 0u : block * BLOCK;
    uint end = FINAL ? push.rows : min(push.rows, first + BLOCK);
    if (FINAL ? block > 0u : first >= push.rows) {
        return;
    }
    if (!FINAL) {
        first = max(first, uint(max(load_i32(push.query_offsets, 0u), 0)));
        end = min(end, uint(max(load_i32(push.query_offsets, push.sequences), 0)));
    }
    float sum = 0.0;
    for (uint row = first + gl_LocalInvocationID.y; row < end && head < push.heads; row += ROWS) {
        sum += term(row, head);
    }
    partial[gl_LocalInvocationID.y * COLUMNS + gl_LocalInvocationID.x] = sum;
    barrier();
    if (gl_LocalInvocationID.y > 0u || head >= push.heads) {
        return;
    }
    for (uint r = 1u; r < ROWS; r++) {
        sum += partial[r * COLUMNS + gl_LocalInvocationID.x];
    }
    uint at = FINAL ? head : block * push.heads + head;
    bool accumulate = FINAL && (push.flags & ACCUMULATE) != 0u;
    store_f32(push.sums, at, accumulate ? load_f32(push.sums, at) + sum : sum);
}
